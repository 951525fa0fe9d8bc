"""The properties of a good strategy, one function each: it yields what is wrong, in a few words.

The first line of a function's docstring says what the property demands.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedtoll.scenarios.errors import ScenarioError, nearest
from fedtoll.scenarios.statistics import Estimate
from fedtoll.strategies import registry
from fedtoll.strategies.base import Report, Strategy
from fedtoll.strategies.conformance.cohorts import Answers, Cohort, Round, cohort
from fedtoll.strategies.conformance.play import Play, Step, freeze, play, round_trip, step
from fedtoll.strategies.simplex import TOLERANCE, off_the_simplex

WORDS = ("proximal_mu", "group_weights")
"""What clients understand beside the parameters."""

Complaints = Iterator[str]


@dataclass(frozen=True)
class Kit:
    """A strategy and what it did with every cohort."""

    strategy: Strategy
    plays: tuple[Play, ...]
    seed: int

    def rounds(self) -> Iterator[tuple[str, Cohort, Round, Step]]:
        """Yield every round that was played, and where it was."""
        for played in self.plays:
            for i, (given, done) in enumerate(zip(played.cohort.rounds, played.steps, strict=True), start=1):
                yield f"{played.cohort.title}, round {i}", played.cohort, given, done

    def small(self) -> list[Cohort]:
        """Return two noisy cohorts of five clients, one-group and mixed."""
        return [
            cohort(self.strategy.requests, seed=self.seed, clients=5, mixed=mixed, noise=1.0)
            for mixed in (False, True)
        ]


def statistics(strategy: Strategy) -> Complaints:
    """Clients answer all that it asks for, and it asks once."""
    try:
        registry.asked(strategy)
    except ScenarioError as error:
        yield str(error)


def weights(kit: Kit) -> Complaints:
    """Finite, 0 or more, and their sum is 1."""
    for where, of, _, done in kit.rounds():
        if problem := off_the_simplex(done.weights, len(of.members)):
            yield f"{where}: {problem}"


def order(kit: Kit) -> Complaints:
    """Weights go with their clients, and the model stays, whatever the order of the reports in any round."""
    rng = np.random.default_rng(kit.seed)
    for played in kit.plays:
        state = played.start
        for i, (given, done) in enumerate(zip(played.cohort.rounds, played.steps, strict=True), start=1):
            turn = rng.permutation(len(given.reports))
            turned = Round(given.params, tuple(given.reports[k] for k in turn)).copy()
            other = step(kit.strategy, i, turned, state)
            state = other.state
            where = f"{played.cohort.title}, round {i}"
            if not _close(other.weights, _turned(done.weights, turn)):
                yield f"{where}: other weights when the reports arrive in another order"
            elif not _close(other.coefficients, _turned(done.coefficients, turn)):
                yield f"{where}: other coefficients when the reports arrive in another order"
            elif not all(
                _close(a, b)
                for a, b in zip((*other.model, *other.output), (*done.model, *done.output), strict=True)
            ):
                yield f"{where}: another model when the reports arrive in another order"
            elif other.told.keys() != done.told.keys() or not all(
                _close(other.told[k], done.told[k]) for k in done.told
            ):
                yield f"{where}: other instructions when the reports before came in another order"


def _turned(given: Any, turn: NDArray[np.intp]) -> NDArray[Any]:
    """Return what there is for each client in another order, unless it is not for each client."""
    array = np.asarray(given)
    return array[turn] if array.shape == turn.shape else array


def _close(a: Any, b: Any) -> bool:
    """Whether two arrays are equal but for rounding."""
    a, b = np.asarray(a), np.asarray(b)
    tolerance = max(TOLERANCE, 8 * float(np.finfo(b.dtype).eps)) if b.dtype.kind == "f" else TOLERANCE
    return a.shape == b.shape and bool(np.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True))


def one_client(kit: Kit) -> Complaints:
    """All the weight is its own, and the model is finite."""
    for noise in (0.0, 1.0, 100.0):
        for mixed in (False, True):
            alone = cohort(kit.strategy.requests, seed=kit.seed, clients=1, mixed=mixed, noise=noise)
            for done in play(kit.strategy, alone).steps:
                if problem := off_the_simplex(done.weights, 1):
                    yield f"{alone.title}: {problem}"
                elif not _finite(done.model):
                    yield f"{alone.title}: the model is not finite"


def zero_update(kit: Kit) -> Complaints:
    """Where no client has moved, the first round leaves the model as it was."""
    for played in kit.plays:
        given = played.cohort.rounds[0].copy()
        for report in given.reports:
            for array in report.update:
                array[...] = 0.0
        done = step(kit.strategy, 1, given, kit.strategy.init(played.cohort.members))
        for new, old in zip(done.model, given.params, strict=False):
            if np.shape(new) != old.shape:
                continue
            if not np.isfinite(new).all():
                yield f"{played.cohort.title}: the model is not finite"
            elif np.abs(new - old).max() > TOLERANCE:
                yield f"{played.cohort.title}: the model moved by {np.abs(new - old).max():.3g}"


def model(kit: Kit) -> Complaints:
    """Shapes and precision of the old one, finite, with a coefficient for every client."""
    for where, of, given, done in kit.rounds():
        for what, made in (("the model", done.model), ("the output", done.output)):
            wanted = [(p.shape, p.dtype) for p in given.params]
            got = [(np.shape(a), np.asarray(a).dtype) for a in made]
            if [s for s, _ in got] != [s for s, _ in wanted]:
                yield f"{where}: {what} has shapes {[s for s, _ in got]} instead of {[s for s, _ in wanted]}"
            elif got != wanted:
                wrong = next(i for i in range(len(got)) if got[i] != wanted[i])
                yield f"{where}: {what} has {got[wrong][1]} in the place of {wanted[wrong][1]}"
            elif not _finite(made):
                yield f"{where}: {what} is not finite"
        if np.shape(done.coefficients) != (len(of.members),):
            shape = np.shape(done.coefficients)
            yield f"{where}: coefficients of shape {shape} for {len(of.members)} clients"


def missing(kit: Kit) -> Complaints:
    """Nothing breaks when one of the clients is missing from a round and is back in the next."""
    for of in kit.small():
        for k, away in itertools.product(range(len(of.members)), (2, 1)):
            state = kit.strategy.init(of.members)
            for number, given in enumerate(of.rounds, start=1):
                there = given.reports[:k] + given.reports[k + (number == away) :]
                where = f"{of.title}, round {number}, client {of.members[k].client} missing in round {away}"
                try:
                    done = step(kit.strategy, number, Round(given.params, there).copy(), state)
                except Exception as error:
                    yield f"{where}: raises {type(error).__name__}: {error}"
                    break
                if problem := off_the_simplex(done.weights, len(there)):
                    yield f"{where}: {problem}"
                elif not _finite((*done.model, *done.output)):
                    yield f"{where}: the model is not finite"
                state = done.state


def nan(kit: Kit) -> Complaints:
    """Yield where a NaN could stand and become finite weights and a finite model all the same."""
    for clean in kit.small():
        for k in range(len(clean.members)):
            for what in (*(s.name for s in kit.strategy.requests), "update"):
                if not _refused(kit.strategy, clean, _poison(clean.rounds[0], k, what)):
                    yield what


def _poison(given: Round, k: int, what: str) -> Round:
    poisoned = given.copy()
    if what == "update":
        poisoned.reports[k].update[0].flat[0] = np.nan
        return poisoned
    old = poisoned.reports[k].statistics
    value = np.where(np.asarray(old[what].sd) > 0, np.nan, old[what].value)
    told = Answers({**old, what: Estimate(value if value.ndim else float(value), old[what].sd)})
    return replace(poisoned, reports=replaced(poisoned, k, statistics=told))


def replaced(given: Round, k: int, **changes: Any) -> tuple[Report, ...]:
    """Return the reports of a round with one of them changed."""
    return tuple(replace(r, **changes) if i == k else r for i, r in enumerate(given.reports))


def _refused(strategy: Strategy, clean: Cohort, poisoned: Round) -> bool:
    """Whether a round, or the one after it, raises or is not finite."""
    try:
        state = strategy.init(clean.members)
        for number, given in enumerate((poisoned, clean.rounds[1]), start=1):
            done = step(strategy, number, given.copy(), state)
            told = [x for v in done.told.values() for x in np.ravel(v)]
            if not _finite([*told, done.weights, *done.model, *done.output]):
                return True
            state = done.state
    except Exception:
        return True
    return False


def _finite(arrays: Any) -> bool:
    return all(bool(np.isfinite(np.asarray(a, dtype=np.float64)).all()) for a in arrays)


def state(kit: Kit) -> Complaints:
    """Plain arrays, numbers and texts: numpy.savez and numpy.load without pickle change no next round."""
    for played in kit.plays:
        for i in range(len(played.steps) + 1):
            where = f"{played.cohort.title}, {f'after round {i}' if i else 'before round 1'}"
            try:
                restored = round_trip(played.before(i))
            except TypeError as error:
                yield f"{where}: {error}"
                continue
            if i < len(played.steps):
                again = step(kit.strategy, i + 1, played.cohort.rounds[i].copy(), restored)
                if freeze(again.seen) != freeze(played.steps[i].seen):
                    yield f"{where}: another round {i + 1} when the state was saved and loaded"


def undeclared(kit: Kit) -> Complaints:
    """No statistic is touched that was not asked for."""
    for of in kit.small():
        asked: list[str] = []
        try:
            play(kit.strategy, of, strict=True, asked=asked)
        except Exception:
            if not asked:
                raise
        for name in asked[:1]:
            yield f"reads {name!r}, which it does not ask for in requests"


def inputs(kit: Kit) -> Complaints:
    """No call changes the reports, the parameters or the state that it is given."""
    for where, _, _, done in kit.rounds():
        if done.changed:
            yield f"{where}: changes {done.changed[0]} that it is given"


def pure(kit: Kit) -> Complaints:
    """Playing rounds again, backwards, gives the same bits: nothing is remembered but the state."""
    for played in reversed(kit.plays):
        title = played.cohort.title
        for i, given in reversed(list(enumerate(played.cohort.rounds))):
            again, done = step(kit.strategy, i + 1, given.copy(), played.before(i)), played.steps[i]
            if freeze(again.seen) != freeze(done.seen):
                yield f"{title}, round {i + 1}: the same inputs give another result"
            elif freeze(again.state) != freeze(done.state):
                yield f"{title}, round {i + 1}: the same inputs give another state"
        if freeze(kit.strategy.init(played.cohort.members)) != freeze(played.start):
            yield f"{title}: the same cohort gives another first state"


def instructions(kit: Kit) -> Complaints:
    """Words that clients understand, and finite numbers of 0 or more; one group weight for each group."""
    for where, of, _, done in kit.rounds():
        for word, value in done.told.items():
            wanted = (of.groups,) if word == "group_weights" else ()
            numbers = np.asarray(value)
            if word not in WORDS:
                yield f"{where}: clients do not understand {word!r}{nearest(word, WORDS)}"
            elif numbers.dtype.kind not in "iuf" or not np.isfinite(numbers).all() or (numbers < 0).any():
                yield f"{where}: {word} = {value!r}: not finite numbers of 0 or more"
            elif numbers.shape != wanted:
                what = f"{of.groups} numbers, one a group" if wanted else "a number"
                yield f"{where}: {word} = {value!r}: not {what}"


def parameters(kit: Kit) -> Complaints:
    """No unknown one is accepted; its own are, and make it again."""
    cls = type(kit.strategy)
    own = {f.name: getattr(kit.strategy, f.name) for f in dataclasses.fields(cls) if f.init}
    try:
        again = registry.make(cls, own)
    except ScenarioError as error:
        yield f"its own parameters are refused: {error}"
    else:
        if freeze(again) != freeze(kit.strategy):
            yield f"its own parameters make another strategy: {again!r}"
    known = registry.parameters(cls)
    wrong = next(iter(known), "parameter") + "x"
    while wrong in known:
        wrong += "x"
    try:
        registry.check(cls, {wrong: 1})
        yield f"the unknown parameter {wrong!r} is accepted"
    except ScenarioError as error:
        if "\n" in str(error) or not all(repr(name) in str(error) for name in list(known)[:1]):
            yield f"the unknown parameter {wrong!r} is not refused in one line with the nearest name"
    with contextlib.suppress(Exception):
        cls(**{wrong: 1})
        yield f"{cls.__name__}({wrong}=1) is accepted, though it knows no such parameter"
