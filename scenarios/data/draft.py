"""Draft a scenario from a table: proposals that its owner must confirm.

Everything here is looked up in the records. Such facts are not free: a range that was read from the records
reveals the extreme ones, and no ε covers that. So every proposal says so in the file, and it is the owner who
turns it into a public fact, from documentation.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedtoll.scenarios.data.config import FEWEST_CLASSES, check_label
from fedtoll.scenarios.data.user_file import TableFile
from fedtoll.scenarios.data.user_table import BLANKS
from fedtoll.scenarios.errors import ScenarioError, nearest

if TYPE_CHECKING:
    import pandas as pd

MOST_TEXTS = 50
"""A text column with more distinct values is left out: it is probably a name or free text."""

FEWEST_NUMBERS = 13
"""A column of whole numbers with fewer distinct values is proposed as a list of values, e.g. of codes."""

MOST_LABELS = 20
"""A label with more values is proposed to be no label: it is probably a number."""

NEARLY_ALL = 0.02
"""A column that alone leaves so few of the rarer labels unknown is probably not known before the label is."""

LOOKED_UP = "looked up in the records, so not free: confirm"
GIVES_AWAY = "gives the label away: is it known beforehand?"


@dataclass(frozen=True)
class Draft:
    """A drafted scenario.

    Attributes
    ----------
    text
        Its TOML.
    left_out
        Why each column that is no feature was left out, by name.
    giving_away
        The features of which one alone predicts nearly every label.
    """

    text: str
    left_out: dict[str, str]
    giving_away: tuple[str, ...] = ()


def draft(path: Path, label: str, groups: list[str], positive: str = "", name: str = "") -> Draft:
    """Return a scenario for the table in a file.

    Parameters
    ----------
    path
        The table.
    label, groups
        The columns of the label and of the sensitive attributes.
    positive
        The positive value of the label; by default the rarer of two. With more values and no positive one,
        every value is a class.
    name
        The scenario's name, by default that of the file.

    Raises
    ------
    ScenarioError
        If the file cannot be read, or a column or value is not in it.
    """
    frame, blank = _without_blanks(cells(path, label))
    for column in (label, *groups):
        if column not in frame:
            raise ScenarioError(f"{path.name}: no column {column!r}{nearest(column, frame.columns)}")
    if label in groups:
        raise ScenarioError(f"{path.name}: {label!r} is the label, so it cannot be a group")
    classes = frame[label].value_counts()
    if "" in classes.index:
        raise ScenarioError(f"{path.name}: the label {label!r} has no value in {classes['']:,} rows")
    if positive and positive not in classes.index:
        raise ScenarioError(f"{path.name}: no label {positive!r}{nearest(positive, classes.index)}")
    if len(classes) < 2 or (len(classes) > MOST_LABELS and not positive):
        shown = ", ".join(map(str, classes.index[:8]))
        raise ScenarioError(
            f"{path.name}: the label {label!r} has {len(classes):,} values ({shown}): "
            + ("nothing to predict" if len(classes) < 2 else "name the positive one")
        )
    several = len(classes) >= FEWEST_CLASSES and not positive
    rarer = positive or str(classes.index[-1])
    columns: dict[str, str] = {}
    left_out: dict[str, str] = {}
    for column in map(str, frame):
        if column != label:
            fact, reason = _fact(frame[column])
            if fact:
                columns[column] = fact
            else:
                left_out[str(column)] = reason
    if not columns:
        raise ScenarioError(f"{path.name}: no column can be a feature: {'; '.join(left_out.values())}")
    negative = sorted(str(value) for value in classes.index if value != rarer)
    head: dict[str, Any] = {
        "label": label,
        "classes": sorted(map(str, classes.index)) if several else [],
        "positive": rarer,
        "negative": negative,
        "missing": _has_blanks(frame, [c for c, fact in columns.items() if "values" in fact] + groups),
        "blank": blank,
    }
    attributes = {column: _attribute(frame[column], columns.get(column, "")) for column in groups}
    stem = re.sub(r"[^a-z0-9]+", "-", (name or path.name.split(".")[0]).lower()).strip("-")[:64] or "mine"
    head["giving away"] = [c for c, fact in columns.items() if _gives_away(frame[c], frame[label], fact)]
    text = _toml(stem, path, head, columns, attributes, left_out, len(frame))
    return Draft(text, left_out, tuple(head["giving away"]))


def cells(path: Path, label: str) -> pd.DataFrame:
    """Return all columns of a table, as numbers or as trimmed texts; a missing number is NaN, a text empty.

    Numbers of the file stay numbers, unless they are the label or could be a list of whole numbers.
    """
    file = TableFile.at(path)
    found = file.columns(file.header())
    import pandas as pd
    from pandas.api import types

    frame = {}
    for name, column in found.items():
        values = column.to_pandas()
        if types.is_numeric_dtype(values) and not types.is_bool_dtype(values):
            distinct = values.dropna().unique()
            whole = not (distinct % 1 != 0).any()
            if name != label and not (whole and len(distinct) < FEWEST_NUMBERS):
                frame[name] = values.astype(float)
                continue
            values = values.astype("Int64") if whole else values
        written = values.astype("string").fillna("").str.strip().astype(object)
        present = pd.Series(written.unique())
        if present[present != ""].str.fullmatch(r"[+-]?\d+\.0*").all():  # whole, with a gap: often 1.0
            written = written.str.replace(r"\.0*$", "", regex=True)
        frame[name] = written
    return pd.DataFrame(frame)


def _present(column: pd.Series[Any]) -> pd.Series[Any]:
    """Return the values of a column that are not missing."""
    return column.dropna() if column.dtype == float else column[column != ""]


def _without_blanks(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Empty the cells that hold a word for "missing" between numbers; return those words, too."""
    import pandas as pd

    found: dict[str, None] = {}
    texts = [str(name) for name in frame if frame[name].dtype == object]
    for name in texts:
        distinct = pd.Series(frame[name].unique())
        words = set(distinct[distinct.str.casefold().isin(BLANKS)])
        numbers = distinct[(distinct != "") & ~distinct.isin(words)]
        if words and len(numbers) and pd.to_numeric(numbers, errors="coerce").notna().all():
            found |= dict.fromkeys(sorted(words))
    emptied = {name: frame[name].where(~frame[name].isin(list(found)), "") for name in texts if found}
    return frame.assign(**emptied), list(found)


def _fact(column: pd.Series[Any]) -> tuple[str, str]:
    """Return what is proposed for a column, as TOML; or an empty string and why it is left out."""
    import pandas as pd

    present = _present(column)
    distinct = present.unique()
    if len(distinct) < 2:
        return "", "has one value" if len(distinct) else "has no value"
    numbers = pd.to_numeric(pd.Series(distinct), errors="coerce")
    numeric = bool(numbers.notna().all() and numbers.abs().max() < math.inf)
    if numeric and (len(distinct) >= FEWEST_NUMBERS or (numbers % 1 != 0).any()):
        low, high = float(numbers.min()), float(numbers.max())
        skewed = low >= 0 and high > 1000 and float(numbers.median()) < high / 10
        least, most = _down(low), -_down(-high)
        rest = ', transform = "log1p"' if skewed else ""
        if len(present) < len(column):
            rest += f", missing = {_number(least if skewed else (least + most) / 2)}"
        return f"{{ low = {_number(least)}, high = {_number(most)}{rest} }}", ""
    if len(distinct) > MOST_TEXTS:
        return "", f"has {len(distinct):,} distinct texts, perhaps a name or an identifier"
    try:
        values = [check_label(str(value)) for value in distinct]
    except ValueError as error:
        return "", f"holds a value that {error}"
    ordered = sorted(values, key=(lambda v: float(str(v))) if numeric else str)
    return f"{{ values = {json.dumps(ordered, ensure_ascii=False)} }}", ""


def _gives_away(column: pd.Series[Any], label: pd.Series[Any], fact: str) -> bool:
    """Return whether each value, or each fiftieth of the numbers, nearly always has the same label."""
    import pandas as pd

    parts = column
    if fact.startswith("{ low"):
        parts = pd.qcut(pd.to_numeric(column, errors="coerce"), 50, labels=False, duplicates="drop").fillna(
            -1
        )
    counts = pd.crosstab(parts, label)
    wrong = len(label) - int(counts.max(axis=1).sum())
    return wrong <= NEARLY_ALL * (len(label) - int(counts.sum().max())) and len(label) >= 50 * len(counts)


def _attribute(column: pd.Series[Any], fact: str) -> str:
    """Return the groups that are proposed for an attribute, as TOML."""
    import pandas as pd

    present = _present(column)
    if fact.startswith("{ low"):
        numbers = pd.to_numeric(present)
        least, most = float(numbers.min()), float(numbers.max())
        edges = sorted({_down(float(numbers.quantile(share))) for share in (1 / 3, 2 / 3)})
        inside = [edge for edge in edges if least < edge < most]
        return f"{{ bins = [{', '.join(map(_number, inside or [(_down(least) - _down(-most)) / 2]))}] }}"
    values = sorted(str(value) for value in present.unique())
    if len(values) > MOST_TEXTS:
        raise ScenarioError(f"{column.name}: has {len(values):,} values, too many for groups")
    if len(present) < len(column):
        values.append("(missing)")
    return f"{{ values = {json.dumps(values, ensure_ascii=False)} }}"


def _has_blanks(frame: pd.DataFrame, columns: list[str]) -> bool:
    return any(len(_present(frame[name])) < len(frame) for name in columns)


def _down(value: float) -> float:
    """Return the next lower number of two significant digits, which says less about the extreme record.

    Examples
    --------
    >>> _down(17.3), -_down(-90241.0), _down(0.0)
    (17.0, 91000.0, 0.0)
    """
    if value == 0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(abs(value))) - 1)
    return float(f"{math.floor(value / unit) * unit:.6g}")


def _number(value: float) -> str:
    return str(int(value)) if value.is_integer() else repr(value)


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name, ensure_ascii=False)


def _label(head: dict[str, Any]) -> list[str]:
    """Return the lines that declare the label's values."""
    if head["classes"]:
        return [
            f"classes = {json.dumps(head['classes'], ensure_ascii=False)} # {LOOKED_UP}",
            "# For two classes: positive = one of them, negative = the others.",
        ]
    return [
        f"positive = {json.dumps(head['positive'], ensure_ascii=False)} # confirm",
        f"negative = {json.dumps(head['negative'], ensure_ascii=False)} # {LOOKED_UP}",
    ]


def _toml(
    name: str,
    path: Path,
    head: dict[str, Any],
    columns: dict[str, str],
    attributes: dict[str, str],
    left_out: dict[str, str],
    rows: int,
) -> str:
    """Return the text of the scenario's file."""
    width = max(len(_key(column)) + len(fact) for column, fact in columns.items()) + 3
    noted = {c: f"{GIVES_AWAY} {LOOKED_UP}" if c in head["giving away"] else LOOKED_UP for c in columns}
    facts = [f"{f'{_key(c)} = {fact}':<{min(width, 90)}} # {noted[c]}" for c, fact in columns.items()]
    groups = [f"{_key(c)} = {fact} # {LOOKED_UP}" for c, fact in attributes.items()]
    omitted = [f"# {_key(c)}: left out, it {reason}" for c, reason in left_out.items()]
    delta = f"1e-{max(5, math.ceil(math.log10(max(rows, 10))) + 1)}"
    lines = [
        "# A draft. Its values and ranges were looked up in the records. Such facts are not free: a range",
        "# that was read from the records reveals the extreme ones, and no ε covers that. Replace each by",
        "# what you know from documentation, or confirm that it is public, and remove its comment.",
        f"name = {json.dumps(name)}",
        f"title = {json.dumps(f'Who pays for privacy in {path.name}?', ensure_ascii=False)}",
        'seeds = "0:5"',
        "",
        "[data]",
        f"file = {json.dumps(path.name, ensure_ascii=False)} # relative to this file",
        f"groups = {json.dumps(list(attributes), ensure_ascii=False)}",
        "",
        "[data.own]",
        f"label = {json.dumps(head['label'], ensure_ascii=False)}",
        *_label(head),
        *(['missing = "category" # a missing text is a value of its own'] if head["missing"] else []),
        *(
            [f"blank = {json.dumps(head['blank'])} # texts that mean a missing value"]
            if head["blank"]
            else []
        ),
        "",
        "[data.own.columns]",
        *facts,
        *omitted,
        "",
        "[data.own.attributes]",
        *groups,
        "",
        "[partition]",
        'kind = "group" # one client for each group; docs/scenario-file.md has the others',
        "",
        "[training]",
        "rounds = 10",
        "sampling_rate = 0.05 # of a client's public size",
        "local_steps = 10",
        "learning_rate = 0.5",
        "clip = 1.0",
        "",
        "[privacy]",
        'epsilons = ["inf", 8, 1]',
        f"delta = {delta} # well below 1 / number of records",
        "",
        "[[strategies]]",
        'name = "fedavg"',
    ]
    return "\n".join(lines) + "\n"
