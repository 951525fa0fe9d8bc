"""A client that misses a round neither gains nor loses weight by it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fedtoll.scenarios.statistics import Estimate
from fedtoll.strategies import registry
from fedtoll.strategies.afl import AFL
from fedtoll.strategies.base import Member, Report
from fedtoll.strategies.conformance.cohorts import Round, cohort
from fedtoll.strategies.conformance.play import step
from fedtoll.strategies.fedminmax import FedMinMax
from fedtoll.strategies.simplex import ascend, project, simplex_violation
from tests.strategies.reports import answering, report

STRATEGIES = sorted(registry.names())


def built(name):
    return registry.build(registry.resolve(name)[0], {})


@pytest.mark.parametrize("noise", [0.0, 1.0, 100.0])
@pytest.mark.parametrize("mixed", [False, True], ids=["one-group", "mixed"])
@pytest.mark.parametrize("name", STRATEGIES)
def test_any_cohort_that_is_left_makes_a_model(name, mixed, noise):
    """Return twelve rounds with varying clients missing: at times a whole group, at times all but one."""
    strategy, rng = built(name), np.random.default_rng(0)
    of = cohort(strategy.requests, seed=1, clients=5, mixed=mixed, noise=noise, rounds=12)
    state = strategy.init(of.members)
    for number, given in enumerate(of.rounds, start=1):
        there = rng.permutation(5)[: 1 + number % 5]
        kept = Round(given.params, tuple(given.reports[k] for k in sorted(there)))
        done = step(strategy, number, kept.copy(), state)
        assert simplex_violation(done.weights, len(there)) == ""
        assert np.shape(done.coefficients) == (len(there),)
        for array in (*done.model, *done.output, *(np.asarray(v) for v in done.instructions.values())):
            assert np.isfinite(array).all()
        assert done.changed == ()
        state = done.state


def test_those_who_are_there_move_among_themselves():
    rng = np.random.default_rng(1)
    for _ in range(200):
        point, step_ = rng.dirichlet(np.ones(6)), rng.normal(scale=0.3, size=6)
        there = rng.random(6) < 0.6
        moved = ascend(point, step_, there)
        assert moved.sum() == pytest.approx(1)
        assert (moved >= 0).all()
        assert (moved[~there] == point[~there]).all()
        if there.all():
            assert (moved == project(point + step_)).all()
        elif there.any():  # nobody on the same simplex is nearer to where the step leads
            target, mass = (point + step_)[there], point[there].sum()
            others = rng.dirichlet(np.ones(there.sum()), size=50) * mass
            best = np.linalg.norm(moved[there] - target)
            assert (np.linalg.norm(others - target, axis=1) >= best - 1e-12).all()
    nothing = np.array([0.0, 1.0])
    assert (ascend(nothing, np.array([5.0, 0.0]), np.array([True, False])) == nothing).all()


def silos(losses, sizes=(50, 30, 20)):
    return [report(k, n, loss=f) for k, (n, f) in enumerate(zip(sizes, losses, strict=True))]


def grouped(losses, sizes=(50, 30, 20)):
    cells = np.zeros((3, 3, 2))
    for k, (n, f) in enumerate(zip(sizes, losses, strict=True)):
        cells[k, k] = n * f, n
    return answering("group_loss", sizes, cells, ["a", "b", "c"])


@pytest.mark.parametrize(
    ("strategy", "answers"), [(AFL(0.2), silos), (FedMinMax(0.2), grouped)], ids=["afl", "fedminmax"]
)
def test_who_comes_and_goes_keeps_its_weight_where_losses_are_even(strategy, answers):
    """Otherwise, missing every other round would cost the smallest group its whole weight."""
    reports = answers([0.7, 0.7, 0.7])
    state = strategy.init(reports)
    for _ in range(50):
        for there in (reports[:2], reports):
            weights, state = strategy.weigh(there, state)
            expected = np.array([50, 30, 20][: len(there)])
            np.testing.assert_allclose(weights, expected / expected.sum(), atol=1e-9)


@pytest.mark.parametrize(
    ("strategy", "answers"), [(AFL(0.2), silos), (FedMinMax(0.2), grouped)], ids=["afl", "fedminmax"]
)
def test_who_pays_most_and_is_often_away_gains_weight_when_it_is_there(strategy, answers):
    reports = answers([0.4, 0.4, 0.9])
    state, seen = strategy.init(reports), [0.2]
    for round in range(1, 13):
        weights, state = strategy.weigh(reports if round % 3 == 0 else reports[:2], state)
        if round % 3 == 0:
            seen.append(float(weights[2]))
    assert seen == sorted(seen)
    assert seen[-1] > 0.3


def test_all_the_weight_may_be_of_those_who_are_away():
    reports = silos([0.1, 0.1, 3.0])
    strategy = AFL(gamma=1.0)
    _, state = strategy.weigh(reports, strategy.init(reports))
    np.testing.assert_allclose(state["mixture"], [0, 0, 1], atol=1e-9)
    weights, state = strategy.weigh(reports[:2], state)
    np.testing.assert_allclose(weights, [5 / 8, 3 / 8])
    np.testing.assert_allclose(strategy.weigh(reports, state)[0], [0, 0, 1], atol=1e-9)


# FedMinMax with mixed clients: ρ and the losses, client by client.


N_KG = np.array([[40, 10, 50], [60, 30, 0], [100, 160, 0]])
"""Only client 0 holds the third group."""


def mixed(losses_KG, there=(0, 1, 2), n_KG=N_KG, sd=0.0):
    cells = np.stack([n_KG * losses_KG, n_KG], axis=-1)
    reports = answering("group_loss", n_KG.sum(axis=1), cells, sd=sd)
    return [reports[k] for k in there]


def members(n_KG=N_KG):
    return [Member(k, int(n), "") for k, n in enumerate(n_KG.sum(axis=1))]


def test_mixed_clients_that_are_missing_still_count_in_rho():
    strategy, rho = FedMinMax(gamma=0.3), N_KG.sum(axis=0) / N_KG.sum()
    even = np.full((3, 3), 0.5)
    state = strategy.init(members())
    for there in ((0, 1, 2), (1, 2), (0, 2), (0, 1, 2), (2,), (0, 1, 2)):
        _, state = strategy.weigh(mixed(even, there), state)
        np.testing.assert_allclose(state["share"], rho, atol=1e-12)
        np.testing.assert_allclose(state["mu"], rho, atol=1e-9)  # even losses move nothing
        np.testing.assert_allclose(strategy.instructions(2, state)["group_weights"], [1, 1, 1], atol=1e-9)


def test_the_loss_of_a_group_is_over_the_records_of_those_who_are_there():
    losses_KG = np.array([[0.2, 0.9, 0.4], [0.6, 0.1, 0.0], [0.3, 0.5, 0.0]])
    strategy = FedMinMax(gamma=0.3)
    _, state = strategy.weigh(mixed(losses_KG), strategy.init(members()))
    before = state["mu"]
    _, state = strategy.weigh(mixed(losses_KG, (1, 2)), state)
    held = N_KG[1:].sum(axis=0)[:2]
    r = (N_KG[1:] * losses_KG[1:]).sum(axis=0)[:2] / held
    mass = before[:2].sum()
    np.testing.assert_allclose(state["mu"][:2], mass * project((before[:2] + 0.3 * r) / mass), atol=1e-9)
    assert state["mu"][2] == pytest.approx(before[2], abs=1e-9)  # nobody who is there holds the third


def test_a_client_that_comes_late_is_counted_from_then_on():
    strategy, even = FedMinMax(gamma=0.3), np.full((3, 3), 0.5)
    _, state = strategy.weigh(mixed(even, (1, 2)), strategy.init(members()))
    known = np.maximum(N_KG[1:].sum(axis=0), 1.0)
    np.testing.assert_allclose(state["share"], known / known.sum())
    _, state = strategy.weigh(mixed(even), state)
    np.testing.assert_allclose(state["share"], N_KG.sum(axis=0) / N_KG.sum())


def test_the_noise_of_the_counts_averages_out_where_clients_come_and_go():
    rng = np.random.default_rng(6)
    truth_KG, sd = np.array([[500.0, 60, 5], [400.0, 20, 15]]), 15.0
    strategy, errors = FedMinMax(gamma=0.0), []
    state = strategy.init(members(truth_KG))
    rho = truth_KG.sum(axis=0) / truth_KG.sum()
    for round in range(400):
        cells = np.stack([0.5 * truth_KG, truth_KG], axis=-1) + sd * rng.normal(size=(2, 3, 2))
        reports = answering("group_loss", truth_KG.sum(axis=1), cells, sd=sd)
        _, state = strategy.weigh(reports if round % 2 else reports[:1], state)
        errors.append(np.abs(state["share"] - rho).max())
    assert errors[-1] < 0.003 < max(errors[1:10])


def test_the_order_of_those_who_are_there_is_no_matter():
    rng, strategy = np.random.default_rng(2), FedMinMax(gamma=0.3)
    one = other = strategy.init(members())
    for there in ((1, 2), (0, 1, 2), (0, 2), (1,)):
        reports = mixed(rng.uniform(size=(3, 3)), there)
        weights, one = strategy.weigh(reports, one)
        turned, other = strategy.weigh(reports[::-1], other)
        np.testing.assert_allclose(weights, turned[::-1], atol=1e-12)
        np.testing.assert_allclose(one["mu"], other["mu"], atol=1e-12)


def test_a_client_that_was_skipped_has_spent_more_than_it_sent():
    """The ε of a report is the ε charged, so it does not reveal which clients answered."""
    weigh = built("epsilon-weighted").weigh
    reports = [Report(k, 10, "g", (), {"mean_loss": Estimate(0.5, 0.1)}, epsilon=1.0) for k in (0, 2)]
    weights, _ = weigh(reports, {})
    assert weights.tolist() == [0.5, 0.5]
    assert math.isclose(weights.sum(), 1.0)
