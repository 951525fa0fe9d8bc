"""The price of a choice against dp-accounting, and against the exact divergences of a small mechanism."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from dp_accounting import ComposedDpEvent, GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.dp_event import RepeatAndSelectDpEvent
from dp_accounting.rdp import RdpAccountant
from scipy.special import logsumexp

from fedtoll.privacy import accounting, selection
from fedtoll.privacy.accounting import Event
from fedtoll.scenarios.choice import Distribution, Poisson, TruncatedNegativeBinomial
from fedtoll.server.plan import Candidates, plan
from fedtoll.server.trainer import simulate
from tests.peers.conftest import WHOLE
from tests.server.federation import TERM, scenario

TRIES: list[tuple[Distribution, float, float]] = [
    *(
        (TruncatedNegativeBinomial.with_expected(mean, eta), mean, eta)
        for eta in (0.0, 0.5, 1.0, 3.0)
        for mean in (1.5, 3.0, 8.0, 30.0, 200.0)
    ),
    *((Poisson(mean=mean), mean, math.inf) for mean in (1.0, 2.0, 8.0, 30.0, 200.0)),
]
BASES = [
    (1.0, 0.02, 300, 1),
    (1.0, 0.02, 300, 2),
    (5.0, 0.02, 300, 1),
    (20.0, 1.0, 100, 2),
    (1.0, 0.1, 1000, 1),
    (50.0, 0.02, 300, 1),
    (0.6, 0.01, 50, 3),
]
"""σ, q, steps, and the number of trainings of a candidate."""


@pytest.mark.parametrize("base", [BASES[1], BASES[3]], ids=str)
def test_it_equals_dp_accounting_and_is_never_below(base, whole_orders):
    compare(base, TRIES[2::10] + TRIES[-3:-2])


@pytest.mark.thorough
@pytest.mark.parametrize("base", BASES, ids=str)
def test_more_distributions_and_trainings(base, whole_orders):
    compare(base, TRIES)


def compare(base: tuple[float, float, int, int], tried: list[tuple[Distribution, float, float]]) -> None:
    noise, rate, steps, trainings = base
    event = PoissonSampledDpEvent(rate, GaussianDpEvent(noise))
    for tries, mean, shape in tried:
        account = RdpAccountant(orders=list(WHOLE))
        repeated = SelfComposedDpEvent(event, steps * trainings)
        account.compose(RepeatAndSelectDpEvent(repeated, mean, shape))
        charge = selection.Charge(tries, trainings, (selection.Training(Event(noise, rate, steps)),))
        for done in (0, steps):  # the choice alone, then with the final training
            if done:
                account.compose(SelfComposedDpEvent(event, done))
            theirs = account.get_epsilon(1e-5)
            ours = selection.epsilon(charge, 1e-5, done)
            assert theirs * (1 - 1e-9) <= ours <= theirs * (1 + 1e-3), (tries, done)  # γ has 9 digits there


# The best of K runs of a mechanism with few outputs, exactly, by the probability generating function.


def generated(tries: Distribution, x: float) -> float:
    """Return E[x^K]."""
    if isinstance(tries, Poisson):
        return math.exp(tries.mean * (x - 1))
    if tries.eta == 0:
        return math.log1p(-(1 - tries.gamma) * x) / math.log(tries.gamma)
    none, some, every = (float((1 - (1 - tries.gamma) * y) ** -tries.eta) for y in (0.0, x, 1.0))
    return (some - none) / (every - none)


def best(tries: Distribution, outputs: np.ndarray) -> np.ndarray:
    """Return the distribution of the best of K outputs, the last being the best; first, that K is 0."""
    at_most = np.concatenate([[0.0], np.cumsum(outputs)])
    at_most[-1] = 1.0
    generating = [generated(tries, float(x)) for x in at_most]
    return np.array([generating[0], *(b - a for a, b in pairwise(generating))])


def renyi(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Return the larger of both divergences at each of our orders."""
    order_A1 = np.array(accounting.ORDERS)[:, None]
    a, b = np.log(p[p > 0]), np.log(q[p > 0])
    both = [logsumexp(order_A1 * x + (1 - order_A1) * y, axis=1) for x, y in ((a, b), (b, a))]
    return np.asarray(np.maximum(*both) / (order_A1[:, 0] - 1))


EXACT: list[Any] = [
    *(TruncatedNegativeBinomial(eta=eta, gamma=g) for eta in (-0.5, 0.0, 1.0, 2.5) for g in (0.02, 0.3, 0.9)),
    *(Poisson(mean=mean) for mean in (1.0, 5.0, 40.0)),
]


@pytest.mark.parametrize("tries", EXACT, ids=str)
def test_no_exact_divergence_exceeds_it(tries):
    """Over mechanisms with three outputs; and for some, the bound is not far above."""
    rng, closest = np.random.default_rng(0), 0.0
    for _ in range(100):
        p = rng.dirichlet(np.ones(3)) * 0.97 + 0.01
        q = p * np.exp(rng.uniform(-0.5, 0.5, 3) * rng.choice([0.1, 1.0]))
        q /= q.sum()
        bound = selection.selection_rdp(renyi(p, q), accounting.ORDERS, tries)
        exact = renyi(best(tries, p), best(tries, q))
        assert (exact <= bound + 1e-9).all()
        closest = max(closest, float(np.max(exact / bound)))
    assert closest > 0.2


@pytest.mark.slow
def test_the_ledger_of_a_run_equals_dp_accounting(whole_orders):
    """Candidates that differ in the learning rate alone release the same."""
    stated = scenario(TERM, privacy={"epsilons": [2.0], "accountant": "rdp"})
    spec, training = stated.strategies[0], stated.training
    grid = tuple((training.model_copy(update={"learning_rate": lr}), spec) for lr in (0.1, 1.0))
    tries = TruncatedNegativeBinomial(eta=1.0, gamma=0.25)
    (run,) = plan(stated, "sex.toml", choice=Candidates(tries, 2, grid)).runs
    ledger = simulate(run)["ledger"]
    for client in run.clients:
        rows = ledger[(ledger["client"] == client.id) & (ledger["round"] > 0)]
        events = [
            SelfComposedDpEvent(PoissonSampledDpEvent(q, GaussianDpEvent(z)), int(n))
            for q, z, n in rows[["sampling_rate", "noise_multiplier", "count"]].itertuples(index=False)
        ]
        account = RdpAccountant(orders=list(WHOLE))
        account.compose(RepeatAndSelectDpEvent(ComposedDpEvent([*events, *events]), 4.0, 1.0))
        for event in events:
            account.compose(event)
        theirs = account.get_epsilon(1e-5)
        ours = float(ledger.loc[ledger["client"] == client.id, "epsilon_spent"].max())
        assert ours == pytest.approx(theirs, rel=1e-6)
        assert 1.98 < ours <= 2.0
