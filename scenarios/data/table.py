"""A table of people: features, label and sensitive attributes, and the public facts that made it.

Everything that turns a raw column into a feature (bounds, centre, scale,
transform, vocabulary) is *declared* with the data source, as a fact that is
public before anybody looks at a record. Nothing is fitted on records, so
preprocessing costs no privacy.
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
"""The group of all groups that are too small to stand alone, where a scenario states a floor."""


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
        The groups, as public as the column's vocabulary: one may be empty.
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
        """Return the groups, those of fewer than ``floor`` records made into one at the end, :data:`REST`.

        Where they have no record at all, they are left out.

        Examples
        --------
        >>> Attribute("g", np.array([0, 0, 0, 1, 2]), ("a", "b", "c")).merged(2).names
        ('a', '(rest)')
        """
        small = self.counts < floor
        if not small.any():
            return self
        kept = np.flatnonzero(~small)
        place = np.full(len(self.names), len(kept), dtype=np.int64)
        place[kept] = np.arange(len(kept))
        rest = (REST,) if self.counts[small].any() else ()
        return Attribute(self.name, place[self.codes], (*(self.names[i] for i in kept), *rest))


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """Records, ready for training: n rows, d features. All arrays are read-only.

    Parameters
    ----------
    source
        The name of the source.
    features : float32 array of shape (n, d)
    feature_names
        One a feature: ``age``, ``race=Black``.
    feature_columns
        The source column of every feature: ``age``, ``race``.
    label : int64 array of shape (n,)
        An index into ``classes``.
    classes
        Of a binary label, index 1 is the positive one.
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

        The attributes stay: a group can be measured without being a feature.

        Raises
        ------
        ScenarioError
            If a column is not there, or no feature would be left.
        """
        present = dict.fromkeys(self.feature_columns)
        for column in columns:
            if column not in present:
                raise ScenarioError(
                    f"data {self.source!r}: no feature column {column!r} to drop{nearest(column, present)}"
                )
        kept = [i for i, column in enumerate(self.feature_columns) if column not in set(columns)]
        if not kept:
            raise ScenarioError(f"data {self.source!r}: dropping {', '.join(columns)} leaves no feature")
        return dataclasses.replace(
            self,
            features=self.features[:, kept],
            feature_names=tuple(self.feature_names[i] for i in kept),
            feature_columns=tuple(self.feature_columns[i] for i in kept),
        )

    def groups(self, attributes: Sequence[str]) -> Attribute:
        """Return the groups made by one attribute, or by crossing several.

        The groups of a crossing are named by joining with ``/`` (``White/Female``)
        and coded with the last attribute running fastest. They are all
        combinations of public names, so one may hold no record.

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
                raise ScenarioError(f"data {self.source!r}: attribute {name!r} is named twice for groups")
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
    """Turn a source's frame into a table, by its declared facts alone.

    Parameters
    ----------
    frame
        Holds every declared column, the label's column, one column for every
        attribute (of its name), and perhaps the boolean ``canonical_test``.
    source
        Whose facts these are.

    Raises
    ------
    ScenarioError
        If a record holds an undeclared category, a missing value, or a number
        outside the declared bounds; the line names column and value.
    """
    features, names, columns = [], [], []
    for column in source.columns:
        if isinstance(column, Categorical):
            codes = _codes(frame, source, column.name, column.values)
            features.append(np.eye(len(column.values), dtype=np.float32)[codes])
            names += [f"{column.name}={value}" for value in column.values]  # noqa: PD011
        else:
            features.append(_scaled(frame, source, column)[:, None])
            names.append(column.name)
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
        raise ScenarioError(f"data {source.name!r}: column {column!r} has no value, so no group (row {row})")
    return np.searchsorted(source.bins[column], raw, side="left").astype(np.int64)


def _scaled(frame: pd.DataFrame, source: Source, column: Numeric) -> npt.NDArray[np.float32]:
    raw = frame[column.name].to_numpy(dtype=np.float64)
    inside = (raw >= column.low) & (raw <= column.high)  # False for NaN
    if not inside.all():
        row = int(np.argmin(inside))
        raise ScenarioError(
            f"data {source.name!r}: column {column.name!r} holds {raw[row]:g} (row {row}), "
            f"outside its declared bounds {column.low:g} to {column.high:g}"
        )
    scaled = (TRANSFORMS[column.transform](raw) - column.centre) / column.scale
    return np.asarray(scaled, dtype=np.float32)


def _read_only(array: npt.ArrayLike, dtype: type[np.generic]) -> npt.NDArray[Any]:
    view = np.ascontiguousarray(array, dtype=dtype).view()
    view.flags.writeable = False
    return view
