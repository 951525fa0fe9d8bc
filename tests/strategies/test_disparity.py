"""PUFFLE, DP-FERMI and FedFDP, compared with their objectives written record by record."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.read import read
from fedtoll.scenarios.statistics import Estimate, GroupLoss, GroupScore
from fedtoll.server.plan import plan
from fedtoll.server.trainer import simulate
from fedtoll.strategies import registry
from fedtoll.strategies.base import Report
from fedtoll.strategies.dp_fermi import DPFermi
from fedtoll.strategies.fedfdp import FedFDP
from fedtoll.strategies.fedminmax import HEAVIEST
from fedtoll.strategies.puffle import Puffle
from tests.server.federation import planned, single_run
from tests.strategies.reports import answering

IID = {"kind": "iid", "clients": 3}
GROUPS, CLIENTS, RECORDS = 3, 4, 90
RNG = np.random.default_rng(7)
S = RNG.permutation(np.repeat([0, 1, 2], [50, 30, 10]))  # the group of every record
K = RNG.integers(0, CLIENTS, RECORDS)  # its client
N = np.bincount(K, minlength=CLIENTS)


def scores(seed):
    """Return a probability for every record, which depends on its group."""
    rng = np.random.default_rng(seed)
    return rng.beta(2, 2 + 2 * S) * rng.uniform(0.5, 1)


def reports(p, clients=range(CLIENTS), sd=0.0, groups=None):
    cells = np.zeros((CLIENTS, GROUPS, 2))
    for k, s, x in zip(K, S, p, strict=True):
        cells[k, s] += 1 - x, x
    found = answering("group_score", N, cells, groups, sd=sd)
    return [found[k] for k in clients]


# PUFFLE.


def violation(p):
    """Return the largest difference of any class and group against the others, as the authors compute it."""
    found = []
    for target in (p, 1 - p):
        for z in range(GROUPS):
            found.append((target[z == S].mean() - target[z != S].mean()).abs())
    return torch.stack(found).max()


@pytest.mark.parametrize("momentum", [0.0, 0.6])
@pytest.mark.parametrize("start", [0.0, 0.4])
def test_puffle_is_the_authors_rule(momentum, start):
    strategy = Puffle(target=0.1, alpha=0.7, momentum=momentum, start=start)
    assert strategy.requests == (GroupScore(),)
    state: dict[str, Any] = strategy.init(reports(scores(0)))
    assert strategy.instructions(1, state) == {}
    weight, velocity = start, 0.0
    for t in range(6):
        p = torch.tensor(scores(t), requires_grad=True)
        d = violation(p)
        velocity = momentum * velocity + 0.1 - d.item()
        weight = min(max(weight - 0.7 * velocity, 0.0), 1.0)
        weights, state = strategy.weigh(reports(p.detach().numpy()), state)
        np.testing.assert_allclose(weights, N / RECORDS)
        sent: Any = strategy.instructions(t + 2, state)
        assert weight > 0
        np.testing.assert_allclose(sent["group_weights"], [1 - weight] * GROUPS, atol=1e-12)
        # The mean of c p over records has the gradient of λ times the violation.
        (slope,) = torch.autograd.grad(weight * d, p)
        np.testing.assert_allclose(np.array(sent["score_weights"])[S] / RECORDS, slope, atol=1e-12)


def test_puffles_weight_falls_below_the_target_and_stays_between_0_and_1():
    strategy = Puffle(target=0.2, alpha=5.0, start=1.0)
    state: dict[str, Any] = {}
    apart, even = np.where(S == 0, 0.9, 0.1), np.full(RECORDS, 0.4)
    _, state = strategy.weigh(reports(apart), state)
    assert state["lambda"] == 1.0
    assert strategy.instructions(2, state)["group_weights"] == [0.0] * GROUPS
    for _ in range(2):
        _, state = strategy.weigh(reports(even), state)
    assert state["lambda"] == 0.0
    assert strategy.instructions(4, state) == {}


def test_noise_in_small_groups_drives_puffles_weight_to_1():
    """As its docstring warns: the rates are equal, and the largest noisy gap is not."""
    rng, strategy = np.random.default_rng(3), Puffle(target=0.05)
    state: dict[str, Any] = {}
    exact = np.array([r.statistics["group_score"].value for r in reports(np.full(RECORDS, 0.5))])
    for _ in range(40):
        noised = answering("group_score", N, exact + rng.normal(0, 20, exact.shape), sd=20.0)
        _, state = strategy.weigh(noised, state)
    assert state["lambda"] > 0.9


# DP-FERMI.


def psi(p, w):
    """Return the mean of ψ over records, with the matrices of the papers."""
    total = torch.zeros(())
    share = np.bincount(S) / RECORDS
    root = torch.diag(torch.tensor(share**-0.5))
    for s, x in zip(S, p, strict=True):
        y_hat, hot = torch.stack([1 - x, x]), torch.eye(GROUPS, dtype=torch.float64)[s]
        joint = torch.outer(y_hat, hot)
        total = total - torch.trace(w @ torch.diag(y_hat) @ w.T) + 2 * torch.trace(w @ joint @ root) - 1
    return total / RECORDS


@pytest.mark.parametrize("radius", [50.0, 1.2])
def test_dp_fermi_is_gradient_ascent_and_descent_on_psi(radius):
    strategy = DPFermi(strength=1.7, step=0.4, radius=radius)
    assert strategy.requests == (GroupScore(),)
    state: dict[str, Any] = strategy.init(reports(scores(0)))
    assert strategy.instructions(1, state) == {}
    w, limited = torch.zeros((GROUPS, 2), dtype=torch.float64), 0
    for t in range(5):
        p = torch.tensor(scores(t))
        weights, state = strategy.weigh(reports(p.numpy()), state)
        np.testing.assert_allclose(weights, N / RECORDS)
        w.requires_grad_()
        (slope,) = torch.autograd.grad(psi(p, w), w)
        w = (w + 0.4 * slope).detach()
        if w.norm() > radius:
            w, limited = radius * w / w.norm(), limited + 1
        np.testing.assert_allclose(state["w"], w, atol=1e-10)
        p = torch.tensor(scores(t + 1), requires_grad=True)  # c does not depend on the scores
        (pull,) = torch.autograd.grad(1.7 * psi(p, w), p)
        sent: Any = strategy.instructions(t + 2, state)["score_weights"]
        np.testing.assert_allclose(np.array(sent)[S] / RECORDS, pull, atol=1e-10)
    assert bool(limited) == (radius < 2)


def test_the_maximum_over_w_is_the_chi_squared_divergence_from_independence():
    p = scores(3)
    strategy = DPFermi(step=0.5, radius=50.0)
    state: dict[str, Any] = {}
    for _ in range(200):
        _, state = strategy.weigh(reports(p), state)
    joint = np.array([[(1 - p[s == S]).sum(), p[s == S].sum()] for s in range(GROUPS)]) / RECORDS
    product = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0)
    ermi = (joint**2 / product).sum() - 1
    assert ermi > 0.01
    assert psi(torch.tensor(p), torch.tensor(state["w"])).item() == pytest.approx(ermi, abs=1e-9)


def test_dp_fermi_of_independent_scores_pulls_nowhere():
    strategy = DPFermi(step=0.5)
    state: dict[str, Any] = {}
    for _ in range(200):
        _, state = strategy.weigh(reports(np.full(RECORDS, 0.3)), state)
    assert np.linalg.norm(state["w"]) == pytest.approx(np.sqrt(2))
    np.testing.assert_allclose(strategy.instructions(2, state)["score_weights"], 0, atol=1e-9)


# FedFDP.


def losses(values, clients=range(CLIENTS), clip=1.0, sd=0.0):
    cells = np.zeros((CLIENTS, GROUPS, 2))
    for k, s, x in zip(K, S, values, strict=True):
        cells[k, s] += x / clip, 1
    found = answering("group_loss", N, cells, sd=sd)
    return [found[k] for k in clients]


def test_fedfdps_weights_are_the_gradient_of_the_loss_and_its_variance_between_groups():
    strategy = FedFDP(strength=0.8, clip=3.0)
    state: dict[str, Any] = {}
    assert strategy.requests == (GroupLoss(3.0),)
    assert strategy.instructions(1, strategy.init(losses(scores(0)))) == {}
    for t in range(3):
        values = torch.tensor(2 * scores(t), requires_grad=True)
        means = torch.stack([values[z == S].mean() for z in range(GROUPS)])
        share = torch.tensor(np.bincount(S) / RECORDS)
        objective = values.mean() + 0.4 * (share * (means - values.mean()) ** 2).sum()
        (slope,) = torch.autograd.grad(objective, values)
        weights, state = strategy.weigh(losses(values.detach().numpy(), clip=3.0), state)
        np.testing.assert_allclose(weights, N / RECORDS)
        sent: Any = strategy.instructions(t + 2, state)["group_weights"]
        np.testing.assert_allclose(np.array(sent)[S] / RECORDS, slope, atol=1e-12)


def test_fedfdp_never_ascends():
    _, state = (strategy := FedFDP(strength=50.0)).weigh(losses(np.where(S == 0, 0.1, 0.9)), {})
    sent: Any = strategy.instructions(2, state)["group_weights"]
    assert min(sent) == 0.0
    assert max(sent) <= HEAVIEST


# All three.

NEUTRAL = [Puffle(alpha=0.0), DPFermi(strength=0.0), FedFDP(strength=0.0)]
USUAL = [Puffle(), DPFermi(), FedFDP()]


def answers(strategy, p, **more):
    return losses(p, **more) if isinstance(strategy, FedFDP) else reports(p, **more)


@pytest.mark.parametrize("strategy", NEUTRAL, ids=str)
def test_without_strength_they_tell_clients_nothing(strategy):
    rng = np.random.default_rng(1)
    state: dict[str, Any] = {}
    for t in range(4):
        noised = answers(strategy, rng.uniform(-9, 9, RECORDS), sd=40.0)
        weights, state = strategy.weigh(noised, state)
        np.testing.assert_allclose(weights, N / RECORDS)
        assert strategy.instructions(t + 2, state) == {}


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["cohort", "opacus"])
@pytest.mark.parametrize("epsilon", ["inf", 1.0])
@pytest.mark.parametrize(
    ("name", "off"), [("puffle", "alpha"), ("dp-fermi", "strength"), ("fedfdp", "strength")]
)
def test_without_strength_they_are_fedavg_bit_for_bit(name, off, epsilon, engine):
    """With the same noise of training: statistics cost ε, so σ is given to FedAvg here."""
    training = {"rounds": 3, "engine": engine}
    runs = [
        single_run(s, epsilon, training=training, partition=IID)
        for s in ({"name": name, off: 0.0}, {"name": "fedavg"})
    ]
    plain = runs[1].model_copy(update={"clients": runs[0].clients})
    first, second = (simulate(run)["predictions"]["score"].to_numpy() for run in (runs[0], plain))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("strategy", USUAL, ids=str)
def test_a_group_whose_records_are_all_missing_has_no_gap_of_its_own(strategy):
    """Its share stays, and it pulls as a group at the mean does."""
    p = scores(4)
    lonely = np.where(S == 2, CLIENTS - 1, K % (CLIENTS - 1))  # the last client holds the third group
    cells = np.zeros((CLIENTS, GROUPS, 2))
    for k, s, x in zip(lonely, S, p, strict=True):
        cells[k, s] += (x, 1) if isinstance(strategy, FedFDP) else (1 - x, x)
    name = "group_loss" if isinstance(strategy, FedFDP) else "group_score"
    found = answering(name, np.bincount(lonely), cells)
    _, state = strategy.weigh(found, {})
    _, after = strategy.weigh(found[:-1], state)
    share = [50 / 90, 30 / 90, 10 / 90]
    rates = [p[s == S].mean() for s in (0, 1)]
    if isinstance(strategy, Puffle):
        np.testing.assert_allclose(after["share"], share)
        np.testing.assert_allclose(after["gap"][2], 0, atol=1e-12)
    elif isinstance(strategy, DPFermi):
        np.testing.assert_allclose(after["share"], share)
        mean = (50 * rates[0] + 30 * rates[1]) / 80
        joint = np.array(share)[:, None] * np.array([[1 - x, x] for x in (*rates, mean)])
        root = np.sqrt(share)[:, None]
        moved = state["w"] + joint / root - state["w"] * joint.sum(axis=0)  # γ = .5
        np.testing.assert_allclose(after["w"], moved, atol=1e-12)
    else:
        assert after["delta"][2] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("strategy", USUAL, ids=str)
def test_a_group_is_not_taken_to_be_smaller_than_its_noise_nor_a_weight_to_be_huge(strategy):
    rng = np.random.default_rng(2)
    state: dict[str, Any] = {}
    for t in range(5):
        _, state = strategy.weigh(answers(strategy, rng.uniform(-500, 500, RECORDS), sd=900.0), state)
        for values in strategy.instructions(t + 2, state).values():
            assert np.isfinite(values).all()
            assert np.abs(values).max() <= HEAVIEST


@pytest.mark.parametrize("strategy", USUAL, ids=str)
def test_clients_of_one_group_take_part_like_mixed_ones(strategy):
    """Cells of other groups are 0 and have no noise; the sums are all that counts."""
    together = answers(strategy, scores(5))
    name = strategy.requests[0].name
    total = np.sum([r.statistics[name].value for r in together], axis=0)
    alone = []
    for g in range(GROUPS):
        cells = np.zeros((GROUPS, 2))
        cells[g] = total[g]
        alone.append(Report(g, int(np.bincount(S)[g]), "abc"[g], (), {name: Estimate(cells, 0 * cells)}))
    sent = []
    for given in (together, alone):
        weights, state = strategy.weigh(given, strategy.init(given))
        np.testing.assert_allclose(weights, [r.size / RECORDS for r in given])
        sent.append(strategy.instructions(2, state))
    assert sent[0].keys() == sent[1].keys()
    for word in sent[0]:
        np.testing.assert_allclose(sent[0][word], sent[1][word], atol=1e-12)


@pytest.mark.parametrize("name", ["puffle", "dp-fermi"])
def test_more_than_two_classes_are_refused_before_anything_is_trained(name):
    with pytest.raises(ScenarioError, match="needs two classes, and the records have 10") as caught:
        plan(read("digits-rare", [f'strategies=[{{name="{name}"}}]'], "0:1"), "digits")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("puffle", {"target": -0.1}, "target = -0.1: must be 0 or greater"),
        ("puffle", {"alpha": -1.0}, "alpha = -1.0: must be 0 or greater"),
        ("puffle", {"momentum": 1.0}, "momentum = 1.0: must be 0 or greater, and below 1"),
        ("puffle", {"start": 1.5}, "start = 1.5: must be between 0 and 1"),
        ("dp-fermi", {"strength": -1.0}, "strength = -1.0: must be 0 or greater"),
        ("dp-fermi", {"step": -0.1}, "step = -0.1: must be 0 or greater"),
        ("dp-fermi", {"radius": 0.0}, "radius = 0.0: must be greater than 0"),
        ("fedfdp", {"strength": -0.5}, "strength = -0.5: must be 0 or greater"),
        ("fedfdp", {"clip": 0.0}, "clip = 0.0: must be greater than 0"),
    ],
)
def test_a_mistake_is_one_line(name, parameters, message):
    with pytest.raises(ScenarioError, match=message.replace(".", r"\.")) as caught:
        registry.build(registry.resolve(name)[0], parameters)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("trust", [{}, {"trust": "secure-aggregation"}, {"trust": "central"}], ids=str)
@pytest.mark.parametrize(
    "strategy",
    [{"name": "puffle", "target": 0.0, "alpha": 2.0}, {"name": "dp-fermi", "strength": 3.0}],
    ids=lambda s: s["name"],
)
def test_the_gap_in_scores_narrows_without_much_noise(strategy, trust):
    """On clients of all groups, at a large ε, whoever sees what."""
    gaps = []
    for asked in ({"name": "fedavg"}, strategy):
        privacy = {"epsilons": [50.0], **trust}
        (run,) = planned(
            asked, partition=IID, training={"rounds": 30, "local_steps": 1}, privacy=privacy
        ).runs
        table = simulate(run)["predictions"]
        means = table.groupby("group")["score"].mean()
        gaps.append(means.max() - means.min())
    assert gaps[1] < 0.6 * gaps[0]
