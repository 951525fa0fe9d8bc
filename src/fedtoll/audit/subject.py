"""The subject of an audit: the settings, data and code that were audited, and the verdict in a sentence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from fedtoll.audit.bounds import MIN_CANARY_NORM

SETTINGS = ("data", "split", "partition", "model", "training", "privacy", "statistics")
"""The sections of a scenario that an audit depends on; the list of ε in ``privacy`` is left out."""


def settings(scenario: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that an audit depends on, from a scenario as JSON; of files only their names."""
    sections = {key: dict(scenario.get(key, {})) for key in SETTINGS}
    sections["privacy"].pop("epsilons", None)
    for key in {"file", "source"} & {*sections["data"]}:
        sections["data"][key] = str(sections["data"][key]).rsplit("/", 1)[-1]
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


VIEWS = FIRST, LAST, SAMPLED, ROUND, RUN = "first step", "last step", "sampled step", "last round", "one run"
"""What the attacker sees of the training: the first or last step of a round, with the record in it for
certain; the last step of a round, with the record sampled; all steps of the last round, with the record in
each; all sampled steps of one run."""

FALSE_ALARM = 1e-3
"""The probability, over all bounds together, that a sound mechanism is called broken; half for each test."""


def refuted(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of ``canary`` that refute their claim by themselves.

    Their p-value is below ``FALSE_ALARM`` / (2 · rows). If every claim holds, the probability that any row
    refutes its claim is at most ``FALSE_ALARM`` / 2 (Bonferroni).
    """
    return [row for row in rows if value(row["p"]) < FALSE_ALARM / (2 * len(rows))]


def over_claim(rows: Sequence[dict[str, Any]], level: float) -> int:
    """Return the number of rows whose bound exceeds the claim at a level: whose p-value is below it."""
    return sum(value(row["p"]) < level for row in rows)


def too_many(rows: Sequence[dict[str, Any]], level: float) -> bool:
    """Return whether more bounds exceed their claim than chance explains.

    If every claim holds, each bound exceeds it with probability ``level`` at most, independently of the
    others, because no two rows share draws. So their number exceeds a binomial variable's quantile with
    probability ``FALSE_ALARM`` / 2 at most.
    """
    from scipy.stats import binom

    bounds = sum(math.isfinite(value(row["p"])) for row in rows)
    return bool(binom.sf(over_claim(rows, level) - 1, bounds, level) < FALSE_ALARM / 2)


def broken(rows: Sequence[dict[str, Any]], level: float) -> bool:
    """Return whether any claim is refuted, or too many bounds exceed theirs."""
    return bool(refuted(rows)) or too_many(rows, level)


def verdict(content: dict[str, Any]) -> str:
    """Return a sentence on whether the lower bounds of ε are consistent with the claims."""
    over, rows = content["over_claim"], content["canary"]
    bounds = sum(row["bound"] is not None for row in rows)
    expected = bounds * (1 - content["confidence"])
    sentence = (
        f"{over} of {bounds} lower bounds of ε exceed their claim; at {content['confidence']:.0%} "
        f"confidence, a sound mechanism has at most {expected:.1f} on average."
    )
    if ignored := len(rows) - bounds:
        sentence += (
            f" In {ignored} {'case' if ignored == 1 else 'cases'} the model ignores every canary (no clipped "
            f"gradient is as long as {MIN_CANARY_NORM:g} of the clip), so the audit shows nothing."
        )
    if content["broken"] and (certain := refuted(rows)):
        views = ", ".join(dict.fromkeys(row["view"] for row in certain))
        sentence += f" In {len(certain)} the excess alone is more than chance explains: {views}."
    return f"BROKEN: {sentence}" if content["broken"] else sentence


Views = dict[str, dict[str, Any]]


def by_client(content: dict[str, Any]) -> list[tuple[dict[str, Any], Views]]:
    """Return a row of ``canary`` for each strategy, ε and group, and all its rows by what was observed."""
    found: dict[tuple[Any, ...], Views] = {}
    for row in content["canary"]:
        found.setdefault((row["strategy"], row["epsilon"], row["group"]), {})[row["view"]] = row
    return [(next(iter(views.values())), views) for views in found.values()]
