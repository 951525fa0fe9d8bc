"""Which check kills which mutant: measured, and written as docs/gate.md.

python -m tests.gate.table
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.gate import ledger, mutants_beside, noise, replay, rounds, sampler, sizes  # noqa: F401  (they register)
from tests.gate.mutants import BOTH, MUTANTS, Mutant
from tests.gate.system import CHECKS, ClientError, RefusalError, System

PAGE = Path(__file__).parents[2] / "docs" / "gate.md"

ENDS = (ClientError, RefusalError)
"""Alarms that fedtoll itself raises, before a check has judged."""

Killed = dict[str, tuple[str, ...]]
"""For every check that fails, on which engines."""


def outcome(check: str, system: System) -> AssertionError | None:
    """Return how a check ends: with nothing, a failed assertion, a client that fails, or a refusal."""
    try:
        CHECKS[check](system)
    except AssertionError as error:
        return error
    return None


def alarm(check: str, system: System) -> str:
    """Return what a check says of a system, or nothing; a client that fails is an alarm too."""
    error = outcome(check, system)
    return "" if error is None else str(error) or "it fails"


def kills(mutant: Mutant, error: AssertionError | None) -> bool:
    """Whether a check that ends so has judged the mutant."""
    return error is not None and (not isinstance(error, ENDS) or isinstance(error, mutant.ends))


def killed(mutant: Mutant, checks: Mapping[str, Iterable[str]], say: bool = False) -> Killed:
    """Run checks on a mutant, of either engine its own."""
    found: dict[str, list[str]] = {}
    with mutant():
        for engine in mutant.engines:
            for check in checks[engine]:
                error = outcome(check, System(engine))
                if kills(mutant, error):
                    found.setdefault(check, []).append(engine)
                if say and error is not None:
                    kind = type(error).__name__
                    print(f"  {engine:7} {check}: {kind}: {error!s:.160}", file=sys.stderr)  # noqa: T201
    return {check: tuple(engines) for check, engines in found.items()}


HEAD = """\
# The gate: which check kills which broken mechanism

An ε is worth as much as the tests that would notice if it were wrong. The checks in `tests/gate/` look at
what crosses the wire: runs are made from raw CSV files, clients get the messages that a server sends, and
all that they reply is compared with what the scenario permits. Public sizes, q, B, T, sensitivities and ε are
computed anew by the gate, not asked of fedtoll.

Each mutant is fedtoll with one mechanism broken. The same checks that fedtoll passes are run on it, on either
engine: ● both fail, c or o only that of the cohort or of the Opacus engine, · neither. A mutant counts as
killed if some check fails on every engine that it breaks. Where a client only answers with an error, or
fedtoll itself refuses and ends the run, no check has judged: that counts for the mutants that are about it.

This page is generated (`python -m tests.gate.table`), and a test holds it to what is measured.

"""


def _numbered() -> dict[str, int]:
    return {name: i for i, name in enumerate(CHECKS, 1)}


def _cell(mutant: Mutant, engines: tuple[str, ...]) -> str:
    if not engines:
        return "·"
    if engines == BOTH:
        return "●"
    return engines[0][0]


def line(mutant: Mutant, found: Killed) -> str:
    """Return a mutant's line of the table."""
    cells = " | ".join(_cell(mutant, found.get(check, ())) for check in CHECKS)
    return f"| {mutant.name} | {cells} |"


def lines(page: str) -> dict[str, str]:
    """Return the lines of a page's table by mutant."""
    return {m[1]: m[0] for m in re.finditer(r"^\| ([\w ]+?) \|(?: [●co·] \|)+$", page, re.MULTILINE)}


def killers(row: str, engine: str) -> list[str]:
    """Return the checks that fail on an engine, from a line of the table."""
    cells = [cell.strip() for cell in row.strip("|").split("|")[1:]]
    return [c for c, cell in zip(CHECKS, cells, strict=True) if cell in {"●", engine[0]}]


def page(rows: dict[str, str]) -> str:
    """Return the whole page from the lines of its table."""
    numbers = _numbered()
    checks = "\n".join(
        f"{n}. **{name}**: {(CHECKS[name].__doc__ or '').strip()}" for name, n in numbers.items()
    )
    heads = " | ".join(map(str, numbers.values()))
    table = "\n".join([f"| mutant | {heads} |", f"|---|{':-:|' * len(numbers)}", *rows.values()])
    breaks = "\n".join(
        f"- **{m.name}**: {m.breaks}{'' if m.engines == BOTH else f' ({m.engines[0]} engine)'}"
        for m in MUTANTS.values()
    )
    return (
        f"{HEAD}## The checks\n\n{checks}\n\n## {len(MUTANTS)} mutants, all killed\n\n{table}\n\n"
        f"## What each mutant breaks\n\n{breaks}\n"
    )


def main() -> None:
    """Measure everything and write the page."""
    rows = {}
    for mutant in MUTANTS.values():
        begun = time.monotonic()
        found = killed(mutant, dict.fromkeys(BOTH, CHECKS), say=True)
        rows[mutant.name] = line(mutant, found)
        spent = time.monotonic() - begun
        print(f"{rows[mutant.name]}  {spent:.1f} s", file=sys.stderr)  # noqa: T201
    PAGE.write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
