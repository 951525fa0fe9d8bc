"""The properties of a conforming strategy. Each function checks one and yields a short line per violation.

The first line of its docstring states the requirement; the kit prints it.
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
from fedtoll.strategies.conformance.cohorts import CLASSES, Answers, Cohort, Round, cohort
from fedtoll.strategies.conformance.play import Play, Step, freeze, play, round_trip, step
from fedtoll.strategies.simplex import TOLERANCE, simplex_violation

INSTRUCTIONS = ("proximal_mu", "group_weights", "score_weights")
"""The instructions that clients accept."""

Complaints = Iterator[str]


@dataclass(frozen=True)
class Kit:
    """A strategy and what it returned for every cohort."""

    strategy: Strategy
    plays: tuple[Play, ...]
    seed: int

    def rounds(self) -> Iterator[tuple[str, Cohort, Round, Step]]:
        """Yield the title, cohort, inputs and outputs of every round."""
        for played in self.plays:
            for i, (inputs, done) in enumerate(zip(played.cohort.rounds, played.steps, strict=True), start=1):
                yield f"{played.cohort.title}, round {i}", played.cohort, inputs, done

    def small(self) -> list[Cohort]:
        """Return two noisy cohorts of five clients, one-group and mixed."""
        return [
            cohort(self.strategy.requests, seed=self.seed, clients=5, mixed=mixed, noise=1.0)
            for mixed in (False, True)
        ]


def statistics(strategy: Strategy) -> Complaints:
    """Clients can compute every statistic requested, and none is requested twice."""
    try:
        registry.requested_statistics(strategy)
    except ScenarioError as error:
        yield str(error)


def weights(kit: Kit) -> Complaints:
    """Weights are finite, 0 or greater, and sum to 1."""
    for where, federation, _, done in kit.rounds():
        if problem := simplex_violation(done.weights, len(federation.members)):
            yield f"{where}: {problem}"


def order(kit: Kit) -> Complaints:
    """Reordering the reports changes neither a client's weight nor the model, in any round."""
    rng = np.random.default_rng(kit.seed)
    for played in kit.plays:
        state = played.start
        for i, (inputs, done) in enumerate(zip(played.cohort.rounds, played.steps, strict=True), start=1):
            permutation = rng.permutation(len(inputs.reports))
            permuted = Round(inputs.params, tuple(inputs.reports[k] for k in permutation)).copy()
            again = step(kit.strategy, i, permuted, state)
            state = again.state
            where = f"{played.cohort.title}, round {i}"
            if not _close(again.weights, _permuted(done.weights, permutation)):
                yield f"{where}: other weights when the reports arrive in another order"
            elif not _close(again.coefficients, _permuted(done.coefficients, permutation)):
                yield f"{where}: other coefficients when the reports arrive in another order"
            elif not all(
                _close(a, b)
                for a, b in zip((*again.model, *again.output), (*done.model, *done.output), strict=True)
            ):
                yield f"{where}: another model when the reports arrive in another order"
            elif again.instructions.keys() != done.instructions.keys() or not all(
                _close(again.instructions[k], done.instructions[k]) for k in done.instructions
            ):
                yield f"{where}: other instructions when earlier reports arrived in another order"


def _permuted(values: Any, permutation: NDArray[np.intp]) -> NDArray[Any]:
    """Return an array with one value per client in another order; any other array as it is."""
    array = np.asarray(values)
    return array[permutation] if array.shape == permutation.shape else array


def _close(a: Any, b: Any) -> bool:
    """Return whether two arrays are equal up to rounding."""
    a, b = np.asarray(a), np.asarray(b)
    tolerance = max(TOLERANCE, 8 * float(np.finfo(b.dtype).eps)) if b.dtype.kind == "f" else TOLERANCE
    return a.shape == b.shape and bool(np.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True))


def one_client(kit: Kit) -> Complaints:
    """All the weight goes to a single client, and the model is finite."""
    for noise in (0.0, 1.0, 100.0):
        for mixed in (False, True):
            alone = cohort(kit.strategy.requests, seed=kit.seed, clients=1, mixed=mixed, noise=noise)
            for done in play(kit.strategy, alone).steps:
                if problem := simplex_violation(done.weights, 1):
                    yield f"{alone.title}: {problem}"
                elif not _finite(done.model):
                    yield f"{alone.title}: the model is not finite"


def zero_update(kit: Kit) -> Complaints:
    """If every update is zero, the first round leaves the model unchanged."""
    for played in kit.plays:
        inputs = played.cohort.rounds[0].copy()
        for report in inputs.reports:
            for array in report.update:
                array[...] = 0.0
        done = step(kit.strategy, 1, inputs, kit.strategy.init(played.cohort.members))
        for new, old in zip(done.model, inputs.params, strict=False):
            if np.shape(new) != old.shape:
                continue
            if not np.isfinite(new).all():
                yield f"{played.cohort.title}: the model is not finite"
            elif np.abs(new - old).max() > TOLERANCE:
                yield f"{played.cohort.title}: the model changed by {np.abs(new - old).max():.3g}"


def model(kit: Kit) -> Complaints:
    """Model and output keep shapes and precision and are finite; every client has a coefficient."""
    for where, federation, inputs, done in kit.rounds():
        for title, arrays in (("the model", done.model), ("the output", done.output)):
            expected = [(p.shape, p.dtype) for p in inputs.params]
            got = [(np.shape(a), np.asarray(a).dtype) for a in arrays]
            if [s for s, _ in got] != [s for s, _ in expected]:
                shapes = [s for s, _ in expected]
                yield f"{where}: {title} has shapes {[s for s, _ in got]} instead of {shapes}"
            elif got != expected:
                wrong = next(i for i in range(len(got)) if got[i] != expected[i])
                yield f"{where}: {title} has {got[wrong][1]} instead of {expected[wrong][1]}"
            elif not _finite(arrays):
                yield f"{where}: {title} is not finite"
        if np.shape(done.coefficients) != (len(federation.members),):
            shape = np.shape(done.coefficients)
            yield f"{where}: coefficients of shape {shape} for {len(federation.members)} clients"


def missing(kit: Kit) -> Complaints:
    """Clients may be missing from one round and return in the next."""
    for federation in kit.small():
        for k, absence in itertools.product(range(len(federation.members)), (2, 1)):
            state, client = kit.strategy.init(federation.members), federation.members[k].client
            for number, inputs in enumerate(federation.rounds, start=1):
                present = inputs.reports[:k] + inputs.reports[k + (number == absence) :]
                where = f"{federation.title}, round {number}, client {client} missing in round {absence}"
                try:
                    done = step(kit.strategy, number, Round(inputs.params, present).copy(), state)
                except (Exception, SystemExit) as error:
                    yield f"{where}: raises {type(error).__name__}: {error}"
                    break
                if problem := simplex_violation(done.weights, len(present)):
                    yield f"{where}: {problem}"
                elif not _finite((*done.model, *done.output)):
                    yield f"{where}: the model is not finite"
                state = done.state


def nan(kit: Kit) -> Complaints:
    """Yield each input in which a NaN would still give finite weights and a finite model."""
    for clean in kit.small():
        for k in range(len(clean.members)):
            for field in (*(s.name for s in kit.strategy.requests), "update"):
                if not _is_detected(kit.strategy, clean, _poison(clean.rounds[0], k, field)):
                    yield field


def _poison(clean: Round, k: int, field: str) -> Round:
    """Return a round with a NaN in the update or in one statistic of client k."""
    poisoned = clean.copy()
    if field == "update":
        poisoned.reports[k].update[0].flat[0] = np.nan
        return poisoned
    old = poisoned.reports[k].statistics
    value = np.where(np.asarray(old[field].sd) > 0, np.nan, old[field].value)
    answers = Answers({**old, field: Estimate(value if value.ndim else float(value), old[field].sd)})
    return replace(poisoned, reports=replaced(poisoned, k, statistics=answers))


def replaced(inputs: Round, k: int, **changes: Any) -> tuple[Report, ...]:
    """Return the reports of a round with fields of report k changed."""
    return tuple(replace(r, **changes) if i == k else r for i, r in enumerate(inputs.reports))


def _is_detected(strategy: Strategy, clean: Cohort, poisoned: Round) -> bool:
    """Return whether the poisoned round, or a clean one after it, raises or gives non-finite numbers."""
    try:
        state = strategy.init(clean.members)
        for number, inputs in enumerate((poisoned, clean.rounds[1]), start=1):
            done = step(strategy, number, inputs.copy(), state)
            instructed = [x for v in done.instructions.values() for x in np.ravel(v)]
            if not _finite([*instructed, done.weights, *done.model, *done.output]):
                return True
            state = done.state
    except (Exception, SystemExit):
        return True
    return False


def _finite(arrays: Any) -> bool:
    return all(bool(np.isfinite(np.asarray(a, dtype=np.float64)).all()) for a in arrays)


def state(kit: Kit) -> Complaints:
    """State holds plain arrays, numbers and strings, and saving and loading it changes no later round."""
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
                if freeze(again.visible) != freeze(played.steps[i].visible):
                    yield f"{where}: saving and loading the state changes round {i + 1}"


def undeclared(kit: Kit) -> Complaints:
    """No statistic is read that was not requested."""
    for federation in kit.small():
        names: list[str] = []
        try:
            play(kit.strategy, federation, strict=True, undeclared=names)
        except (Exception, SystemExit):
            if not names:
                raise
        for name in names[:1]:
            yield f"reads {name!r}, which is not in its requests"


def inputs(kit: Kit) -> Complaints:
    """No call modifies the reports, the parameters or the state passed to it."""
    for where, _, _, done in kit.rounds():
        if done.changed:
            yield f"{where}: modifies {done.changed[0]} in place"


def pure(kit: Kit) -> Complaints:
    """Repeating the rounds in reverse gives the same bits: nothing is remembered outside the state."""
    for played in reversed(kit.plays):
        title = played.cohort.title
        for i, inputs in reversed(list(enumerate(played.cohort.rounds))):
            again, done = step(kit.strategy, i + 1, inputs.copy(), played.before(i)), played.steps[i]
            if freeze(again.visible) != freeze(done.visible):
                yield f"{title}, round {i + 1}: the same inputs give another result"
            elif freeze(again.state) != freeze(done.state):
                yield f"{title}, round {i + 1}: the same inputs give another state"
        if freeze(kit.strategy.init(played.cohort.members)) != freeze(played.start):
            yield f"{title}: the same cohort gives another initial state"


def instructions(kit: Kit) -> Complaints:
    """Clients know every instruction; values are finite and 0 or greater (scores' any), one per group."""
    for where, federation, _, done in kit.rounds():
        for name, value in done.instructions.items():
            groups = federation.groups if name != "proximal_mu" else 0
            shapes = [(groups,), (groups * CLASSES,)][: 1 + (name == "group_weights")] if groups else [()]
            numbers = np.asarray(value)
            least = -np.inf if name == "score_weights" else 0
            if name not in INSTRUCTIONS:
                yield f"{where}: clients do not know {name!r}{nearest(name, INSTRUCTIONS)}"
            elif numbers.dtype.kind not in "iuf" or not (np.isfinite(numbers) & (numbers >= least)).all():
                yield f"{where}: {name} = {value!r}: must be finite{'' if least else ' and 0 or greater'}"
            elif numbers.shape not in shapes:
                expected = f"{groups} numbers, one per group" if groups else "a number"
                yield f"{where}: {name} = {value!r}: must be {expected}"


def parameters(kit: Kit) -> Complaints:
    """Unknown parameters are rejected; its own parameters are accepted and recreate it."""
    cls = type(kit.strategy)
    own = {f.name: getattr(kit.strategy, f.name) for f in dataclasses.fields(cls) if f.init}
    try:
        again = registry.instantiate(cls, own)
    except ScenarioError as error:
        yield f"its own parameters are rejected: {error}"
    else:
        if freeze(again) != freeze(kit.strategy):
            yield f"its own parameters create another strategy: {again!r}"
    known = registry.parameters(cls)
    wrong = next(iter(known), "parameter") + "x"
    while wrong in known:
        wrong += "x"
    try:
        registry.check(cls, {wrong: 1})
        yield f"the unknown parameter {wrong!r} is accepted"
    except ScenarioError as error:
        if "\n" in str(error) or not all(repr(name) in str(error) for name in list(known)[:1]):
            yield f"the unknown parameter {wrong!r} is not rejected in one line with the nearest name"
    with contextlib.suppress(Exception):
        cls(**{wrong: 1})
        yield f"{cls.__name__}({wrong}=1) is accepted, although it has no such parameter"
