"""Read a user's table from a CSV, TSV, Parquet or Feather file, strictly and as it is.

Nothing is guessed. The cells of a CSV stay text, all its rows must be as long as
its header, and a declared column must appear exactly once. The sha256 of a file is
taken of the very bytes that are parsed.
"""

from __future__ import annotations

import bz2
import dataclasses
import gzip
import hashlib
import io
import itertools
import os
import re
import stat
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from fedtoll.scenarios import shipped
from fedtoll.scenarios.errors import ScenarioError, nearest

MOST_BYTES = 2**30
"""The size limit of a file, and of the content of a packed one."""

MOST_ROWS = 10_000_000
"""The most records in a file."""

MOST_CELLS = 250_000_000
"""The most cells: records times columns, and records times features."""

_BLOCK = 2**24  # bytes per block in which a CSV is parsed; a row must fit into one
_GIB = f"{MOST_BYTES // 2**30} GiB"


@dataclasses.dataclass(eq=False)
class TableFile:
    """A file that exists, is not empty and is within the size limit; nothing of it has been read.

    Parameters
    ----------
    path
        Its path.
    form
        Its format: the suffix, one of :data:`READERS`.
    """

    path: Path
    form: str
    _sha256: str = ""

    kind: ClassVar[str] = "file"

    @classmethod
    def at(cls, path: Path) -> TableFile:
        """Check that a path is a readable file.

        Raises
        ------
        ScenarioError
            In one line that names the file, if it does not exist or cannot be read.
        """
        lowered = path.name.lower()
        form = next((suffix for suffix in READERS if lowered.endswith(suffix)), "")
        key = f"data.file = {quote(str(path), 200)}"
        if shipped.received(path):  # checked where it comes from
            return cls(path, form)
        try:
            if not path.exists():
                raise ScenarioError(f"{key}: no such file{_suggest_file(path)}")
            status = path.stat()
        except (OSError, ValueError) as error:
            raise ScenarioError(f"{key}: cannot be read ({_reason(error)})") from None
        if not stat.S_ISREG(status.st_mode):
            raise ScenarioError(f"{key}: {'a folder' if path.is_dir() else 'a device'}, not a file")
        if not form:
            raise ScenarioError(f"{key}: unknown suffix of a table{nearest(path.suffix.lower(), READERS)}")
        if status.st_size == 0:
            raise ScenarioError(f"{key}: is empty")
        if status.st_size > MOST_BYTES:
            raise ScenarioError(f"{key}: has {status.st_size / 2**30:.1f} GiB, more than {_GIB}")
        if not os.access(path, os.R_OK):
            raise ScenarioError(f"{key}: cannot be read (Permission denied)")
        return cls(path, form)

    @property
    def name(self) -> str:
        """The file's name in printable characters."""
        return "".join(c if c.isprintable() else "�" for c in self.path.name)

    def error(self, message: str) -> ScenarioError:
        """Return an error in one line that names the file."""
        return ScenarioError(f"data {self.name!r}: {message}")

    @property
    def sha256(self) -> str:
        """The sha256 of its bytes when they were first read, in hex."""
        if not self._sha256:
            try:
                with shipped.open_file(self.path) as file:
                    self._sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                raise self.error(f"cannot be read ({_reason(error)})") from None
        return self._sha256

    def columns(self, names: Sequence[str]) -> dict[str, Any]:
        """Return columns as Arrow arrays of the same length, at least 1.

        Raises
        ------
        ScenarioError
            In one line that names the file and the column.
        """
        content = self._content()
        try:
            table = READERS[self.form](self, content, list(names))
            table.validate(full=True)
            columns = {name: table.column(name) for name in names}
        except ScenarioError:
            raise
        except Exception as error:  # the readers of a damaged file may raise anything
            kind = self.form.split(".")[1]
            kind = kind.upper() if len(kind) == 3 else kind.capitalize()
            reason = " ".join(shorten(_reason(error), 200).split())
            raise self.error(f"cannot be read as {kind} ({reason})") from None
        if table.num_rows == 0:
            raise self.error("holds no records")
        self.check_size(table.num_rows, len(names), "columns")
        return columns

    def header(self) -> list[str]:
        """Return the names of all columns, in the file's order.

        Raises
        ------
        ScenarioError
            If the file cannot be read.
        """
        import pyarrow as pa
        from pyarrow import csv, parquet

        content = self._content()
        if packing := _PACKINGS.get(Path(self.form).suffix):
            content = _unpacked(self, content, packing)
        try:
            if self.form == ".parquet":
                return list(parquet.ParquetFile(pa.BufferReader(content)).schema_arrow.names)
            if self.form == ".feather":
                return list(pa.ipc.open_file(pa.BufferReader(content)).schema.names)
            parsing = csv.ParseOptions(
                delimiter="\t" if self.form.startswith(".tsv") else ",", newlines_in_values=True
            )
            with csv.open_csv(pa.BufferReader(content), parse_options=parsing) as reader:
                return list(reader.schema.names)
        except Exception as error:  # the readers of a damaged file may raise anything
            raise self.error(f"cannot be read ({shorten(_reason(error), 200)})") from None

    def check_size(self, rows: int, width: int, unit: str) -> None:
        """Reject more records or cells than the limits."""
        if rows > MOST_ROWS:
            raise self.error(f"holds {rows:,} records, more than {MOST_ROWS:,}")
        if rows * width > MOST_CELLS:
            raise self.error(f"{rows:,} records of {width:,} {unit} are more than {MOST_CELLS:,} cells")

    def pick(self, present: Sequence[str], names: Sequence[str]) -> list[int]:
        """Return the positions of columns, each of which must be present exactly once."""
        positions: dict[str, list[int]] = {}
        for position, column in enumerate(present):
            positions.setdefault(column, []).append(position)
        for name in names:
            if (times := len(positions.get(name, []))) > 1:
                raise self.error(f"column {name!r} appears {times} times in the {self.kind}; rename one")
            if times == 0:
                raise self.error(f"no column {name!r} in the {self.kind}{_suggest_column(name, present)}")
        return [positions[name][0] for name in names]

    def _content(self) -> bytes:
        try:
            with shipped.open_file(self.path) as file:
                content = file.read(MOST_BYTES + 1)
        except OSError as error:
            raise self.error(f"cannot be read ({_reason(error)})") from None
        if len(content) > MOST_BYTES:
            raise self.error(f"has more than {_GIB}")
        digest = hashlib.sha256(content).hexdigest()
        if self._sha256 not in {"", digest}:
            raise self.error("changed while it was in use; run the command again")
        self._sha256 = digest
        return content


def shorten(text: str, limit: int = 60) -> str:
    """Return a text, cut to a limit of characters."""
    return text if len(text) <= limit else f"{text[:limit]}…"


def quote(text: str, limit: int = 60) -> str:
    """Return a text in quotes on one line, cut to a limit of characters."""
    return repr(shorten(text, limit))


def _csv(file: TableFile, content: bytes, names: list[str]) -> Any:
    import pyarrow as pa
    from pyarrow import csv

    if packing := _PACKINGS.get(Path(file.form).suffix):
        content = _unpacked(file, content, packing)
    if content[:2] in {b"\xff\xfe", b"\xfe\xff"}:
        raise file.error("is UTF-16, not UTF-8 text; save it as UTF-8")
    if not content.removeprefix(b"\xef\xbb\xbf").strip(b"\r\n"):
        raise file.error("is empty")
    if content.count(b'"') % 2:
        raise file.error('a quotation mark (") is not closed: their number is odd')
    if b"\n" not in content and b"\r" not in content:
        content += b"\n"  # only a header

    tab = file.form.startswith(".tsv")
    options = {
        "read_options": csv.ReadOptions(use_threads=False, block_size=_BLOCK),
        "parse_options": csv.ParseOptions(delimiter="\t" if tab else ",", newlines_in_values=True),
    }
    try:
        with csv.open_csv(pa.BufferReader(content), **options) as reader:
            present = reader.schema.names
        file.pick(present, names)
        as_text = csv.ConvertOptions(
            include_columns=names,
            column_types=dict.fromkeys(names, pa.string()),
            null_values=[],
            strings_can_be_null=False,
        )
        return csv.read_csv(pa.BufferReader(content), convert_options=as_text, **options)
    except UnicodeDecodeError:
        raise file.error("its header is not UTF-8 text; save it as UTF-8") from None
    except pa.ArrowInvalid as error:
        uneven = re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+)", str(error))
        if uneven:
            number, in_header, in_row = map(int, uneven.groups())
            raise file.error(f"row {number - 1} has {in_row} cells, the header {in_header}") from None
        not_utf8 = re.search(r"column #(\d+): (?:Row #(\d+): )?.*invalid UTF8", str(error))
        if not not_utf8:
            raise
        row = f" in row {int(not_utf8[2]) - 1}" if not_utf8[2] else ""
        raise file.error(
            f"column {present[int(not_utf8[1])]!r} is not UTF-8 text{row}; save it as UTF-8"
        ) from None


_PACKINGS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}


def _unpacked(file: TableFile, content: bytes, packing: str) -> bytes:
    import pyarrow as pa

    try:
        if packing == "gzip":
            with gzip.open(io.BytesIO(content)) as packed:
                unpacked = packed.read(MOST_BYTES + 1)
        elif packing == "bz2":
            with bz2.open(io.BytesIO(content)) as packed:
                unpacked = packed.read(MOST_BYTES + 1)
        else:
            with pa.CompressedInputStream(pa.BufferReader(content), packing) as packed:
                unpacked = packed.read(MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
        raise file.error(f"cannot be unpacked as {packing} ({_reason(error)})") from None
    if len(unpacked) > MOST_BYTES:
        raise file.error(f"has more than {_GIB} unpacked")
    return unpacked


def _parquet(file: TableFile, content: bytes, names: list[str]) -> Any:
    import pyarrow as pa
    from pyarrow import parquet

    schema = parquet.ParquetFile(pa.BufferReader(content)).schema_arrow
    chosen = [schema.field(position) for position in file.pick(schema.names, names)]
    texts = [f.name for f in chosen if pa.types.is_string(f.type) or pa.types.is_large_string(f.type)]
    opened = parquet.ParquetFile(pa.BufferReader(content), read_dictionary=texts)
    file.check_size(opened.metadata.num_rows, len(names), "columns")
    return opened.read(columns=names, use_threads=False)


def _feather(file: TableFile, content: bytes, names: list[str]) -> Any:
    import pyarrow as pa

    positions = file.pick(pa.ipc.open_file(pa.BufferReader(content)).schema.names, names)
    options = pa.ipc.IpcReadOptions(included_fields=positions, use_threads=False)
    return pa.ipc.open_file(pa.BufferReader(content), options=options).read_all()


READERS: dict[str, Callable[[TableFile, bytes, list[str]], Any]] = {
    ".csv": _csv,
    **{f".csv{packing}": _csv for packing in _PACKINGS},
    ".tsv": _csv,
    **{f".tsv{packing}": _csv for packing in _PACKINGS},
    ".parquet": _parquet,
    ".feather": _feather,
}
"""The reader of each format, by suffix."""


def _suggest_file(path: Path) -> str:
    """Return which file in the same folder was probably meant."""
    try:
        with os.scandir(path.parent) as entries:
            names = [e.name for e in itertools.islice(entries, 1000) if e.is_file()]
    except OSError:
        return f"; no such folder either: {quote(str(path.parent), 200)}"
    return suggest(path.name, [name for name in names if name.lower().endswith(tuple(READERS))])


def _suggest_column(name: str, present: Sequence[str]) -> str:
    """Return which column was probably meant, or that the file has another delimiter."""
    if len(present) == 1 and (";" in present[0] or "\t" in present[0]):
        delimiter = "semicolons" if ";" in present[0] else "tabs"
        return f": cells seem to be separated by {delimiter}; a .csv needs commas, a .tsv tabs"
    return suggest(name, present)


def suggest(word: str, candidates: Sequence[str]) -> str:
    """Return a suggestion for a misspelt name, ignoring unprintable and overlong candidates."""
    distinct = list(dict.fromkeys(candidates))
    shown = [w for w in distinct if w.isprintable() and len(w) <= 60]
    suggestion = nearest(word[:60], shown[:5000])
    if len(suggestion) <= 300:
        return suggestion
    return f"; known: {', '.join(shown[:8])} and {len(distinct) - 8:,} more"


def _reason(error: Exception) -> str:
    message = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(message.split()) or type(error).__name__
