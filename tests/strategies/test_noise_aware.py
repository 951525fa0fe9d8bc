"""Servers that know the noise, compared with loops over coordinates and with Adam itself."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from fedtoll.scenarios.errors import ScenarioError
from fedtoll.strategies import registry
from fedtoll.strategies.conformance import assert_conforms
from fedtoll.strategies.dp_adam_bc import DPAdamBC
from fedtoll.strategies.fedavg import FedAvg
from fedtoll.strategies.qfedavg import QFedAvg
from fedtoll.strategies.shrinkage import Shrinkage
from fedtoll.strategies.term import Term
from tests.strategies.reports import cohort

SIZES, VARIANCES = [10, 30, 60], [0.9, 0.4, 0.1]
START = (np.array([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]]), np.array([0.25, -0.75]))
LOSSES = [0.9, 0.5, 0.2]


def rounds_of(count, variances=VARIANCES, losses=LOSSES):
    rng = np.random.default_rng(3)
    plain = cohort(SIZES, losses, variances=variances)
    return [
        [dataclasses.replace(r, update=tuple(rng.normal(0.3, 1, size=p.shape) for p in START)) for r in plain]
        for _ in range(count)
    ]


def play(strategy, rounds, params=START):
    state, path = strategy.init(rounds[0]), []
    for reports in rounds:
        weights, state = strategy.weigh(reports, state)
        params, state, coefficients = strategy.combine(params, reports, weights, state)
        path.append(params)
    return path, coefficients


def same(path, other, atol=1e-12):
    for ours, theirs in zip(path, other, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, atol=atol)


def wiener(streams, beta1, beta2):
    """Return the shrunk step after each round of one coordinate: an explicit weighted mean over the past."""
    steps = []
    for t in range(1, len(streams) + 1):
        past = streams[:t]
        w1 = np.array([beta1 ** (t - i) for i in range(1, t + 1)])
        w2 = np.array([beta2 ** (t - i) for i in range(1, t + 1)])
        m = np.average([d for d, _ in past], weights=w1)
        s = np.average([d * d for d, _ in past], weights=w2)
        v = np.average([v for _, v in past], weights=w2)
        steps.append(max(0.0, 1 - v / s) * m)
    return steps


@pytest.mark.parametrize("target", ["fedavg", "term"])
def test_shrinkage_by_aggregate_is_its_equation(target):
    rounds = rounds_of(6)
    strategy = Shrinkage(momentum=0.6, memory=0.8, target=target)
    path, coefficients = play(strategy, rounds)
    p = np.array(SIZES) / 100 * (np.exp(LOSSES) if target == "term" else 1)
    p = p / p.sum()
    big_v = float(p**2 @ VARIANCES)
    expected, zeros = START[0].copy(), 0
    for at in np.ndindex(2, 3):
        steps = wiener([(p @ [r.update[0][at] for r in rs], big_v) for rs in rounds], 0.6, 0.8)
        zeros += steps.count(0.0)
        expected[at] += sum(steps)
    np.testing.assert_allclose(path[-1][0], expected, atol=1e-12)
    assert zeros > 0  # somewhere the noise takes the whole step
    assert np.isnan(coefficients).all()


def test_shrinkage_by_client_is_its_equation():
    rounds = rounds_of(5)
    path, _ = play(Shrinkage(by="client", momentum=0.6, memory=0.8), rounds)
    expected = START[1].copy()
    for j in range(2):
        for k, (n, v) in enumerate(zip(SIZES, VARIANCES, strict=True)):
            steps = wiener([(rs[k].update[1][j], v) for rs in rounds], 0.6, 0.8)
            expected[j] += n / 100 * sum(steps)
    np.testing.assert_allclose(path[-1][1], expected, atol=1e-12)


@pytest.mark.parametrize("by", ["aggregate", "client"])
def test_without_noise_and_momentum_shrinkage_is_its_target(by):
    rounds = rounds_of(3, variances=[0.0] * 3)
    for target in (FedAvg(), Term(), QFedAvg()):
        name = {"FedAvg": "fedavg", "Term": "term", "QFedAvg": "q-fedavg"}[type(target).__name__]
        same(play(Shrinkage(by=by, momentum=0.0, target=name), rounds)[0], play(target, rounds)[0])


def test_a_client_of_noise_alone_moves_nothing_and_the_others_as_without_it():
    rounds = rounds_of(1, variances=[1e9, 0.0, 0.0])
    (path,), _ = play(Shrinkage(by="client", momentum=0.0), rounds)
    moved = sum(share * r.update[1] for share, r in zip([0.3, 0.6], rounds[0][1:], strict=True))
    np.testing.assert_allclose(path[1], START[1] + moved)


def test_pure_noise_moves_a_shrunk_model_less_and_a_signal_nearly_as_much():
    rng = np.random.default_rng(0)
    plain = cohort(SIZES, variances=VARIANCES, shapes=[(400,)])
    signal = np.where(np.arange(400) < 200, 3.0, 0.0)
    rounds = [
        [
            dataclasses.replace(r, update=(signal + math.sqrt(r.noise_variance) * rng.normal(size=400),))
            for r in plain
        ]
        for _ in range(20)
    ]
    start = (np.zeros(400),)
    fedavg, shrunk = (play(s, rounds, start)[0][-1][0] for s in (FedAvg(), Shrinkage(momentum=0.9)))
    assert np.std(shrunk[200:]) < 0.4 * np.std(fedavg[200:])
    assert shrunk[:200].mean() > 0.97 * fedavg[:200].mean()


@pytest.mark.parametrize("strategy", [Shrinkage(by="client"), Shrinkage(), DPAdamBC()], ids=str)
def test_who_is_missing_keeps_its_averages(strategy):
    rounds = rounds_of(4)
    state = strategy.init(rounds[0])
    for k, reports in enumerate(rounds):
        present = reports[1:] if k == 1 else reports
        weights, state = strategy.weigh(present, state)
        _, state, _ = strategy.combine(START, present, weights, state)
    if getattr(strategy, "by", "") == "client":
        assert state["moments.ids"].tolist() == [0, 1, 2]
        assert state["moments.rounds"].tolist() == [3, 4, 4]
    else:
        assert state["moments.rounds"].tolist() == [4]


def test_dp_adam_bc_without_noise_is_torchs_adam():
    import torch

    rounds = rounds_of(5, variances=[0.0] * 3)
    path, coefficients = play(DPAdamBC(0.2, beta1=0.8, beta2=0.95, tau=1e-9), rounds)
    tensors = [torch.tensor(p, requires_grad=True) for p in START]
    adam, theirs = torch.optim.Adam(tensors, lr=0.2, betas=(0.8, 0.95), eps=0.0), []
    for reports in rounds:
        for i, tensor in enumerate(tensors):
            mean = sum(p * r.update[i] for p, r in zip([0.1, 0.3, 0.6], reports, strict=True))
            tensor.grad = -torch.tensor(mean)
        adam.step()
        theirs.append(tuple(tensor.detach().numpy().copy() for tensor in tensors))
    same(path, theirs, 1e-9)
    assert np.isnan(coefficients).all()


def test_dp_adam_bc_takes_the_noise_out_of_the_second_moment():
    rounds, eta, b1, b2, tau = rounds_of(6), 0.3, 0.7, 0.9, 0.4
    path, _ = play(DPAdamBC(eta, b1, b2, tau), rounds)
    big_v = 0.01 * 0.9 + 0.09 * 0.4 + 0.36 * 0.1
    expected, m, v, floored = START[1].copy(), np.zeros(2), np.zeros(2), 0
    for t, reports in enumerate(rounds, 1):
        d = sum(n / 100 * r.update[1] for n, r in zip(SIZES, reports, strict=True))
        m, v = b1 * m + (1 - b1) * d, b2 * v + (1 - b2) * d * d
        corrected = v / (1 - b2**t) - big_v
        floored += (corrected < tau**2).sum()
        expected += eta * m / (1 - b1**t) / np.sqrt(np.maximum(corrected, tau**2))
    np.testing.assert_allclose(path[-1][1], expected, atol=1e-12)
    assert 0 < floored < 12


MISTAKES = [
    ("shrinkage", {"momentum": 1.0}, "momentum = 1.0: must be 0 or greater and less than 1"),
    ("shrinkage", {"memory": -0.1}, "memory = -0.1: must be 0 or greater and less than 1"),
    ("shrinkage", {"by": "clients"}, "by = 'clients'"),
    ("shrinkage", {"target": "fedavgm"}, "must be a strategy that adds up the updates of the round"),
    ("shrinkage", {"target": "fedadam"}, "must be a strategy that adds up the updates of the round"),
    ("shrinkage", {"target": "dp-adam-bc"}, "must be a strategy that adds up the updates of the round"),
    ("shrinkage", {"target": "shrinkage"}, "must be a strategy other than this one"),
    (
        "dp-adam-bc",
        {"target": "noise-fair", "target_parameters": {"target": "fedyogi"}},
        "must be a strategy",
    ),
    ("dp-adam-bc", {"tau": 0.0}, "tau = 0.0: must be greater than 0"),
    ("dp-adam-bc", {"server_learning_rate": 0.0}, "server_learning_rate = 0.0: must be greater than 0"),
]


@pytest.mark.parametrize(("name", "parameters", "message"), MISTAKES)
def test_a_mistake_is_one_line(name, parameters, message):
    with pytest.raises(ScenarioError) as caught:
        registry.build(registry.resolve(name)[0], parameters)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["shrinkage", "dp-adam-bc"])
@pytest.mark.parametrize("target", ["afl", "fairfed", "noise-fair", "q-fedavg"])
def test_they_conform_with_any_target_that_adds_updates(name, target):
    assert_conforms(registry.build(registry.resolve(name)[0], {"target": target}))
