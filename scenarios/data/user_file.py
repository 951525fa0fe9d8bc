"""A table in a file of the user's: CSV, TSV, Parquet or Feather, read strictly and as it is.

Nothing is guessed. A CSV's cells stay text, its rows must all be as long as
its header, and a name that stands twice is an error where it is asked for.
The bytes that are parsed are the bytes whose sha256 is taken.
"""

from __future__ import annotations

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
from typing import Any

from fedtoll.scenarios.errors import ScenarioError, nearest

MOST_BYTES = 2**30
"""How large a file may be, unpacked where it is a ``.gz``."""

MOST_ROWS = 10_000_000
"""How many records a file may hold."""

MOST_CELLS = 250_000_000
"""How many cells may be read: records times columns, or times features."""

_BLOCK = 2**24  # a CSV is parsed in blocks of so many bytes; a row must fit into one


@dataclasses.dataclass(eq=False)
class TableFile:
    """A file that is there, is not empty and is not too large; not a byte of it was read.

    Parameters
    ----------
    path
        Where it lies.
    form
        How it is written: its suffix, one of :data:`READERS`.
    state
        Changes when the file does: inode, size and time of the last change.
    """

    path: Path
    form: str
    state: tuple[int, int, int]
    _sha256: str = ""

    @classmethod
    def at(cls, path: Path) -> TableFile:
        """Look at a file.

        Raises
        ------
        ScenarioError
            One line that names the file, if it is not there or is not what can be read.
        """
        lowered = path.name.lower()
        form = next((suffix for suffix in READERS if lowered.endswith(suffix)), "")
        named = f"data.file = {short(str(path), 200)}"
        try:
            if not path.exists():
                raise ScenarioError(f"{named}: no such file{_beside(path)}")
            found = path.stat()
        except (OSError, ValueError) as error:
            raise ScenarioError(f"{named}: cannot be read ({_reason(error)})") from None
        if not stat.S_ISREG(found.st_mode):
            raise ScenarioError(f"{named}: {'a folder' if path.is_dir() else 'a device'}, not a file")
        if not form:
            raise ScenarioError(f"{named}: not a table by its name{nearest(path.suffix.lower(), READERS)}")
        if found.st_size == 0:
            raise ScenarioError(f"{named}: is empty")
        if found.st_size > MOST_BYTES:
            raise ScenarioError(f"{named}: has {found.st_size / 2**30:.1f} GiB, more than {_GIB}")
        if not os.access(path, os.R_OK):
            raise ScenarioError(f"{named}: cannot be read (Permission denied)")
        return cls(path, form, (found.st_ino, found.st_size, found.st_mtime_ns))

    @property
    def name(self) -> str:
        """Its name as a line can show it."""
        return "".join(c if c.isprintable() else "�" for c in self.path.name)

    def mistake(self, text: str) -> ScenarioError:
        """Return a mistake in the file, in one line."""
        return ScenarioError(f"data {self.name!r}: {text}")

    @property
    def sha256(self) -> str:
        """Of its bytes, in hex: as they were when first read."""
        if not self._sha256:
            try:
                with self.path.open("rb") as file:
                    self._sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                raise self.mistake(f"cannot be read ({_reason(error)})") from None
        return self._sha256

    def columns(self, names: Sequence[str]) -> dict[str, Any]:
        """Return columns as Arrow arrays of one length, at least 1.

        Raises
        ------
        ScenarioError
            One line that names file and column.
        """
        content = self._content()
        try:
            table = READERS[self.form](self, content, list(names))
            table.validate(full=True)
            made = {name: table.column(name) for name in names}
        except ScenarioError:
            raise
        except Exception as error:  # a damaged file makes its readers raise anything
            kind = self.form.removesuffix(".gz")[1:]
            kind = kind.upper() if len(kind) == 3 else kind.capitalize()
            why = short(_reason(error), 200, quoted=False)
            raise self.mistake(f"cannot be read as {kind} ({why})") from None
        if table.num_rows == 0:
            raise self.mistake("holds no record")
        self.limit(table.num_rows, len(names), "columns")
        return made

    def limit(self, rows: int, across: int, what: str) -> None:
        """Refuse more records than can be held, or more cells."""
        if rows > MOST_ROWS:
            raise self.mistake(f"holds {rows:,} records, more than {MOST_ROWS:,}")
        if rows * across > MOST_CELLS:
            raise self.mistake(f"{rows:,} records of {across:,} {what} are more than {MOST_CELLS:,} cells")

    def pick(self, present: Sequence[str], names: Sequence[str]) -> list[int]:
        """Return where the columns stand, each of which must be there once."""
        places: list[int] = []
        where: dict[str, list[int]] = {}
        for place, column in enumerate(present):
            where.setdefault(column, []).append(place)
        for name in names:
            found = where.get(name, [])
            if len(found) > 1:
                raise self.mistake(f"column {name!r} stands {len(found)} times in the file; rename one")
            if not found:
                raise self.mistake(f"no column {name!r} in the file{_columns_near(name, present)}")
            places += found
        return places

    def _content(self) -> bytes:
        try:
            with self.path.open("rb") as file:
                content = file.read(MOST_BYTES + 1)
        except OSError as error:
            raise self.mistake(f"cannot be read ({_reason(error)})") from None
        if len(content) > MOST_BYTES:
            raise self.mistake(f"has more than {_GIB}")
        digest = hashlib.sha256(content).hexdigest()
        if self._sha256 not in {"", digest}:
            raise self.mistake("changed while it was in use; run the command again")
        self._sha256 = digest
        return content


def short(text: str, most: int = 60, *, quoted: bool = True) -> str:
    """Return a text in one line of not much more than so many characters."""
    cut = text if len(text) <= most else f"{text[:most]}…"
    return repr(cut) if quoted else " ".join(cut.split())


_GIB = f"{MOST_BYTES // 2**30} GiB"


def _csv(file: TableFile, content: bytes, names: list[str]) -> Any:
    import pyarrow as pa
    from pyarrow import csv

    if file.form.endswith(".gz"):
        content = _unpacked(file, content)
    if content[:2] in {b"\xff\xfe", b"\xfe\xff"}:
        raise file.mistake("is UTF-16, not UTF-8 text; save it as UTF-8")
    if not content.removeprefix(b"\xef\xbb\xbf").strip(b"\r\n"):
        raise file.mistake("is empty")
    if content.count(b'"') % 2:
        raise file.mistake('a quotation mark (") is not closed: their number is odd')
    if b"\n" not in content and b"\r" not in content:
        content += b"\n"  # a header alone

    tab = file.form.startswith(".tsv")
    how = {
        "read_options": csv.ReadOptions(use_threads=False, block_size=_BLOCK),
        "parse_options": csv.ParseOptions(delimiter="\t" if tab else ",", newlines_in_values=True),
    }
    try:
        with csv.open_csv(pa.BufferReader(content), **how) as reader:
            present = reader.schema.names
        file.pick(present, names)
        as_text = csv.ConvertOptions(
            include_columns=names,
            column_types=dict.fromkeys(names, pa.string()),
            null_values=[],
            strings_can_be_null=False,
        )
        return csv.read_csv(pa.BufferReader(content), convert_options=as_text, **how)
    except UnicodeDecodeError:
        raise file.mistake("its header is not UTF-8 text; save it as UTF-8") from None
    except pa.ArrowInvalid as error:
        uneven = re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+)", str(error))
        if uneven:
            number, there, here = map(int, uneven.groups())
            raise file.mistake(f"row {number - 1} has {here} cells, the header {there}") from None
        found = re.search(r"column #(\d+): (?:Row #(\d+): )?.*invalid UTF8", str(error))
        if not found:
            raise
        row = f" in row {int(found[2]) - 1}" if found[2] else ""
        raise file.mistake(
            f"column {present[int(found[1])]!r} is not UTF-8 text{row}; save it as UTF-8"
        ) from None


def _unpacked(file: TableFile, content: bytes) -> bytes:
    try:
        with gzip.open(io.BytesIO(content)) as packed:
            text = packed.read(MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise file.mistake(f"cannot be unpacked as gzip ({_reason(error)})") from None
    if len(text) > MOST_BYTES:
        raise file.mistake(f"has more than {_GIB} unpacked")
    return text


def _parquet(file: TableFile, content: bytes, names: list[str]) -> Any:
    import pyarrow as pa
    from pyarrow import parquet

    schema = parquet.ParquetFile(pa.BufferReader(content)).schema_arrow
    chosen = [schema.field(place) for place in file.pick(schema.names, names)]
    texts = [f.name for f in chosen if pa.types.is_string(f.type) or pa.types.is_large_string(f.type)]
    opened = parquet.ParquetFile(pa.BufferReader(content), read_dictionary=texts)
    file.limit(opened.metadata.num_rows, len(names), "columns")
    return opened.read(columns=names, use_threads=False)


def _feather(file: TableFile, content: bytes, names: list[str]) -> Any:
    import pyarrow as pa

    places = file.pick(pa.ipc.open_file(pa.BufferReader(content)).schema.names, names)
    options = pa.ipc.IpcReadOptions(included_fields=places, use_threads=False)
    return pa.ipc.open_file(pa.BufferReader(content), options=options).read_all()


READERS: dict[str, Callable[[TableFile, bytes, list[str]], Any]] = {
    ".csv": _csv,
    ".csv.gz": _csv,
    ".tsv": _csv,
    ".tsv.gz": _csv,
    ".parquet": _parquet,
    ".feather": _feather,
}
"""What reads a file, by its suffix."""


def _beside(path: Path) -> str:
    """Say which file of the same folder was probably meant."""
    try:
        with os.scandir(path.parent) as entries:
            names = [e.name for e in itertools.islice(entries, 1000) if e.is_file()]
    except OSError:
        return f"; nor is there a folder {short(str(path.parent), 200)}"
    return near(path.name, [name for name in names if name.lower().endswith(tuple(READERS))])


def _columns_near(name: str, present: Sequence[str]) -> str:
    if len(present) == 1 and (";" in present[0] or "\t" in present[0]):
        sign = ";" if ";" in present[0] else "a tab"
        return f": cells seem to be parted by {sign}; a .csv needs commas, a .tsv tabs"
    return near(name, present)


def near(word: str, words: Sequence[str]) -> str:
    """Say which word was probably meant; hostile and endless words are passed over."""
    distinct = list(dict.fromkeys(words))
    shown = [w for w in distinct if w.isprintable() and len(w) <= 60]
    told = nearest(word[:60], shown[:5000])
    return told if len(told) <= 300 else f"; known: {', '.join(shown[:8])} and {len(distinct) - 8:,} more"


def _reason(error: Exception) -> str:
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(said.split()) or type(error).__name__
