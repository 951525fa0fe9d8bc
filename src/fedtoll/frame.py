"""A frame as the records of ``fedtoll.run``: written next to the results folder, where workers read it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedtoll.scenarios import shipped
from fedtoll.scenarios.atomic import write_bytes
from fedtoll.scenarios.data.config import TableFacts
from fedtoll.scenarios.errors import ScenarioError, one_line


@dataclass(frozen=True)
class Frame:
    """The declared columns of a frame, as a file that is not written yet.

    Parameters
    ----------
    results
        The results folder.
    content
        The columns as Parquet.
    """

    results: Path
    content: bytes

    @classmethod
    def of(cls, table: Any, declared: TableFacts, results: Path) -> Frame:
        """Return the declared columns of a frame; those that it lacks are an error when it is read.

        A file of an earlier call that holds the same records is kept, with the bytes that it has: other
        versions of pandas may write others, and the hash of a run covers them.

        Raises
        ------
        ScenarioError
            If it is no frame, cannot be written as Parquet, or the folder has runs on other records.
        """
        import pandas as pd

        if not isinstance(table, pd.DataFrame):
            raise ScenarioError(f"table: must be a pandas DataFrame, not {type(table).__name__}")
        columns = dict.fromkeys([declared.label, *declared.columns, *declared.attributes])
        names = [name for name in columns if name in table.columns]
        buffer = io.BytesIO()
        try:
            table[names].rename(columns=str).to_parquet(buffer, index=False)
        except Exception as error:  # a column of several types, a name that appears twice
            reason = one_line(str(error) or type(error).__name__)
            raise ScenarioError(f"table: cannot be written as Parquet: {reason}") from None
        frame = cls(results, buffer.getvalue())
        return cls(results, frame._stored() or frame.content)

    @property
    def path(self) -> Path:
        """The absolute path of the file."""
        folder = self.results if self.results.name not in {"", ".."} else self.results.resolve()
        return folder.with_name(f"{folder.name}-table.parquet").resolve()

    @contextmanager
    def in_memory(self) -> Iterator[None]:
        """Let the block read the file as if it were written."""
        with shipped.held(self.path, self.content):
            yield

    def write(self) -> None:
        """Write the file, unless it is there already.

        Raises
        ------
        ScenarioError
            If the folder has runs on other records, or the file cannot be written.
        """
        if self._stored() is not None:
            return
        try:
            write_bytes(self.path, self.content)
        except OSError as error:
            raise ScenarioError(f"{self.path}: cannot be written: {error.strerror or error}") from None

    def _stored(self) -> bytes | None:
        """Return the file of an earlier call if it holds the same records; ``None`` if it may be written."""
        try:
            stored = self.path.read_bytes()
        except OSError:  # there is none, or writing says what is wrong
            return None
        if _same(stored, self.content):
            return stored
        if any((self.results / "runs").glob("*/run.json")):
            raise ScenarioError(
                f"{self.path}: holds other records than this table, and {self.results} has runs; "
                "name another folder, e.g. out='other'"
            )
        return None


def _same(one: bytes, other: bytes) -> bool:
    """Return whether two Parquet files hold the same columns and records."""
    import pyarrow.parquet as pq

    try:
        return one == other or pq.read_table(io.BytesIO(one)).equals(pq.read_table(io.BytesIO(other)))
    except Exception:  # a file of another kind, or a damaged one
        return False
