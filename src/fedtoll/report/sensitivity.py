"""How everybody's loss and the gap depend on the constants: the candidates of ``[tune]`` as a frame."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from fedtoll.report.constants import describe
from fedtoll.report.digest import Digest
from fedtoll.scenarios.measures import EVERYBODY
from fedtoll.scenarios.tune import SECTIONS

AXES = (
    "learning_rate",
    "clip",
    "sampling_rate",
    "batch_size",
    "local_steps",
    "rounds",
)
"""The constants that can be an axis of a chart, in order of preference."""

SECTION_COLUMNS = tuple(f"constant.{section}." for section in SECTIONS)
"""How the columns of constants of ``[client]`` and ``[personal]`` begin, which can be an axis if numbers."""


def candidates(digest: Digest) -> pd.DataFrame:
    """Return one row per candidate: what was tried, and what came out on the public records.

    Returns
    -------
    pandas.DataFrame
        ``strategy``, ``mechanism``, ``epsilon``, ``constants`` (in words), one column per constant,
        ``seeds``, ``log_loss`` (everybody's, in nats; NaN if a run diverged or failed), ``gap`` (the largest
        minus the smallest loss that a group adds to its loss under the constants chosen at ε = ∞; NaN without
        ∞) and ``chosen``; if any candidate failed, also ``failed``.
    """
    rows = digest.results.resolved.get("tuning", [])
    best = {row["strategy"]: row["loss"] for row in rows if row["mechanism"] == "none" and row["chosen"]}
    few = set(digest.loss.loc[digest.loss["too_few"], "group"])
    any_failed = any("failed" in row for row in rows)
    return pd.DataFrame(
        {
            "strategy": row["strategy"],
            "mechanism": row["mechanism"],
            "epsilon": float(row["epsilon"]),
            "constants": describe(row["constants"]),
            **{f"constant.{name}": value for name, value in row["constants"].items()},
            "seeds": row["seeds"],
            "log_loss": _known(row["loss"].get(EVERYBODY)),
            "gap": _gap(row["loss"], best.get(row["strategy"], {}), few),
            "chosen": bool(row["chosen"]),
            **({"failed": "failed" in row} if any_failed else {}),
        }
        for row in rows
    )


def _known(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _gap(loss: dict[str, Any], reference: dict[str, Any], few: set[str]) -> float:
    """Return max − min over groups of the loss added to the reference, without groups that are too small."""
    groups = [g for g in loss if g != EVERYBODY and g in reference and g not in few]
    added = [_known(loss[g]) - _known(reference[g]) for g in groups]
    return max(added) - min(added) if len(added) > 1 and not any(map(math.isnan, added)) else math.nan


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def axis(frame: pd.DataFrame) -> str:
    """Return the constant with the most values, which is the axis of the charts; ``""`` if none has two."""
    own = [name.removeprefix("constant.") for name in map(str, frame) if name.startswith(SECTION_COLUMNS)]
    numeric = [name for name in own if all(map(_is_number, frame[f"constant.{name}"].dropna()))]
    counts = {name: len(set(frame.get(f"constant.{name}", pd.Series()).dropna())) for name in AXES}
    counts |= {name: frame[f"constant.{name}"].nunique() for name in numeric}
    most = max(counts, key=counts.__getitem__)
    return most if counts[most] > 1 else ""
