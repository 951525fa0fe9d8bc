"""FedProx, the server optimizers, q-FedAvg and AFL: against closed forms, numpy and Flower's numbers."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import flwr.serverapp.strategy as flower
import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given
from hypothesis import strategies as st

from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.statistics import MeanLoss
from fedtoll.strategies import registry
from fedtoll.strategies.afl import AFL
from fedtoll.strategies.base import sizes
from fedtoll.strategies.fedadam import FedAdam
from fedtoll.strategies.fedavg import FedAvg
from fedtoll.strategies.fedavgm import FedAvgM
from fedtoll.strategies.fedprox import FedProx
from fedtoll.strategies.fedyogi import FedYogi
from fedtoll.strategies.qfedavg import QFedAvg
from tests.strategies.reports import report

SIZES = [10, 30, 60]
START = (np.array([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]]), np.array([0.25, -0.75]))
CLASSICS = [FedProx(), FedAvgM(), FedAdam(), FedYogi(), QFedAvg(), AFL()]
ids = [type(s).__name__ for s in CLASSICS]


@pytest.fixture(scope="module", autouse=True)
def identity():
    """Flower's messages need to know who makes them."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_run_id", "_task_id", "_node_id"):
            patch.setattr(TaskIdentity, name, 1)
        yield


def round_of(seed, losses=(0.5, 0.5, 0.5), scale=1.0, **more):
    """Return the reports of three clients for a model shaped like START."""
    rng = np.random.default_rng(seed)
    return [
        report(k, n, tuple(scale * rng.normal(size=p.shape) for p in START), f, **more)
        for k, (n, f) in enumerate(zip(SIZES, losses, strict=True))
    ]


def play(strategy, rounds, params=START):
    """Return the model after each round, and the last state and coefficients."""
    state, path = strategy.init(rounds[0]), []
    for reports in rounds:
        weights, state = strategy.weigh(reports, state)
        params, state, coefficients = strategy.combine(params, reports, weights, state)
        path.append(params)
    return path, state, coefficients


def play_flower(strategy, rounds, params=START, before=lambda round: None):
    """Return the model after each round of a Flower strategy, which takes models instead of updates."""
    path = []
    for round, reports in enumerate(rounds, 1):
        before(round)
        replies = [reply(r, params) for r in reports]
        list(strategy.configure_train(round, ArrayRecord(list(params)), ConfigRecord(), Nodes()))
        arrays, _ = strategy.aggregate_train(round, replies)
        params = tuple(arrays.to_numpy_ndarrays())
        path.append(params)
    return path


def reply(report_, params):
    model = [p + u for p, u in zip(params, report_.update, strict=True)]
    metrics = {"num-examples": report_.size, "train_loss": float(report_.statistics["mean_loss"].value)}
    content = RecordDict({"arrays": ArrayRecord(model), "metrics": MetricRecord(metrics)})
    return Message(content, reply_to=Message(RecordDict(), report_.client + 1, "train"))


class Nodes:
    """The part of a Grid that Flower's strategies use before they address clients."""

    def get_node_ids(self):
        return [1, 2, 3]


def same(path, other, **tolerance):
    for ours, theirs in zip(path, other, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, **{"rtol": 1e-12, "atol": 1e-12, **tolerance})


def distance(params, other):
    return max(float(np.abs(a - b).max()) for a, b in zip(params, other, strict=True))


# All of them.

cohorts = st.lists(
    st.tuples(st.integers(1, 10**6), st.floats(-2, 6), st.floats(-5, 5), st.floats(0, 2)),
    min_size=1,
    max_size=6,
)


@pytest.mark.slow
@given(cohorts, st.sampled_from([*CLASSICS, QFedAvg(q=1000.0), AFL(gamma=100.0)]))
def test_two_rounds_are_finite_and_follow_the_clients_not_their_order(cohort, strategy):
    reports = [
        report(7 * k % 11, n, (np.array([u, -u]), np.array(u)), f, noise_variance=v)
        for k, (n, f, u, v) in enumerate(cohort)
    ]
    params = (np.array([1.0, 2.0]), np.array(3.0))
    turned, state, other = params, strategy.init(reports), strategy.init(reports[::-1])
    for _ in range(2):
        weights, state = strategy.weigh(reports, state)
        weights_turned, other = strategy.weigh(reports[::-1], other)
        assert (weights >= 0).all()
        assert weights.sum() == pytest.approx(1)
        np.testing.assert_allclose(weights_turned[::-1], weights, atol=1e-12)
        params, state, coefficients = strategy.combine(params, reports, weights, state)
        turned, other, _ = strategy.combine(turned, reports[::-1], weights_turned, other)
        assert coefficients.shape == weights.shape
        assert all(np.isfinite(p).all() for p in params)
        assert all(isinstance(value, np.ndarray) for value in state.values())
    same([params], [turned], rtol=1e-9)


@pytest.mark.parametrize("strategy", CLASSICS, ids=ids)
def test_a_zero_update_leaves_the_model_as_it_is_and_in_its_precision(strategy):
    params = tuple(p.astype(np.float32) for p in START)
    path, _, _ = play(strategy, [round_of(0, scale=0.0)] * 2, params)
    for old, new in zip(params, path[-1], strict=True):
        assert new.dtype == np.float32
        np.testing.assert_array_equal(new, old)


@pytest.mark.parametrize(
    "strategy",
    [FedProx(mu=0.0), FedAvgM(momentum=0.0), QFedAvg(q=0.0), AFL(gamma=0.0)],
    ids=lambda s: type(s).__name__,
)
def test_without_its_parameter_each_is_fedavg(strategy):
    rounds = [
        round_of(k, losses=(0.1, 2.0, 0.7), sd=0.3, noise_variance=0.2, learning_rate=0.05) for k in range(3)
    ]
    path, _, coefficients = play(strategy, rounds)
    same(path, play(FedAvg(), rounds)[0])
    np.testing.assert_allclose(coefficients, [0.1, 0.3, 0.6])
    # ... and with it they are not, or the clients are told.
    name = next(f.name for f in dataclasses.fields(strategy) if f.name in {"mu", "momentum", "q", "gamma"})
    other = dataclasses.replace(strategy, **{name: 0.5})
    if other.instructions(1, {}) == strategy.instructions(1, {}):
        assert distance(path[-1], play(other, rounds)[0][-1]) > 0.01


def test_two_of_them_ask_for_the_mean_loss():
    assert QFedAvg(clip=2.0).requests == AFL(clip=2.0).requests == (MeanLoss(2.0),)
    assert FedProx().requests == FedAvgM().requests == FedAdam().requests == FedYogi().requests == ()


MISTAKES = [
    ("fedprox:FedProx", {"mu": -0.1}, "mu = -0.1: must be 0 or greater"),
    ("fedavgm:FedAvgM", {"momentum": 1.0}, "momentum = 1.0: must be 0 or greater and less than 1"),
    ("fedavgm:FedAvgM", {"server_learning_rate": 0.0}, "server_learning_rate = 0.0: must be greater than 0"),
    (
        "fedadam:FedAdam",
        {"server_learning_rate": -1.0},
        "server_learning_rate = -1.0: must be greater than 0",
    ),
    ("fedadam:FedAdam", {"beta1": -0.1}, "beta1 = -0.1: must be 0 or greater and less than 1"),
    ("fedyogi:FedYogi", {"beta2": 1.0}, "beta2 = 1.0: must be 0 or greater and less than 1"),
    ("fedyogi:FedYogi", {"tau": 0.0}, "tau = 0.0: must be greater than 0"),
    ("qfedavg:QFedAvg", {"q": -1.0}, "q = -1.0: must be 0 or greater"),
    ("qfedavg:QFedAvg", {"clip": 0.0}, "clip = 0.0: must be greater than 0"),
    ("qfedavg:QFedAvg", {"floor": 0.0}, "floor = 0.0: must be greater than 0 and at most clip = 4.0"),
    ("qfedavg:QFedAvg", {"floor": 5.0}, "floor = 5.0: must be greater than 0 and at most clip = 4.0"),
    ("afl:AFL", {"gamma": -1.0}, "gamma = -1.0: must be 0 or greater"),
    ("afl:AFL", {"clip": -1.0}, "clip = -1.0: must be greater than 0"),
]


@pytest.mark.parametrize(("path", "parameters", "message"), MISTAKES)
def test_a_value_out_of_range_is_one_line(path, parameters, message):
    with pytest.raises(ScenarioError) as caught:
        registry.build(f"fedtoll.strategies.{path}", parameters)
    assert str(caught.value) == f"strategies: {path.partition(':')[2]}: {message}"


# FedProx.


def test_fedprox_tells_and_makes_what_flowers_does():
    theirs: Any = flower.FedProx(proximal_mu=0.3)
    messages = list(theirs.configure_train(1, ArrayRecord(list(START)), ConfigRecord(), Nodes()))
    assert [m.content["config"]["proximal-mu"] for m in messages] == [0.3] * 3
    assert FedProx(mu=0.3).instructions(1, {}) == {"proximal_mu": 0.3}
    rounds = [round_of(k) for k in range(2)]
    same(play(FedProx(mu=0.3), rounds)[0], play_flower(theirs, rounds))


# The server optimizers.


def test_fedavgm_is_flowers():
    rounds = [round_of(k) for k in range(4)]
    ours, _, coefficients = play(FedAvgM(server_learning_rate=0.4, momentum=0.7), rounds)
    same(ours, play_flower(flower.FedAvgM(server_learning_rate=0.4, server_momentum=0.7), rounds))
    np.testing.assert_allclose(coefficients, 0.4 * np.array([0.1, 0.3, 0.6]))


@pytest.mark.slow
def test_nesterovs_momentum_is_torchs():
    import torch

    rounds = [round_of(k) for k in range(4)]
    ours, _, coefficients = play(FedAvgM(server_learning_rate=0.4, momentum=0.7, nesterov=True), rounds)
    tensors = [torch.tensor(p, requires_grad=True) for p in START]
    sgd, path = torch.optim.SGD(tensors, lr=0.4, momentum=0.7, nesterov=True), []
    for reports in rounds:
        for i, tensor in enumerate(tensors):
            mean = sum(p * r.update[i] for p, r in zip([0.1, 0.3, 0.6], reports, strict=True))
            tensor.grad = -torch.tensor(mean)
        sgd.step()
        path.append(tuple(tensor.detach().numpy().copy() for tensor in tensors))
    same(ours, path)
    np.testing.assert_allclose(coefficients, 0.4 * 1.7 * np.array([0.1, 0.3, 0.6]))


def test_momentum_multiplies_a_constant_step_in_the_long_run():
    rounds = [round_of(0)] * 200
    (*_, before, after), _, _ = play(FedAvgM(server_learning_rate=0.5, momentum=0.8), rounds)
    fedavg = play(FedAvg(), rounds[:1])[0][0]
    for b, a, start, once in zip(before, after, START, fedavg, strict=True):
        np.testing.assert_allclose(a - b, 0.5 / (1 - 0.8) * (once - start), rtol=1e-9)


def flowers_without_its_differences(cls, ours):
    """Return Flower's FedAdam or FedYogi with v starting at τ² and, for Adam, without bias correction."""
    theirs = cls(beta_1=ours.beta1, beta_2=ours.beta2, tau=ours.tau, eta=ours.server_learning_rate)
    keys = ArrayRecord(list(START)).keys()
    theirs.v_t = {k: np.full(p.shape, ours.tau**2) for k, p in zip(keys, START, strict=True)}

    def undo(round):
        if cls is flower.FedAdam:
            correction = math.sqrt(1 - ours.beta2 ** (round + 1)) / (1 - ours.beta1 ** (round + 1))
            theirs.eta = ours.server_learning_rate / correction

    return theirs, undo


@pytest.mark.parametrize(
    ("cls", "ours"),
    [
        (flower.FedAdam, FedAdam(server_learning_rate=0.2, beta1=0.8, beta2=0.9, tau=0.05)),
        (flower.FedYogi, FedYogi(server_learning_rate=0.2, beta1=0.8, beta2=0.9, tau=0.05)),
    ],
)
def test_adam_and_yogi_are_flowers_without_its_differences(cls, ours):
    rounds = [round_of(k) for k in range(4)]
    theirs, undo = flowers_without_its_differences(cls, ours)
    same(play(ours, rounds)[0], play_flower(theirs, rounds, before=undo))


def test_flowers_differences_matter():
    """The differences are visible if D is not much larger than τ."""
    rounds = [round_of(k, scale=0.01) for k in range(2)]
    for cls, ours in [(flower.FedAdam, FedAdam(0.1)), (flower.FedYogi, FedYogi(0.1))]:
        plain = cls(eta=0.1)
        assert distance(play(ours, rounds)[0][-1], play_flower(plain, rounds)[-1]) > 5e-3


@pytest.mark.parametrize("kind", [FedAdam, FedYogi])
def test_adam_and_yogi_are_algorithm_2(kind):
    eta, b1, b2, tau = 0.3, 0.6, 0.7, 0.2
    rounds = [round_of(k, scale=2.0**-k) for k in range(6)]
    path, state, coefficients = play(kind(eta, b1, b2, tau), rounds)
    w = [p.copy() for p in START]
    m, v = [np.zeros_like(p) for p in START], [np.full_like(p, tau**2) for p in START]
    for reports in rounds:
        for i in range(2):
            for at in np.ndindex(w[i].shape):
                d = sum(n * r.update[i][at] for n, r in zip(SIZES, reports, strict=True)) / 100
                m[i][at] = b1 * m[i][at] + (1 - b1) * d
                if kind is FedAdam:
                    v[i][at] = b2 * v[i][at] + (1 - b2) * d**2
                elif v[i][at] > d**2:
                    v[i][at] -= (1 - b2) * d**2
                else:
                    v[i][at] += (1 - b2) * d**2
                w[i][at] += eta * m[i][at] / (math.sqrt(v[i][at]) + tau)
    same([path[-1]], [w])
    same([(state["m0"], state["m1"])], [m])
    same([(state["v0"], state["v1"])], [v])
    assert np.isnan(coefficients).all()
    assert coefficients.shape == (3,)


def test_yogi_comes_down_from_a_large_update_more_slowly_than_adam():
    rounds = [round_of(0, scale=10.0)] + [round_of(0, scale=0.1)] * 50
    adam, yogi = (play(kind(beta2=0.9), rounds)[1]["v0"] for kind in (FedAdam, FedYogi))
    assert (yogi > 10 * adam).all()


def test_noise_raises_the_second_moment_by_its_weighted_variance():
    rng = np.random.default_rng(0)
    p, variance = np.array([0.1, 0.3, 0.6]), np.array([4.0, 1.0, 0.25])
    reports = [
        report(k, n, (0.2 + math.sqrt(v) * rng.normal(size=200_000),))
        for k, (n, v) in enumerate(zip(SIZES, variance, strict=True))
    ]
    _, state, _ = play(FedAdam(beta2=0.0), [reports], (np.zeros(200_000),))
    assert state["v0"].mean() == pytest.approx(0.2**2 + np.sum(p**2 * variance), rel=0.02)


# q-FedAvg.


def algorithm_2(reports, q, eta, params=START):
    """q-FedAvg as the paper writes it, with p⁰ as a factor."""
    top, h = [np.zeros_like(p) for p in params], 0.0
    for p0, r in zip(sizes(reports), reports, strict=True):
        g = [(w - (w + u)) / eta for w, u in zip(params, r.update, strict=True)]
        f = r.statistics["mean_loss"].value
        top = [t + p0 * f**q * x for t, x in zip(top, g, strict=True)]
        h += p0 * (q * f ** (q - 1) * sum((x**2).sum() for x in g) + f**q / eta)
    return tuple(w - t / h for w, t in zip(params, top, strict=True))


@pytest.mark.parametrize("q", [0.001, 0.5, 1.0, 5.0])
def test_q_fedavg_is_algorithm_2(q):
    reports = round_of(0, losses=(0.2, 1.5, 0.7), scale=0.1, learning_rate=0.25)
    path, _, coefficients = play(QFedAvg(q=q), [reports])
    same(path, [algorithm_2(reports, q, 0.25)])
    moved = sum(a * r.update[0] for a, r in zip(coefficients, reports, strict=True))
    np.testing.assert_allclose(path[0][0], START[0] + moved)
    f = np.array([0.2, 1.5, 0.7])
    expected = np.array(SIZES) * f**q
    np.testing.assert_allclose(QFedAvg(q=q).weigh(reports, {})[0], expected / expected.sum())


@pytest.mark.slow
def test_q_fedavg_of_equal_clients_is_flowers():
    rounds = [
        [dataclasses.replace(r, size=50) for r in round_of(k, (0.2, 1.5, 0.7), 0.1, learning_rate=0.25)]
        for k in range(3)
    ]
    theirs = flower.QFedAvg(client_learning_rate=0.25, q=2.0)
    same(play(QFedAvg(q=2.0), rounds)[0], play_flower(theirs, rounds), rtol=1e-8)


def test_the_loss_is_clamped_on_both_sides():
    strategy = QFedAvg(q=1.0, clip=2.0, floor=0.5)
    reports = [report(0, loss=-3.0), report(1, loss=1.0), report(2, loss=30.0)]
    np.testing.assert_allclose(strategy.weigh(reports, {})[0], np.array([0.5, 1.0, 2.0]) / 3.5)


@pytest.mark.parametrize(("q", "with_floor", "without"), [(1.0, 1.2, 1.0), (2.0, 2.7, 3.0)])
def test_noise_raises_the_mean_weight_of_a_noisy_client(q, with_floor, without):
    """The bias is as stated in the docstring for noise of 1.4 times the loss."""
    rng = np.random.default_rng(0)
    loss = 0.22
    noisy = loss + 1.4 * loss * rng.normal(size=400_000)
    assert np.mean(np.maximum(noisy, QFedAvg().floor) ** q) / loss**q == pytest.approx(with_floor, abs=0.05)
    assert np.mean(noisy**q) / loss**q == pytest.approx(without, abs=0.05)


def test_the_norm_is_debiased():
    """A single client's coefficient is 1 / (1 + q ‖g‖² / (L F)), from which ‖g‖² can be recovered."""
    rng = np.random.default_rng(0)
    q, f, eta, d, variance = 2.0, 0.8, 0.5, 1000, 0.03
    truth = np.full(d, 0.1)
    used: dict[float, list[float]] = {variance: [], 0.0: []}
    for _ in range(400):
        noisy = (truth + math.sqrt(variance) * rng.normal(size=d),)
        for told, found in used.items():
            reports = [report(0, 5, noisy, f, noise_variance=told, learning_rate=eta)]
            coefficient = play(QFedAvg(q=q), [reports], (np.zeros(d),))[2][0]
            found.append((1 / coefficient - 1) * f / q / eta)
    squared = (truth**2).sum() / eta**2
    assert np.mean(used[variance]) == pytest.approx(squared, rel=0.02)
    assert np.mean(used[0.0]) == pytest.approx(squared + d * variance / eta**2, rel=0.02)


def test_a_norm_below_its_noise_counts_as_none():
    reports = [report(0, 5, (np.array([0.1, 0.1]),), noise_variance=1.0, learning_rate=0.1)]
    assert play(QFedAvg(q=3.0), [reports], (np.zeros(2),))[2] == pytest.approx([1.0])


def quadratics(strategy, rounds):
    """Train a scalar w on (w − 0)² / 2 and (w − 1)² / 2, sizes 9 : 1, by single steps of .1."""
    path, w, state = [], 0.0, strategy.init([report(0, 90), report(1, 10)])
    for _ in range(rounds):
        reports = [
            report(k, n, (np.array(-0.1 * (w - c)),), (w - c) ** 2 / 2, learning_rate=0.1)
            for k, (n, c) in enumerate([(90, 0.0), (10, 1.0)])
        ]
        weights, state = strategy.weigh(reports, state)
        (moved,), state, _ = strategy.combine((np.array(w),), reports, weights, state)
        w = float(moved)
        path.append(w)
    return path


def test_q_fedavg_finds_the_minimum_of_its_objective():
    # .9 F_0² + .1 F_1² is least where .9 w³ = .1 (1 − w)³.
    ratio = (1 / 9) ** (1 / 3)
    assert quadratics(QFedAvg(q=1.0), 1000)[-1] == pytest.approx(ratio / (1 + ratio), abs=1e-6)
    assert quadratics(FedAvg(), 1000)[-1] == pytest.approx(0.1, abs=1e-6)


# AFL.


def test_two_clients_share_by_half_the_difference_of_their_losses():
    strategy = AFL(gamma=0.2)
    reports = [report(0, 90, loss=0.3), report(1, 10, loss=0.7)]
    state = strategy.init(reports)
    for round in range(30):
        weights, state = strategy.weigh(reports, state)
        second = min(1.0, 0.1 + round * 0.2 * (0.7 - 0.3) / 2)
        np.testing.assert_allclose(weights, [1 - second, second], atol=1e-12)


def bisected(point):
    """Project onto the simplex, finding the ν at which Σ max(0, point + ν) = 1 by bisection."""
    low, high = -point.max() - 1, 1 - point.min()
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.maximum(point + middle, 0).sum() < 1 else (low, middle)
    return np.maximum(point + low, 0)


def test_afl_is_projected_ascent_whatever_the_order_of_the_reports():
    rng = np.random.default_rng(0)
    strategy = AFL(gamma=0.5)
    cohort = [report(k, n) for k, n in enumerate([5, 10, 20, 40, 80])]
    state, expected, emptied = strategy.init(cohort[::-1]), sizes(cohort), 0
    for _ in range(20):
        losses = rng.normal(0.5, 0.4, size=5)
        order = rng.permutation(5)
        reports = [report(k, cohort[k].size, loss=losses[k]) for k in order]
        weights, state = strategy.weigh(reports, state)
        np.testing.assert_allclose(weights, expected[order], atol=1e-9)
        expected = bisected(expected + 0.5 * losses)
        emptied += (weights == 0).sum()
    assert emptied > 0


@pytest.mark.parametrize("ascend_first", [False, True])
def test_afl_is_the_published_alternation_on_quadratics(ascend_first):
    """Descent in w with the old λ and ascent in λ at the old w: Stochastic-AFL without sampling."""
    rng = np.random.default_rng(1)
    n, centres, eta, gamma = np.array([60, 30, 10]), rng.normal(size=(3, 4)), 0.2, 0.3
    strategy = AFL(gamma=gamma, ascend_first=ascend_first)
    w, lam = np.zeros(4), n / n.sum()
    params: Any = (w.copy(),)
    state = strategy.init([report(k, size) for k, size in enumerate(n)])
    for _ in range(15):
        gradients, losses = w - centres, 0.5 * ((w - centres) ** 2).sum(axis=1)
        ascended = bisected(lam + gamma * losses)
        w = w - eta * (ascended if ascend_first else lam) @ gradients
        lam = ascended
        reports = [
            report(k, n[k], (-eta * (params[0] - centres[k]),), 0.5 * ((params[0] - centres[k]) ** 2).sum())
            for k in range(3)
        ]
        weights, state = strategy.weigh(reports, state)
        params, state, _ = strategy.combine(params, reports, weights, state)
        np.testing.assert_allclose(params[0], w, atol=1e-9)
        np.testing.assert_allclose(state["mixture"], lam, atol=1e-9)


def test_a_missing_client_keeps_its_share_of_the_mixture():
    strategy = AFL(gamma=0.2)
    reports = [report(0, 60, loss=0.3), report(1, 30, loss=0.7), report(2, 10, loss=0.5)]
    state = strategy.init(reports)
    weights, state = strategy.weigh(reports[:2], state)
    there = 0.9 * bisected(np.array([0.6 + 0.06, 0.3 + 0.14]) / 0.9)  # the others move among themselves
    np.testing.assert_allclose(weights, [2 / 3, 1 / 3], atol=1e-9)
    weights, state = strategy.weigh(reports, state)
    np.testing.assert_allclose(weights, [*there, 0.1], atol=1e-9)
    expected = bisected(np.array([there[0] + 0.06, there[1] + 0.14, 0.1 + 0.1]))
    np.testing.assert_allclose(strategy.weigh(reports, state)[0], expected, atol=1e-9)


def test_the_mean_of_the_models_is_the_minimax_one():
    path = quadratics(AFL(gamma=0.05), 3000)
    assert np.mean(path) == pytest.approx(0.5, abs=0.01)


def test_a_lying_client_takes_everything():
    strategy = AFL()
    reports = [report(0, 60), report(1, 30), report(2, 10, loss=5.0)]
    state = strategy.init(reports)
    for _ in range(5):
        weights, state = strategy.weigh(reports, state)
    np.testing.assert_array_equal(weights, [0, 0, 1])


@pytest.mark.slow
def test_the_mixture_integrates_the_noise():
    # Of two clients the second's share moves by γ (noise_1 − noise_0) / 2 a round.
    rng = np.random.default_rng(0)
    strategy, sd, rounds, last = AFL(gamma=0.1), 0.05, 50, []
    for _ in range(300):
        state = strategy.init([report(0), report(1)])
        for noise in sd * rng.normal(size=(rounds, 2)):
            weights, state = strategy.weigh([report(k, loss=0.5 + noise[k], sd=sd) for k in (0, 1)], state)
        last.append(weights[1])
    assert np.mean(last) == pytest.approx(0.5, abs=0.01)
    assert np.std(last) == pytest.approx(0.1 * sd * math.sqrt(rounds / 2), rel=0.12)
