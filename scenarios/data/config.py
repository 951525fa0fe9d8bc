"""The section ``[data]`` of a scenario: a built-in source, your own file, or made-up records."""

from __future__ import annotations

import itertools
import math
import unicodedata
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from fedtoll.scenarios.fields import Count, Positive, Section

MOST_VALUES = 1_000
"""How many values a column of your own file may have."""

MOST_FEATURES = 2_000
"""How many features your own file may make: one a number, one a value of a text."""

MOST_GROUPS = 200
"""How many groups an attribute of your own file may have, or a crossing of several."""

LONGEST = 200
"""How many characters a name or a value may have."""

MISSING = "(missing)"
"""What a missing text is where a scenario says ``missing = "category"``."""

_TAKEN = ("(all)", "everybody", "(rest)", "*")  # groups of everybody, of small ones, of those not named
_MARK = "canonical_test"  # the column that marks a built-in source's own test set

Finite = Annotated[float, Field(strict=True, allow_inf_nan=False)]


def _word(value: object) -> object:
    """Read a whole number or a boolean as the text that it is in a file, and refuse what no line can show."""
    if isinstance(value, int):
        value = str(value)
    if isinstance(value, str):
        if not value.strip():
            raise ValueError("must not be empty: a missing value is no value")
        if len(value) > LONGEST:
            raise ValueError(f"has {len(value):,} characters, more than {LONGEST}")
        if any(unicodedata.category(c) in {"Cc", "Cs", "Zl", "Zp"} for c in value):
            raise ValueError("must be one line, without control characters; rename it in the file")
    return value


Word = Annotated[str, BeforeValidator(_word)]
"""The name of a column, or a value in one."""


def _apart(words: Iterable[object]) -> None:
    seen: set[object] = set()
    for word in words:
        if word in seen:
            raise ValueError(f"{word!r} stands twice")
        seen.add(word)


class ColumnFacts(Section):
    """What is public about a column of your own file, before anybody looks at a record.

    A number: ``low`` and ``high`` (mapped to −1 and 1; values outside are cut off), or ``centre`` and
    ``scale``; with ``transform = "log1p"`` for amounts of money, in whose units centre and scale then
    are. A text: its ``values``, with whole numbers and True or False read as texts.
    """

    low: Finite | None = None
    high: Finite | None = None
    centre: Finite | None = None
    scale: Positive | None = None
    transform: Literal["identity", "log1p"] = "identity"
    values: tuple[Word, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> ColumnFacts:
        forms = (self.low is not None and self.high is not None, self.scale is not None, bool(self.values))
        halves = ((self.low is None) != (self.high is None), (self.centre is None) != (self.scale is None))
        if sum(forms) != 1 or any(halves):
            raise ValueError("give low and high, or centre and scale, or values")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError("low must be less than high")
        if self.transform == "log1p" and (self.values or (self.low is not None and self.low <= -1)):
            raise ValueError("transform = 'log1p' is for numbers above -1")
        if self.low is not None and self.high is not None:
            change = math.log1p if self.transform == "log1p" else float
            if not 0 < (change(self.high) - change(self.low)) / 2 < math.inf:
                raise ValueError("low and high are too close together, or too far apart")
        if len(self.values) > MOST_VALUES:
            raise ValueError(f"values: {len(self.values):,}, more than {MOST_VALUES:,} a column")
        _apart(self.values)
        return self


class AttributeFacts(Section):
    """The public groups of an attribute: its ``values``, or the upper ends of ``bins`` of a number.

    With ``missing = "category"``, ``"(missing)"`` among the values is the group of records without one.
    """

    values: tuple[Word, ...] = ()
    bins: tuple[Finite, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> AttributeFacts:
        if bool(self.values) == bool(self.bins):
            raise ValueError("give values or bins")
        if list(self.bins) != sorted(set(self.bins)):
            raise ValueError("bins must rise")
        if len(self.names) > MOST_GROUPS:
            raise ValueError(f"{len(self.names):,} groups, more than {MOST_GROUPS} an attribute")
        _apart(self.values)
        for name in self.values:
            if name in _TAKEN:
                raise ValueError(f"values: {name!r} is the name of a group that fedtoll makes")
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
    """What you declare about your own file: nothing is fitted on its records.

    Parameters
    ----------
    label, positive
        The label's column and its positive value.
    negative
        Its other values: whatever there are, they are one class.
    columns
        The public facts of every feature. Columns that are not named are not read.
    attributes
        The sensitive attributes, by column.
    missing
        What a missing value is: an error, or a value of its own, :data:`MISSING`. Texts only: a number
        that is missing is always an error, and so is a label.
    """

    label: Word
    positive: Word
    negative: tuple[Word, ...] = Field(min_length=1)
    columns: dict[Word, ColumnFacts] = Field(min_length=1)
    attributes: dict[Word, AttributeFacts] = Field(min_length=1)
    missing: Literal["error", "category"] = "error"

    @model_validator(mode="after")
    def _check(self) -> TableFacts:
        if len(self.negative) >= MOST_VALUES:
            raise ValueError(f"negative: {len(self.negative):,} values, more than {MOST_VALUES:,}")
        _apart((self.positive, *self.negative))
        for section, names in (("columns", self.columns), ("attributes", self.attributes)):
            if self.label in names:
                raise ValueError(f"{section}.{self.label}: is the label; a column is one or the other")
        if _MARK in {self.label, *self.columns, *self.attributes}:
            raise ValueError(f"{_MARK!r}: is a name that fedtoll needs; rename the column in the file")
        for name, facts in self.attributes.items():
            column = self.columns.get(name)
            if column is not None:
                _fit(name, column, facts)
        made = sum(max(1, len(self.vocabulary(name))) for name in self.columns)
        if made > MOST_FEATURES:
            raise ValueError(f"columns: they make {made:,} features, more than {MOST_FEATURES:,}")
        return self

    @property
    def classes(self) -> tuple[str, str]:
        """The names of the two classes, the positive one last."""
        return (self.negative[0] if len(self.negative) == 1 else f"not {self.positive}", self.positive)

    def vocabulary(self, column: str) -> tuple[str, ...]:
        """Return the values of a text among the columns; none for a number."""
        values = self.columns[column].values
        apart = values and self.missing == "category" and MISSING not in values
        return (*values, MISSING) if apart else values


def _fit(name: str, column: ColumnFacts, attribute: AttributeFacts) -> None:
    """Refuse an attribute that says something else about a column than the features do."""
    if column.values and attribute.bins:
        raise ValueError(f"attributes.{name}: is a text among the columns; give values, not bins")
    if attribute.values and not column.values:
        raise ValueError(f"attributes.{name}: is a number among the columns; give bins, not values")
    if column.low is None or column.high is None:
        return
    for edge in attribute.bins:
        if not column.low <= edge < column.high:
            raise ValueError(
                f"attributes.{name}.bins: {edge:g} is outside {column.low:g} to {column.high:g}, where "
                f"columns.{name} cuts numbers off"
            )


class SyntheticGroup(Section):
    """One group of made-up people.

    Parameters
    ----------
    size
        Records.
    base_rate
        Share of positives.
    label_noise
        Share of labels that are turned round after they were made.
    feature_shift
        How far the group's features lie from the others', in standard deviations.
    concept_shift
        How far its own rule is from the common one: 0 is the same rule, 1 one of its own.
    """

    size: Count
    base_rate: Annotated[float, Field(gt=0, lt=1)] = 0.5
    label_noise: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    feature_shift: Finite = 0.0
    concept_shift: Annotated[float, Field(ge=0, le=1)] = 0.0


class Synthetic(Section):
    """Made-up records: groups, and how many features tell anything."""

    groups: dict[Word, SyntheticGroup] = Field(min_length=1)
    features: Annotated[int, Field(strict=True, ge=2, le=500)] = 10
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**32)] = 0


class Data(Section):
    """Which records, which subgroups of them, and which columns the model may not see.

    ``source`` is a built-in source, or ``"synthetic"`` with ``[data.synthetic]``; ``file`` is your own
    table (CSV, TSV, Parquet or Feather, relative to the scenario) with ``[data.own]``. ``groups`` names one
    sensitive attribute or several that are crossed; groups of fewer than ``floor`` records become one.
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
            raise ValueError("source, file: give one of the two")
        if bool(self.file) != (self.own is not None):
            raise ValueError("file needs [data.own], and [data.own] a file")
        if (self.source == "synthetic") != (self.synthetic is not None):
            raise ValueError("source = 'synthetic' needs [data.synthetic], and only that does")
        if self.own is not None:
            levels = [self.own.attributes[g].names for g in self.groups if g in self.own.attributes]
            if (crossed := math.prod(map(len, levels))) > MOST_GROUPS:
                raise ValueError(f"groups: their crossing has {crossed:,} groups, more than {MOST_GROUPS}")
            _apart(["/".join(names) for names in itertools.product(*levels)])
        return self
