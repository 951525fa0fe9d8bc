"""The subject of an audit: which settings, records and code it is about, and its verdict in a sentence."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fedtoll.audit.bounds import SEEN

SETTINGS = ("data", "split", "partition", "model", "training", "privacy", "statistics")
"""The sections of a scenario that an audit is of; of ``privacy`` not which ε."""


def settings(scenario: dict[str, Any]) -> dict[str, Any]:
    """Return what an audit is of, from a scenario as JSON; the folder of a user's records does not matter."""
    kept = {key: dict(scenario.get(key, {})) for key in SETTINGS}
    kept["privacy"].pop("epsilons", None)
    if "file" in kept["data"]:
        kept["data"]["file"] = Path(str(kept["data"]["file"])).name
    return kept


def things(runs: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return which records, model code and strategies runs are of, from runs as JSON."""
    made: dict[str, Any] = {"checksums": set(), "model_digests": set(), "strategies": {}}
    for run in runs:
        made["checksums"].add(run["checksum"])
        made["model_digests"].add(run.get("model_digest", ""))
        plan = run["strategy"]
        code = {"path": plan["path"].rsplit("/", 1)[-1], "digest": plan.get("digest", "")}
        made["strategies"][plan["name"]] = {**code, "parameters": plan["parameters"]}
    return {key: v if isinstance(v, dict) else sorted(v) for key, v in made.items()}


def differs(audited: dict[str, Any], own: dict[str, Any]) -> str:
    """Name what an audit is of and results are not; empty where they go together.

    Parameters
    ----------
    audited, own
        As :func:`things` returns, of the audit and of the results.
    """
    if audited["checksums"] != own["checksums"]:
        return "other records"
    if audited["model_digests"] != own["model_digests"]:
        return "other model code"
    for name, plan in own["strategies"].items():
        if audited["strategies"].get(name, plan) != plan:
            return f"another strategy {name}"
    return "" if audited["strategies"].keys() & own["strategies"] else "other strategies"


def value(cell: Any) -> float:
    """Read a number of ``audit.json``: null is NaN, ``"inf"`` infinity."""
    return math.nan if cell is None else float(cell)


def verdict(content: dict[str, Any]) -> str:
    """Say in a sentence whether the bounds fit the claims."""
    over = content["over_claim"]
    bounds = sum(row["bound"] is not None for row in content["canary"])
    fit = f"{over} of {bounds} bounds of one step lie above their claim"
    sure, by_chance = f"at {content['confidence']:.0%} confidence", bounds * (1 - content["confidence"])
    told = f"{fit}; {sure} a sound mechanism has at most {by_chance:.1f} on average."
    if ignored := len(content["canary"]) - bounds:
        told += (
            f" In {ignored} cases the model ignores every canary (no clipped gradient is as long as "
            f"{SEEN:g} of the clip), and nothing is shown."
        )
    return f"BROKEN: {told}" if content["broken"] else told
