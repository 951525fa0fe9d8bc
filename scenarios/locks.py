"""Lock results folders, and remove what killed commands left in them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from fedtoll.scenarios.atomic import TEMPORARY
from fedtoll.scenarios.errors import ScenarioError

PARTS = {
    "runs": ("runs", "tuning", "converged", "errors", "reductions", "baselines"),
    "figures": ("figures",),
    "audit": ("audit", "audit/models"),
}
"""For each part of a results folder that is locked by itself, the folders with its files."""


@contextmanager
def locked(folder: Path, part: str, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Lock a part of a results folder; the lock of a killed command is released with it.

    The temporary files that a killed command left in the part are removed.

    Parameters
    ----------
    folder
        The results folder.
    part
        ``runs`` with all that is trained, ``figures`` with the report, or ``audit``. They have locks of their
        own, so that a report can be written while runs are trained.
    waiting
        Called once if another command has the lock.

    Raises
    ------
    ScenarioError
        If the folder cannot be written.
    """
    try:
        no_links(folder)
        (folder / part).mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / part / ".lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            waiting()
            lock.acquire()
    except (OSError, ValueError) as error:  # a NUL is a ValueError
        reason = getattr(error, "strerror", None) or error
        raise ScenarioError(f"{str(folder)[:200]}: cannot be written: {reason}") from None
    try:
        for name in PARTS[part]:
            _remove_leftovers(folder / name)
        if part == "runs":
            _remove_leftovers_of_both(folder)
        yield
    finally:
        lock.release()


def _remove_leftovers_of_both(folder: Path) -> None:
    """Remove temporary files in the folder itself, which runs and reports write to, unless a report is."""
    if not (folder / "figures").is_dir():
        _remove_leftovers(folder)
        return
    with suppress(OSError, Timeout), FileLock(folder / "figures" / ".lock", blocking=False):
        _remove_leftovers(folder)


def _remove_leftovers(folder: Path) -> None:
    for leftover in folder.glob(f"{TEMPORARY}*"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            with suppress(OSError):
                leftover.unlink()


def no_links(folder: Path) -> None:
    """Raise if a results folder contains a symbolic link, through which files outside could be written.

    Raises
    ------
    ScenarioError
        In one line that names the link.
    """
    for inside in (
        folder,
        *(folder / name for name in ("runs", "tuning", "converged", "figures", "errors", "audit")),
    ):
        if inside != folder and inside.is_symlink():
            raise ScenarioError(f"{inside}: is a symbolic link; fedtoll only writes inside its folder")
        for path in inside.iterdir() if inside.is_dir() else ():
            if path.is_symlink():
                raise ScenarioError(f"{path}: is a symbolic link; fedtoll only writes inside its folder")
