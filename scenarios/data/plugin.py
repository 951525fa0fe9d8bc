"""Data sources that are plug-ins: a user's class declares the records and returns them as a pandas frame.

A class is named by an entry point in the group ``fedtoll.data``, as ``path/to/file.py:Class`` or as
``package.module:Class``. What it declares and returns is checked in the same way as a user's own file.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from fedtoll.scenarios import plugins
from fedtoll.scenarios.data import archive
from fedtoll.scenarios.data.base import DataSource
from fedtoll.scenarios.data.config import WORDS, Data, TableFacts
from fedtoll.scenarios.data.source import Source
from fedtoll.scenarios.data.user_file import TableFile, shorten
from fedtoll.scenarios.data.user_table import FORMAT, UserSource, table_source
from fedtoll.scenarios.errors import ScenarioError, nearest
from fedtoll.scenarios.foreign import contained
from fedtoll.scenarios.validation import describe_error

if TYPE_CHECKING:
    import pandas as pd

GROUP, KEY = "fedtoll.data", "data.source"

_ALMOST = 0.85
"""How similar an attribute's name must be to that of a declaration to be called a misspelling of it."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class PluginSource(UserSource):
    """A source that is a plug-in.

    Parameters
    ----------
    digest
        The sha256 of the file that defines its class.
    records
        What its ``table`` returns.
    """

    digest: str
    records: Records

    @functools.cached_property
    def checksum(self) -> str:
        """sha256 of the class's file, its declarations and its records; this calls ``table``."""
        declared = self.declared.model_dump_json(exclude=set(WORDS))
        facts = [f"fedtoll plug-in {FORMAT}", self.digest, declared, self.records.fingerprint()]
        return hashlib.sha256("\0".join(facts).encode()).hexdigest()

    def is_same(self, other: Source) -> bool:
        """Return whether another source has the same code and declarations: ``table`` may take long."""
        mine = self.digest, self.declared
        return isinstance(other, PluginSource) and mine == (other.digest, other.declared)


def names() -> tuple[str, ...]:
    """Return the names of all sources that other packages install, including those that cannot be loaded."""
    return tuple(sorted({entry.name for entry in plugins.installed(GROUP)}))


def located(name: str) -> str:
    """Return the path of a source's class, ``module:Class`` or ``/absolute/file.py:Class``. Imports nothing.

    Raises
    ------
    ScenarioError
        If no package installs the name, several do, or it names a file without a class. One line.
    """
    return plugins.located(name, KEY, _named)


def _named(name: str) -> str:
    found = {entry.value for entry in plugins.installed(GROUP) if entry.name == name}
    if not found:
        raise _error(f"{name!r} is unknown{nearest(name, names())}")
    if len(found) > 1:
        raise _error(f"{name!r} is the name of {len(found)} sources; write package.module:Class instead")
    return found.pop()


def plugin_source(path: str, data: Data | None = None) -> PluginSource:
    """Return the source that a class declares, without calling its ``table``.

    Parameters
    ----------
    path
        As in :func:`located`.
    data
        The section of the scenario, whose groups are checked.

    Raises
    ------
    ScenarioError
        If the class cannot be loaded or created, or what it declares is invalid. One line.
    """
    path = located(path)  # also refuses what no system can open
    cls: type[DataSource] = plugins.load(path, KEY, "source", DataSource)
    short = path.rsplit("/", 1)[-1]
    try:
        with contained():
            if cls.table is DataSource.table:
                raise _error(f"{short}: has no method table, which returns the records")
            created = cls()
            returned = Returned(Path(short), "", table=created.table)
            declared = _declared(cls, created, short)
            if not isinstance(public := created.public, bool):
                raise _error(f"{short}: public = {public!r}: must be True or False")
        if data is not None:
            data.check_groups(declared)
    except ScenarioError:
        raise
    except ValidationError as error:
        raise _error(f"{short}: {describe_error(error, TableFacts)}") from None
    except ValueError as error:
        raise _error(f"{short}: {shorten(str(error), 300)}") from None
    except (Exception, SystemExit) as error:
        raise _error(f"{short}: cannot be created: {_shown(error)}") from None
    source = table_source(returned, declared)
    records = Records(returned, source.read)
    facts = vars(source) | {"read": records.read, "public": public}
    digest = plugins.digest(path, KEY, path, cls)
    return PluginSource(**facts, digest=digest, records=records)


def _declared(cls: type[DataSource], created: DataSource, short: str) -> TableFacts:
    """Return what a class declares; raise if an attribute looks like a misspelt declaration."""
    stated = {key: getattr(created, key) for key in TableFacts.model_fields if hasattr(created, key)}
    others = {key for base in cls.__mro__ for key, value in vars(base).items() if not callable(value)}
    unstated = {*TableFacts.model_fields, "public"} - {*stated}
    for name in sorted(others - {*stated, *vars(DataSource), *vars(object)}):
        if close := difflib.get_close_matches(name, unstated, 1, _ALMOST):
            raise _error(f"{short}: unknown declaration {name!r}; did you mean {close[0]!r}?")
    if "title" not in stated and (words := (cls.__doc__ or "").strip()):
        stated["title"] = words.splitlines()[0]
    return TableFacts.model_validate(stated)


@dataclasses.dataclass(eq=False)
class Returned(TableFile):
    """What ``table`` returns, read as if it were a file.

    Parameters
    ----------
    table
        Returns the frame.
    """

    table: Callable[[], pd.DataFrame] = DataSource.table  # type: ignore[assignment]

    kind = "table"

    def error(self, message: str) -> ScenarioError:
        """Return an error in one line that names the class; declarations are its attributes."""
        return super().error(message.replace("data.own.", ""))

    def columns(self, names: Sequence[str]) -> dict[str, Any]:
        """Return columns as Arrow arrays of the same length, at least 1.

        Raises
        ------
        ScenarioError
            If ``table`` raises or returns something else. One line.
        """
        import pandas as pd
        import pyarrow as pa

        try:
            with contained():
                frame = self.table()
        except (Exception, SystemExit) as error:
            raise self.error(f"table() raises {_shown(error)}") from None
        if not isinstance(frame, pd.DataFrame):
            raise self.error(f"table() returns {type(frame).__name__!r}, not a pandas DataFrame")
        if len(frame) == 0:
            raise self.error("holds no records")
        self.check_size(len(frame), len(names), "columns")
        found = {}
        for name, position in zip(names, self.pick([str(c) for c in frame.columns], names), strict=True):
            try:
                column = pa.array(frame.iloc[:, position], from_pandas=True)
            except Exception as error:  # values of several types, or of a type that Arrow does not have
                raise self.error(f"column {name!r} cannot be read: {_shown(error)}") from None
            found[name] = column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column])
        return found


class Records:
    """Checked records: kept from the first call until they are encoded, and the same whenever they are read.

    Parameters
    ----------
    returned
        For errors.
    read
        Calls ``table``, and checks what it returns.
    """

    def __init__(self, returned: Returned, read: Callable[[Path], pd.DataFrame]) -> None:
        self._returned, self._read = returned, read
        self._frame: pd.DataFrame | None = None
        self._fingerprint = ""

    def fingerprint(self) -> str:
        """Return the fingerprint of the records."""
        if not self._fingerprint:
            self._frame = self._checked()
        return self._fingerprint

    def read(self, _: Path) -> pd.DataFrame:
        """Return the records; raise if they are not those of the first call."""
        frame, self._frame = self._frame, None
        return self._checked() if frame is None else frame

    def _checked(self) -> pd.DataFrame:
        try:
            with contained():
                frame = self._read(Path())
        except ScenarioError:
            raise
        except (Exception, SystemExit) as error:  # a frame's own methods, and its objects, may raise anything
            raise self._returned.error(f"table() returns what cannot be read: {_shown(error)}") from None
        found = archive.fingerprint(frame)
        if self._fingerprint not in {"", found}:
            raise self._returned.error("table() returns other records at each call; fix their seed and order")
        self._fingerprint = found
        return frame


def _shown(error: BaseException) -> str:
    return " ".join(shorten(repr(error), 300).split())


def _error(message: str) -> ScenarioError:
    return plugins.refusal(KEY, message)
