"""Your own table: a file, and what the scenario declares about its columns in ``[data.own]``.

Every fact is declared; nothing is fitted on records. Numbers beyond the declared
bounds are clipped, which depends on the declaration alone. Anything else that does
not fit the declaration is an error of one line.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fedtoll.scenarios.data.config import MISSING, WORDS, ColumnFacts, Data, TableFacts
from fedtoll.scenarios.data.source import TRANSFORMS, Categorical, Numeric, Source
from fedtoll.scenarios.data.user_file import TableFile, quote, suggest
from fedtoll.scenarios.errors import ScenarioError

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1
"""Incremented whenever the same bytes and declarations give another table."""

FARTHEST = 1e6
"""The greatest distance of a number from its centre, in scales: training would diverge beyond it."""

BLANKS = ("na", "n/a", "nan", "null", "none", "?", ".", "-", "missing", "unknown")
"""Texts that often mean that a value is missing, in lower case. They are proposed, never assumed."""

MOST_ERRORS = 10
"""The most columns whose errors are shown at once."""

_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class UserSource(Source):
    """A source that consists of a user's file and the user's declarations."""

    file: TableFile
    declared: TableFacts

    @functools.cached_property
    def checksum(self) -> str:
        """sha256 of the file's bytes and of the declarations; the file's name and folder are not covered."""
        declared = self.declared.model_dump_json(exclude=set(WORDS))
        facts = [f"fedtoll own {FORMAT}", self.file.form, self.file.sha256, declared]
        return hashlib.sha256("\0".join(facts).encode()).hexdigest()


def user_source(data: Data) -> UserSource:
    """Return the source that a scenario's ``[data]`` declares, without reading the file.

    Parameters
    ----------
    data
        The section; its ``file`` is an absolute path.

    Raises
    ------
    ScenarioError
        If the file does not exist or cannot be a table.
    """
    assert data.own is not None
    return table_source(TableFile.at(Path(data.file)), data.own)


def table_source(file: TableFile, declared: TableFacts) -> UserSource:
    """Return the source of a table with these declarations."""
    columns = tuple(
        _column(name, facts, declared.vocabulary(name)) for name, facts in declared.columns.items()
    )
    features = sum(
        len(c.values) if isinstance(c, Categorical) else 1 + (c.missing is not None) for c in columns
    )
    return UserSource(
        file=file,
        declared=declared,
        name=file.name,
        title=declared.title or "A table of your own",
        archive=None,
        read=lambda _: _frame(file, declared, features),
        version=FORMAT,
        fingerprint="",
        licence=declared.licence or "yours: fedtoll knows of none",
        citation=declared.citation or "Label, columns and groups are declared by you.",
        rows=0,
        label=declared.label,
        positive=declared.class_names[-1],
        classes=declared.class_names,
        columns=columns,
        counts={name: dict.fromkeys(facts.names, 0) for name, facts in declared.attributes.items()},
        bins={name: facts.bins for name, facts in declared.attributes.items() if facts.bins},
        public=False,
    )


def _column(name: str, facts: ColumnFacts, vocabulary: tuple[str, ...]) -> Numeric | Categorical:
    if vocabulary:
        return Categorical(name, vocabulary)
    if facts.low is not None and facts.high is not None:
        bounded = Numeric.bounded(name, facts.low, facts.high, facts.transform)
        return dataclasses.replace(bounded, missing=facts.missing)
    assert facts.centre is not None
    assert facts.scale is not None
    return Numeric(name, facts.centre, facts.scale, facts.transform, missing=facts.missing)


def _frame(file: TableFile, declared: TableFacts, features: int) -> pd.DataFrame:
    """Read the declared columns, and check every record against the declarations."""
    import pandas as pd

    raw = file.columns(list(dict.fromkeys([declared.label, *declared.columns, *declared.attributes])))
    file.check_size(len(raw[declared.label]), features, "features")
    checked: dict[str, npt.NDArray[Any]] = {}
    wrong: list[ScenarioError] = []

    def check(name: str, values: Callable[[], npt.NDArray[Any]]) -> None:
        try:
            checked[name] = values()
        except ScenarioError as error:
            wrong.append(error)

    if declared.blank:
        raw = {name: _without_blanks(column, declared.blank) for name, column in raw.items()}
    for name, column in declared.columns.items():
        if column.values:  # noqa: PD011
            check(name, partial(_texts, file, name, raw[name], declared.vocabulary(name), declared.missing))
        else:
            check(name, partial(_feature, file, name, raw[name], column))
    for name, attribute in declared.attributes.items():
        if attribute.values:  # noqa: PD011
            check(name, partial(_texts, file, name, raw[name], attribute.values, declared.missing))
        elif name not in declared.columns:
            check(name, partial(_numbers, file, name, raw[name]))
    label = declared.label
    check(label, partial(_texts, file, label, raw[label], declared.labels, "label"))
    if wrong:
        raise _together(file, wrong)
    if not declared.classes:
        positive = (checked[label] == declared.positive).astype(np.int64)
        checked[label] = np.array(declared.class_names, dtype=object)[positive]
    return pd.DataFrame(checked, copy=False)


def _without_blanks(column: Any, blank: Sequence[str]) -> Any:
    """Return a column of texts without a value where it holds one of ``blank``; other columns unchanged."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not _is_text(column.type):
        return column
    column = column.cast(pa.string())
    absent = pc.is_in(pc.utf8_trim_whitespace(column), value_set=pa.array(blank, pa.string()))
    return pc.if_else(absent, pa.scalar(None, pa.string()), column)


def _together(file: TableFile, errors: Sequence[ScenarioError]) -> ScenarioError:
    """Return the errors of all columns as one, on one line."""
    if len(errors) == 1:
        return errors[0]
    prefix = str(file.error(""))
    found = list(dict.fromkeys(str(error).removeprefix(prefix) for error in errors))
    shown = "; ".join(f"({i}) {line}" for i, line in enumerate(found[:MOST_ERRORS], 1))
    more = f"; and {len(found) - MOST_ERRORS} more columns" if len(found) > MOST_ERRORS else ""
    return file.error(f"{len(found)} columns are not as declared: {shown}{more}")


def _texts(
    file: TableFile, name: str, column: Any, values: Sequence[str], missing: str
) -> npt.NDArray[np.object_]:
    """Return the values of a text column, all of them declared.

    Codes index ``values``: −1 is an undeclared value, ``len(values)`` a missing one.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    indices, dictionary = _as_text(file, name, column)
    value_set = pa.array(values, pa.string())
    known = pc.index_in(dictionary, value_set=value_set)
    # "0.0" is how a column of whole numbers with a gap is often written.
    whole = pc.replace_substring_regex(dictionary, r"^([+-]?\d+)\.0*$", r"\1")
    known = pc.coalesce(known, pc.index_in(whole, value_set=value_set)).fill_null(-1)
    blank = pc.equal(pc.utf8_trim_whitespace(dictionary), "").fill_null(True)
    absent = len(values)
    code_of_entry = np.where(blank.to_numpy(zero_copy_only=False), absent, known.to_numpy())
    entries = indices.cast(pa.int64()).fill_null(len(dictionary)).to_numpy()
    codes = np.append(code_of_entry, absent)[entries]
    if (codes < 0).any():
        row = int(np.argmax(codes < 0))
        value = dictionary[int(entries[row])].as_py()
        raise file.error(
            f"column {name!r} holds the undeclared value {quote(value)} in {_rows(codes < 0)}"
            f"{suggest(value, values)}"
        )
    if (codes == absent).any():
        if missing != "category" or MISSING not in values:
            raise file.error(
                f"column {name!r} has no value in {_rows(codes == absent)}{_REMEDY[missing].format(name)}"
            )
        codes[codes == absent] = values.index(MISSING)
    return np.asarray(np.array(values, dtype=object)[codes])


def _maybe_blank(cell: str) -> str:
    """Return how to declare a text that often means a missing value."""
    if cell.strip("'\"").casefold() not in BLANKS:
        return ""
    return f"; data.own.blank = [{cell}] says that it means a missing value"


def _rows(wrong: npt.NDArray[np.bool_]) -> str:
    """Return the first row that is wrong, and how many others are.

    Examples
    --------
    >>> _rows(np.array([False, True, True]))
    'row 2 (and 1 more)'
    """
    first, others = int(np.argmax(wrong)) + 1, int(wrong.sum()) - 1
    return f"row {first}" + (f" (and {others:,} more)" if others else "")


_REMEDY = {
    "label": ", and a label cannot be missing",
    "error": "; data.own.missing = 'category' makes a missing text a value of its own",
    "category": f"; add {MISSING!r} to data.own.attributes.{{}}.values",
}


def _as_text(file: TableFile, name: str, column: Any) -> Any:
    """Encode a column of texts, whole numbers or booleans as two Arrow arrays: indices and dictionary."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_dictionary(kind) and not _is_text(kind.value_type):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_boolean(kind):
        column = pc.if_else(column, "True", "False")
    elif pa.types.is_floating(kind):
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, kind), column).cast(pa.string())
    elif pa.types.is_integer(kind) or pa.types.is_null(kind) or pa.types.is_string_view(kind):
        column = column.cast(pa.string())
    elif not (pa.types.is_dictionary(kind) or _is_text(kind)):
        raise file.error(f"column {name!r} has type {kind}, but its declared values need texts or numbers")
    encoded = column.dictionary_encode().unify_dictionaries().combine_chunks()
    return encoded.indices, encoded.dictionary.cast(pa.string())


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _numbers(file: TableFile, name: str, column: Any, missing: bool | None = None) -> npt.NDArray[np.float64]:
    """Return a column as finite numbers; texts are parsed.

    ``missing`` says whether numbers may be missing, which are NaN then; ``None`` if that cannot be declared.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if _is_text(kind):
        trimmed = pc.utf8_trim_whitespace(column.cast(pa.string()))
        column = pc.if_else(pc.equal(trimmed, ""), pa.scalar(None, pa.string()), trimmed)
        try:
            numbers = column.cast(pa.float64())
        except pa.ArrowInvalid:
            invalid = pc.invert(pc.match_substring_regex(column, _NUMBER)).fill_null(False)
            wrong = np.asarray(invalid.to_numpy())
            cell = quote(str(column[int(np.argmax(wrong))]))
            raise file.error(
                f"column {name!r} holds {cell} in {_rows(wrong)}, which is not a number{_maybe_blank(cell)}"
            ) from None
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        numbers = column.cast(pa.float64(), safe=False)
    elif pa.types.is_null(kind):
        numbers = column.cast(pa.float64())
    else:
        raise file.error(f"column {name!r} has type {kind}, but is declared as a number")
    absent = np.asarray(pc.is_null(numbers, nan_is_null=missing is not None).to_numpy())
    if absent.any() and not missing:
        remedy = "and a number of a group cannot be missing"
        if missing is not None:
            remedy = f"declare what is read in its place: data.own.columns.{name}.missing"
        raise file.error(
            f"column {name!r} has no value in {_rows(absent)}{', ' if missing is None else '; '}{remedy}"
        )
    values: npt.NDArray[np.float64] = numbers.to_numpy().astype(np.float64)
    if not (finite := np.isfinite(values) | absent).all():
        row = int(np.argmin(finite))
        raise file.error(f"column {name!r} holds {values[row]:g} in row {row + 1}, which is not finite")
    return values


def _feature(file: TableFile, name: str, column: Any, facts: ColumnFacts) -> npt.NDArray[np.float64]:
    """Return a feature's numbers, clipped to its bounds; NaN where one is missing and may be."""
    numbers = _numbers(file, name, column, facts.missing is not None)
    if facts.missing is None:
        return _clip(file, name, numbers, facts)
    absent = np.isnan(numbers)
    return np.where(absent, np.nan, _clip(file, name, np.where(absent, facts.missing, numbers), facts))


def _clip(
    file: TableFile, name: str, numbers: npt.NDArray[np.float64], facts: ColumnFacts
) -> npt.NDArray[np.float64]:
    """Clip numbers to the declared bounds; without bounds, reject numbers that cannot become a feature."""
    if facts.low is not None:
        return np.clip(numbers, facts.low, facts.high)
    if facts.transform == "log1p" and (low := numbers <= -1).any():
        row = int(np.argmax(low))
        raise file.error(
            f"column {name!r} holds {numbers[row]:g} in row {row + 1}, but log1p needs numbers above -1"
        )
    with np.errstate(over="ignore"):
        scaled = (TRANSFORMS[facts.transform](numbers) - facts.centre) / facts.scale
    if (far := ~(np.abs(scaled) <= FARTHEST)).any():
        row = int(np.argmax(far))
        raise file.error(
            f"column {name!r} holds {numbers[row]:g} in row {row + 1}, more than {FARTHEST:,.0f} scales from "
            "its centre; declare low and high, to which numbers are clipped"
        )
    return numbers
