"""FedAvg, uniform and TERM compared with their equations, and the code shared by all strategies."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedtoll.scenarios.statistics import MeanLoss
from fedtoll.strategies.base import Member, Strategy, recall, remember, sizes, weights_and_state
from fedtoll.strategies.fedavg import FedAvg
from fedtoll.strategies.simplex import project, simplex_violation
from fedtoll.strategies.term import Term
from fedtoll.strategies.uniform import Uniform
from tests.strategies.reports import cohort

cohorts = st.lists(
    st.tuples(st.integers(1, 10**6), st.floats(-2, 6), st.floats(0, 2)), min_size=1, max_size=8
)


@given(cohorts, st.sampled_from([FedAvg(), Uniform(), Term(t=5.0), Term(t=100.0), Term(t=3.0, debias=False)]))
def test_weights_are_on_the_simplex_and_follow_the_clients_not_their_order(drawn, strategy):
    reports = cohort(*zip(*drawn, strict=True))
    weights, state = strategy.weigh(reports, strategy.init(reports))
    assert weights.shape == (len(drawn),)
    assert np.isfinite(weights).all()
    assert (weights >= 0).all()
    assert weights.sum() == pytest.approx(1)
    turned, _ = strategy.weigh(reports[::-1], state)
    np.testing.assert_allclose(turned[::-1], weights, atol=1e-12)


def test_fedavg_is_the_mean_over_records():
    reports = cohort([10, 30, 60])
    weights, state = FedAvg().weigh(reports, {})
    start = (np.ones((2, 3)), np.zeros(2))
    combined, _, coefficients = FedAvg().combine(start, reports, weights, state)
    for i in range(2):
        expected = start[i] + np.average([r.update[i] for r in reports], axis=0, weights=[10, 30, 60])
        np.testing.assert_allclose(combined[i], expected, atol=1e-14)
    np.testing.assert_array_equal(coefficients, weights)


def test_combining_keeps_the_precision_of_the_parameters():
    reports = cohort([10, 30])
    start = (np.ones((2, 3), dtype=np.float32), np.zeros(2, dtype=np.float32))
    combined, _, _ = FedAvg().combine(start, reports, sizes(reports), {})
    assert all(a.dtype == np.float32 for a in combined)


def test_the_base_says_what_to_write():
    with pytest.raises(NotImplementedError, match="Strategy must define weigh"):
        Strategy().weigh([], {})


# TERM.


def test_term_without_tilt_is_fedavg():
    reports = cohort([10, 30, 60], [0.1, 0.9, 0.4], [0.0, 0.3, 0.1])
    np.testing.assert_allclose(Term(t=0.0).weigh(reports, {})[0], [0.1, 0.3, 0.6])


def test_term_is_its_equation():
    n, f = np.array([10.0, 30.0, 60.0]), np.array([0.1, 0.9, 0.4])
    expected = n * np.exp(2 * f) / (n * np.exp(2 * f)).sum()
    np.testing.assert_allclose(Term(t=2.0).weigh(cohort(n.tolist(), f.tolist()), {})[0], expected)


def test_debiasing_makes_the_unnormalised_tilt_unbiased():
    rng = np.random.default_rng(1)
    t, f, s = 5.0, 0.3, 0.2
    noisy = f + s * rng.normal(size=200_000)
    biased = np.exp(t * noisy).mean() / np.exp(t * f)
    debiased = np.exp(t * noisy - (t * s) ** 2 / 2).mean() / np.exp(t * f)
    assert biased == pytest.approx(np.exp(t**2 * s**2 / 2), rel=0.03)
    assert debiased == pytest.approx(1, rel=0.02)
    # ... and the strategy applies exactly that factor.
    two = cohort([1, 1], [f, f], [s, 0.0])
    plain, corrected = (Term(t=t, debias=d).weigh(two, {})[0] for d in (False, True))
    ratio = (corrected[0] / corrected[1]) / (plain[0] / plain[1])
    assert ratio == pytest.approx(np.exp(-(t**2) * s**2 / 2))


RACE = [4176] * 8 + [1874] * 2 + [1215, 376, 324]
"""The public sizes of adult-race: at z = 100 the standard deviation of the last one's mean loss is .31."""


def shares_of_the_smallest(t, sd, rounds=4000):
    """Return its normalised weight relative to the exact one, over independent releases of equal losses."""
    rng = np.random.default_rng(2)
    sds = sd / 0.31 * 100 / np.array(RACE)
    losses = 0.3 + sds * rng.normal(size=(rounds, len(RACE)))
    due = RACE[-1] / sum(RACE)
    return np.array([Term(t=t).weigh(cohort(RACE, f, sds, shapes=()), {})[0][-1] / due for f in losses])


@pytest.mark.slow
def test_a_small_client_gets_less_than_its_due_in_most_rounds_and_much_more_in_a_few():
    share = shares_of_the_smallest(t=5.0, sd=0.31)
    assert np.median(share) == pytest.approx(np.exp(-((5 * 0.31) ** 2) / 2), abs=0.03)  # .30
    assert np.mean(share < 1) == pytest.approx(0.78, abs=0.02)
    assert np.mean(share) == pytest.approx(1, abs=0.1)
    assert np.quantile(share, 0.99) > 8
    # A smaller t helps, and so does less noise: an average with smoothing = .8 has a third of it.
    assert np.median(shares_of_the_smallest(t=2.0, sd=0.31)) > 0.8
    assert np.median(shares_of_the_smallest(t=5.0, sd=0.31 / 3)) > 0.8


def test_huge_tilts_do_not_overflow():
    weights, _ = Term(t=1e4).weigh(cohort([1, 1], [600.0, 700.0]), {})
    np.testing.assert_allclose(weights, [0, 1])


def test_only_term_asks_for_a_statistic():
    assert FedAvg().requests == Uniform().requests == ()
    assert Term().requests == (MeanLoss(1.0),)
    assert Term(clip=2.0).requests == (MeanLoss(2.0),)


# What they share.


def test_who_is_missing_keeps_what_it_had():
    members = [Member(k, 1, "") for k in (5, 1, 3)]
    state = remember({"round": 7}, members, share=np.array([0.5, 0.1, 0.3]))
    state = remember(state, [members[2], members[0]], share=np.array([3.0, 5.0]), loss=np.array([0.3, 0.5]))
    np.testing.assert_array_equal(recall(state, members, "share"), [5.0, 0.1, 3.0])
    np.testing.assert_array_equal(recall(state, [members[0]], "loss"), [0.5])
    with pytest.raises(KeyError):
        recall(state, members, "loss")
    assert state["round"] == 7


def test_remembering_changes_no_memory_that_it_is_given():
    members = [Member(k, 1, "") for k in (0, 1)]
    before = remember({}, members, share=np.array([0.5, 0.5]))
    kept = {name: value.copy() for name, value in before.items()}
    remember(before, members[:1], share=np.array([1.0]))
    np.testing.assert_equal(before, kept)


@pytest.mark.parametrize("answer", [np.array([0.5, 0.5]), None, [np.ones(1), {}], (np.ones(1),), (1, 2, 3)])
def test_weigh_returns_weights_and_a_memory(answer):
    with pytest.raises(TypeError, match=r"^weigh must return \(weights, state\), but returned "):
        weights_and_state(answer)
    assert weights_and_state((answer, {})) == (answer, {})


@pytest.mark.parametrize("scale", [1.0, 1e3, 1e8, 1e16, 1e300])
def test_the_projection_keeps_its_digits_whatever_the_scale(scale):
    np.testing.assert_array_equal(project(np.array([scale, -scale, 0.0])), [1, 0, 0])
    np.testing.assert_array_equal(project(np.full(4, scale)), np.full(4, 0.25))
    if scale <= 1e16:  # where the neighbour of the scale is 2 or less away
        np.testing.assert_allclose(project(np.array([scale, scale + 2.0])), [0, 1])


def test_the_projection_is_the_nearest_point():
    rng = np.random.default_rng(0)
    for _ in range(20):
        point = rng.normal(size=4)
        found = project(point)
        assert simplex_violation(found, 4) == ""
        others = rng.dirichlet(np.ones(4), size=200)
        assert (((others - point) ** 2).sum(axis=1) >= ((found - point) ** 2).sum()).all()


def test_weights_are_refused_with_how_far_they_are_off():
    assert simplex_violation(np.array([0.5, 0.5 + 3e-9]), 2) == "sum 1 instead of 1 (+3e-09)"
    assert simplex_violation(np.array([0.5, 0.5 + 3e-10]), 2) == ""
    assert simplex_violation(np.zeros(2), 2) == "sum 0 instead of 1 (-1)"
    assert simplex_violation(np.array(["a", "b"]), 2) == "<U1 instead of numbers"
    assert simplex_violation(np.array([None, 1]), 2) == "object instead of numbers"
