"""Load a results folder: tidy frames over all its runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import pandas as pd
import pyarrow as pa

from fedtoll.scenarios.errors import FedtollError, ScenarioError, one_line
from fedtoll.scenarios.measures import RUN, measure_named
from fedtoll.scenarios.resolved import read
from fedtoll.scenarios.run import Run
from fedtoll.scenarios.visible import visible
from fedtoll.server.store import REQUIRED, TABLES, Store

Key = tuple[str, str, float, int]
"""What identifies a run: strategy, mechanism, ε and seed."""


class NothingFinishedError(ScenarioError):
    """No run of a results folder is finished."""


@dataclass(frozen=True, eq=False, repr=False)
class Results:
    """A results folder in memory: tidy frames over all its runs.

    Every frame begins with the columns ``strategy``, ``mechanism`` (``none``, ``clip-only`` or
    ``dp-sgd``), ``epsilon`` (infinity for the first two) and ``seed``. Two results are equal only if they are
    the same object.

    Parameters
    ----------
    folder
        The results folder.
    resolved
        The content of ``resolved.json``.
    groups
        Per-group measures on held-out records: one row per run, round and group. In a scenario with
        ``[tune]`` these are the runs with the constants that were chosen; see ``recipe`` for the others.
    clients
        One row per run, round and client: weight, noise, statistics, ε spent.
    rounds
        One row per run and round: the effective noise and the engine.
    ledger
        Every release of every client.
    predictions
        The final score of every held-out record, of the runs that stored it.
    missing
        Labels of planned runs that are not stored (yet).
    part
        ``recipe`` or ``probe`` if these are the runs of that property of other results; else empty.
    """

    folder: Path
    resolved: dict[str, Any]
    groups: pd.DataFrame
    clients: pd.DataFrame
    rounds: pd.DataFrame
    ledger: pd.DataFrame
    predictions: pd.DataFrame
    missing: tuple[str, ...] = ()
    part: str = ""

    @cached_property
    def recipe(self) -> Self | None:
        """The results with the constants of ``[training]``, if all others are those that ``[tune]`` chose.

        ``None`` if the scenario has no ``[tune]``, or no run of its recipe is finished.
        """
        return self._other("recipe", self.resolved.get("recipe", []))

    @cached_property
    def probe(self) -> dict[float, Self]:
        """The results of a few runs with other learning rates, by learning rate, if there was a probe."""
        runs = self.resolved.get("probe", [])
        rates = sorted({run["learning_rate"] for run in runs})
        tried = {rate: [run for run in runs if run["learning_rate"] == rate] for rate in rates}
        found = {rate: self._other("probe", tried[rate]) for rate in rates}
        return {rate: results for rate, results in found.items() if results is not None}

    def _other(self, part: str, runs: Sequence[dict[str, Any]]) -> Self | None:
        """Return the results of other runs in this folder; ``None`` if none is finished."""
        if not runs:
            return None
        resolved = {k: v for k, v in self.resolved.items() if k not in {"recipe", "probe", "tuning"}}
        try:
            return type(self)(**_joined(Store(self.folder), resolved | {"runs": runs}), part=part)
        except NothingFinishedError:
            return None
        except Exception as error:  # reading files of unknown origin can raise anything
            raise unreadable(self.folder, error) from None

    def toll(self, measure: str = "log_loss") -> pd.DataFrame:
        """Return each group's toll: :func:`fedtoll.toll.toll` with this scenario's folds and reference."""
        from fedtoll.toll import results_toll

        measure_named(measure)
        with readable(self.folder):
            return results_toll(self, measure)

    def toll_gap(self, measure: str = "log_loss") -> pd.DataFrame:
        """Return the groups that pay most and least by strategy and ε: :func:`fedtoll.toll.toll_gap`."""
        from fedtoll.toll import toll_gap

        measure_named(measure)
        with readable(self.folder):
            return toll_gap(self.toll(measure))

    def comparisons(self) -> pd.DataFrame:
        """Return the tests of strategies that the scenario declares: :func:`fedtoll.toll.comparisons`."""
        from fedtoll.toll import comparisons

        with readable(self.folder):
            return comparisons(self)

    def joint_intervals(self, measure: str = "log_loss") -> pd.DataFrame:
        """Return intervals of the tolls in the population: :func:`fedtoll.toll.joint_intervals`."""
        from fedtoll.toll import joint_intervals

        with readable(self.folder):
            return joint_intervals(self, measure)

    def __repr__(self) -> str:
        name = self.resolved.get("scenario", {}).get("name", "results")
        runs, planned = len(self.resolved["runs"]) - len(self.missing), len(self.resolved["runs"])
        keys = self.groups[["strategy", "mechanism", "epsilon", "seed"]].drop_duplicates()
        parts = [
            f"{runs} of {planned} runs" if self.missing else f"{runs} runs",
            f"{(n := keys['strategy'].nunique())} {'strategy' if n == 1 else 'strategies'}",
            f"{len(keys[['mechanism', 'epsilon']].drop_duplicates())} ε",
            f"{(n := keys['seed'].nunique())} {'seed' if n == 1 else 'seeds'}",
        ]
        of = f"{name} ({self.part})" if self.part else name
        return visible(f"<Results of {of}: {', '.join(parts)}; {self.folder}>")


def load(folder: str | Path) -> Results:
    """Read a results folder into tidy frames.

    Raises
    ------
    ScenarioError
        If the folder has no results of fedtoll, or no run is finished.
    """
    store = Store(Path(folder))
    resolved = read(store.folder)
    if resolved.get("exported") == "without measures":
        raise ScenarioError(
            f"{str(folder)[:200]}: a shareable copy without measures: it has nothing to report"
        )
    try:
        return Results(**_joined(store, resolved))
    except ScenarioError:
        raise
    except Exception as error:  # reading files of unknown origin can raise anything
        raise unreadable(folder, error) from None


def skipped_replies(folder: Path, run: Run) -> int:
    """Return the number of skipped replies of a stored run.

    Raises
    ------
    ScenarioError
        If its file cannot be read; one line, as for :func:`load`.
    """
    if run.on_failure != "skip":
        return 0
    file = folder / "runs" / run.hash / "clients.parquet"
    try:
        reasons = pd.read_parquet(file, columns=["skipped"])["skipped"]
    except Exception as error:  # reading a damaged file can raise anything
        raise unreadable(folder, error) from None
    return int((reasons != "").sum())


@contextmanager
def readable(folder: str | Path) -> Iterator[None]:
    """Replace any error of the block by one line: it computes with what was read from a folder.

    Files of unknown origin can have the right columns and types, and still values that no run has.

    Raises
    ------
    ScenarioError
        If the block raises anything but fedtoll's own errors and those of the disk.
    """
    try:
        yield
    except (FedtollError, OSError):
        raise
    except Exception as error:
        raise unreadable(folder, error) from error


def unreadable(folder: str | Path, error: Exception) -> ScenarioError:
    """Return a one-line error for a results folder whose files cannot be read."""
    reason = one_line(f"{type(error).__name__}: {error}")[:200]
    return ScenarioError(f"{folder}: cannot be read as results of fedtoll ({reason})")


def _joined(store: Store, resolved: dict[str, Any]) -> dict[str, Any]:
    """Read and join the tables of all runs listed in ``resolved.json``; return the fields of the results."""
    tables: dict[str, list[tuple[Key, pa.Table]]] = {name: [] for name in TABLES}
    missing = []
    for run in resolved["runs"]:
        if not (store.folder / "runs" / run["hash"]).is_dir():
            missing.append(f"{run['strategy']}, ε = {run['epsilon']}, seed {run['seed']}")
            continue
        key = run["strategy"], run["mechanism"], float(run["epsilon"]), run["seed"]
        try:
            stored = store.read(run["hash"])
        except ScenarioError as error:
            raise ScenarioError(f"{error}; `fedtoll run` trains this run again") from None
        for name, table in stored.items():
            tables[name].append((key, table))
    if not tables["groups"]:
        raise NothingFinishedError(f"{store.folder}: no run is finished yet")
    joined = {name: _joined_table(name, parts) for name, parts in tables.items()}
    return {"folder": store.folder, "resolved": resolved, "missing": tuple(missing), **joined}


def _joined_table(name: str, parts: Sequence[tuple[Key, pa.Table]]) -> pd.DataFrame:
    """Concatenate the tables of all runs, with the columns that identify a run in front."""
    if not parts:  # no run stored its predictions
        return pd.DataFrame(columns=[*RUN, *REQUIRED[name]])
    frame = _frame([part for _, part in parts])
    rows = [part.num_rows for _, part in parts]
    for position, column in enumerate(RUN):
        values = pd.Series([key[position] for key, _ in parts])
        frame.insert(position, column, values.repeat(rows).reset_index(drop=True))
    return frame


def _frame(parts: Sequence[pa.Table]) -> pd.DataFrame:
    """Concatenate tables into one frame."""
    frames: list[pd.DataFrame]
    try:
        # Concatenated before the conversion: one frame per file would take most of the time.
        frames = [pa.concat_tables(parts, promote_options="permissive").to_pandas(ignore_metadata=True)]
    except pa.ArrowException:  # a column with two types, e.g. a plug-in's statistic: pandas keeps both
        frames = [part.to_pandas(ignore_metadata=True) for part in parts]
    return frames[0] if len(frames) == 1 else pd.concat(frames, ignore_index=True)
