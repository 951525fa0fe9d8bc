"""Store runs on disk atomically.

A results folder has ``scenario.toml`` (as given), ``resolved.json`` (everything resolved, with versions and
checksums), ``runs/<hash>/`` with one Parquet file per table, ``errors/`` and ``report.html``. A run is
complete or absent, never partly written.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from fedtoll.privacy import accounting
from fedtoll.scenarios.atomic import TEMPORARY, write_bytes, write_folder
from fedtoll.scenarios.errors import RunError, ScenarioError
from fedtoll.scenarios.federation import Federation
from fedtoll.scenarios.numbers import write_number
from fedtoll.scenarios.run import NUMERICS, Run
from fedtoll.scenarios.scenario import Scenario
from fedtoll.server.plan import Plan

PREDICTIONS = "predictions"
"""The one table that a run may not have."""

TABLES = ("groups", "clients", "rounds", "ledger", PREDICTIONS)
_PACKAGES = ("fedtoll", "torch", "opacus", "flwr", "numpy", "pandas", "scipy", "fairlearn", "ray")
BINDING = ("torch", "opacus", "flwr", "numpy")
"""The packages whose version could change results."""

MOST_BYTES = 2**28
"""The maximum size of ``resolved.json``; a sweep of a million runs needs less."""

_TEXTS = {"group", "release", "engine"}
REQUIRED = {
    "groups": ("round", "group", "n"),
    "clients": ("round", "client", "group", "public_size", "weight", "coefficient", "epsilon_spent"),
    "rounds": ("round", "effective_noise", "replies", "engine"),
    "ledger": ("client", "round", "release", "sampling_rate", "noise_multiplier", "count", "epsilon_spent"),
    PREDICTIONS: ("record", "group", "label"),
}
"""The columns that every table has."""


def versions() -> dict[str, str]:
    """Return the versions of Python and of all packages that results depend on."""
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
    }


class Store:
    """Reads and writes one results folder.

    Parameters
    ----------
    folder
        The results folder, created at the first write.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def lock(self, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Lock the folder for one command; the lock of a killed command is released with it.

        Two commands on one folder neither duplicate nor lose a run: the second waits, then finds the runs
        of the first.

        Parameters
        ----------
        waiting
            Called once if another command has the lock.
        """
        runs = self.folder / "runs"
        try:
            no_links(self.folder)
            runs.mkdir(parents=True, exist_ok=True)
            lock = FileLock(runs / ".lock")
            try:
                lock.acquire(blocking=False)
            except Timeout:
                waiting()
                lock.acquire()
        except (OSError, ValueError) as error:  # a NUL is a ValueError
            reason = getattr(error, "strerror", None) or error
            raise ScenarioError(f"{str(self.folder)[:200]}: cannot be written: {reason}") from None
        try:
            # A killed command leaves temporary files behind.
            places = (self.folder, *(self.folder / name for name in ("runs", "tuning", "converged")))
            for leftover in (file for place in places for file in place.glob(f"{TEMPORARY}*")):
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)
            yield
        finally:
            lock.release()

    def has(self, run: Run) -> bool:
        """Return whether a run is stored, with its predictions if it stores them."""
        folder = self.folder / "runs" / run.hash
        return folder.is_dir() and (not run.predictions or (folder / f"{PREDICTIONS}.parquet").exists())

    def open(self, planned: Plan, text: str, command: str, *, force: bool = False) -> None:
        """Create or continue the folder for a planned scenario.

        Raises
        ------
        ScenarioError
            If stored runs were made with other package versions (unless forced), or the folder
            cannot be written.
        """
        now, resolved = versions(), self.resolved()
        mixed: list[dict[str, str]] = []
        if any(self.has(run) for run in planned.all_runs):
            if not force:
                self.check_versions()
            before = resolved.get("versions", {})
            other = any(before.get(name) != now[name] for name in BINDING)
            mixed = [*resolved.get("mixed_with", []), *([before] if other else [])]
        content = {**_resolved(planned, command, now), "mixed_with": mixed}
        try:
            (self.folder / "runs").mkdir(parents=True, exist_ok=True)
            write_bytes(self.folder / "scenario.toml", text.encode())
            write_bytes(
                self.folder / "resolved.json",
                (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode(),
            )
        except OSError as error:
            raise ScenarioError(f"{self.folder}: cannot be written: {error.strerror or error}") from None

    def check_versions(self) -> None:
        """Reject a folder whose runs were made with other versions of the packages in ``BINDING``.

        Raises
        ------
        ScenarioError
            One line with the folder, the package and both versions.
        """
        now, before = versions(), self.resolved().get("versions", {})
        for name in BINDING:
            if before.get(name) != now[name]:
                raise ScenarioError(
                    f"{self.folder}: its runs were made with {name} {before.get(name)}, here is "
                    f"{now[name]}: choose another --out, or mix them with --force"
                )

    def write(self, run: Run, tables: dict[str, pd.DataFrame]) -> None:
        """Store the tables of one run atomically.

        Raises
        ------
        RunError
            If it cannot be written.
        """
        runs = self.folder / "runs"

        def fill(folder: Path) -> None:
            (folder / "run.json").write_text(run.to_json() + "\n", encoding="utf-8")
            for name in tables:
                tables[name].to_parquet(folder / f"{name}.parquet", index=False, compression="zstd")

        try:
            runs.mkdir(parents=True, exist_ok=True)
            if (runs / run.hash).is_dir() and not self.has(run):  # stored without predictions
                shutil.rmtree(runs / run.hash)
            write_folder(runs / run.hash, fill)
            (self.folder / "errors" / f"{run.hash}.txt").unlink(missing_ok=True)
        except OSError as error:
            if not self.has(run):  # otherwise another command stored it first, with the same bytes
                raise RunError(f"{runs}: cannot be written: {error.strerror or error}") from None

    def read(self, run_hash: str) -> dict[str, pa.Table]:
        """Return the tables of one run; predictions only if it stored them."""
        files = {name: self.folder / "runs" / run_hash / f"{name}.parquet" for name in TABLES}
        return {
            name: _table(file, REQUIRED[name])
            for name, file in files.items()
            if name != PREDICTIONS or file.exists()
        }

    def fail(self, run: Run, text: str) -> Path:
        """Write the traceback of a failed run to ``errors/`` and return its path.

        Raises
        ------
        RunError
            If it cannot be written.
        """
        folder = self.folder / "errors"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_bytes(folder / f"{run.hash}.txt", f"{run.label}\n\n{text}".encode())
        except OSError as error:
            raise RunError(f"{folder}: cannot be written: {error.strerror or error}") from None
        return folder / f"{run.hash}.txt"

    def resolved(self) -> dict[str, Any]:
        """Return the content of ``resolved.json``; empty if it cannot be read."""
        try:
            with (self.folder / "resolved.json").open("rb") as file:
                text = file.read(MOST_BYTES + 1)
            content = json.loads(text) if len(text) <= MOST_BYTES else {}
        except (OSError, ValueError, RecursionError):
            return {}
        return content if isinstance(content, dict) else {}


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


def _table(file: Path, columns: Sequence[str]) -> pa.Table:
    """Read a table; raise unless it has the required columns, with numbers where they are expected."""
    with pq.ParquetFile(file) as parquet:
        table = parquet.read(use_threads=False)  # threads cost more than reading so small a file
    for column in columns:
        if column not in table.column_names:
            raise ValueError(f"{file.name} has no column {column!r}")
        kind = table.schema.field(column).type
        if column not in _TEXTS and not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            raise ValueError(f"{file.name}: the column {column!r} is not numeric")
    return table


def _resolved(planned: Plan, command: str, versions: dict[str, str]) -> dict[str, Any]:
    """Return the content of ``resolved.json``: what the report and outsiders need."""
    scenario, runs, federation = planned.scenario, planned.runs, planned.federation
    source = federation.source
    noise = {}
    for run in runs:
        for client in run.clients if run.mechanism == "dp-sgd" else ():
            noise[run.strategy.name, run.epsilon, client.id] = {
                "strategy": run.strategy.name,
                "mechanism": run.mechanism,
                "epsilon": run.epsilon,
                "client": client.id,
                "sampling_rate": client.sampling_rate,
                "steps": client.steps * run.rounds,
                "noise_multiplier": client.noise_multiplier,
                "statistics": [s.model_dump(mode="json") for s in run.statistics],
            }
    return {
        "fedtoll": versions["fedtoll"],
        "numerics": NUMERICS,
        "command": command,
        "scenario": {
            **scenario.model_dump(mode="json"),
            "data": {**scenario.data.model_dump(mode="json"), "file": Path(scenario.data.file).name},
            "strategies": [{"name": s.name, "label": s.label, **s.parameters} for s in scenario.strategies],
        },
        "data": {
            "source": source.name,
            "title": source.title,
            "rows": source.rows or len(federation.table),
            "licence": source.licence,
            "citation": source.citation,
            "checksum": source.checksum,
        },
        "clients": [{"id": c.id, "group": c.group, "size": c.size} for c in runs[0].clients],
        **({"partition": _expected(federation, runs[0].groups)} if _counts_are_public(scenario) else {}),
        "versions": versions,
        "runs": [_listed(run) for run in runs],
        "noise": list(noise.values()),
        "rdp_orders": list(accounting.ORDERS),
        **({"recipe": [_listed(run) for run in planned.recipe]} if planned.recipe else {}),
        **(
            {"probe": [{**_listed(run), "learning_rate": run.learning_rate} for run in planned.probe]}
            if planned.probe
            else {}
        ),
        **planned.facts,
    }


def _counts_are_public(scenario: Scenario) -> bool:
    """Return whether clients' records by group follow from public facts.

    Built-in sources are public. For a user's own file only sizes are declared: with a public group per client
    they say how many records of each group it holds, otherwise nothing public does.
    """
    return not scenario.data.file or scenario.partition.kind == "group"


def _expected(federation: Federation, groups: Sequence[str]) -> dict[str, Any]:
    """Return the number of records of each group that the plan expects each client to hold."""
    return {"groups": list(groups), "expected": np.round(federation.layout.expected_KG, 1).tolist()}


def _listed(run: Run) -> dict[str, Any]:
    """Return a run as ``resolved.json`` lists it."""
    return {
        "hash": run.hash,
        "strategy": run.strategy.name,
        "mechanism": run.mechanism,
        "epsilon": write_number(run.epsilon),
        "seed": run.seed,
        "engine": run.engine,
    }
