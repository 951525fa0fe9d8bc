"""Results that are trained besides runs, cached in the results folder: candidates, reductions, baselines.

The name of each file depends on the run, and so on its constants, records and ``NUMERICS``, but not on the
versions of the libraries. Each folder therefore records them in ``versions.json``. Results of other versions
are never used silently: the command stops before it trains anything, unless ``--force`` is given.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from fedtoll.scenarios.atomic import write_bytes, write_file
from fedtoll.scenarios.errors import RunError, ScenarioError
from fedtoll.server.store import BINDING
from fedtoll.sweep.executor import outcomes, outcomes_together

PACKAGES = {
    "tuning": BINDING,
    "converged": ("numpy", "scikit-learn"),
    "reductions": (*BINDING, "fairlearn", "scikit-learn"),
    "baselines": ("numpy", "scipy", "scikit-learn"),
}
"""For each folder, the libraries whose version can change its results."""

STAMP = "versions.json"

Job = TypeVar("Job")
Result = TypeVar("Result")


def check(folder: Path, resolved: Mapping[str, Any]) -> None:
    """Reject a folder whose results were trained with other versions of the libraries.

    Parameters
    ----------
    folder
        A name of :data:`PACKAGES` in the results folder of a setting; it may be missing.
    resolved
        The content of ``resolved.json``. Its versions stand in for a missing stamp, since earlier releases
        wrote none.

    Raises
    ------
    ScenarioError
        One line with the folder, the library and both versions.
    """
    if not _has_results(folder):
        return
    before = _versions(folder, resolved)
    for name, now in _installed(folder).items():
        if before.get(name) != now:
            raise ScenarioError(
                f"{folder}: trained with {name} {before.get(name, 'of an unknown version')}, but {now} is "
                "installed; choose another --out, or mix them with --force"
            )


def open_folder(folder: Path, resolved: Mapping[str, Any], *, force: bool = False) -> Path:
    """Create or continue a folder, record the installed versions in it, and return it.

    Parameters
    ----------
    folder, resolved
        As in :func:`check`.
    force
        Continue results of other versions, and record those in ``mixed_with``.

    Raises
    ------
    ScenarioError
        If results are of other versions and ``force`` is not set.
    RunError
        If the folder cannot be written.
    """
    if not force:
        check(folder, resolved)
    stamp = _stamp(folder)
    mixed = list(stamp.get("mixed_with", []))
    installed = _installed(folder)
    if _has_results(folder) and (before := _versions(folder, resolved)) != installed:
        mixed.append(before)
    content = {"versions": installed, "mixed_with": mixed}
    if content != stamp:
        with _errors_name_folder(folder):
            folder.mkdir(parents=True, exist_ok=True)
            write_bytes(folder / STAMP, (json.dumps(content, indent=1) + "\n").encode())
    return folder


def complete(
    jobs: Mapping[Path, Job],
    work: Callable[[Any], Any],
    *,
    load: Callable[[Path], Result],
    save: Callable[[Path, Result], object],
    executor: str = "processes",
    workers: int | None = None,
    share: Callable[[Job], Any] = lambda job: None,
    timeout: float | None = None,
    apart: bool = False,
    together: Callable[[Sequence[Path]], Sequence[Sequence[int]]] | None = None,
    failed: Callable[[Path, str, str], Result] | None = None,
    finished: Callable[[Path], None] = lambda file: None,
) -> dict[Path, Result]:
    """Return the result of every job from its file; jobs whose file is missing or damaged are done first.

    Parameters
    ----------
    jobs
        The job of each file.
    work
        Does a job, possibly in another process.
    load, save
        Read and write a result. ``load`` raises OSError or ValueError for a missing or damaged file.
    executor, workers, share, timeout, apart
        How jobs are distributed: :func:`fedtoll.sweep.executor.outcomes`.
    together
        Returns the positions of the files whose jobs are done with one call of ``work``, which then takes
        several jobs and returns the result or the exception of each.
    failed
        Returns the result of a job that failed, from its file, the error in one line and the traceback. It is
        not stored, so the next call does the job again. By default, the first failure ends all.
    finished
        Called with the file of each result, after it was written or if it was there already.

    Raises
    ------
    RunError
        If a job fails without ``failed``, or a file cannot be written.
    """

    def readable(file: Path) -> bool:
        try:
            load(file)
        except (OSError, ValueError):
            return False
        return True

    todo, given_up = [], {}
    for file in jobs:
        if readable(file):
            finished(file)
        else:
            todo.append(file)
    texts = [jobs[file] for file in todo]
    how: Any = {"executor": executor, "workers": workers, "share": share, "timeout": timeout, "apart": apart}
    done = (
        outcomes(work, texts, **how)
        if together is None
        else outcomes_together(work, texts, together(todo), **how)
    )
    for position, (result, line, trace) in done:
        if result is None and failed is not None:
            given_up[todo[position]] = failed(todo[position], line, trace)
            continue
        if result is None:
            error = RunError(line)
            error.add_note(trace)
            raise error
        _store(todo[position], result, save)
        finished(todo[position])
    return {file: given_up[file] if file in given_up else load(file) for file in jobs}


def _store(file: Path, result: Result, save: Callable[[Path, Result], object]) -> None:
    with _errors_name_folder(file.parent):
        write_file(file, lambda temporary: save(temporary, result))


def _installed(folder: Path) -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in PACKAGES[folder.name]}


def _has_results(folder: Path) -> bool:
    return folder.is_dir() and any(file.name != STAMP for file in folder.iterdir())


def _versions(folder: Path, resolved: Mapping[str, Any]) -> dict[str, str]:
    """Return the recorded versions of the libraries that matter; a library without a record is left out."""
    if not (recorded := _stamp(folder).get("versions", {})) and (recorded := resolved.get("versions", {})):
        # resolved.json does not record scikit-learn, so only fairlearn's version can be compared.
        recorded = {"scikit-learn": importlib.metadata.version("scikit-learn"), **recorded}
    return {name: recorded[name] for name in PACKAGES[folder.name] if name in recorded}


def _stamp(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


@contextmanager
def _errors_name_folder(folder: Path) -> Iterator[None]:
    """Replace an OSError by one line that names the folder."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{folder}: cannot be written: {error.strerror or error}") from None
