"""The gate kills every mutant, and docs/gate.md states by which checks."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.gate import table
from tests.gate.mutants import BOTH, MUTANTS
from tests.gate.parts import FIRST, QUICKEST
from tests.gate.system import CHECKS, System

PAGE = table.PAGE.read_text(encoding="utf-8") if table.PAGE.exists() else ""
ROWS = table.lines(PAGE)


def test_the_page_lists_these_mutants_and_checks():
    assert sorted(QUICKEST) == sorted(CHECKS)
    assert list(ROWS) == list(MUTANTS)
    assert len(MUTANTS) >= 14
    assert table.page(ROWS) == PAGE


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_is_killed(name):
    """On its first engine, by the quickest of the checks that the page names."""
    mutant = MUTANTS[name]
    engine = mutant.engines[0]
    check = min(table.killers(ROWS[name], engine), key=QUICKEST.index)
    with mutant():
        error = table.outcome(check, System(engine))
    assert table.kills(mutant, error), f"{engine}: {check!r} does not kill it: {error!r}"


def test_a_failing_client_and_a_refusal_are_no_verdict():
    """Except for a mutant that declares them. A failed assertion always is a verdict."""
    mutant = MUTANTS["no clipping"]
    for end in table.ENDS:
        assert not table.kills(mutant, end("an error"))
        assert table.kills(replace(mutant, ends=(end,)), end("an error"))
    assert table.kills(mutant, AssertionError("moves by more than the clip"))
    assert not table.kills(mutant, None)
    assert any(m.ends for m in MUTANTS.values())


@pytest.mark.parametrize("engine", BOTH)
def test_a_mutant_leaves_nothing_behind(engine):
    """A check that failed under the mutant passes again afterwards."""
    with MUTANTS["clip only claimed as private"]():
        assert table.alarm("no records", System(engine))
    assert not table.alarm("no records", System(engine))


@pytest.mark.thorough
@pytest.mark.parametrize("name", MUTANTS)
def test_every_check_that_the_page_names_kills(name):
    """Only the named checks run here; ``python -m tests.gate.table`` measures the whole page again.

    Of the checks of later systems, only the quickest runs, on the engines where no other kills.
    """
    mutant = MUTANTS[name]
    named: dict[str, list[str]] = {}
    for engine in mutant.engines:
        killers = table.killers(ROWS[name], engine)
        assert killers, f"{engine}: it survives"
        named[engine] = [c for c in killers if FIRST.owns(c)] or [min(killers, key=QUICKEST.index)]
    killed = table.killed(mutant, named)
    assert named == {e: [c for c in named[e] if e in killed.get(c, ())] for e in mutant.engines}
