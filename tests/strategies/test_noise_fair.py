"""The strategies that use the noise variance, compared with closed forms and scipy."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import LinearConstraint, minimize

from fedtoll.scenarios.data.adult import ADULT
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.statistics import GroupLoss, MeanLoss
from fedtoll.strategies import registry
from fedtoll.strategies.base import Arrays, Strategy, sizes
from fedtoll.strategies.epsilon_weighted import EpsilonWeighted
from fedtoll.strategies.fedavg import FedAvg
from fedtoll.strategies.fedminmax import FedMinMax
from fedtoll.strategies.inverse_variance import InverseVariance
from fedtoll.strategies.noise_fair import NoiseFair
from fedtoll.strategies.term import Term
from fedtoll.strategies.uniform import Uniform
from tests.strategies.reports import answering, cohort

NOISE_FAIR = "fedtoll.strategies.noise_fair:NoiseFair"
AFL = "fedtoll.strategies.afl:AFL"
FEDAVGM = "fedtoll.strategies.fedavgm:FedAvgM"


def reports(sizes_, variances=None, epsilons=None, losses=None):
    losses = np.linspace(0.1, 0.9, len(sizes_)) if losses is None else losses
    return cohort(sizes_, losses, variances=variances, epsilons=epsilons, shapes=[(3,)])


def adult_by_race():
    """Return 8 White clients, 2 Black and 1 of each other group; with equal σ and q, v_k ∝ 1 / n_k²."""
    clients = {"White": 8, "Black": 2}
    n = []
    for group, count in ADULT.counts["race"].items():
        n += [count * 0.8 / clients.get(group, 1)] * clients.get(group, 1)
    return n, reports(n, 1e6 / np.square(n), [2.0] * len(n))


cohorts = st.lists(
    st.tuples(
        st.integers(1, 10**6),
        st.floats(1e-12, 1e6) | st.just(0.0),
        st.floats(0, 1e3) | st.just(math.inf),
        st.floats(-1, 5),
    ),
    min_size=1,
    max_size=8,
)
STRATEGIES = [
    InverseVariance(),
    EpsilonWeighted(),
    NoiseFair(),
    NoiseFair(1e-9, "fedavg"),
    NoiseFair(1e300, "term", {"t": 5}),
    NoiseFair(2.0, AFL),
]


@pytest.mark.slow
@settings(deadline=None)
@given(cohorts, st.sampled_from(STRATEGIES))
def test_weights_are_on_the_simplex_and_follow_the_clients_not_their_order(drawn, strategy):
    given_ = reports(*zip(*drawn, strict=True))
    state = strategy.init(given_)
    weights, _ = strategy.weigh(given_, state)
    assert weights.shape == (len(drawn),)
    assert np.isfinite(weights).all()
    assert (weights >= 0).all()
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(strategy.weigh(given_[::-1], state)[0][::-1], weights, atol=1e-9)


# inverse-variance


def test_no_weights_have_less_noise_than_inverse_variance():
    rng = np.random.default_rng(1)
    v = np.array([0.5, 1.0, 4.0, 0.1])
    p, _ = InverseVariance().weigh(reports([10, 10, 10, 10], v), {})
    assert p**2 @ v == pytest.approx(1 / (1 / v).sum())
    assert (rng.dirichlet(np.ones(4), size=2000) ** 2 @ v > p**2 @ v).all()


def test_inverse_variance_is_unfair_to_small_clients():
    n = np.array([60.0, 30.0, 10.0])
    p, _ = InverseVariance().weigh(reports([60, 30, 10], 7 / n**2), {})
    np.testing.assert_allclose(p, n**2 / (n**2).sum())
    assert p[2] < 0.1 / 4


def test_clients_without_noise_have_all_the_weight_by_size():
    np.testing.assert_allclose(InverseVariance().weigh(reports([60, 30, 10]), {})[0], [0.6, 0.3, 0.1])
    np.testing.assert_allclose(
        InverseVariance().weigh(reports([60, 30, 10], [1, 0, 0]), {})[0], [0, 0.75, 0.25]
    )


# epsilon-weighted


@pytest.mark.parametrize(
    ("epsilons", "expected"),
    [
        ([1.0, 3.0, 4.0], [0.125, 0.375, 0.5]),
        ([2.0, 2.0, 2.0], [1 / 3, 1 / 3, 1 / 3]),
        ([math.inf, math.inf, math.inf], [1 / 3, 1 / 3, 1 / 3]),
        ([math.inf, 8.0, math.inf], [0.5, 0, 0.5]),
        ([0.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3]),
    ],
)
def test_epsilon_weights(epsilons, expected):
    weights, _ = EpsilonWeighted().weigh(reports([60, 30, 10], [1.0, 2.0, 3.0], epsilons), {})
    np.testing.assert_allclose(weights, expected)


def test_equal_epsilons_are_the_noisiest_choice_on_adult_by_race():
    n, clients = adult_by_race()
    assert len(n) == 13
    v = np.array([r.noise_variance for r in clients])
    noise = {
        type(s).__name__: s.weigh(clients, {})[0] ** 2 * v
        for s in (EpsilonWeighted(), FedAvg(), InverseVariance(), NoiseFair())
    }
    total = {name: x.sum() for name, x in noise.items()}
    assert total["EpsilonWeighted"] / total["FedAvg"] == pytest.approx(12.7, abs=0.05)
    assert np.sort(noise["EpsilonWeighted"])[-2:].sum() / total["EpsilonWeighted"] == pytest.approx(
        0.91, abs=0.005
    )
    assert total["InverseVariance"] < total["FedAvg"] < total["NoiseFair"] < total["EpsilonWeighted"]


# noise-fair


def bisected(fair, v, kappa):
    """Solve Σ max(0, (κ' p* + ν) / (κ' + v)) = 1 for ν."""
    scaled = kappa * np.mean(v)
    low, high = -scaled, scaled + np.max(v)
    for _ in range(200):
        nu = (low + high) / 2
        total = np.maximum(0, (scaled * fair + nu) / (scaled + v)).sum()
        low, high = (low, nu) if total > 1 else (nu, high)
    return np.maximum(0, (scaled * fair + low) / (scaled + v))


CASES = [
    ([500, 300, 100, 60, 40], [0.2, 0.5, 1.0, 3.0, 9.0]),
    ([500, 300, 100, 60, 40], [9.0, 0.5, 1.0, 3.0, 0.0]),
    ([1, 1], [1e-8, 1e-3]),
]


@pytest.mark.parametrize(("n", "v"), CASES)
@pytest.mark.parametrize("kappa", [0.05, 1.0, 20.0])
def test_noise_fair_is_the_minimum_that_scipy_finds(n, v, kappa):
    given_ = reports(n, v)
    fair, _ = Term(t=3.0).weigh(given_, {})
    found, _ = NoiseFair(kappa, "term", {"t": 3.0}).weigh(given_, {})
    u = np.array(v) / np.mean(v)  # the objective in units of the mean v: the same minimum

    def objective(p):
        return p**2 @ u + kappa * ((p - fair) ** 2).sum()

    theirs = minimize(  # type: ignore[call-overload]
        objective,
        np.full(len(n), 1 / len(n)),
        jac=lambda p: 2 * p * u + 2 * kappa * (p - fair),
        bounds=[(0, 1)] * len(n),
        constraints=LinearConstraint(np.ones((1, len(n))), 1, 1),
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert theirs.success
    np.testing.assert_allclose(found, theirs.x, atol=1e-5)
    assert objective(found) <= theirs.fun + 1e-12
    np.testing.assert_allclose(found, bisected(fair, np.array(v), kappa), atol=1e-9)


@pytest.mark.slow
@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 1000), st.floats(1e-3, 1e3)), min_size=2, max_size=6),
    st.floats(1e-3, 1e3),
)
def test_the_conditions_of_karush_kuhn_and_tucker_hold(drawn, kappa):
    n, v = (np.array(x, dtype=float) for x in zip(*drawn, strict=True))
    given_ = reports(n, v)
    p, _ = NoiseFair(kappa, "fedavg").weigh(given_, {})
    slope = p * v + kappa * v.mean() * (p - sizes(given_))
    # One multiplier for all, positive, with no client at 0: the projection never binds.
    np.testing.assert_allclose(slope, slope.mean(), rtol=1e-6)
    assert slope.mean() > 0
    assert (p > 0).all()


def test_the_ends_are_the_target_and_the_least_noise():
    given_ = reports([60, 30, 10], [0.3, 1.0, 5.0])
    target = Term(t=2.0).weigh(given_, {})[0]
    least = InverseVariance().weigh(given_, {})[0]
    ends = [NoiseFair(kappa, "term", {"t": 2.0}).weigh(given_, {})[0] for kappa in (1e9, 1e-9)]
    np.testing.assert_allclose(ends[0], target, atol=1e-7)
    np.testing.assert_allclose(ends[1], least, atol=1e-7)
    assert np.abs(target - least).max() > 0.1
    noise = [
        np.sum(NoiseFair(k).weigh(given_, {})[0] ** 2 * [0.3, 1.0, 5.0])
        for k in (0.01, 0.1, 1.0, 10.0, 100.0)
    ]
    assert (np.diff(noise) > 0).all()


def test_without_noise_it_is_the_target():
    given_ = reports([60, 30, 10])
    np.testing.assert_array_equal(NoiseFair(0.1, "fedavg").weigh(given_, {})[0], [0.6, 0.3, 0.1])


def test_the_target_asks_remembers_and_instructs_as_if_alone():
    strategy = NoiseFair(1.0, "fedtoll.strategies.fedminmax:FedMinMax", {"gamma": 0.5, "clip": 2})
    alone = FedMinMax(gamma=0.5, clip=2.0)
    assert strategy.requests == (GroupLoss(2.0),)
    cells = np.array([[[30.0, 60.0], [8.0, 10.0]], [[2.0, 4.0], [20.0, 26.0]]])
    given_ = answering("group_loss", [70, 30], cells, variances=[1.0, 3.0])
    state, theirs = strategy.init(given_), alone.init(given_)
    for round in (1, 2, 3):
        assert strategy.instructions(round, state) == alone.instructions(round, theirs)
        weights, state = strategy.weigh(given_, state)
        fair, theirs = alone.weigh(given_, theirs)
        np.testing.assert_equal(state, theirs)
        np.testing.assert_allclose(weights, bisected(fair, np.array([1.0, 3.0]), 1.0))
    assert np.max(strategy.instructions(4, state)["group_weights"]) > 1.1


def test_the_target_builds_the_model_with_the_new_weights():
    given_ = reports([60, 30, 10], [0.3, 1.0, 5.0])
    strategy = NoiseFair(1.0, FEDAVGM, {"momentum": 0.5})
    alone = registry.build(FEDAVGM, {"momentum": 0.5})
    state, theirs = strategy.init(given_), alone.init(given_)
    params: Arrays = (np.zeros(3),)
    same = params
    for _ in range(3):
        weights, state = strategy.weigh(given_, state)
        params, state, _ = strategy.combine(params, given_, weights, state)
        same, theirs, _ = alone.combine(same, given_, weights, theirs)
        np.testing.assert_array_equal(params, same)
    plain = 3 * sum(w * r.update[0] for w, r in zip(weights, given_, strict=True))
    assert np.abs(params[0] - plain).max() > 0.1  # there was momentum
    np.testing.assert_array_equal(strategy.output(params, state), alone.output(same, theirs))


MISTAKES = [
    ({"kappa": 0.0}, "kappa = 0.0: must be greater than 0"),
    ({"kappa": -1.0}, "kappa = -1.0: must be greater than 0"),
    ({"target": "unifrom"}, "'unifrom' is unknown; did you mean 'uniform'"),
    ({"target": NOISE_FAIR}, "must be a strategy other than this one"),
    ({"target": "flwr.serverapp.strategy:FedAvg"}, "is not a fedtoll.strategies.base.Strategy"),
    ({"target": "term", "target_parameters": {"tt": 1.0}}, "Term: unknown parameter 'tt'; did you mean 't'"),
    ({"target": "term", "target_parameters": {"t": -1.0}}, "Term: t = -1.0: must be 0 or greater"),
    ({"target": "term", "target_parameters": {"t": [1.0]}}, "target_parameters = {'t': [1.0]}"),
    ({"target_parameters": 3}, "target_parameters = 3"),
]


@pytest.mark.parametrize(("parameters", "message"), MISTAKES)
def test_a_mistake_is_one_line(parameters, message):
    with pytest.raises(ScenarioError) as caught:
        registry.build(NOISE_FAIR, parameters)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_target_whose_source_the_hash_would_miss_is_refused(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from fedtoll.strategies.uniform import Uniform\nclass Mine(Uniform):\n    pass\n"
    )
    with pytest.raises(ScenarioError, match="one of fedtoll's own"):
        registry.build(NOISE_FAIR, {"target": f"{tmp_path}/mine.py:Mine"})


@dataclass(frozen=True)
class Tabled(Strategy):
    """A strategy with a default factory."""

    steps: list[int] = field(default_factory=lambda: [1, 2])
    t: float = 1.0


def test_a_default_that_is_made_anew_is_a_parameter_like_others():
    assert registry.parameters(Tabled) == {"steps": [1, 2], "t": 1.0}
    assert registry.parameters(Tabled)["steps"] is not registry.parameters(Tabled)["steps"]
    assert registry.check(Tabled, {"t": 2.0}) == {"steps": [1, 2], "t": 2.0}
    with pytest.raises(ScenarioError, match="steps = 'x'"):
        registry.check(Tabled, {"steps": "x"})


def test_noise_fair_is_built_from_what_a_run_holds():
    resolved = registry.check(NoiseFair, {"kappa": 2, "target": "term", "target_parameters": {"t": 5}})
    built = registry.build(NOISE_FAIR, json.loads(json.dumps(resolved)))
    assert built == NoiseFair(2.0, "term", {"t": 5})
    assert hash(built) == hash(NoiseFair(2.0, "term", {"t": 5}))
    assert built != NoiseFair(2.0, "term", {"t": 4})
    assert built.requests == (MeanLoss(1.0),)
    assert registry.build(NOISE_FAIR, {}) == NoiseFair()
    np.testing.assert_allclose(
        Uniform().weigh(reports([9, 1]), {})[0], NoiseFair().weigh(reports([9, 1]), {})[0]
    )
