"""Your own table: a file, and what the scenario declares about its columns in ``[data.own]``.

Every fact is declared, nothing is fitted on records. Numbers outside the
declared bounds are cut off, which any reader of the declaration can do as
well; whatever else does not fit it is an error of one line.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fedtoll.scenarios.data.config import MISSING, ColumnFacts, Data, Own
from fedtoll.scenarios.data.source import TRANSFORMS, Categorical, Numeric, Source
from fedtoll.scenarios.data.user_file import TableFile, near, short

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1
"""Raised whenever the same bytes and declarations make another table."""

FARTHEST = 1e6
"""How many scales from its centre a number may lie: beyond, no training is finite."""

_PATTERN = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"  # of a number


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class OwnSource(Source):
    """A source made of a user's file and a user's declarations."""

    file: TableFile
    own: Own

    @functools.cached_property
    def checksum(self) -> str:
        """sha256 of the file's bytes and of all that is declared; neither name nor place counts."""
        facts = [f"fedtoll own {FORMAT}", self.file.form, self.file.sha256, self.own.model_dump_json()]
        return hashlib.sha256("\0".join(facts).encode()).hexdigest()


def own(data: Data) -> OwnSource:
    """Return the source that a scenario's ``[data]`` declares; the file is looked at, but not read.

    Parameters
    ----------
    data
        Names the file, an absolute path.

    Raises
    ------
    ScenarioError
        If the file is not there, or cannot be a table.
    """
    assert data.own is not None
    return _source(TableFile.at(Path(data.file)), data.own)


def _source(file: TableFile, own: Own) -> OwnSource:
    columns = tuple(_column(name, facts, own.vocabulary(name)) for name, facts in own.columns.items())
    features = sum(len(c.values) if isinstance(c, Categorical) else 1 for c in columns)
    return OwnSource(
        file=file,
        own=own,
        name=file.name,
        title="A table of your own",
        archive=None,
        read=lambda _: _frame(file, own, features),
        version=FORMAT,
        fingerprint="",
        licence="yours: fedtoll knows of none",
        citation="Label, columns and groups are declared by you.",
        rows=0,
        label=own.label,
        positive=own.positive,
        classes=own.classes,
        columns=columns,
        counts={name: dict.fromkeys(facts.names, 0) for name, facts in own.attributes.items()},
        bins={name: facts.bins for name, facts in own.attributes.items() if facts.bins},
    )


def _column(name: str, facts: ColumnFacts, vocabulary: tuple[str, ...]) -> Numeric | Categorical:
    if vocabulary:
        return Categorical(name, vocabulary)
    if facts.low is not None and facts.high is not None:
        return Numeric.bounded(name, facts.low, facts.high, facts.transform)
    assert facts.centre is not None
    assert facts.scale is not None
    return Numeric(name, facts.centre, facts.scale, facts.transform)


def _frame(file: TableFile, own: Own, features: int) -> pd.DataFrame:
    """Read the declared columns, and check every record against what is declared."""
    import pandas as pd

    raw = file.columns(list(dict.fromkeys([own.label, *own.columns, *own.attributes])))
    file.limit(len(raw[own.label]), features, "features")
    made: dict[str, npt.NDArray[Any]] = {}
    for name, column in own.columns.items():
        if column.values:  # noqa: PD011
            made[name] = _texts(file, name, raw[name], own.vocabulary(name), own.missing)
        else:
            made[name] = _cut(file, name, _numbers(file, name, raw[name]), column)
    for name, attribute in own.attributes.items():
        if attribute.values:  # noqa: PD011
            made[name] = _texts(file, name, raw[name], attribute.values, own.missing)
        elif name not in made:
            made[name] = _numbers(file, name, raw[name])
    label = _texts(file, own.label, raw[own.label], (*own.negative, own.positive), "label")
    made[own.label] = np.array(own.classes, dtype=object)[(label == own.positive).astype(np.int64)]
    return pd.DataFrame(made, copy=False)


def _texts(
    file: TableFile, name: str, column: Any, values: Sequence[str], missing: str
) -> npt.NDArray[np.object_]:
    """Return the values of a text column, all of them declared."""
    import pyarrow as pa
    import pyarrow.compute as pc

    places, words = _as_text(file, name, column)
    known = pc.index_in(words, value_set=pa.array(values, pa.string())).fill_null(-1)
    blank = pc.equal(pc.utf8_trim_whitespace(words), "").fill_null(True)
    absent = len(values)
    code_of = np.append(np.where(blank.to_numpy(zero_copy_only=False), absent, known.to_numpy()), absent)
    rows = places.cast(pa.int64()).fill_null(len(words)).to_numpy()
    codes = code_of[rows]
    if (codes < 0).any():
        row = int(np.argmax(codes < 0))
        value = words[int(rows[row])].as_py()
        raise file.mistake(
            f"column {name!r} holds the undeclared value {short(value)} in row {row + 1}{near(value, values)}"
        )
    if (codes == absent).any():
        if missing != "category" or MISSING not in values:
            row = int(np.argmax(codes == absent)) + 1
            raise file.mistake(f"column {name!r} has no value in row {row}{_REMEDY[missing].format(name)}")
        codes[codes == absent] = values.index(MISSING)
    return np.asarray(np.array(values, dtype=object)[codes])


_REMEDY = {
    "label": ", and is the label",
    "error": "; with data.own.missing = 'category' a missing text is a value of its own",
    "category": f"; add {MISSING!r} to data.own.attributes.{{}}.values",
}


def _as_text(file: TableFile, name: str, column: Any) -> Any:
    """Return a column of texts, whole numbers or booleans as two Arrow arrays: places, and words."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_dictionary(kind) and not _is_text(kind.value_type):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_boolean(kind):
        column = pc.if_else(column, "True", "False")
    elif pa.types.is_integer(kind) or pa.types.is_null(kind) or pa.types.is_string_view(kind):
        column = column.cast(pa.string())
    elif not (pa.types.is_dictionary(kind) or _is_text(kind)):
        raise file.mistake(f"column {name!r} is of type {kind}, but its values need texts or whole numbers")
    words = column.dictionary_encode().unify_dictionaries().combine_chunks()
    return words.indices, words.dictionary.cast(pa.string())


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _numbers(file: TableFile, name: str, column: Any) -> npt.NDArray[np.float64]:
    """Return a column of finite numbers, from numbers or from texts that are some."""
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
            odd = pc.invert(pc.match_substring_regex(column, _PATTERN)).fill_null(False)
            row = int(np.argmax(odd.to_numpy()))
            raise file.mistake(
                f"column {name!r} holds {short(str(column[row]))} in row {row + 1}, which is not a number"
            ) from None
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        numbers = column.cast(pa.float64(), safe=False)
    elif pa.types.is_null(kind):
        numbers = column.cast(pa.float64())
    else:
        raise file.mistake(f"column {name!r} is of type {kind}, but a number is declared")
    absent = numbers.is_null().to_numpy()
    if absent.any():
        row = int(np.argmax(absent)) + 1
        raise file.mistake(f"column {name!r} has no value in row {row}, and a number cannot be missing")
    found: npt.NDArray[np.float64] = numbers.to_numpy().astype(np.float64)
    if not (finite := np.isfinite(found)).all():
        row = int(np.argmin(finite))
        raise file.mistake(f"column {name!r} holds {found[row]:g} in row {row + 1}, which is not finite")
    return found


def _cut(
    file: TableFile, name: str, numbers: npt.NDArray[np.float64], facts: ColumnFacts
) -> npt.NDArray[np.float64]:
    """Cut numbers off at the declared bounds; where there are none, refuse those that make no feature."""
    if facts.low is not None:
        return np.clip(numbers, facts.low, facts.high)
    if facts.transform == "log1p" and (low := numbers <= -1).any():
        row = int(np.argmax(low))
        raise file.mistake(
            f"column {name!r} holds {numbers[row]:g} in row {row + 1}, and log1p is for numbers above -1"
        )
    with np.errstate(over="ignore"):
        scaled = (TRANSFORMS[facts.transform](numbers) - facts.centre) / facts.scale
    if (far := ~(np.abs(scaled) <= FARTHEST)).any():
        row = int(np.argmax(far))
        raise file.mistake(
            f"column {name!r} holds {numbers[row]:g} in row {row + 1}, more than {FARTHEST:,.0f} scales from "
            "its centre; declare low and high, where numbers are cut off"
        )
    return numbers
