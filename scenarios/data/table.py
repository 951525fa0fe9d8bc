"""A table of records: features, label and sensitive attributes.

Everything that turns a raw column into a feature (bounds, centre, scale,
transform, vocabulary) is *declared* with the data source, as a fact that is public
independently of the records. Nothing is fitted on records, so preprocessing
costs no privacy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fedtoll.scenarios.data.source import CANONICAL_TEST, TRANSFORMS, Categorical, Numeric, Source
from fedtoll.scenarios.errors import ScenarioError, nearest

if TYPE_CHECKING:
    import pandas as pd


REST = "(rest)"
"""The group that all groups smaller than a scenario's floor are merged into."""


@dataclasses.dataclass(frozen=True, eq=False)
class Attribute:
    """A sensitive attribute of every record, or a crossing of several.

    Parameters
    ----------
    name
        For example ``race``, or ``race/sex`` for a crossing.
    codes : int64 array of shape (n,)
        The group of every record, an index into ``names``.
    names
        The groups, as public as the column's vocabulary; some may have no records.
    """

    name: str
    codes: npt.NDArray[np.int64]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "codes", _read_only(self.codes, np.int64))
        if self.codes.size and not 0 <= self.codes.min() <= self.codes.max() < len(self.names):
            raise ValueError(f"attribute {self.name!r} has a code without a name")

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """The number of records of every group, an int64 array of shape (len(names),)."""
        return np.bincount(self.codes, minlength=len(self.names)).astype(np.int64)

    def merged(self, floor: int) -> Attribute:
        """Return the groups with all of fewer than ``floor`` records merged into a last one, :data:`REST`.

        If the merged groups have no records at all, there is no such group.

        Examples
        --------
        >>> Attribute("g", np.array([0, 0, 0, 1, 2]), ("a", "b", "c")).merged(2).names
        ('a', '(rest)')
        """
        small = self.counts < floor
        if not small.any():
            return self
        large = np.flatnonzero(~small)
        new_code = np.full(len(self.names), len(large), dtype=np.int64)
        new_code[large] = np.arange(len(large))
        rest = (REST,) if self.counts[small].any() else ()
        return Attribute(self.name, new_code[self.codes], (*(self.names[i] for i in large), *rest))


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """Records encoded for training: n rows, d features. All arrays are read-only.

    Parameters
    ----------
    source
        The name of the source.
    features : float32 array of shape (n, d)
    feature_names
        The name of every feature: ``age``, ``race=Black``.
    feature_columns
        The source column of every feature: ``age``, ``race``.
    label : int64 array of shape (n,)
        An index into ``classes``.
    classes
        For a binary label, index 1 is the positive class.
    attributes
        The sensitive attributes by name, whether or not they are among the features.
    canonical_test : bool array of shape (n,), or None
        The rows of the source's own test set.
    """

    source: str
    features: npt.NDArray[np.float32]
    feature_names: tuple[str, ...]
    feature_columns: tuple[str, ...]
    label: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    attributes: Mapping[str, Attribute]
    canonical_test: npt.NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", _read_only(self.features, np.float32))
        object.__setattr__(self, "label", _read_only(self.label, np.int64))
        if self.canonical_test is not None:
            object.__setattr__(self, "canonical_test", _read_only(self.canonical_test, np.bool_))
        lengths = {len(self.features), len(self.label), *(len(a.codes) for a in self.attributes.values())}
        if self.canonical_test is not None:
            lengths.add(len(self.canonical_test))
        if len(lengths) != 1:
            raise ValueError(f"table {self.source!r}: columns of different lengths {sorted(lengths)}")
        if not self.features.shape[1] == len(self.feature_names) == len(self.feature_columns):
            raise ValueError(f"table {self.source!r}: {self.features.shape[1]} features, not as many names")

    def __len__(self) -> int:
        return len(self.label)

    def without(self, columns: Sequence[str]) -> Table:
        """Return the table without the features of some source columns.

        Attributes remain: groups can be measured without being features.

        Raises
        ------
        ScenarioError
            If a column is unknown, or no feature would remain.
        """
        present = dict.fromkeys(self.feature_columns)
        for column in columns:
            if column not in present:
                raise ScenarioError(
                    f"data {self.source!r}: no feature column {column!r} to drop{nearest(column, present)}"
                )
        remaining = [i for i, column in enumerate(self.feature_columns) if column not in set(columns)]
        if not remaining:
            raise ScenarioError(f"data {self.source!r}: dropping {', '.join(columns)} leaves no feature")
        return dataclasses.replace(
            self,
            features=self.features[:, remaining],
            feature_names=tuple(self.feature_names[i] for i in remaining),
            feature_columns=tuple(self.feature_columns[i] for i in remaining),
        )

    def groups(self, attributes: Sequence[str]) -> Attribute:
        """Return the groups of one attribute, or of several that are crossed.

        The groups of a crossing are named by joining names with ``/`` (``White/Female``)
        and coded with the last attribute running fastest. They are all combinations of
        public names, so some may have no records.

        Raises
        ------
        ScenarioError
            If no attribute is given, one is given twice, or one is unknown.
        """
        if not attributes:
            raise ScenarioError(f"data {self.source!r}: groups need at least one attribute")
        for i, name in enumerate(attributes):
            if name not in self.attributes:
                raise ScenarioError(
                    f"data {self.source!r}: no attribute {name!r} for groups{nearest(name, self.attributes)}"
                )
            if name in attributes[:i]:
                raise ScenarioError(f"data {self.source!r}: attribute {name!r} is named twice in groups")
        crossed = self.attributes[attributes[0]]
        for name in attributes[1:]:
            other = self.attributes[name]
            crossed = Attribute(
                f"{crossed.name}/{other.name}",
                crossed.codes * len(other.names) + other.codes,
                tuple(f"{a}/{b}" for a in crossed.names for b in other.names),
            )
        return crossed


def encode(frame: pd.DataFrame, source: Source) -> Table:
    """Encode a source's frame as a table, using the declared facts alone.

    Parameters
    ----------
    frame
        Has every declared column, the label's column, a column for every attribute, and optionally the
        boolean ``canonical_test``.
    source
        The source that declares the facts.

    Raises
    ------
    ScenarioError
        If a record has an undeclared category, a missing value, or a number
        outside the declared bounds; the line names column and value.
    """
    from fedtoll.scenarios.data.config import MISSING  # here, because looking up a source needs no pydantic

    features, names, columns = [], [], []
    for column in source.columns:
        if isinstance(column, Categorical):
            codes = _codes(frame, source, column.name, column.values)
            features.append(np.eye(len(column.values), dtype=np.float32)[codes])
            names += [f"{column.name}={value}" for value in column.values]  # noqa: PD011
        else:
            features.append(_scaled(frame, source, column))
            names.append(column.name)
            names += [f"{column.name}={MISSING}"] if column.missing is not None else []
        columns += [column.name] * features[-1].shape[1]
    attributes = {}
    for name, groups in source.attributes.items():
        codes = _binned(frame, source, name) if name in source.bins else _codes(frame, source, name, groups)
        attributes[name] = Attribute(name, codes, groups)
    return Table(
        source=source.name,
        features=np.concatenate(features, axis=1),
        feature_names=tuple(names),
        feature_columns=tuple(columns),
        label=_codes(frame, source, source.label, source.classes),
        classes=source.classes,
        attributes=attributes,
        canonical_test=frame[CANONICAL_TEST].to_numpy() if CANONICAL_TEST in frame else None,
    )


def _codes(frame: pd.DataFrame, source: Source, column: str, values: Sequence[str]) -> npt.NDArray[np.int64]:
    import pandas as pd

    codes = pd.Index(values).get_indexer(pd.Index(frame[column]))
    if (codes < 0).any():
        row = int(np.argmax(codes < 0))
        value = str(frame[column].iloc[row])
        raise ScenarioError(
            f"data {source.name!r}: column {column!r} holds the undeclared value {value!r} (row {row})"
            f"{nearest(value, values)}"
        )
    return codes.astype(np.int64)


def _binned(frame: pd.DataFrame, source: Source, column: str) -> npt.NDArray[np.int64]:
    raw = frame[column].to_numpy(dtype=np.float64)
    if np.isnan(raw).any():
        row = int(np.argmax(np.isnan(raw)))
        raise ScenarioError(f"data {source.name!r}: column {column!r} has no value in row {row}")
    return np.searchsorted(source.bins[column], raw, side="left").astype(np.int64)


def _scaled(frame: pd.DataFrame, source: Source, column: Numeric) -> npt.NDArray[np.float32]:
    """Return a column's features, (n, 1); with missing values (n, 2), the second marks them."""
    raw = frame[column.name].to_numpy(dtype=np.float64)
    absent = np.isnan(raw)
    if column.missing is not None:
        raw = np.where(absent, column.missing, raw)
    inside = (raw >= column.low) & (raw <= column.high)  # False for NaN
    if not inside.all():
        row = int(np.argmin(inside))
        raise ScenarioError(
            f"data {source.name!r}: column {column.name!r} holds {raw[row]:g} (row {row}), "
            f"outside its declared bounds {column.low:g} to {column.high:g}"
        )
    scaled = (TRANSFORMS[column.transform](raw) - column.centre) / column.scale
    features = [scaled] if column.missing is None else [scaled, absent]
    return np.stack(features, axis=1).astype(np.float32)


def _read_only(array: npt.ArrayLike, dtype: type[np.generic]) -> npt.NDArray[Any]:
    view = np.ascontiguousarray(array, dtype=dtype).view()
    view.flags.writeable = False
    return view
