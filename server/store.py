"""Store runs on disk atomically.

A results folder has ``scenario.toml`` (as given), ``resolved.json`` (everything resolved, with versions and
checksums), ``runs/<hash>/`` with one Parquet file per table, ``errors/`` and ``report.html``. A run is
complete or absent, never partly written.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import platform
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from fedtoll.privacy import accounting
from fedtoll.privacy.ledger import ALL_CLIENTS
from fedtoll.scenarios import resolved
from fedtoll.scenarios.atomic import write_bytes, write_folder
from fedtoll.scenarios.data import Source
from fedtoll.scenarios.errors import RunError, ScenarioError, one_line
from fedtoll.scenarios.federation import Federation
from fedtoll.scenarios.fields import without_default
from fedtoll.scenarios.locks import locked
from fedtoll.scenarios.numbers import write_number
from fedtoll.scenarios.run import NUMERICS, ClientPlan, Run
from fedtoll.scenarios.scenario import Scenario

if TYPE_CHECKING:  # it imports torch, which a report does not need
    from fedtoll.server.plan import Plan

PREDICTIONS = "predictions"
"""The one table that a run may not have."""

TABLES = ("groups", "clients", "rounds", "ledger", PREDICTIONS)
_PACKAGES = ("fedtoll", "torch", "opacus", "flwr", "numpy", "pandas", "scipy", "fairlearn", "ray")
BINDING = ("torch", "opacus", "flwr", "numpy")
"""The packages whose version could change results."""

_TEXTS = {"group", "release", "engine"}
REQUIRED = {
    "groups": ("round", "group", "n"),
    "clients": ("round", "client", "group", "public_size", "weight", "coefficient", "epsilon_spent"),
    "rounds": ("round", "effective_noise", "replies", "engine"),
    "ledger": ("client", "round", "release", "sampling_rate", "noise_multiplier", "count", "epsilon_spent"),
    PREDICTIONS: ("record", "group", "label"),
}
"""The columns that every table has."""

_log = logging.getLogger("fedtoll")


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
    def lock(self, waiting: Callable[[], None] = lambda: None, *, part: str = "runs") -> Iterator[None]:
        """Lock a part of the folder for one command: :func:`fedtoll.scenarios.locks.locked`.

        Two commands on one folder neither duplicate nor lose a run: the second waits, then finds the runs
        of the first.
        """
        with locked(self.folder, part, waiting):
            yield

    def has(self, run: Run) -> bool:
        """Return whether a run is stored, with its predictions if it stores them."""
        folder = self.folder / "runs" / run.hash
        return folder.is_dir() and (not run.predictions or (folder / f"{PREDICTIONS}.parquet").exists())

    def open(self, planned: Plan, text: str, command: str, *, force: bool = False) -> None:
        """Create or continue the folder for a planned scenario.

        Stored runs that cannot be read, e.g. after a power cut, are removed, each with a warning, so that
        they are trained again.

        Raises
        ------
        ScenarioError
            If stored runs were made with other package versions (unless forced), or the folder
            cannot be written.
        """
        now, stored = versions(), self.resolved()
        mixed: list[dict[str, str]] = []
        if any(self.has(run) for run in planned.all_runs):
            if not force:
                self.check_versions()
            before = stored.get("versions", {})
            other = any(before.get(name) != now[name] for name in BINDING)
            mixed = [*stored.get("mixed_with", []), *([before] if other else [])]
        self._remove_damaged(planned.all_runs)
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
        try:
            before = resolved.read(self.folder).get("versions", {})
        except ScenarioError as error:
            raise ScenarioError(
                f"{error}; so the versions of its runs are unknown: choose another --out, or mix them with "
                "--force"
            ) from None
        now = versions()
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
            self.no_failure(run)
        except OSError as error:
            if not self.has(run):  # otherwise another command stored it first, with the same bytes
                raise RunError(f"{runs}: cannot be written: {error.strerror or error}") from None

    def read(self, run_hash: str) -> dict[str, pa.Table]:
        """Return the tables of one run; predictions only if it stored them.

        Raises
        ------
        ScenarioError
            In one line that names the file that cannot be read.
        """
        files = {name: self.folder / "runs" / run_hash / f"{name}.parquet" for name in TABLES}
        return {
            name: _table(file, REQUIRED[name])
            for name, file in files.items()
            if name != PREDICTIONS or file.exists()
        }

    def _remove_damaged(self, runs: Sequence[Run]) -> None:
        """Remove the stored ones of these runs that cannot be read, and name each in a warning."""
        for run in runs:
            if not (self.folder / "runs" / run.hash).is_dir():
                continue
            try:
                self.read(run.hash)
                damage = self._other_run(run)
            except Exception as error:  # reading a damaged file can raise anything
                damage = one_line(str(error) or type(error).__name__)
            if damage:
                _log.warning("fedtoll: %s: %s; it is trained again", run.label, damage[:300])
                folder = self.folder / "runs" / run.hash
                try:
                    shutil.rmtree(folder)
                except OSError as error:
                    raise ScenarioError(f"{folder}: cannot be removed: {error.strerror or error}") from None

    def _other_run(self, run: Run) -> str:
        """Return what is wrong with ``run.json``, or an empty string."""
        file = self.folder / "runs" / run.hash / "run.json"
        try:
            same = Run.from_json(file.read_text(encoding="utf-8")).hash == run.hash
        except (OSError, ValueError, RecursionError):
            same = False
        return "" if same else f"{file}: not the description of this run"

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

    def no_failure(self, run: Run) -> None:
        """Remove the traceback of an earlier failure of a run, and ``errors/`` if it was the last."""
        folder = self.folder / "errors"
        (folder / f"{run.hash}.txt").unlink(missing_ok=True)
        with suppress(OSError):  # others are left, or there is no such folder
            folder.rmdir()

    def resolved(self) -> dict[str, Any]:
        """Return the content of ``resolved.json``; empty if it is not what fedtoll writes."""
        try:
            return resolved.read(self.folder)
        except ScenarioError:
            return {}


def _table(file: Path, columns: Sequence[str]) -> pa.Table:
    """Read a table; raise unless it has the required columns, with numbers where they are expected."""
    try:
        with pq.ParquetFile(file) as parquet:
            table = parquet.read(use_threads=False)  # threads cost more than reading so small a file
        for column in columns:
            if column not in table.column_names:
                raise ValueError(f"it has no column {column!r}")
            kind = table.schema.field(column).type
            if column not in _TEXTS and not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
                raise ValueError(f"its column {column!r} is not numeric")
    except FileNotFoundError:
        raise ScenarioError(f"{file}: is missing") from None
    except Exception as error:  # reading a damaged file can raise anything
        reason = one_line(str(error) or type(error).__name__)[:200]
        raise ScenarioError(f"{file}: cannot be read: {reason}") from None
    return table


def _resolved(planned: Plan, command: str, versions: dict[str, str]) -> dict[str, Any]:
    """Return the content of ``resolved.json``: what the report and outsiders need."""
    scenario, runs, federation = planned.scenario, planned.runs, planned.federation
    source = federation.source
    noise = {}
    for run in runs:
        personal = run.has_personal_budgets
        shares = set() if run.trust == "local" else {"weight", "noise_share"}
        listed = run.clients[:1] if run.hides_clients else run.clients  # then all are charged alike
        for client in listed if run.mechanism == "dp-sgd" else ():
            number = ALL_CLIENTS if run.hides_clients else client.id
            noise[run.strategy.name, run.epsilon, number] = {
                "strategy": run.strategy.name,
                "mechanism": run.mechanism,
                "epsilon": run.epsilon,
                "client": number,
                **({"epsilon_target": run.target_of(client)} if personal else {}),
                "sampling_rate": run.trained(client)[0],
                "steps": run.trained(client)[1] * run.rounds_of(client),
                "noise_multiplier": client.noise_multiplier,
                "statistics": [s.model_dump(mode="json") for s in run.statistics],
                **client.model_dump(include=shares),
            }
    return {
        "fedtoll": versions["fedtoll"],
        "numerics": NUMERICS,
        "command": command,
        "scenario": {
            **scenario.model_dump(mode="json"),
            "data": scenario.data.without_folders.model_dump(mode="json"),
            "strategies": [{"name": s.name, "label": s.label, **s.parameters} for s in scenario.strategies],
        },
        "data": {
            "source": source.name,
            "title": source.title,
            "rows": source.rows or len(federation.table),
            "licence": source.licence,
            "citation": source.citation,
            "checksum": source.checksum,
            **({"public": source.public} if scenario.data.code else {}),
        },
        "clients": [_client(c) for c in next((r for r in runs if r.mechanism == "dp-sgd"), runs[0]).clients],
        **({"partition": _expected(federation, runs[0].groups)} if _counts_public(scenario, source) else {}),
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


def _client(client: ClientPlan) -> dict[str, Any]:
    """Return the public facts of a client; its share of ε and of the rounds only if it is not all of them."""
    facts = client.model_dump(include={"id", "group", "size", "epsilon_factor", "rounds"})
    return without_default(facts, epsilon_factor=1.0, rounds=None)


def _counts_public(scenario: Scenario, source: Source) -> bool:
    """Return whether clients' records by group follow from public facts.

    Built-in sources are public. For a user's own records only sizes are declared: with a public group per
    client they say how many records of each group it holds, otherwise nothing public does.
    """
    return source.public or scenario.partition.kind == "group"


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
