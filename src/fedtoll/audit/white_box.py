"""White-box audits: an attacker who sees every step of a client, and put the record there himself.

``one_step`` bounds the ε of a single noisy step in which the record surely takes part (q = 1): the
Gaussian mechanism on which everything else is built, and the part of it where a bug would sit. Its claim is
the exact ε of one Gaussian release of noise multiplier σ. ``one_run`` bounds the ε of all steps of a run
together, sampled as the scenario says; from one run it is loose.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fedtoll.audit.bounds import LEVEL, gaussian_epsilon, one_run_epsilon, separation
from fedtoll.audit.canaries import Canaries, canaries, exact, released, unit, whole
from fedtoll.scenarios.federation import Federation
from fedtoll.scenarios.run import ClientPlan, Run

OBSERVATIONS = 20_000
"""Of each side, at least."""

BESIDE = 32
"""Real records that take part in a step beside the canaries."""


@dataclass(frozen=True)
class Step:
    """What the audit of one step found.

    Parameters
    ----------
    claim
        The exact ε of one step that surely holds the record.
    bound
        The lower bound of ε that was shown; undefined (NaN) where the model ignores every canary.
    mu, mu_bound
        1/σ, and the lower bound of it.
    observations
        With the record, and as many without.
    canaries
        Records that were tried in one step.
    false_positives, false_negatives, counted
        The errors that the bound is from, each among so many observations.
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
    """What the audit by one run found: the lower bound of ε, and the guesses that give it."""

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
    made: Canaries | None = None,
    observations: int = OBSERVATIONS,
    level: float = LEVEL,
) -> Step:
    """Bound the ε of one step of a client from below.

    Each step holds some of the client's own records, which the attacker knows, and every second canary. Half
    the steps hold the even ones, half the odd ones: every canary is seen with and without.

    Parameters
    ----------
    run, client
        The run whose engine, clip and precision are audited, and the client whose σ and normaliser B.
    federation
        The run's records; resolved from the run where not given.
    seed
        Of the noise; not a run's.
    made
        Canaries for this run, made once for several clients.
    observations, level
        How many of each side at least, and the chance that the bound is wrong.
    """
    federation = Federation.of(run, like=federation)
    made = (canaries(run, client, federation) if made is None else made).seen()
    delta, mu = run.guarantee[0], 1 / client.noise_multiplier
    claim = gaussian_epsilon(mu, delta)
    if not len(made):
        return Step(claim, math.nan, mu, math.nan, 0, 0, 0, 0, 0)
    made = made if made.orthogonal else made.longest()
    onto_PM = unit(made.directions_MP).T
    with_M = np.arange(len(made)) % 2 == 0
    table, rows = federation.table, federation.records(run.seed).held[client.id][:BESIDE]
    features_ND = torch.from_numpy(table.features[rows]).to(made.features_MD)
    beside = (features_ND, torch.from_numpy(table.label[rows]))
    known_M = released(exact(run), whole(client, 0.0), made.start, [beside], [1], onto_PM)[0]

    def holding(which_M: NDArray[np.bool_]) -> tuple[torch.Tensor, torch.Tensor]:
        own, theirs = made.held(which_M), beside
        return torch.cat([theirs[0], own[0]]), torch.cat([theirs[1], own[1]])

    steps = -(-observations // len(made))
    keyed = run.model_copy(update={"seed": seed, "noise_seed": seed})
    seen = []
    for turn, which_M in enumerate((with_M, ~with_M)):
        rounds = range(1 + turn * steps, 1 + (turn + 1) * steps)
        held = [holding(which_M)] * steps
        seen.append(released(keyed, whole(client), made.start, held, rounds, onto_PM) - known_M)
    even_SM, odd_SM = seen
    in_N = np.where(with_M, even_SM, odd_SM).ravel()
    out_N = np.where(with_M, odd_SM, even_SM).ravel()
    found = separation(out_N, in_N, level)
    return Step(
        claim=claim,
        bound=gaussian_epsilon(found.mu, delta),
        mu=mu,
        mu_bound=found.mu,
        observations=len(in_N),
        canaries=len(made),
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
    made: Canaries | None = None,
    level: float = LEVEL,
) -> OneRun:
    """Bound the ε of all steps of one run of a client from below (Steinke, Nasr and Jagielski 2023).

    A coin puts each canary in or leaves it out. The attacker adds up each canary's log-likelihood ratio
    log(1 − q + q exp((x − ½)/σ²)) over all steps, calls the highest quarter in and the lowest out, and
    abstains from the rest.

    Parameters
    ----------
    run, client, federation, made, level
        As in :func:`one_step`; the client's q, σ and all its steps.
    seed
        Of coins, samples and noise.
    """
    made = (canaries(run, client, federation) if made is None else made).seen()
    quarter = len(made) // 4
    if quarter == 0:
        return OneRun(math.nan, 0, 0, len(made))
    coin_M = np.random.default_rng([seed, 1]).random(len(made)) < 0.5
    steps = client.steps * run.rounds
    keyed = run.model_copy(update={"seed": seed, "noise_seed": seed})
    gram = made.directions_MP @ made.directions_MP.T
    decode = np.linalg.pinv(gram, rcond=1e-6, hermitian=True)
    held = [made.held(coin_M)] * steps
    onto_PM = made.directions_MP.T @ decode
    x_SM = released(keyed, client, made.start, held, range(1, steps + 1), onto_PM)
    variance_M = np.maximum(np.diag(decode), 1e-12) * client.noise_multiplier**2
    q = client.sampling_rate
    base = math.log1p(-q) if q < 1 else -math.inf
    ratio_SM = np.logaddexp(base, math.log(q) + (x_SM - 0.5) / variance_M)
    order = np.argsort(ratio_SM.sum(axis=0), kind="stable")
    correct = int((~coin_M[order[:quarter]]).sum() + coin_M[order[len(made) - quarter :]].sum())
    bound = one_run_epsilon(correct, 2 * quarter, len(made), run.guarantee[0], level)
    return OneRun(bound, correct, 2 * quarter, len(made))
