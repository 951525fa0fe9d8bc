"""White-box audits: the attacker sees every step of a client and has inserted the canaries.

``one_step`` bounds the ε of one noisy step that always includes the record (q = 1). This tests the Gaussian
mechanism on which everything else is built, where a bug would do most harm. Its claim is the exact ε of one
Gaussian release with noise multiplier σ. ``one_run`` bounds the ε of all steps of a run together, with the
scenario's sampling; from a single run the bound is loose.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from fedtoll.audit.bounds import LEVEL, one_run_epsilon, separation
from fedtoll.audit.canaries import Canaries, craft, full_batch, normalised, releases, without_noise
from fedtoll.privacy.gaussian import gaussian_epsilon
from fedtoll.scenarios.federation import Federation
from fedtoll.scenarios.run import ClientPlan, Run

MIN_OBSERVATIONS = 20_000
"""The smallest number of observations with the record, and as many without."""

KNOWN_RECORDS = 32
"""The number of the client's own records that join the canaries in a step."""


@dataclass(frozen=True)
class Step:
    """The result of auditing one step.

    Parameters
    ----------
    claim
        The exact ε of one step that always includes the record.
    bound
        The lower bound of ε; NaN if the model ignores every canary.
    mu, mu_bound
        1/σ and its lower bound.
    observations
        The observations with a canary; there are as many without.
    canaries
        The canaries that share one step.
    false_positives, false_negatives, counted
        The errors behind the bound, each among ``counted`` observations.
    """

    claim: float
    bound: float
    mu: float
    mu_bound: float
    observations: int
    canaries: int
    false_positives: int
    false_negatives: int
    counted: int


@dataclass(frozen=True)
class OneRun:
    """The result of auditing one run: the lower bound of ε and the guesses behind it."""

    bound: float
    correct: int
    guesses: int
    canaries: int


def one_step(
    run: Run,
    client: ClientPlan,
    seed: int,
    *,
    federation: Federation | None = None,
    canaries: Canaries | None = None,
    observations: int = MIN_OBSERVATIONS,
    level: float = LEVEL,
) -> Step:
    """Return a lower bound of the ε of one step of a client.

    Each step has some of the client's own records, which the attacker knows, and every second canary. Half of
    the steps have the even canaries and half the odd ones, so each canary is observed with and without.

    Parameters
    ----------
    run, client
        The run whose engine, clip and precision are audited, and the client that gives σ and the normaliser
        B.
    federation
        The run's records; resolved from the run by default.
    seed
        The seed of the noise, in place of the run's.
    canaries
        Canaries for this run, to reuse them for several clients; crafted by default.
    observations, level
        The smallest number of observations on each side, and the probability that the bound is wrong.
    """
    federation = Federation.of(run, like=federation)
    canaries = (craft(run, client, federation) if canaries is None else canaries).effective()
    delta, mu = run.guarantee[0], 1 / client.noise_multiplier
    claim = gaussian_epsilon(mu, delta)
    if not len(canaries):
        return Step(claim, math.nan, mu, math.nan, 0, 0, 0, 0, 0)
    canaries = canaries if canaries.orthogonal else canaries.longest()
    onto_PM = normalised(canaries.directions_MP).T
    even_M = np.arange(len(canaries)) % 2 == 0
    table, rows = federation.table, federation.records(run.seed).held[client.id][:KNOWN_RECORDS]
    features_ND = torch.from_numpy(table.features[rows]).to(canaries.features_MD)
    labels_N = torch.from_numpy(table.label[rows])
    known_M = releases(
        without_noise(run), full_batch(client, 0.0), canaries.start, [(features_ND, labels_N)], [1], onto_PM
    )[0]
    steps = -(-observations // len(canaries))
    reseeded = run.model_copy(update={"seed": seed, "noise_seed": seed})
    released = []
    for half, mask_M in enumerate((even_M, ~even_M)):
        features_MD, labels_M = canaries.records(mask_M)
        batch = torch.cat([features_ND, features_MD]), torch.cat([labels_N, labels_M])
        rounds = range(1 + half * steps, 1 + (half + 1) * steps)
        half_SM = releases(reseeded, full_batch(client), canaries.start, [batch] * steps, rounds, onto_PM)
        released.append(half_SM - known_M)
    even_SM, odd_SM = released
    in_N = np.where(even_M, even_SM, odd_SM).ravel()
    out_N = np.where(even_M, odd_SM, even_SM).ravel()
    found = separation(out_N, in_N, level)
    return Step(
        claim=claim,
        bound=gaussian_epsilon(found.mu, delta),
        mu=mu,
        mu_bound=found.mu,
        observations=len(in_N),
        canaries=len(canaries),
        false_positives=found.false_positives,
        false_negatives=found.false_negatives,
        counted=found.observations,
    )


def one_run(
    run: Run,
    client: ClientPlan,
    seed: int,
    *,
    federation: Federation | None = None,
    canaries: Canaries | None = None,
    level: float = LEVEL,
) -> OneRun:
    """Return a lower bound of the ε of all steps of one run (Steinke, Nasr and Jagielski 2023).

    A fair coin includes each canary or leaves it out. The attacker sums each canary's log-likelihood ratio
    log(1 − q + q exp((x − ½)/σ²)) over all steps, guesses "in" for the highest quarter and "out" for the
    lowest, and abstains on the rest.

    Parameters
    ----------
    run, client, federation, canaries, level
        As in :func:`one_step`; here the client's q and all its steps count too.
    seed
        The seed of the coins, the sampling and the noise.
    """
    canaries = (craft(run, client, federation) if canaries is None else canaries).effective()
    quarter = len(canaries) // 4
    if quarter == 0:
        return OneRun(math.nan, 0, 0, len(canaries))
    coin_M = np.random.default_rng([seed, 1]).random(len(canaries)) < 0.5
    steps = client.steps * run.rounds
    reseeded = run.model_copy(update={"seed": seed, "noise_seed": seed})
    gram = canaries.directions_MP @ canaries.directions_MP.T
    decode = np.linalg.pinv(gram, rcond=1e-6, hermitian=True)
    batches = [canaries.records(coin_M)] * steps
    onto_PM = canaries.directions_MP.T @ decode
    x_SM = releases(reseeded, client, canaries.start, batches, range(1, steps + 1), onto_PM)
    variance_M = np.maximum(np.diag(decode), 1e-12) * client.noise_multiplier**2
    q = client.sampling_rate
    base = math.log1p(-q) if q < 1 else -math.inf
    ratio_SM = np.logaddexp(base, math.log(q) + (x_SM - 0.5) / variance_M)
    order = np.argsort(ratio_SM.sum(axis=0), kind="stable")
    correct = int((~coin_M[order[:quarter]]).sum() + coin_M[order[len(canaries) - quarter :]].sum())
    bound = one_run_epsilon(correct, 2 * quarter, len(canaries), run.guarantee[0], level)
    return OneRun(bound, correct, 2 * quarter, len(canaries))
