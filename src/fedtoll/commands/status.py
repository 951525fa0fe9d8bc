"""``fedtoll status``: how far a sweep is, also from another terminal while it runs."""

from __future__ import annotations

import fcntl
import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from fedtoll.console import echo
from fedtoll.options import Json
from fedtoll.scenarios.errors import one_line

MOST_FAILURES = 5
"""How many failures are printed with their reason."""


@dataclass(frozen=True)
class Status:
    """How far a results folder is.

    Attributes
    ----------
    name
        The scenario's name; empty before the first run of a folder, while constants are chosen.
    active
        Whether a command trains in the folder now.
    runs, done
        The number of planned runs, and of those that are stored.
    failures
        What went wrong, by the label of the run. A failed run is tried again by the same command.
    candidates
        The number of stored trainings of candidates for ``[tune]``.
    seconds_left
        An estimate from the runs stored since the command began; ``None`` if it is not known.
    measures
        Whether the folder can have measures; ``False`` for a shareable copy without.
    """

    name: str
    active: bool
    runs: int
    done: int
    failures: dict[str, str] = field(default_factory=dict)
    candidates: int = 0
    seconds_left: float | None = None
    measures: bool = True


def status(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Results folder.")],
    as_json: Json = False,
) -> None:
    """Show how far a sweep is: runs done and failed, and the time left.

    Only reads, so it works from another terminal while the sweep runs.
    """
    found = read(folder)
    echo(json.dumps(asdict(found), ensure_ascii=False, indent=1) if as_json else _text(found, folder))


def read(folder: Path) -> Status:
    """Return how far a results folder is, without changing anything in it.

    Raises
    ------
    ScenarioError
        If nothing of fedtoll is in the folder.
    """
    from fedtoll.scenarios import resolved

    active = _locked(folder / "runs" / ".lock")
    stamps = {"versions.json"}
    candidates = sum(file.name not in stamps for file in (folder / "tuning").glob("*.json"))
    if not (folder / "resolved.json").exists() and (active or candidates):
        return Status("", active, 0, 0, _failures(folder, set()), candidates)
    content = resolved.read(folder)
    listed = {r["hash"]: r for key in ("runs", "recipe", "probe") for r in content.get(key, [])}
    stored = [path for h in listed if (path := folder / "runs" / h).is_dir()]
    name = str(content.get("scenario", {}).get("name", "results"))
    failures = _failures(folder, {path.name for path in stored})
    left = _left(folder, stored, len(listed) - len(stored)) if active else None
    measures = content.get("exported") != "without measures"
    return Status(name, active, len(listed), len(stored), failures, candidates, left, measures)


def _locked(lock: Path) -> bool:
    """Return whether a command holds a lock; it ends with the command, however that ends."""
    try:
        with lock.open("rb") as opened:
            try:
                fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
    except OSError:
        return False
    return False


def _failures(folder: Path, stored: set[str]) -> dict[str, str]:
    """Return the last line of every traceback of a run that is not stored, by the run's label."""
    found = {}
    for file in sorted((folder / "errors").glob("*.txt")):
        if file.stem in stored:
            continue
        lines = file.read_text(encoding="utf-8", errors="replace").strip().splitlines() or [file.stem]
        found[lines[0]] = one_line(lines[-1])[:200]
    return found


def _left(folder: Path, stored: list[Path], missing: int) -> float | None:
    """Return the expected seconds, from the runs stored since the current command began to train."""
    try:
        begin = (folder / "resolved.json").stat().st_mtime
        new = sum(path.stat().st_mtime > begin for path in stored)
    except OSError:
        return None
    return (time.time() - begin) / new * missing if new else None


def _text(found: Status, folder: Path) -> str:
    from fedtoll.formatting import duration

    if not found.name:
        state = "chooses constants" if found.active else "stopped while it chose constants"
        lines = [f"{folder}: {state}; {found.candidates} trainings of candidates are stored"]
    else:
        lines = [f"{found.name}: {found.done} of {found.runs} runs done, {len(found.failures)} failed"]
        if not found.measures:
            lines.append("a shareable copy without measures: it has nothing to report")
        elif found.active:
            left = "" if found.seconds_left is None else f", about {duration(found.seconds_left)} left"
            lines.append(f"a command trains here now{left}")
        elif found.done < found.runs:
            lines.append("no command trains here now; the same command resumes")
        else:
            lines.append(f"complete; fedtoll report {folder} writes the report again")
    failures: list[Any] = list(found.failures.items())
    lines += [f"failed: {label}: {reason}" for label, reason in failures[:MOST_FAILURES]]
    if len(failures) > MOST_FAILURES:
        lines.append(f"and {len(failures) - MOST_FAILURES} more in {folder / 'errors'}")
    return "\n".join(lines)
