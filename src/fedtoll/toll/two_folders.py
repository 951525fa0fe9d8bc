"""Compare two results folders: the differences in their settings and in the groups' tolls."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from fedtoll.toll.intervals import half_width, nan_if_zero, seed_interval
from fedtoll.toll.limits import ResultsLike, folds_of, strategy_names
from fedtoll.toll.tolls import ROW, paired, record_counts, sort_by_privacy

_NO_EFFECT = {"name", "title", "description", "compare"}  # keys that change no number


def settings(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return every key of the scenario, the data and the versions in which two folders differ.

    Parameters
    ----------
    a, b
        The content of each folder's ``resolved.json``.

    Returns
    -------
    list of (key, value in a, value in b)
        Dotted keys in the order of the file; ``None`` if a folder lacks the key (an empty value counts as
        missing). Strategies are compared by their full names and stated parameters.

    Examples
    --------
    >>> settings({"scenario": {"training": {"clip": 1.0}}}, {"scenario": {"training": {"clip": 3.0}}})
    [('training.clip', 1.0, 3.0)]
    """
    sides = []
    for content in (a, b):
        scenario = {k: v for k, v in content.get("scenario", {}).items() if k not in _NO_EFFECT}
        if "strategies" in scenario:
            scenario["strategies"] = [
                label.replace(name.rpartition(":")[2], name, 1)  # a label lacks the path of a user's class
                for label, name in strategy_names(content).items()
            ]
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


def unpaired_reason(a: ResultsLike, b: ResultsLike) -> str:
    """Return why runs with the same seed do not form pairs, or "" if they do.

    They form pairs if records, groups, split and partition are the same: then a seed's clients hold the same
    records, and its runs are tested on the same rows. Columns excluded from the features do not matter.
    """
    first, second = a.resolved.get("scenario", {}), b.resolved.get("scenario", {})
    checksums = [r.resolved.get("data", {}).get("checksum") for r in (a, b)]
    if checksums[0] != checksums[1]:
        return "other records"
    for section, without in (("data", {"exclude", "file"}), ("split", set()), ("partition", set())):
        left, right = (
            {k: v for k, v in s.get(section, {}).items() if k not in without} for s in (first, second)
        )
        for key in dict.fromkeys([*left, *right]):
            if left.get(key) != right.get(key):
                return f"{section}.{key} differs"
    return "" if set(a.groups["seed"]) & set(b.groups["seed"]) else "no seed in common"


def identities(resolved: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Return what identifies each strategy of a folder, by label: its full name and stated parameters.

    Parameters are compared as JSON, and 5 is the same as 5.0.
    """
    found = {}
    for spec in resolved.get("scenario", {}).get("strategies", []):
        parameters = {k: v for k, v in spec.items() if k not in {"name", "label"}}
        label = str(spec.get("label", spec["name"]))
        values = json.loads(json.dumps(parameters), parse_int=float)
        found[label] = (str(spec["name"]), json.dumps(values, sort_keys=True))
    return found


def counterparts(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, str]:
    """Return the label in the second folder of every strategy of the first that both have.

    Strategies are the same if their full names and stated parameters are: labels may differ, and the same
    label may mean another strategy (see :func:`ambiguous_labels`).

    Parameters
    ----------
    a, b
        The content of each folder's ``resolved.json``.

    Examples
    --------
    >>> first, second = (
    ...     {"scenario": {"strategies": [{"name": name, "label": "mine", "q": 1.0}]}}
    ...     for name in ("one.py:mine", "two.py:mine")
    ... )
    >>> counterparts(first, first), counterparts(first, second)
    ({'mine': 'mine'}, {})
    """
    first, second = identities(a), identities(b)
    by_identity = {identity: label for label, identity in reversed(second.items())}
    return {
        label: label if second.get(label) == identity else by_identity[identity]
        for label, identity in first.items()
        if identity in by_identity
    }


def ambiguous_labels(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return the labels that name different strategies in two folders, with the full name in each.

    Examples
    --------
    >>> first, second = (
    ...     {"scenario": {"strategies": [{"name": name, "label": "mine"}]}}
    ...     for name in ("one.py:mine", "two.py:mine")
    ... )
    >>> ambiguous_labels(first, second)
    [('mine', 'one.py:mine', 'two.py:mine')]
    """
    first, second = identities(a), identities(b)
    return [
        (label, identity[0], second[label][0])
        for label, identity in first.items()
        if label in second and second[label] != identity
    ]


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
        One row per (strategy, mechanism, epsilon, group) in both, with the first folder's label of the
        strategy (:func:`counterparts`): ``toll_a``, ``toll_b``; ``difference``, b − a, with ``low``,
        ``high``; ``seeds_a``, ``seeds_b``, and ``seeds``, the number of paired seeds; ``n_a``, ``n_b``;
        ``too_few`` in either; ``unpaired``, why the runs do not form pairs, or ``""``. Paired rows use only
        the seeds in common, for the tolls as well, with an interval over these seeds
        (:func:`~fedtoll.toll.intervals.seed_interval`); unpaired rows use Welch's interval.

    Raises
    ------
    ScenarioError
        If the measure is unknown.
    """
    reason = unpaired_reason(a, b)
    same = {theirs: ours for ours, theirs in counterparts(a.resolved, b.resolved).items()}
    renamed = b.groups[b.groups["strategy"].isin(same)]
    renamed = renamed.assign(strategy=renamed["strategy"].map(same))
    sides = [paired(groups, measure) for groups in (a.groups, renamed)]
    sides = [part[part["mechanism"] != "none"] for part in sides]
    counts = [
        record_counts(p, folds_of(r.resolved)).to_dict("index") for p, r in zip(sides, (a, b), strict=True)
    ]
    tolls: list[dict[Any, pd.Series[Any]]] = [
        {key: x.set_index("seed")["toll"] for key, x in part.groupby(ROW, sort=False)} for part in sides
    ]
    rows = []
    for key in (k for k in tolls[0] if k in tolls[1]):
        first, second = (t[key].dropna() for t in tolls)
        if not reason:
            seeds = first.index.intersection(second.index)
            first, second = first.loc[seeds], second.loc[seeds]
        interval = _welch(first, second) if reason else tuple(map(float, seed_interval(second - first)))
        n = [c[key] for c in counts]
        rows.append(
            dict(zip(ROW, key, strict=True))
            | {"toll_a": first.mean(), "toll_b": second.mean()}
            | dict(zip(("difference", "low", "high"), interval, strict=True))
            | {"seeds_a": len(first), "seeds_b": len(second), "seeds": 0 if reason else len(first)}
            | {"n_a": n[0]["n"], "n_b": n[1]["n"], "too_few": bool(n[0]["too_few"] or n[1]["too_few"])}
            | {"unpaired": reason}
        )
    return sort_by_privacy(pd.DataFrame(rows))


def _welch(a: pd.Series[Any], b: pd.Series[Any]) -> tuple[float, float, float]:
    """Return difference, low and high for two independent sets of seeds (Welch 1947)."""
    shift = float(b.mean() - a.mean())
    if len(a) < 2 or len(b) < 2:
        return shift, float("nan"), float("nan")
    parts = np.array([a.var() / len(a), b.var() / len(b)])
    se = float(nan_if_zero(np.sqrt(parts.sum()), abs(shift)))
    with np.errstate(invalid="ignore", divide="ignore"):
        freedom = se**4 / (parts**2 / np.array([len(a) - 1, len(b) - 1])).sum()
    half = float(half_width(se, freedom + 1))
    return shift, shift - half, shift + half
