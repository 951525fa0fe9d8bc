"""Some malformed inputs at each edge; ``python -m tests.hostile.fuzz 10000`` tries many more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hostile import fuzz

COUNTS = {"scenarios": 60, "tables": 40, "folders": 12, "replies": 60, "plug-ins": 20}


@pytest.fixture(scope="module")
def world() -> Iterator[fuzz.World]:
    with fuzz.world() as made:
        yield made


@pytest.mark.slow
@pytest.mark.parametrize("edge", fuzz.EDGES)
def test_no_traceback_and_no_write_elsewhere(world, edge):
    ends = {number: fuzz.attempt(edge, number, 1, world) for number in range(COUNTS[edge])}
    assert {number: end for number, end in ends.items() if end[0] not in fuzz.GOOD} == {}
    assert len({how for how, _ in ends.values()}) > 1 or edge in {"replies", "tables"}


@pytest.mark.slow
def test_what_is_wrong_is_found(world: fuzz.World, monkeypatch):
    """A traceback, a write elsewhere, a second line and a raw character are each noticed."""

    def print_twice() -> tuple[int, str, str]:
        return 2, "", "fedtoll: a\nb\n"

    def write_elsewhere() -> None:
        Path(world.elsewhere / "new.txt").write_text("x")
        Path(world.elsewhere / "new.txt").unlink()

    acts = {
        "traceback": lambda: 1 / 0,
        "wrote outside": write_elsewhere,
        "not one line": print_twice,
        "raw characters": lambda: (0, "\x1b", ""),
    }
    for how, act in acts.items():
        monkeypatch.setitem(fuzz.EDGES, "own", lambda rng, world, act=act: fuzz.Case(act))
        assert fuzz.attempt("own", 0, 0, world)[0] == how
