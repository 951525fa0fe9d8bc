"""The conformance kit: for every property, broken strategies fail that property and no other."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections import namedtuple
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
import pytest

from fedtoll.scenarios.run import StatisticPlan
from fedtoll.scenarios.statistics import STATISTICS, Estimate, GroupLoss, LabelGroupLoss, MeanLoss
from fedtoll.server.trainer import simulate
from fedtoll.strategies import registry
from fedtoll.strategies.afl import AFL
from fedtoll.strategies.base import Member, Strategy, recall, remember, sizes
from fedtoll.strategies.conformance import PROPERTIES, ROUNDS, Verdict, assert_conforms, conform
from fedtoll.strategies.conformance import STATISTICS as ASKED
from fedtoll.strategies.conformance.cohorts import Answers, Cohort, Round, all_kinds, cohort
from fedtoll.strategies.conformance.play import freeze, play, round_trip
from fedtoll.strategies.fedavg import FedAvg
from fedtoll.strategies.term import Term
from fedtoll.strategies.uniform import Uniform
from tests.server.federation import FEDAVG, single_run, with_strategy


@cache
def verdicts(strategy):
    """Return the verdicts on a class of strategies, computed once for all tests that read them."""
    return conform(strategy())


def failed(strategy):
    return {v.property for v in conform(strategy) if v.outcome == "failed"}


class Asks(FedAvg):
    """FedAvg that requests the mean loss and uses it slightly."""

    @property
    def requests(self):
        return (MeanLoss(),)

    def weigh(self, reports, state):
        losses = np.array([r.statistics["mean_loss"].value for r in reports])
        return sizes(reports) + 0 * losses, state


class Unknown(FedAvg):
    @property
    def requests(self):
        @dataclass(frozen=True)
        class Median(MeanLoss):
            name: ClassVar[str] = "median_loss"

        return (Median(),)


class Forged(FedAvg):
    @property
    def requests(self):
        @dataclass(frozen=True)
        class Mine(MeanLoss):
            pass

        return (Mine(),)


class Twice(Asks):
    @property
    def requests(self):
        return (MeanLoss(1.0), MeanLoss(2.0))


class NotATuple(Asks):
    @property
    def requests(self):
        return MeanLoss()


class OnlyWeights(FedAvg):
    def weigh(self, reports, state):
        return sizes(reports)


class Raises(FedAvg):
    def weigh(self, reports, state):
        if len(reports) > 10:
            raise ValueError("too many\nclients")
        return super().weigh(reports, state)


class Negative(FedAvg):
    def weigh(self, reports, state):
        return 3 * sizes(reports) - 2 / len(reports), state


class OverOne(FedAvg):
    def weigh(self, reports, state):
        return np.where(len(reports) > 1, 1.1, 1.0) * sizes(reports), state


class Listed(FedAvg):
    def weigh(self, reports, state):
        weights = sizes(reports)
        return weights if len(reports) == 1 else weights.tolist(), state


class Flat(FedAvg):
    def combine(self, params, reports, weights, state):
        made, state, coefficients = super().combine(params, reports, weights, state)
        return tuple(a.ravel() for a in made), state, coefficients


class Double(FedAvg):
    def combine(self, params, reports, weights, state):
        made, state, coefficients = super().combine(params, reports, weights, state)
        return tuple(np.asarray(a, dtype=np.float64) for a in made), state, coefficients


class NoCoefficient(FedAvg):
    def combine(self, params, reports, weights, state):
        return (*super().combine(params, reports, weights, state)[:2], np.ones(()))


class OtherOutput(FedAvg):
    def output(self, params, state):
        return params[:1]


class ChangesReports(FedAvg):
    def weigh(self, reports, state):
        for r in reports:
            r.update[0][...] *= 0.5
        return super().weigh(reports, state)


class ChangesParams(FedAvg):
    def combine(self, params, reports, weights, state):
        made, state, coefficients = super().combine(params, reports, weights, state)
        for old, new in zip(params, made, strict=True):
            old[...] = new
        return params, state, coefficients


class ChangesState(FedAvg):
    def weigh(self, reports, state):
        state["rounds"] = state.get("rounds", 0) + 1
        return super().weigh(reports, state)


class ChangesWeights(FedAvg):
    def combine(self, params, reports, weights, state):
        weights[...] = sizes(reports)[::1] * 0.5
        return super().combine(params, reports, weights, state)


CALLS = [0]


class Counts(FedAvg):
    """Tilts a little more at every call, whoever calls."""

    def weigh(self, reports, state):
        CALLS[0] += 1
        weights = sizes(reports) ** (1 + CALLS[0] / 100)
        return weights / weights.sum(), state


MEMORY: dict[str, Any] = {}


class Hidden(FedAvg):
    """Stores its last inputs in a global, which ``init`` clears."""

    def init(self, cohort):
        MEMORY.clear()
        return {}

    def weigh(self, reports, state):
        seen = MEMORY.get("seen", False)
        MEMORY["seen"] = True
        return np.full(len(reports), 1 / len(reports)) if seen else sizes(reports), state


class Random(FedAvg):
    def weigh(self, reports, state):
        return np.random.default_rng().dirichlet(np.ones(len(reports))), state


class Positional(FedAvg):
    def weigh(self, reports, state):
        weights = sizes(reports) * np.arange(1, len(reports) + 1)
        return weights / weights.sum(), state


class PositionalMemory(FedAvg):
    """Averages its weights with those of the previous round, by position."""

    def weigh(self, reports, state):
        before = state.get("before", sizes(reports))
        weights = (sizes(reports) + (before if len(before) == len(reports) else sizes(reports))) / 2
        return weights, {"before": weights}


class TiesByOrder(FedAvg):
    """Uses its state by position, in its instructions to clients."""

    def weigh(self, reports, state):
        return sizes(reports), {"mu": float(reports[0].update[0][0, 0]) ** 2}

    def instructions(self, round, state):
        return {"proximal_mu": state.get("mu", 0.0)}


class NotAlone(FedAvg):
    def weigh(self, reports, state):
        return (1 - sizes(reports)) / (len(reports) - 1), state


class Drifts(FedAvg):
    def combine(self, params, reports, weights, state):
        made, state, coefficients = super().combine(params, reports, weights, state)
        return tuple(a * a.dtype.type(0.99) for a in made), state, coefficients


class ByNorm(FedAvg):
    """Divides by the norm of an update, which may be 0."""

    def combine(self, params, reports, weights, state):
        norms = np.array([math.sqrt(sum(float((u**2).sum()) for u in r.update)) for r in reports])
        return super().combine(params, reports, weights / norms, state)


class ForgetsTheAbsent(FedAvg):
    """Stores only the clients of the last round."""

    def init(self, cohort):
        return {"client": np.array([m.client for m in cohort]), "share": sizes(cohort)}

    def weigh(self, reports, state):
        share = dict(zip(state["client"], state["share"], strict=True))
        weights = np.array([share[r.client] for r in reports])
        weights = weights / weights.sum()
        return weights, {"client": np.array([r.client for r in reports]), "share": weights}


class CountsOnEverybody(FedAvg):
    """Gives weight to a missing client."""

    def init(self, cohort):
        return {"n": float(sum(m.size for m in cohort))}

    def weigh(self, reports, state):
        n = np.array([r.size for r in reports], dtype=float)
        return (n / n.sum() if len(n) == 1 else n / state["n"]), state


class CountsOnTheFirst(FedAvg):
    """Stores the clients of the first round, assuming that none was missing."""

    def weigh(self, reports, state):
        n = state or {str(r.client): float(r.size) for r in reports}
        weights = np.array([n[str(r.client)] for r in reports])
        return weights / weights.sum(), n


class LaundersStatistic(Asks):
    def weigh(self, reports, state):
        losses = np.nan_to_num([r.statistics["mean_loss"].value for r in reports])
        weights = sizes(reports) * np.exp(losses - losses.max())
        return weights / weights.sum(), state


class LaundersByMax(Asks):
    def weigh(self, reports, state):
        losses = np.array([max(0.01, r.statistics["mean_loss"].value) for r in reports])
        return losses / losses.sum(), state


class LaundersUpdate(FedAvg):
    def combine(self, params, reports, weights, state):
        for i, p in enumerate(params):
            middle = np.nanmedian([r.update[i] for r in reports], axis=0)
            params = (*params[:i], (p + middle).astype(p.dtype), *params[i + 1 :])
        return params, state, weights


class AsksForNothing(Asks):
    """Requests the mean loss, which costs privacy, and does not use it."""

    def weigh(self, reports, state):
        return sizes(reports), state


class Thing:
    pass


class StateOfObjects(FedAvg):
    def weigh(self, reports, state):
        return sizes(reports), {"thing": Thing()}


class StateByNumber(FedAvg):
    def weigh(self, reports, state):
        return sizes(reports), {r.client: 1.0 for r in reports}


class StateOfNothing(FedAvg):
    def init(self, cohort):
        return {"before": None}


Pair = namedtuple("Pair", "a b")


class StateOfLists(FedAvg):
    def weigh(self, reports, state):
        return sizes(reports), {"rounds": [*state.get("rounds", []), 1.0]}


class StateOfDicts(FedAvg):
    def init(self, cohort):
        return {"of": {"n": 1.0}}


class StateOfPairs(FedAvg):
    def weigh(self, reports, state):
        mean = state["pair"].a if "pair" in state else 0.0
        return sizes(reports), {"pair": Pair(mean + 1.0, 0.0)}


class ReadsUndeclared(FedAvg):
    def weigh(self, reports, state):
        rates = np.array([r.statistics["error_rate"].value for r in reports])
        return rates / rates.sum(), state


class LooksForUndeclared(FedAvg):
    def weigh(self, reports, state):
        return sizes(reports) if reports[0].statistics.get("error_rate") is None else None, state


class TriesUndeclared(FedAvg):
    def weigh(self, reports, state):
        with contextlib.suppress(KeyError):
            reports[0].statistics["group_loss"]
        return sizes(reports), state


class UnknownInstruction(FedAvg):
    def instructions(self, round, state):
        return {"proximal_nu": 0.1}


class NegativeMu(FedAvg):
    def instructions(self, round, state):
        return {"proximal_mu": -0.1}


class InfiniteMu(FedAvg):
    def instructions(self, round, state):
        return {"proximal_mu": math.inf}


class MuByClient(FedAvg):
    def instructions(self, round, state):
        return {"proximal_mu": [0.1, 0.2]}


class TooFewGroups(FedAvg):
    def instructions(self, round, state):
        return {"group_weights": [1.0]}


class TooManyScores(FedAvg):
    def instructions(self, round, state):
        return {"score_weights": [1.0] * 99}


class InfiniteScore(FedAvg):
    def instructions(self, round, state):
        return {"score_weights": [-math.inf] * 3}


class Swallows(FedAvg):
    def __init__(self, t=1.0, **others):
        pass


@dataclass(frozen=True)
class WrongDefault(FedAvg):
    t: float = "1"  # type: ignore[assignment]


@dataclass(frozen=True)
class Refused(FedAvg):
    """Changes its own parameter to a value that it rejects."""

    t: float = 1.0

    def __post_init__(self):
        if self.t > 1:
            raise ValueError("t")
        object.__setattr__(self, "t", self.t + 1)


BROKEN: dict[str, list[type[Strategy]]] = {
    ASKED: [Unknown, Forged, Twice, NotATuple],
    ROUNDS: [Raises, Strategy, OnlyWeights],
    "weights on the simplex": [Negative, OverOne, Listed],
    "model keeps its form": [Flat, Double, NoCoefficient, OtherOutput],
    "inputs unchanged": [ChangesReports, ChangesParams, ChangesState, ChangesWeights],
    "same inputs, same outputs": [Counts, Hidden, Random],
    "order irrelevant": [Positional, PositionalMemory, TiesByOrder],
    "one client": [NotAlone],
    "zero update": [Drifts, ByNorm],
    "a missing client": [ForgetsTheAbsent, CountsOnEverybody, CountsOnTheFirst],
    "state round-trips": [
        StateOfObjects,
        StateByNumber,
        StateOfNothing,
        StateOfPairs,
        StateOfLists,
        StateOfDicts,
    ],
    "undeclared untouched": [ReadsUndeclared, LooksForUndeclared, TriesUndeclared],
    "instructions known": [
        *(UnknownInstruction, NegativeMu, InfiniteMu, MuByClient, TooFewGroups, TooManyScores, InfiniteScore),
    ],
    "parameters checked": [Swallows, WrongDefault, Refused],
}


def test_every_property_can_fail():
    assert BROKEN.keys() == {ASKED, ROUNDS, *PROPERTIES}


@pytest.mark.parametrize(
    ("name", "strategy"), [pytest.param(n, s, id=s.__name__) for n, many in BROKEN.items() for s in many]
)
def test_a_broken_strategy_fails_its_property_and_no_other(name, strategy):
    found = verdicts(strategy)
    assert {v.property for v in found if v.outcome == "failed"} == {name}
    assert all("\n" not in v.words for v in found)


def words(strategy):
    return next(v.words for v in verdicts(strategy) if v.outcome == "failed")


def test_what_is_wrong_is_said_with_its_place_and_the_nearest_word():
    assert words(Unknown) == "requests 'median_loss', which clients cannot compute; did you mean 'mean_loss'?"
    assert words(Raises) == "13 one-group clients, ε = ∞: raises ValueError: too many clients"
    assert words(Double).endswith("round 1: the model has float64 instead of float32")
    assert words(ReadsUndeclared) == "reads 'error_rate', which is not in its requests"
    assert "clients do not know 'proximal_nu'; did you mean 'proximal_mu'?" in words(UnknownInstruction)
    assert "before round 1: state['before'] is a NoneType" in words(StateOfNothing)
    assert words(StateOfPairs) == (
        "2 one-group clients, ε = ∞, after round 1: state['pair'] is a Pair, "
        "not a plain array, number or string"
    )
    assert words(ForgetsTheAbsent) == (
        "5 one-group clients, z = 1, round 3, client 2 missing in round 2: raises KeyError: 2"
    )
    assert words(CountsOnTheFirst) == (
        "5 one-group clients, z = 1, round 2, client 2 missing in round 1: raises KeyError: '2'"
    )
    assert words(OnlyWeights).endswith(
        "raises TypeError: weigh must return (weights, state), but returned ndarray"
    )
    assert words(NotATuple).startswith("requests must be a @property that returns a tuple of declarations")
    assert words(Negative).endswith("is negative")
    assert words(OverOne).endswith("sum 1.1 instead of 1 (+0.1)")


GOOD = [FedAvg(), Uniform(), Term(), Term(t=500.0), Asks(), AsksForNothing(), LaundersByMax()]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", GOOD, ids=repr)
def test_good_strategies_pass(strategy):
    assert failed(strategy) == set()
    assert_conforms(strategy)


@pytest.mark.slow
@pytest.mark.parametrize("name", registry.names())
def test_every_installed_strategy_conforms(name):
    assert_conforms(registry.build(registry.resolve(name)[0], {}))


def test_an_assertion_lists_every_failure():
    class Worse(Negative):
        def instructions(self, round, state):
            return {"mu": 1.0}

    with pytest.raises(AssertionError) as caught:
        assert_conforms(Worse())
    assert "weights on the simplex: 2 one-group clients" in str(caught.value)
    assert "instructions known: " in str(caught.value)


def test_what_cannot_be_judged_says_so():
    verdicts = {v.property: v for v in conform(Random())}
    expected = Verdict(
        "order irrelevant", "shown", "not judged, because it fails 'same inputs, same outputs'"
    )
    assert verdicts["order irrelevant"] == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "words"),
    [
        (FedAvg(), "would show in the weights or the model"),
        (Term(), "would show in the weights or the model"),
        (LaundersStatistic(), "in mean_loss would go unnoticed"),
        (LaundersByMax(), "in mean_loss would go unnoticed"),
        (LaundersUpdate(), "in update would go unnoticed"),
        (AsksForNothing(), "in mean_loss would go unnoticed"),
    ],
    ids=lambda x: type(x).__name__,
)
def test_what_becomes_of_a_nan_is_shown(strategy, words):
    (told,) = [v for v in conform(strategy) if v.property == "a NaN"]
    assert told == Verdict("a NaN", "shown", f"{words}; the engine rejects replies that contain one")


@pytest.mark.slow
def test_a_liar_and_the_time_are_shown():
    liar, speed = conform(Term(t=5.0))[-2:]
    assert (liar.outcome, speed.outcome) == ("shown", "shown")
    assert "ten times its mean_loss" in liar.words
    before, after = (float(x) for x in (liar.words.split()[-1], liar.words.split(" has ")[1].split()[0]))
    assert after > 2 * before
    assert speed.words.endswith("for 20 clients of 10,000 parameters")
    assert "only in its update" in conform(FedAvg())[-2].words


@pytest.mark.slow
def test_a_memory_by_client_passes():
    class Follows(FedAvg):
        def init(self, cohort):
            return remember({}, cohort, share=sizes(cohort))

        def weigh(self, reports, state):
            weights = (recall(state, reports, "share") + 1 / len(reports)) / 2
            weights = weights / weights.sum()  # who is missing has kept some
            return weights, remember(state, reports, share=weights)

    assert failed(Follows()) == set()


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("noise", [0.0, 100.0])
def test_synthetic_answers_have_the_declared_form_and_noise(mixed, noise):
    asked = tuple(s() for s in STATISTICS.values())
    of = cohort(asked, seed=0, clients=5, mixed=mixed, noise=noise)
    for given in of.rounds:
        for k, report in enumerate(given.reports):
            assert {s.name for s in asked} == report.statistics.keys()
            assert (report.group == "") == mixed
            assert (report.noise_variance > 0) == (noise > 0)
            assert math.isfinite(report.epsilon) == (noise > 0)
            for statistic in asked:
                told = report.statistics[statistic.name]
                shape = statistic.shape(of.groups, 2)
                assert np.shape(told.value) == np.shape(told.sd) == shape
                sd = noise * statistic.sensitivity(report.size)
                own = np.ones(shape, dtype=bool)
                if shape and not mixed:
                    own[...] = False
                    own[k % of.groups] = True
                np.testing.assert_allclose(told.sd, np.where(own, sd, 0.0))
                assert not np.asarray(told.value)[~own].any()
                if noise == 0:
                    assert (np.asarray(told.value) >= 0).all()


def test_synthetic_answers_agree_with_each_other():
    asked = tuple(s() for s in STATISTICS.values())
    for report in cohort(asked, seed=1, clients=13, mixed=True, noise=0.0).rounds[2].reports:
        told = {name: np.asarray(e.value) for name, e in report.statistics.items()}
        np.testing.assert_allclose(told["group_loss"], told["label_group_loss"].sum(axis=1))
        np.testing.assert_allclose(told["group_confusion"].sum(axis=2), told["label_group_loss"][..., 1])
        assert told["group_loss"][:, 1].sum() == round(0.8 * report.size)
        assert told["mean_loss"] == pytest.approx(4.0 * told["group_loss"][:, 0].sum() / report.size)
        wrong = told["group_confusion"].sum() - np.trace(told["group_confusion"], axis1=1, axis2=2).sum()
        assert told["error_rate"] == pytest.approx(wrong / report.size)


def test_exact_answers_are_not_clipped_and_some_exceed_the_clip():
    asked = (MeanLoss(1.0), GroupLoss(1.0), LabelGroupLoss(1.0))
    for noise, beyond in [(0.0, True), (1e-9, False)]:
        of = cohort(asked, seed=0, clients=5, mixed=True, noise=noise)
        told = [{n: np.asarray(e.value) for n, e in r.statistics.items()} for r in of.rounds[0].reports]
        assert any(t["mean_loss"] > 1.001 for t in told) == beyond
        for name in ("group_loss", "label_group_loss"):
            assert any((t[name][..., 0] > 1.001 * t[name][..., 1]).any() for t in told) == beyond
        assert min(t["mean_loss"] for t in told) < 1


def test_cohorts_are_of_every_kind_and_seeded():
    first, again, other = (all_kinds((MeanLoss(),), seed) for seed in (0, 0, 1))
    assert len({c.title for c in first}) == len(first) == 22
    assert freeze(first) == freeze(again) != freeze(other)


def test_answers_refuse_what_was_not_declared():
    strict = Answers({"mean_loss": Estimate(0.5, 0.0)}, strict=True)
    assert strict.get("mean_loss") == strict["mean_loss"]
    for touch in (lambda: strict["x"], lambda: strict.get("x"), lambda: "x" in strict):
        with pytest.raises(KeyError, match="was not declared"):
            touch()
    assert strict.undeclared == ["x"] * 3


def test_a_memory_goes_through_savez_and_back():
    memory = {
        "file": 1,
        "a/b": np.arange(3),
        "": True,
        "x": 2.5,
        "text": "text",
        "texts": np.array(["a", "bc"]),
        "single": np.float32(0.1),
        "scalar": np.array(1.0),
    }
    restored = round_trip(memory)
    assert freeze(restored) == freeze(memory)
    assert list(restored) == list(memory)
    assert type(restored["single"]) is np.float32
    assert isinstance(restored["scalar"], np.ndarray)
    assert restored[""] is True
    assert round_trip({}) == {}
    wrong: list[Any] = [{1}, [1.0], (), {}, None, 10**30, np.array([None]), b"x", 1j]
    for bad in wrong:
        with pytest.raises(TypeError, match=r"state\['x'\]"):
            round_trip({"x": bad})
    with pytest.raises(TypeError, match="state is a list instead of a dict"):
        round_trip([])


WATCHED: list[dict[str, Any]] = []


@dataclass(frozen=True)
class Watched(AFL):
    """AFL, a strategy with state, instrumented for a test."""

    def weigh(self, reports, state):
        WATCHED.append({"reports": tuple(reports)})
        return super().weigh(reports, state)

    def instructions(self, round, state):
        return {"proximal_mu": 0.1}

    def combine(self, params, reports, weights, state):
        WATCHED[-1] |= {"params": params, "weights": weights}
        made, state, coefficients = super().combine(params, reports, weights, state)
        WATCHED[-1] |= {"model": made, "coefficients": coefficients}
        return made, state, coefficients


def test_playing_is_what_the_engine_does():
    """The kit gives the same results for the reports of a real run of AFL as the adapter did."""
    WATCHED.clear()
    run = single_run(FEDAVG, 2.0, training={"rounds": 3})
    asked = (StatisticPlan(name="mean_loss", parameters={"clip": 1.0}, noise_multiplier=20.0),)
    simulate(with_strategy(run.model_copy(update={"statistics": asked}), f"{__name__}:Watched", gamma=0.5))
    seen, rounds = list(WATCHED), tuple(Round(w["params"], w["reports"]) for w in WATCHED)
    members = tuple(Member(c.id, c.size, c.group) for c in run.clients)
    played = play(Watched(gamma=0.5), Cohort("a real run", members, len(run.groups), rounds))
    assert len(seen) == len(played.steps) == 3
    for there, step in zip(seen, played.steps, strict=True):
        assert step.changed == ()
        assert step.instructions == {"proximal_mu": 0.1}
        for name in ("weights", "coefficients", "model"):
            assert freeze(getattr(step, name)) == freeze(there[name])
    assert freeze(seen[0]["weights"]) != freeze(seen[2]["weights"])
    for before, after in itertools.pairwise(seen):
        assert freeze(before["model"]) == freeze(after["params"])
