"""Compare the variants: whole runs by turns, then training alone by turns, in one process."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from benchmarks import measure, work
from benchmarks.all_cores import piece
from benchmarks.flower import Flower
from benchmarks.in_process import InProcess
from benchmarks.limit import Limit
from benchmarks.pfl_research import PflResearch

Tell = Callable[[str], None]
CONSECUTIVE = 3
"""Number of rounds of training alone that are timed together, so that caches are warm."""

GROUP = 15
"""Number of runs of one seed that train in step in (g)."""


class Whole(Protocol):
    """A variant whose whole runs can be timed."""

    def whole(self) -> float:
        """Return the seconds of one whole run."""
        ...


def whole_runs(only: Collection[str], size: work.Size, tell: Tell) -> dict[str, Any]:
    """Time whole runs of (a) to (e), which take turns in every repetition.

    A peer that cannot be installed or run is left out; ``absent`` has the reason.
    """
    run = work.one(size.rounds)
    found: dict[str, Any] = {"seconds": {}, "pieces": [], "absent": {}, "accuracy": {}, "rounds": {}}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        make: dict[str, Callable[[], Whole]] = {
            "a": lambda: stack.enter_context(Flower(run)),
            "b": lambda: InProcess(run, "opacus"),
            "c": lambda: PflResearch(run, work.export(run, folder / "records.npz")),
            "d": lambda: InProcess(run, "cohort"),
        }
        variants: dict[str, Any] = {}
        for key in sorted(set(only) & make.keys()):
            tell(f"({key}) is being prepared")
            _try(key, found, partial(_make, key, make, variants))
        if "e" in only:
            work.sweep(size.rounds)  # calibrates the noise unless it is cached
        for repetition in range(size.repetitions):
            for key in [k for k in variants if k not in found["absent"]]:
                _try(key, found, partial(_note, key, variants[key], found))
                tell(f"({key}) run {repetition + 1} of {size.repetitions}: {_last(key, found)}")
            if "e" in only:
                found["pieces"].append(piece(size.piece * measure.cores(), size.rounds))
                tell(
                    f"(e) piece {repetition + 1} of {size.repetitions}: {found['pieces'][-1]['total']:.1f} s"
                )
        if isinstance(flower := variants.get("a"), Flower):
            found["start_up"] = flower.start_up
            found["rounds"]["a"] = flower.rounds
        if isinstance(pfl := variants.get("c"), PflResearch):
            found["rounds"]["c"] = pfl.rounds
        found["training"] = {k: v.training for k, v in variants.items() if isinstance(v, InProcess)}
        found["accuracy"] = {k: v.accuracy for k, v in variants.items() if k in found["seconds"]}
    return found


def whole_sweep(size: work.Size, tell: Tell) -> dict[str, Any]:
    """Train the whole sweep once, without any calibrated noise."""
    tell(f"(e) the whole sweep of {work.SWEEP} runs")
    return piece(work.SWEEP, size.rounds, calibrate=True)


def training_alone(only: Collection[str], size: work.Size, tell: Tell) -> dict[str, list[float]]:
    """Time the training of single rounds of (b), (d), (f) and (g), which take turns in every repetition."""
    run = work.one(size.rounds)
    timed: dict[str, Callable[[], float]] = {}
    if "b" in only:
        timed["b"] = partial(InProcess(run, "opacus").rounds, 1)
    if "d" in only:
        timed["d"] = partial((cohort := InProcess(run, "cohort")).rounds, CONSECUTIVE)
        timed["g"] = partial(cohort.group, GROUP)
    if "f" in only:
        limit = Limit(run)
        timed |= {"products": lambda: _mean(limit.products), "draws": lambda: _mean(limit.draws)}
    found: dict[str, list[float]] = {key: [] for key in timed}
    for repetition in range(size.training):
        for key, work_of in timed.items():
            found[key].append(work_of())
        tell(f"training alone {repetition + 1} of {size.training}")
    if "f" in only:
        parts = list(zip(found["products"], found["draws"], strict=True))
        found["f"] = [p + d for p, d in parts]
        found["h"] = [GROUP * p + d for p, d in parts]
    return found


def _mean(timed: Callable[[], float]) -> float:
    return sum(timed() for _ in range(CONSECUTIVE)) / CONSECUTIVE


def _make(key: str, make: dict[str, Callable[[], Whole]], variants: dict[str, Any]) -> None:
    variants[key] = make[key]()


def _note(key: str, variant: Whole, found: dict[str, Any]) -> None:
    found["seconds"].setdefault(key, []).append(variant.whole())


def _last(key: str, found: dict[str, Any]) -> str:
    return found["absent"].get(key) or f"{found['seconds'][key][-1]:.1f} s"


def _try(key: str, found: dict[str, Any], work_of: Callable[[], object]) -> None:
    """Call a function of a variant; note the error of a peer. fedtoll's own variants must not fail."""
    try:
        work_of()
    except Exception as error:
        if key not in {"a", "c"}:
            raise
        words = " ".join(f"{type(error).__name__}: {error}".split())
        found["absent"][key] = measure.without_paths(words)[:300]
