"""What the nodes of a cluster need for jobs: own tables, own code, and the records of built-in sources."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from fedtoll.scenarios import atomic, shipped
from fedtoll.scenarios.data import SOURCES, archive, builtin
from fedtoll.scenarios.data.acs import ACS, cached_file
from fedtoll.scenarios.errors import FedtollError, RunError, one_line
from fedtoll.scenarios.federation import Federation
from fedtoll.scenarios.run import Run

_INSTALLED = tuple(
    Path(folder).resolve()
    for folder in {sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
)
"""Folders whose modules every node has itself, besides fedtoll's."""


@dataclass(frozen=True)
class Parcel:
    """What is sent to every node.

    Parameters
    ----------
    files
        Own tables and sources, by absolute path. They stay in the memory of the processes that use them.
    modules
        The path of each own module, by name.
    records
        The records of built-in sources, which are public, by the name of the file in the cache folder.
    examples
        One run for each combination of data, strategy and model, as JSON: what a node must be able to load.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    modules: dict[str, str] = field(default_factory=dict)
    records: dict[str, bytes] = field(default_factory=dict)
    examples: tuple[str, ...] = ()

    def unpack(self) -> None:
        """Make everything available in this process.

        Raises
        ------
        OSError
            If the cache folder cannot be written.
        """
        shipped.receive(self.files, self.modules)
        folder = archive.cache_folder()
        for name, content in self.records.items():
            if not (folder / name).is_file():
                folder.mkdir(parents=True, exist_ok=True)
                atomic.write_bytes(folder / name, content)


def pack(jobs: Iterable[str | tuple[str, ...]]) -> Parcel:
    """Return what the nodes need for jobs whose strings include runs as JSON.

    Own code is the source of every module that is imported in this process and neither installed nor part
    of Python or fedtoll, and the file of every strategy, model, mechanism and data source.

    Raises
    ------
    RunError
        If a file cannot be read.
    """
    runs = _examples(jobs)
    paths = {run.data.file for run in runs if run.data.file}
    modules: dict[str, str] = {}
    if any(run.has_own_code or run.data.code for run in runs):
        modules = _own_modules()
        paths |= {path for path in modules.values() if path}
        named = {code.rpartition(":")[0] for run in runs for code in _code(run)}
        paths |= {file for file in named if file.endswith(".py")}
    cached = {found for run in runs if (found := _cached(run)) is not None}
    try:
        return Parcel(
            files={path: Path(path).read_bytes() for path in sorted(paths)},
            modules=modules,
            records={file.name: file.read_bytes() for file in sorted(cached)},
            examples=tuple(run.to_json() for run in runs),
        )
    except OSError as error:
        raise RunError(f"{error.filename}: cannot be read: {error.strerror or error}") from None


def lacking(parcel: Parcel) -> str:
    """Return, in one line, what keeps this node from doing the jobs; empty if nothing does.

    Loads the records, strategies, models and mechanisms of the jobs once.
    """
    from fedtoll.clients import model
    from fedtoll.clients.clipping import registry as clipping
    from fedtoll.clients.personal_models import registry as personal_models
    from fedtoll.strategies import registry

    federation: Federation | None = None
    try:
        parcel.unpack()
        for text in parcel.examples:
            run = Run.from_json(text)
            federation = Federation.of(run, federation)
            for what, planned, here in (
                (run.strategy.path, run.strategy.digest, registry.resolve(run.strategy.path)[1]),
                (run.model.kind, run.model_digest, model.digest(run.model)),
                *clipping.sources(run.client_mechanism),
                *personal_models.sources(run.personal),
            ):
                if planned != here:
                    return f"{what}: not the source that the sweep was planned with"
    except FedtollError as error:
        return str(error)
    except Exception as error:
        return one_line(f"{type(error).__name__}: {error}")
    return ""


def _examples(jobs: Iterable[str | tuple[str, ...]]) -> Sequence[Run]:
    """Return the first run of each combination of data, strategy, model and mechanism."""
    found: dict[tuple[str, ...], Run] = {}
    for job in jobs:
        for text in (job,) if isinstance(job, str) else job:
            try:
                run = Run.from_json(text)
            except ValidationError:  # a job may have other strings
                continue
            data = (run.data.model_dump_json(), run.split.model_dump_json(), run.partition.model_dump_json())
            found.setdefault((run.checksum, *data, *_code(run)), run)
    return list(found.values())


def _code(run: Run) -> tuple[str, ...]:
    """Return where the code of a run comes from: strategy, model, records, mechanism, personal models."""
    parts = (run.client_mechanism, run.personal)
    paths = ("" if part is None else part.path for part in parts)
    return run.strategy.path, run.model.kind, run.data.code, *paths


def _own_modules() -> dict[str, str]:
    """Return the path of every imported module that a node may not have, by its name."""
    found: dict[str, str] = {}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or not file.endswith(".py") or name.startswith(("__", shipped.PREFIX)):
            continue
        if name.split(".")[0] == "fedtoll":  # wherever its folders are, as when it is installed editable
            continue
        path = Path(file).resolve()
        if not path.is_file() or any(path.is_relative_to(folder) for folder in _INSTALLED):
            continue
        found[name] = str(path)
        parts = name.split(".")
        for i in range(1, len(parts)):  # packages without __init__.py have no file
            found.setdefault(".".join(parts[:i]), "")
    return found


def _cached(run: Run) -> Path | None:
    """Return the file in the cache that holds the records of a run's source, if there is one."""
    if run.data.source == ACS.name:
        return cached_file()
    if run.data.source not in SOURCES or (source := builtin(run.data.source)).archive is None:
        return None
    file = archive.cache_file(source)
    return file if file.is_file() else None
