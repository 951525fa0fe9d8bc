"""The subject of an audit: the settings, data and code that were audited, and the verdict in a sentence."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fedtoll.audit.bounds import MIN_CANARY_NORM

SETTINGS = ("data", "split", "partition", "model", "training", "privacy", "statistics")
"""The sections of a scenario that an audit depends on; the list of ε in ``privacy`` is left out."""


def settings(scenario: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that an audit depends on, from a scenario as JSON; of a data file only its name."""
    sections = {key: dict(scenario.get(key, {})) for key in SETTINGS}
    sections["privacy"].pop("epsilons", None)
    if "file" in sections["data"]:
        sections["data"]["file"] = Path(str(sections["data"]["file"])).name
    return sections


def fingerprint(runs: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return the checksums of the data and model code and the strategies of runs, given as JSON."""
    found: dict[str, Any] = {"checksums": set(), "model_digests": set(), "strategies": {}}
    for run in runs:
        found["checksums"].add(run["checksum"])
        found["model_digests"].add(run.get("model_digest", ""))
        plan = run["strategy"]
        code = {"path": plan["path"].rsplit("/", 1)[-1], "digest": plan.get("digest", "")}
        found["strategies"][plan["name"]] = {**code, "parameters": plan["parameters"]}
    return {key: v if isinstance(v, dict) else sorted(v) for key, v in found.items()}


def mismatch(audited: dict[str, Any], results: dict[str, Any]) -> str:
    """Return what differs between the subject of an audit and results; empty if nothing does.

    Parameters
    ----------
    audited, results
        The :func:`fingerprint` of the audit and of the results.
    """
    if audited["checksums"] != results["checksums"]:
        return "other records"
    if audited["model_digests"] != results["model_digests"]:
        return "other model code"
    for name, plan in results["strategies"].items():
        if audited["strategies"].get(name, plan) != plan:
            return f"another strategy {name}"
    return "" if audited["strategies"].keys() & results["strategies"] else "other strategies"


def value(cell: Any) -> float:
    """Return a number of ``audit.json`` as a float: null becomes NaN, ``"inf"`` infinity."""
    return math.nan if cell is None else float(cell)


def verdict(content: dict[str, Any]) -> str:
    """Return a sentence on whether the lower bounds of ε are consistent with the claims."""
    over = content["over_claim"]
    bounds = sum(row["bound"] is not None for row in content["canary"])
    expected = bounds * (1 - content["confidence"])
    sentence = (
        f"{over} of {bounds} lower bounds of one step exceed their claim; at {content['confidence']:.0%} "
        f"confidence, a sound mechanism has at most {expected:.1f} on average."
    )
    if ignored := len(content["canary"]) - bounds:
        sentence += (
            f" In {ignored} {'case' if ignored == 1 else 'cases'} the model ignores every canary (no clipped "
            f"gradient is as long as {MIN_CANARY_NORM:g} of the clip), so the audit shows nothing."
        )
    return f"BROKEN: {sentence}" if content["broken"] else sentence
