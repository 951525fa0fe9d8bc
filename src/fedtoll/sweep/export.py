"""Copy a results folder without what its records determine.

A results folder is the experimenter's. Most of it is computed exactly from records, and in a simulation,
whose seeds are known, not even the noised part is protected. So the copy has the plan and the ledger, which
follow from public facts alone, and further tables only if the holder of the records accepts that. What is
copied is listed here, not what is left out: a file, key or column that is new stays behind.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from fedtoll.scenarios.atomic import write_folder
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.resolved import private_records, read
from fedtoll.scenarios.run import Run
from fedtoll.server.results import unreadable

PUBLIC = (
    *("fedtoll", "numerics", "scenario", "data", "clients", "partition"),
    *("versions", "runs", "noise", "rdp_orders", "recipe", "mixed_with"),
)
"""The keys of ``resolved.json`` that follow from public facts, if ``[tune]`` chose no constants."""

MEASURED = ("tuning", "probe", "converged")
"""The keys of ``resolved.json`` that are copied with measures."""

LEDGER = (
    *("client", "round", "release", "sampling_rate", "noise_multiplier", "count"),
    *("epsilon_spent", "delta", "accountant"),
)
"""The columns of ``ledger``, which follow from public facts."""

PERSONAL = "epsilon_target"
"""One more column of ``ledger``, if clients have personal budgets."""

TABLES = ("groups", "clients", "rounds")
"""The tables that are copied with measures."""


def export(folder: Path, out: Path, *, with_measures: bool = False) -> tuple[int, list[str]]:
    """Copy what can be shared of a results folder.

    Parameters
    ----------
    folder
        The results folder.
    out
        The copy; it must not exist, and not lie in the results folder.
    with_measures
        Whether the copy has what was measured on records. Results on a built-in source, whose records are
        public, always have it.

    Returns
    -------
    int, list
        The number of runs in the copy, and what was left out: files, and keys of ``resolved.json``.

    Raises
    ------
    ScenarioError
        If the folder has no results, cannot be read, or the copy exists, lies in it or cannot be written.
    """
    resolved = read(folder)
    if out.exists() or out.is_symlink():
        raise ScenarioError(f"{out}: exists already; choose another name")
    if out.resolve().is_relative_to(folder.resolve()):
        raise ScenarioError(f"{out}: lies in the results folder {folder}; choose another place")
    try:
        copy = _Copy(folder, resolved, with_measures or not private_records(resolved))
        left_out = copy.left_out(copy.resolved())
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            write_folder(out, copy.fill)
        except OSError as error:
            raise ScenarioError(f"{out}: cannot be written: {error.strerror or error}") from None
    except ScenarioError:
        raise
    except Exception as error:  # reading files of unknown origin can raise anything
        raise unreadable(folder, error) from None
    return len(copy.runs), left_out


class _Copy:
    """What is copied of one results folder."""

    def __init__(self, folder: Path, content: dict[str, Any], measures: bool) -> None:
        self.folder, self.content, self.measures = folder, content, measures
        self.private = private_records(content)
        self.chosen = bool(content.get("tuning")) and not measures
        listed = [run for key in ("runs", "recipe", "probe") for run in content.get(key, [])]
        if not measures:
            listed = content.get("recipe", []) if self.chosen else content["runs"]
        self.runs: dict[str, Run] = {}
        for run in listed:
            if (file := folder / "runs" / run["hash"] / "run.json").exists():
                self.runs[run["hash"]] = self._public(Run.from_json(file.read_text(encoding="utf-8")))

    def _public(self, run: Run) -> Run:
        """Return a run without the checksum of a user's records and without paths of this machine.

        Whoever knows all records but one could try values for it until the checksum, or the hash of the run,
        is the same.
        """
        strategy = run.strategy.changed(path=run.strategy.path.rsplit("/", 1)[-1])
        if (mechanism := run.client_mechanism) is not None:
            run = run.changed(client_mechanism=mechanism.changed(path=mechanism.path.rsplit("/", 1)[-1]))
        if (personal := run.personal) is not None:
            run = run.changed(personal=personal.changed(path=personal.path.rsplit("/", 1)[-1]))
        model = run.model.changed(kind=run.model.kind.rsplit("/", 1)[-1])
        run = run.changed(strategy=strategy, model=model, data=run.data.without_folders)
        return run.changed(checksum="", predictions=False) if self.private else run

    def resolved(self) -> dict[str, Any]:
        """Return the copy's ``resolved.json``."""
        kept = {k: v for k, v in self.content.items() if k in PUBLIC or (self.measures and k in MEASURED)}
        if self.chosen:  # what follows from constants that were chosen by measures
            kept = {k: v for k, v in kept.items() if k not in {"noise", "recipe"}}
            kept["runs"] = self.content.get("recipe", [])
            kept["clients"] = [{k: v for k, v in c.items() if k != "rounds"} for c in kept["clients"]]
        for key in ("runs", "recipe", "probe"):
            if key in kept:
                stored = [run for run in kept[key] if run["hash"] in self.runs]
                kept[key] = [{**run, "hash": self.runs[run["hash"]].hash} for run in stored]
        if "tuning" in kept:  # a reason can quote records
            kept["tuning"] = [
                row | ({"failed": "failed"} if "failed" in row else {}) for row in kept["tuning"]
            ]
        if self.private:
            kept["data"] = {k: v for k, v in kept["data"].items() if k not in {"checksum", "rows"}}
            if kept["scenario"]["partition"]["kind"] != "group":  # folders of earlier versions have it
                kept.pop("partition", None)
        copied = "with measures" if self.measures else "without measures"
        return {**kept, "command": "fedtoll export", "exported": copied}

    def fill(self, place: Path) -> None:
        """Write the copy."""
        (place / "scenario.toml").write_bytes(self._read("scenario.toml"))
        text = json.dumps(self.resolved(), indent=1, ensure_ascii=False) + "\n"
        (place / "resolved.json").write_text(text, encoding="utf-8")
        for name, run in self.runs.items():
            target = place / "runs" / run.hash
            target.mkdir(parents=True)
            (target / "run.json").write_text(run.to_json() + "\n", encoding="utf-8")
            stored = pq.read_table(BytesIO(self._read(f"runs/{name}/ledger.parquet")))
            ledger = stored.select([*LEDGER, *({PERSONAL} & set(stored.column_names))])
            pq.write_table(ledger, target / "ledger.parquet", compression="zstd")
            for table in TABLES if self.measures else ():
                content = self._read(f"runs/{name}/{table}.parquet")
                (target / f"{table}.parquet").write_bytes(content)

    def _read(self, file: str) -> bytes:
        """Return the content of a file; raise a ScenarioError that names the folder, not the copy."""
        try:
            return (self.folder / file).read_bytes()
        except OSError as error:
            raise unreadable(self.folder, error) from None

    def left_out(self, content: dict[str, Any]) -> list[str]:
        """Return the files of the folder and the keys of ``resolved.json`` that the copy does not have."""
        copied = {"scenario.toml", "resolved.json", "runs"}
        copied |= {f"{table}.parquet" for table in ("ledger", *(TABLES if self.measures else ()))}
        found = [file.name for file in sorted(self.folder.iterdir()) if not file.name.startswith(".")]
        keys = [f"{key} of resolved.json" for key in self.content if key not in content or key == "command"]
        tuned = ["the runs with chosen constants"] if self.chosen else []
        return [*(n for n in (*self._tables(), *found) if n not in copied), *tuned, *keys]

    def _tables(self) -> Iterator[str]:
        names = {file.name for run in self.runs for file in (self.folder / "runs" / run).glob("*.parquet")}
        yield from sorted(names)
