"""White-box audits: the attacker has inserted the canaries, and sees what a client's steps release.

Four views of the training have exact claims, because they certainly include the record or sample it once: the
first step of a round, its last step, a sampled step, and all steps of the last round together. ``one_run``
bounds the ε of all steps of a run, with the scenario's sampling; from a single run the bound is loose. If any
claim is refuted, the mechanism is broken.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fedtoll.audit.bounds import (
    LEVEL,
    Claim,
    gaussian,
    one_run_epsilon,
    one_run_p_value,
    sampled,
    separation,
)
from fedtoll.audit.canaries import (
    LARGE,
    LOOKS_PER_CALL,
    Canaries,
    Look,
    craft,
    full_batch,
    normalised,
    releases,
    without_noise,
)
from fedtoll.audit.subject import FIRST, LAST, ROUND, RUN, SAMPLED
from fedtoll.scenarios.federation import Federation
from fedtoll.scenarios.run import ClientPlan, Run

MIN_OBSERVATIONS = 20_000
"""The smallest number of observations with the record, and as many without."""

MAX_STEPS = 20_000
"""The largest number of training steps on each side; it limits the observations of models with one canary."""

KNOWN_RECORDS = 32
"""The number of the client's own records that join the canaries in a step."""


@dataclass(frozen=True)
class Bound:
    """A lower bound of ε, and the errors behind it.

    Parameters
    ----------
    view
        What was observed.
    claim
        The ε that the plan of the run claims for it.
    bound
        The lower bound of ε; NaN if the model ignores every canary.
    p
        The p-value of the claim; NaN likewise.
    observations
        The observations with a canary; there are as many without. In one run: the coins.
    canaries
        The canaries that share one observation.
    false_positives, false_negatives, counted
        The errors behind the bound, each among ``counted`` observations. In one run: among all guesses.
    """

    view: str
    claim: float
    bound: float
    p: float
    observations: int
    canaries: int
    false_positives: int
    false_negatives: int
    counted: int


def undefined(view: str, claim: float, canaries: int = 0) -> Bound:
    """Return the bound of an audit that shows nothing."""
    return Bound(view, claim, math.nan, math.nan, 0, canaries, 0, 0, 0)


def told_apart(
    view: str,
    claim: Claim,
    out_N: NDArray[np.float64],
    in_N: NDArray[np.float64],
    canaries: int = 1,
    level: float = LEVEL,
) -> Bound:
    """Return the bound that observations without and with the record show, and the p-value of the claim."""
    found = separation(out_N, in_N, level, at_least=claim.at_least)
    errors = found.false_positives, found.false_negatives, found.observations
    return Bound(
        view,
        claim.epsilon(claim.parameter),
        claim.epsilon(found.parameter),
        claim.p_value(*errors),
        len(in_N),
        canaries,
        *errors,
    )


def audit_step(
    view: str,
    run: Run,
    clients: Sequence[ClientPlan],
    seed: int,
    *,
    federation: Federation | None = None,
    canaries: Canaries | None = None,
    observations: int = MIN_OBSERVATIONS,
    level: float = LEVEL,
) -> Bound:
    """Return a lower bound of the ε of one view of a client's training.

    Each training has some of the client's own records, which the attacker knows, and every second canary.
    Half of the trainings have the even canaries and half the odd ones, so each canary is observed with and
    without. Trainings go through all rounds of the run (``last round``: the last only), seed after seed.

    Parameters
    ----------
    view
        ``first step``, ``last step``, ``sampled step`` or ``last round``.
    run, clients
        The run whose engine, clip and precision are audited, and clients with the same σ, q and T. The first
        holds the known records; the others are observed in the last round only.
    federation
        The run's records; resolved from the run by default.
    seed
        The first seed of the draws, in place of the run's.
    canaries
        Canaries for this run, to reuse them for several clients; crafted by default.
    observations, level
        The smallest number of observations on each side (fewer if they take more than ``MAX_STEPS`` steps),
        and the probability that the bound is wrong.
    """
    client = clients[0]
    federation = Federation.of(run, like=federation)
    canaries = (craft(run, client, federation) if canaries is None else canaries).effective()
    delta, mu = run.guarantee[0], 1 / client.noise_multiplier
    steps = 1 if view == FIRST else client.steps
    claim = gaussian(mu * math.sqrt(steps) if view == ROUND else mu, delta)
    if view == SAMPLED:
        claim = sampled(client.sampling_rate, mu, delta)
    if not len(canaries):
        return undefined(view, claim.epsilon(claim.parameter))
    canaries = canaries if canaries.orthogonal else canaries.longest()
    onto_PM = normalised(canaries.directions_MP).T
    even_M = np.arange(len(canaries)) % 2 == 0
    # Sampled records would only hide the canaries: then there are none but canaries.
    table, rows = federation.table, federation.records(run.seed).held[client.id]
    rows = rows[: 0 if view == SAMPLED else KNOWN_RECORDS]
    features_ND = torch.from_numpy(table.features[rows]).to(canaries.features_MD)
    labels_N = torch.from_numpy(table.label[rows])
    if view != FIRST:
        run = run.changed(learning_rate=_small_rate(run, client, len(rows)))
    rate = client.sampling_rate if view == SAMPLED else 1.0
    plans = [full_batch(c, sampling_rate=rate, steps=steps) for c in clients]
    count = min(-(-observations // len(canaries)), max(1, MAX_STEPS // steps))
    last = view in {LAST, SAMPLED}

    def observed(half: int, mask_M: NDArray[np.bool_]) -> NDArray[np.float64]:
        features_MD, labels_M = canaries.records(mask_M)
        batch = torch.cat([features_ND, features_MD]), torch.cat([labels_N, labels_M])
        rounds = [run.rounds] if view == ROUND else list(range(1, run.rounds + 1))
        keys = _keys(plans if view == ROUND else plans[:1], rounds, seed, half)
        looks = [Look(plan, s, r, batch) for (plan, s, r), _ in zip(keys, range(count), strict=False)]
        return releases(run, looks, canaries.start, onto_PM, last_step=last)

    silent = full_batch(client, noise_multiplier=0.0, steps=steps)
    known = [Look(silent, run.seed, 1, (features_ND, labels_N))]
    known_M = releases(without_noise(run), known, canaries.start, onto_PM, last_step=last)[0]
    even_SM, odd_SM = (observed(half, mask) - known_M for half, mask in enumerate((even_M, ~even_M)))
    in_N = np.where(even_M, even_SM, odd_SM).ravel()
    out_N = np.where(even_M, odd_SM, even_SM).ravel()
    return told_apart(view, claim, out_N, in_N, len(canaries), level)


def _keys(
    plans: Sequence[ClientPlan], rounds: Sequence[int], seed: int, half: int
) -> Iterator[tuple[ClientPlan, int, int]]:
    """Yield (client, seed, round), a new seed when all clients and rounds, or one call's, are used up."""
    pairs = itertools.cycle([(plan, round) for round in rounds for plan in plans])
    together = min(LOOKS_PER_CALL, len(plans) * len(rounds))
    rng = np.random.default_rng([seed, half])
    while True:
        new = int(rng.integers(2**63))
        for plan, round in itertools.islice(pairs, together):
            yield plan, new, round


def _small_rate(run: Run, client: ClientPlan, known: int) -> float:
    """Return a learning rate so small that a round's steps do not change which gradients are clipped.

    No release depends on it: they are divided by it. A canary's logit moves by 3 at most, even if the known
    records and the noise (5 standard deviations) all push it the same way.
    """
    logit = LARGE * max(1.0, run.clip or 1.0) * (run.clip or 1.0) / client.batch_size
    steps = client.steps
    pushes = (1 + known) * steps + 5 * client.noise_multiplier * math.sqrt(steps)
    return min(run.learning_rate, 3 / (logit * pushes))


def one_run(
    run: Run,
    client: ClientPlan,
    seed: int,
    *,
    claim: float,
    federation: Federation | None = None,
    canaries: Canaries | None = None,
    level: float = LEVEL,
) -> Bound:
    """Return a lower bound of the ε of all steps of one run (Steinke, Nasr and Jagielski 2023).

    A fair coin includes each canary or leaves it out. The attacker sums each canary's log-likelihood ratio
    log(1 − q + q exp((x − ½)/σ²)) over all steps, guesses "in" for the highest quarter and "out" for the
    lowest, and abstains on the rest.

    Parameters
    ----------
    run, client, federation, canaries, level
        As in :func:`audit_step`; here the client's q and all its steps count too.
    seed
        The seed of the coins, the sampling and the noise.
    claim
        The ε that the run claims for the client.
    """
    canaries = (craft(run, client, federation) if canaries is None else canaries).effective()
    quarter = len(canaries) // 4
    if quarter == 0:
        return undefined(RUN, claim, len(canaries))
    coin_M = np.random.default_rng([seed, 1]).random(len(canaries)) < 0.5
    gram = canaries.directions_MP @ canaries.directions_MP.T
    decode = np.linalg.pinv(gram, rcond=1e-6, hermitian=True)
    plan = full_batch(client, sampling_rate=client.sampling_rate, steps=1)
    batch = canaries.records(coin_M)
    looks = [
        Look(plan, seed + step, round, batch)
        for step in range(client.steps)
        for round in range(1, run.rounds + 1)
    ]
    x_SM = releases(run, looks, canaries.start, canaries.directions_MP.T @ decode)
    variance_M = np.maximum(np.diag(decode), 1e-12) * client.noise_multiplier**2
    q = client.sampling_rate
    base = math.log1p(-q) if q < 1 else -math.inf
    ratio_SM = np.logaddexp(base, math.log(q) + (x_SM - 0.5) / variance_M)
    order = np.argsort(ratio_SM.sum(axis=0), kind="stable")
    missed, wrong = int(coin_M[order[:quarter]].sum()), int((~coin_M[order[-quarter:]]).sum())
    correct, delta = 2 * quarter - missed - wrong, run.guarantee[0]
    guessed = correct, 2 * quarter, len(canaries)
    bound = one_run_epsilon(*guessed, delta, level)
    p = one_run_p_value(*guessed, claim, delta)
    return Bound(RUN, claim, bound, p, len(canaries), len(canaries), wrong, missed, 2 * quarter)
