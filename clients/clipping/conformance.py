"""The conformance kit for client-side mechanisms: a record may influence only what the noise covers.

``fedtoll check-mechanism X`` prints what ``conform`` returns. In your own tests::

    from fedtoll.clients.clipping.conformance import assert_conforms

    def test_mine():
        assert_conforms(Mine(a=2.0))

The kit takes a mechanism through the steps of many synthetic batches. Neighbouring batches, with and without
one record, get the same noised counts: then state, bound and the factors of all other records must be the
same to the last bit. A record may move the counts by at most 1, and the sum of gradients by at most the
bound.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import numpy as np

from fedtoll.clients.clipping import registry
from fedtoll.clients.clipping.base import ClientMechanism, Codes, Floats, Public
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.foreign import contained
from fedtoll.scenarios.verdicts import Verdict, assert_none_failed, judge

ROUNDING = 1e-9


@dataclass(frozen=True)
class Batch:
    """The norms and groups of a batch's gradients, and the noised counts that are released of it."""

    norms_N: Floats
    groups_N: Codes
    noised_M: Floats

    def only(self, kept_N: Any) -> Batch:
        """Return the batch of some of the records, with the same noised counts."""
        return Batch(self.norms_N[kept_N], self.groups_N[kept_N], self.noised_M)


@dataclass(frozen=True)
class Step:
    """What a mechanism returns for one batch, unchanged."""

    batch: Batch
    rows_NM: Floats
    state_S: Floats
    bound: float
    factors_N: Floats


@dataclass
class Kit:
    """A mechanism, and the batches of several clients by their public constants."""

    mechanism: ClientMechanism
    clients: list[tuple[Public, list[Batch]]] = field(default_factory=list)

    def walk(self, public: Public, batches: Sequence[Batch]) -> list[Step]:
        """Take the mechanism through the steps of a client, with arrays that cannot be written."""
        mechanism, steps = self.mechanism, []
        state = _frozen(mechanism.init(public))
        cells = mechanism.cells(public.groups)
        for batch in batches:
            norms, groups, noised = map(_frozen, (batch.norms_N, batch.groups_N, batch.noised_M))
            rows = np.zeros((len(norms), 0))
            if cells:
                rows = mechanism.count(norms, groups, state, public)
                state = _frozen(mechanism.update(noised, state, public))
            bound = mechanism.bound(state, public)
            factors = mechanism.scale(norms, groups, state, public)
            steps.append(Step(batch, rows, state, bound, factors))
        return steps

    def walks(self) -> Iterator[tuple[str, Public, list[Step]]]:
        """Yield a few words about each client, its constants and its steps."""
        for public, batches in self.clients:
            yield f"{public.groups} groups, clip {public.clip:g}", public, self.walk(public, batches)


def _frozen(array: Any) -> Any:
    """Return a copy of an array that cannot be written."""
    found = np.array(array)
    found.flags.writeable = False
    return found


def _kit(mechanism: ClientMechanism, seed: int) -> Kit:
    """Return batches of all sizes, with norms far below and above the clip, and counts far from true ones."""
    rng = np.random.default_rng(seed)
    kit = Kit(mechanism)
    for groups in (1, 2, 5):
        for clip, size in ((0.3, 4.0), (2.0, 60.0)):
            batches = []
            for step, count in enumerate((9, 1, 0, 2, 30, 14, 14, 5)):
                norms = clip * np.exp(rng.normal(0.3, 1.2, count))
                norms[: step % 3] = (0.0, 1e12)[: min(count, step % 3)]
                noised = rng.uniform(-0.1, 0.7, mechanism.cells(groups)) * size
                if step >= 5:
                    noised *= (1.0, 1e9, -1e9)[step - 5]
                batches.append(Batch(norms, rng.integers(0, groups, count), noised))
            kit.clients.append((Public(clip, groups, size), batches))
    return kit


Complaints = Iterator[str]


def _cells(kit: Kit) -> Complaints:
    """Cells are a whole number of 0 or more, and none for every number of groups or for none."""
    found = [kit.mechanism.cells(groups) for groups in (1, 2, 5)]
    if any(type(m) is not int or m < 0 for m in found):
        yield f"cells returned {found}"
    elif len({m > 0 for m in found}) > 1:
        yield f"cells are {found} for 1, 2 and 5 groups: some have a statistic, some have none"


def _shapes(kit: Kit) -> Complaints:
    """Arrays have their shapes, and state, bound and factors are finite, whatever the noised counts are."""
    for where, public, steps in kit.walks():
        cells, start = kit.mechanism.cells(public.groups), np.asarray(kit.mechanism.init(public))
        for step in steps:
            count = len(step.batch.norms_N)
            for name, array, shape in (
                ("count", step.rows_NM, (count, cells)),
                ("scale", step.factors_N, (count,)),
                ("update", step.state_S, start.shape),
            ):
                if np.shape(array) != shape:
                    yield f"{where}: {name} returned the shape {np.shape(array)}, not {shape}"
                elif not np.isfinite(np.asarray(array, dtype=np.float64)).all():
                    yield f"{where}: {name} returned numbers that are not finite"
            if start.ndim != 1:
                yield f"{where}: init returned {start.ndim} dimensions, not 1"
            if not (np.ndim(step.bound) == 0 and 0 < float(step.bound) < np.inf):
                yield f"{where}: bound returned {step.bound!r}"


def _rows(kit: Kit) -> Complaints:
    """Rows of the counts have a norm of at most 1."""
    for where, _, steps in kit.walks():
        for step in steps:
            most = np.linalg.norm(step.rows_NM, axis=1).max(initial=0.0)
            if most > 1 + ROUNDING:
                yield f"{where}: a record counts for a vector of norm {most:.3g}"


def _bounds(kit: Kit) -> Complaints:
    """Factors are 0 or greater, and no scaled gradient exceeds the bound."""
    for where, _, steps in kit.walks():
        for step in steps:
            scaled = step.factors_N * step.batch.norms_N
            if scaled.max(initial=0.0) > step.bound * (1 + ROUNDING):
                yield f"{where}: a scaled gradient has the norm {scaled.max():.4g}, above {step.bound:.4g}"
            if step.factors_N.min(initial=0.0) < 0:
                yield f"{where}: a factor is {step.factors_N.min():.3g}"


def _alone(kit: Kit) -> Complaints:
    """Neither counts nor factor of a record depend on other records of the batch or on its place."""
    for where, public, steps in kit.walks():
        before = _frozen(kit.mechanism.init(public))
        for step in steps:
            count = len(step.batch.norms_N)
            for kept in (*np.arange(count)[:12, None], np.arange(count)[::-1]):
                part = step.batch.only(kept)
                if kit.mechanism.cells(public.groups):
                    rows = kit.mechanism.count(part.norms_N, part.groups_N, before, public)
                    if not np.array_equal(rows, step.rows_NM[kept]):
                        yield f"{where}: what a record counts for depends on the others in the batch"
                factors = kit.mechanism.scale(part.norms_N, part.groups_N, step.state_S, public)
                if not np.array_equal(factors, step.factors_N[kept]):
                    yield f"{where}: a record's factor depends on the others in the batch"
            before = step.state_S


def _neighbours(kit: Kit) -> Complaints:
    """Without one record, but with the same noised counts, all else stays the same to the last bit."""
    for public, batches in kit.clients:
        where = f"{public.groups} groups, clip {public.clip:g}"
        full = kit.walk(public, batches)
        for lost in range(3):
            less = [b.only(np.arange(len(b.norms_N)) != lost) for b in batches]
            for t, (a, b) in enumerate(zip(full, kit.walk(public, less), strict=True)):
                rest = np.arange(len(a.batch.norms_N)) != lost
                for name, one, other in (
                    ("the state", a.state_S, b.state_S),
                    ("the bound", a.bound, b.bound),
                    ("the factors of other records", a.factors_N[rest], b.factors_N),
                ):
                    if not np.array_equal(one, other):
                        yield f"{where}, step {t + 1}: {name} depends on a record, not on noised counts alone"


def _pure(kit: Kit) -> Complaints:
    """Equal arguments give equal results, and the mechanism itself does not change."""
    before = copy.deepcopy(vars(kit.mechanism))
    for (where, _, once), (_, _, again) in zip(kit.walks(), kit.walks(), strict=True):
        for a, b in zip(once, again, strict=True):
            same = a.bound == b.bound and all(
                np.array_equal(x, y)
                for x, y in (
                    (a.rows_NM, b.rows_NM),
                    (a.state_S, b.state_S),
                    (a.factors_N, b.factors_N),
                )
            )
            if not same:
                yield f"{where}: two calls with the same arguments differ"
    if vars(kit.mechanism) != before:
        yield "the mechanism keeps something besides its parameters; memory belongs in the state"


def _parameters(kit: Kit) -> Complaints:
    """Parameters are the fields of a frozen dataclass, and can be written in a scenario file."""
    cls = type(kit.mechanism)
    try:
        values = registry.check(cls, vars(kit.mechanism))
        if cls(**values) != kit.mechanism:
            yield "a mechanism with the same parameters is not equal to it"
    except ScenarioError as error:
        yield str(error)


PROPERTIES: dict[str, Callable[[Kit], Complaints]] = {
    "parameters checked": _parameters,
    "cells declared": _cells,
    "shapes and numbers": _shapes,
    "counts bounded": _rows,
    "gradients bounded": _bounds,
    "records by themselves": _alone,
    "neighbours": _neighbours,
    "same inputs, same outputs": _pure,
}
"""The properties that are judged, by name."""


def _on_a_kit(property_: Callable[[Kit], Complaints]) -> Callable[[ClientMechanism, int], Complaints]:
    """Return a property that first takes the mechanism through batches, which may raise."""

    @wraps(property_)
    def judged(mechanism: ClientMechanism, seed: int) -> Complaints:
        return property_(_kit(mechanism, seed))

    return judged


def conform(mechanism: ClientMechanism, *, seed: int = 0) -> list[Verdict]:
    """Run the kit on a mechanism.

    Parameters
    ----------
    mechanism
        An instance, with its parameters.
    seed
        Seed of the synthetic batches.

    Returns
    -------
    list of Verdict
        One per property, in the order of ``PROPERTIES``, and what was measured.
    """
    with contained(), np.errstate(all="ignore"):
        verdicts = [
            judge(name, _on_a_kit(property_), mechanism, seed) for name, property_ in PROPERTIES.items()
        ]
        if all(v.outcome == "passed" for v in verdicts):
            verdicts += _shown(_kit(mechanism, seed))
    return verdicts


def _shown(kit: Kit) -> list[Verdict]:
    started = time.perf_counter()
    walks = list(kit.walks())
    steps = [(public, step) for _, public, steps in walks for step in steps]
    each = (time.perf_counter() - started) / len(steps)
    ratio = [float(step.bound) / public.clip for public, step in steps]
    return [
        Verdict(
            "bound", "shown", f"{min(ratio):.3g} to {max(ratio):.3g} times training.clip in these batches"
        ),
        Verdict("milliseconds a batch", "shown", f"{1e3 * each:.2g}"),
    ]


def assert_conforms(mechanism: ClientMechanism, *, seed: int = 0) -> None:
    """Raise an AssertionError that lists every property the mechanism fails."""
    assert_none_failed(mechanism, conform(mechanism, seed=seed))
