"""Two results folders beside each other: what differs in their settings, and in what groups pay."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from fedtoll.toll.intervals import half_width, resolved, t_interval
from fedtoll.toll.limits import ResultsLike, folds_of
from fedtoll.toll.tolls import ROW, by_privacy, counted, paired

_WORDS = {"name", "title", "description", "compare"}  # they change no figure


def settings(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return every key of the scenario (and of data and versions) in which two folders differ.

    Parameters
    ----------
    a, b
        The content of ``resolved.json``.

    Returns
    -------
    list of (key, value in a, value in b)
        Dotted keys in the order of the file; ``None`` where one has not the key (an empty value counts as
        none). Strategies are told by their labels.

    Examples
    --------
    >>> settings({"scenario": {"training": {"clip": 1.0}}}, {"scenario": {"training": {"clip": 3.0}}})
    [('training.clip', 1.0, 3.0)]
    """
    sides = []
    for content in (a, b):
        scenario = {k: v for k, v in content.get("scenario", {}).items() if k not in _WORDS}
        if "strategies" in scenario:
            scenario["strategies"] = [s.get("label", s["name"]) for s in scenario["strategies"]]
        records = {k: content.get("data", {}).get(k) for k in ("rows", "checksum")}
        sides.append(dict(_flat({**scenario, "records": records, "versions": content.get("versions", {})})))
    first, second = sides
    return [
        (key, first.get(key), second.get(key))
        for key in dict.fromkeys([*first, *second])
        if first.get(key) != second.get(key) and (first.get(key) or second.get(key))
    ]


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            yield from _flat(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", inner


def unpaired(a: ResultsLike, b: ResultsLike) -> str:
    """Say why runs of the same seed are no pair, or nothing where they are.

    They are where records, groups, split and partition are the same: then a seed's clients hold the same
    records and its runs are tested on the same rows. Columns left out of the features change none of it.
    """
    one, other = a.resolved.get("scenario", {}), b.resolved.get("scenario", {})
    checksums = [r.resolved.get("data", {}).get("checksum") for r in (a, b)]
    if checksums[0] != checksums[1]:
        return "other records"
    for section, without in (("data", {"exclude", "file"}), ("split", set()), ("partition", set())):
        left, right = (
            {k: v for k, v in s.get(section, {}).items() if k not in without} for s in (one, other)
        )
        for key in dict.fromkeys([*left, *right]):
            if left.get(key) != right.get(key):
                return f"{section}.{key} differs"
    return "" if set(a.groups["seed"]) & set(b.groups["seed"]) else "no seed in common"


def difference(a: ResultsLike, b: ResultsLike, measure: str = "log_loss") -> pd.DataFrame:
    """Return how the tolls of two results folders differ, at every (strategy, ε) that both have.

    Parameters
    ----------
    a, b
        The folders' results.
    measure
        A name of :data:`MEASURES`.

    Returns
    -------
    pandas.DataFrame
        One row a (strategy, mechanism, epsilon, group) of both: ``toll_a``, ``toll_b``; ``difference``,
        b − a, with ``low``, ``high``; ``seeds_a``, ``seeds_b``, and ``seeds``, how many are paired;
        ``n_a``, ``n_b``; ``too_few`` in either; ``unpaired``, why they are no pairs, or nothing. Paired
        differences are taken within the seeds in common, tolls and all, and have the t interval over
        these; unpaired ones Welch's.

    Raises
    ------
    ScenarioError
        If the measure is unknown.
    """
    why = unpaired(a, b)
    sides = [paired(r.groups, measure) for r in (a, b)]
    sides = [part[part["mechanism"] != "none"] for part in sides]
    counts = [counted(p, folds_of(r.resolved)).to_dict("index") for p, r in zip(sides, (a, b), strict=True)]
    tolls: list[dict[Any, pd.Series[Any]]] = [
        {key: x.set_index("seed")["toll"] for key, x in part.groupby(ROW, sort=False)} for part in sides
    ]
    rows = []
    for key in (k for k in tolls[0] if k in tolls[1]):
        one, other = (t[key].dropna() for t in tolls)
        if not why:
            seeds = one.index.intersection(other.index)
            one, other = one.loc[seeds], other.loc[seeds]
        found = _welch(one, other) if why else tuple(map(float, t_interval(other - one)))
        n = [c[key] for c in counts]
        rows.append(
            dict(zip(ROW, key, strict=True))
            | {"toll_a": one.mean(), "toll_b": other.mean()}
            | dict(zip(("difference", "low", "high"), found, strict=True))
            | {"seeds_a": len(one), "seeds_b": len(other), "seeds": 0 if why else len(one)}
            | {"n_a": n[0]["n"], "n_b": n[1]["n"], "too_few": bool(n[0]["too_few"] or n[1]["too_few"])}
            | {"unpaired": why}
        )
    return by_privacy(pd.DataFrame(rows))


def _welch(a: pd.Series[Any], b: pd.Series[Any]) -> tuple[float, float, float]:
    """Return difference, low and high of two independent sets of seeds (Welch 1947)."""
    apart = float(b.mean() - a.mean())
    if len(a) < 2 or len(b) < 2:
        return apart, float("nan"), float("nan")
    parts = np.array([a.var() / len(a), b.var() / len(b)])
    se = float(resolved(np.sqrt(parts.sum()), abs(apart)))
    with np.errstate(invalid="ignore", divide="ignore"):
        freedom = se**4 / (parts**2 / np.array([len(a) - 1, len(b) - 1])).sum()
    half = float(half_width(se, freedom + 1))
    return apart, apart - half, apart + half
