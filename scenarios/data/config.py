"""The section ``[data]`` of a scenario: a built-in source, a plug-in, your own file, or synthetic records."""

from __future__ import annotations

import itertools
import math
import unicodedata
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from fedtoll.scenarios.fields import Count, Positive, Section, only_with, without_default

MOST_VALUES = 1_000
"""The most values that a column of your own file may have."""

MOST_FEATURES = 2_000
"""The most features of your own file: one per number, and one per value of a text column."""

MOST_GROUPS = 200
"""The most groups of an attribute of your own file, or of several attributes that are crossed."""

FEWEST_CLASSES, MOST_CLASSES = 3, 100
"""The fewest and the most values in ``classes`` of your own file."""

LONGEST = 200
"""The most characters in a name or a value."""

WORDS = ("title", "licence", "citation")
"""The keys of ``[data.own]`` that no result depends on."""

MISSING = "(missing)"
"""The value of a missing text if a scenario states ``missing = "category"``; marks missing numbers, too."""

_RESERVED_GROUPS = ("(all)", "everybody", "(rest)", "*")  # all records, small groups, groups not named
_RESERVED_COLUMN = "canonical_test"  # marks the test set of a built-in source

Finite = Annotated[float, Field(strict=True, allow_inf_nan=False)]


def check_label(value: object) -> object:
    """Convert a whole number or a boolean to a string; reject blank, overlong or unprintable strings."""
    if isinstance(value, int):
        value = str(value)
    if isinstance(value, str):
        if not value.strip():
            raise ValueError("must not be empty; missing values are declared by missing = 'category'")
        if len(value) > LONGEST:
            raise ValueError(f"has {len(value):,} characters, more than {LONGEST}")
        if any(unicodedata.category(c) in {"Cc", "Cs", "Zl", "Zp"} for c in value):
            raise ValueError("must be one line, without control characters; rename it in the file")
    return value


Label = Annotated[str, BeforeValidator(check_label)]
"""The name of a column, or a value in one."""


def _check_distinct(values: Iterable[object]) -> None:
    seen: set[object] = set()
    for value in values:
        if value in seen:
            raise ValueError(f"{value!r} appears twice")
        seen.add(value)


class ColumnFacts(Section):
    """The public facts of a column of your own file, stated independently of its records.

    For a number: ``low`` and ``high`` (mapped to −1 and 1; values beyond them are clipped), or ``centre`` and
    ``scale``. ``transform = "log1p"`` is for amounts of money; centre and scale then refer to the transformed
    values. For a text: its ``values``; whole numbers and True or False are read as texts. A number with
    ``missing`` may have no value: it is then read as that one, and the column has a second feature, which is
    1 for such records and 0 for others.
    """

    low: Finite | None = None
    high: Finite | None = None
    centre: Finite | None = None
    scale: Positive | None = None
    transform: Literal["identity", "log1p"] = "identity"
    values: tuple[Label, ...] = ()
    missing: Finite | None = None

    @model_serializer(mode="wrap")
    def _write(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out later keys that have their default, so that older runs keep their JSON and hash."""
        return without_default(handler(self), missing=None)

    @model_validator(mode="after")
    def _check(self) -> ColumnFacts:
        forms = (self.low is not None and self.high is not None, self.scale is not None, bool(self.values))
        halves = ((self.low is None) != (self.high is None), (self.centre is None) != (self.scale is None))
        if sum(forms) != 1 or any(halves):
            raise ValueError("give low and high, or centre and scale, or values")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError("low must be less than high")
        if self.transform == "log1p" and (self.values or (self.low is not None and self.low <= -1)):
            raise ValueError("transform = 'log1p' needs numbers above -1")
        if self.low is not None and self.high is not None:
            change = math.log1p if self.transform == "log1p" else float
            if not 0 < (change(self.high) - change(self.low)) / 2 < math.inf:
                raise ValueError("low and high are too close together or too far apart")
        if len(self.values) > MOST_VALUES:
            raise ValueError(f"values: {len(self.values):,}, more than {MOST_VALUES:,} per column")
        _check_distinct(self.values)
        if self.missing is not None:
            self._check_missing(self.missing)
        return self

    def _check_missing(self, missing: float) -> None:
        if self.values:
            raise ValueError("missing: is for numbers; data.own.missing = 'category' is for texts")
        if self.low is not None and self.high is not None and not self.low <= missing <= self.high:
            raise ValueError(f"missing: {missing:g} is outside {self.low:g} to {self.high:g}")
        if self.transform == "log1p" and missing <= -1:
            raise ValueError("missing: transform = 'log1p' needs numbers above -1")


class AttributeFacts(Section):
    """The public groups of an attribute: its ``values``, or the upper ends ``bins`` of ranges of a number.

    With ``missing = "category"``, list ``"(missing)"`` among the values for the group of records without one.
    """

    values: tuple[Label, ...] = ()
    bins: tuple[Finite, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> AttributeFacts:
        if bool(self.values) == bool(self.bins):
            raise ValueError("give values or bins")
        if list(self.bins) != sorted(set(self.bins)):
            raise ValueError("bins must be in increasing order")
        if len(self.names) > MOST_GROUPS:
            raise ValueError(f"{len(self.names):,} groups, more than {MOST_GROUPS} per attribute")
        _check_distinct(self.values)
        for name in self.values:
            if name in _RESERVED_GROUPS:
                raise ValueError(f"values: {name!r} is reserved for a group of fedtoll's")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the groups.

        Examples
        --------
        >>> AttributeFacts(bins=(29.0, 44.0)).names
        ('<=29', '30-44', '45+')
        >>> AttributeFacts(bins=(0.5, 1.25)).names
        ('<=0.5', '>0.5 to 1.25', '>1.25')
        """
        if self.values:
            return self.values
        whole = all(edge.is_integer() and 0 <= edge < 1e15 for edge in self.bins)
        if not whole:
            middle = [f">{a} to {b}" for a, b in itertools.pairwise(self.bins)]
            return (f"<={self.bins[0]}", *middle, f">{self.bins[-1]}")
        edges = [int(edge) for edge in self.bins]
        between = [f"{a + 1}-{b}" if a + 1 < b else f"{b}" for a, b in itertools.pairwise(edges)]
        return (f"<={edges[0]}", *between, f"{edges[-1] + 1}+")


class TableFacts(Section):
    """Everything that you declare about your own file; nothing is fitted on its records.

    Parameters
    ----------
    label, positive
        The label's column and its positive value.
    negative
        All other values of the label, which form one class.
    classes
        Instead of ``positive`` and ``negative``: three or more values of the label, each a class.
    columns
        The public facts of every feature, by column. Other columns are not read.
    attributes
        The sensitive attributes, by column.
    missing
        Whether a missing text is an error or a value of its own, :data:`MISSING`. A missing number is an
        error unless its column says what to read; a missing label is always one.
    blank
        Texts that mean that a value is missing, such as ``NA``, besides an empty cell.
    title, licence, citation
        What the report says about the records. They change no run.
    """

    label: Label
    positive: Label | None = None
    negative: tuple[Label, ...] = ()
    classes: tuple[Label, ...] = ()
    columns: dict[Label, ColumnFacts] = Field(min_length=1)
    attributes: dict[Label, AttributeFacts] = Field(min_length=1)
    missing: Literal["error", "category"] = "error"
    blank: tuple[Label, ...] = ()
    title: str = ""
    licence: str = ""
    citation: str = ""

    @model_serializer(mode="wrap")
    def _write(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out later keys that have their default, so that older runs keep their JSON and hash."""
        content = without_default(handler(self), **dict.fromkeys(WORDS, ""))
        return {key: value for key, value in content.items() if value or key not in {"classes", "blank"}}

    @model_validator(mode="after")
    def _check(self) -> TableFacts:
        self._check_label()
        for section, names in (("columns", self.columns), ("attributes", self.attributes)):
            if self.label in names:
                raise ValueError(f"{section}.{self.label}: this column is the label already")
        if _RESERVED_COLUMN in {self.label, *self.columns, *self.attributes}:
            raise ValueError(f"{_RESERVED_COLUMN!r}: a reserved name; rename the column in the file")
        for name, facts in self.attributes.items():
            column = self.columns.get(name)
            if column is not None:
                _check_consistent(name, column, facts)
        features = sum(
            len(self.vocabulary(name)) or 1 + (facts.missing is not None)
            for name, facts in self.columns.items()
        )
        if features > MOST_FEATURES:
            raise ValueError(f"columns: {features:,} features, more than {MOST_FEATURES:,}")
        return self

    def _check_label(self) -> None:
        if self.classes:
            if self.positive is not None or self.negative:
                raise ValueError("classes: give either these, or positive and negative")
            if len(self.classes) < FEWEST_CLASSES:
                raise ValueError("classes: needs three or more; give positive and negative for two")
            if len(self.classes) > MOST_CLASSES:
                raise ValueError(f"classes: {len(self.classes):,}, more than {MOST_CLASSES}")
        elif self.positive is None or not self.negative:
            key = "positive" if self.positive is None else "negative"
            raise ValueError(f"{key}: required, or classes with three or more values")
        if len(self.negative) >= MOST_VALUES:
            raise ValueError(
                f"negative: {len(self.negative):,} values, more than {MOST_VALUES - 1:,} and a positive one"
            )
        _check_distinct(self.labels)
        _check_distinct(self.blank)
        if both := [value for value in self.blank if value in self.labels]:
            raise ValueError(f"blank: {both[0]!r} is a value of the label")

    @property
    def labels(self) -> tuple[str, ...]:
        """All values of the label."""
        return self.classes or (*self.negative, *([] if self.positive is None else [self.positive]))

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes; of two, the positive one is last."""
        if self.classes:
            return self.classes
        positive = str(self.positive)
        return (self.negative[0] if len(self.negative) == 1 else f"not {positive}", positive)

    def vocabulary(self, column: str) -> tuple[str, ...]:
        """Return the values of a text column, including :data:`MISSING`; none for a number."""
        values = self.columns[column].values
        add_missing = values and self.missing == "category" and MISSING not in values
        return (*values, MISSING) if add_missing else values


def _check_consistent(name: str, column: ColumnFacts, attribute: AttributeFacts) -> None:
    """Reject an attribute that contradicts the feature of the same column."""
    if column.missing is not None:
        raise ValueError(f"attributes.{name}: columns.{name} has missing numbers, which belong to no group")
    if column.values and attribute.bins:
        raise ValueError(f"attributes.{name}: columns.{name} is a text; give values, not bins")
    if attribute.values and not column.values:
        raise ValueError(f"attributes.{name}: columns.{name} is a number; give bins, not values")
    if column.low is None or column.high is None:
        return
    for edge in attribute.bins:
        if not column.low <= edge < column.high:
            raise ValueError(
                f"attributes.{name}.bins: {edge:g} is outside {column.low:g} to {column.high:g}, to which "
                f"columns.{name} clips numbers"
            )


class SyntheticGroup(Section):
    """One group of synthetic records.

    Parameters
    ----------
    size
        The number of records.
    base_rate
        The share of positives.
    label_noise
        The share of labels that are flipped afterwards.
    feature_shift
        The distance of the group's features from the other groups', in standard deviations.
    concept_shift
        How far the group's rule is from the common one: 0 for the same rule, 1 for an unrelated one.
    """

    size: Count
    base_rate: Annotated[float, Field(gt=0, lt=1)] = 0.5
    label_noise: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    feature_shift: Finite = 0.0
    concept_shift: Annotated[float, Field(ge=0, le=1)] = 0.0


class Synthetic(Section):
    """Synthetic records: the groups, the number of features, all of them informative, and the seed."""

    groups: dict[Label, SyntheticGroup] = Field(min_length=1)
    features: Annotated[int, Field(strict=True, ge=2, le=500)] = 10
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**32)] = 0


class Data(Section):
    """The records, their groups, and the columns that the model does not see.

    ``source`` is a built-in source, ``"synthetic"`` with ``[data.synthetic]``, or a class of your own (by the
    name of an entry point, ``file.py:Class`` or ``package.module:Class``); ``file`` is your own table (CSV,
    TSV, Parquet or Feather) with ``[data.own]``. Paths are relative to the scenario. ``groups`` names one
    sensitive attribute, or several to cross; groups of fewer than ``floor`` records are merged. ``exclude``
    names columns that are no features.
    """

    source: str = ""
    file: str = ""
    groups: tuple[str, ...] = Field(min_length=1)
    exclude: tuple[str, ...] = ()
    floor: Annotated[int, Field(strict=True, ge=0)] = 0
    own: TableFacts | None = None
    synthetic: Synthetic | None = None

    @model_validator(mode="after")
    def _check(self) -> Data:
        if bool(self.source) == bool(self.file):
            raise ValueError("source, file: give exactly one of them")
        if bool(self.file) != (self.own is not None):
            raise ValueError("file, [data.own]: give both or neither")
        synthetic = self.source == "synthetic"
        only_with("[data.synthetic]", self.synthetic is not None, synthetic, "source = 'synthetic'")
        if self.own is not None:
            self.check_groups(self.own)
        return self

    def check_groups(self, own: TableFacts) -> None:
        """Raise a ``ValueError`` if declared attributes have too many groups, or two of one name."""
        levels = [own.attributes[g].names for g in self.groups if g in own.attributes]
        if (crossed := math.prod(map(len, levels))) > MOST_GROUPS:
            raise ValueError(f"groups: the crossing has {crossed:,} groups, more than {MOST_GROUPS}")
        _check_distinct(["/".join(names) for names in itertools.product(*levels)])

    @property
    def code(self) -> str:
        """The path of a plug-in's class, ``module:Class`` or ``/file.py:Class``; empty for other records."""
        return self.source if ":" in self.source else ""

    @property
    def is_own(self) -> bool:
        """Whether the records are the user's: of a file or of a plug-in."""
        return bool(self.file or self.code)

    @property
    def without_folders(self) -> Data:
        """The section with the name of a file in place of its path."""
        names = {key: getattr(self, key).rsplit("/", 1)[-1] for key in ("source", "file")}
        return self.model_copy(update=names)
