"""The report's section "Who is exposed": what an audit of these results found."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pandas as pd

from fedtoll.audit.attacks import MIN_MEMBERS
from fedtoll.audit.subject import VIEWS, by_client, fingerprint, mismatch, settings, value, verdict
from fedtoll.formatting import attribute, budget, count, general, group_label, number
from fedtoll.report.charts.exposure import exposure, exposure_rows
from fedtoll.report.tables.table import (
    Cell,
    Row,
    Table,
    budget_cell,
    csv,
    interval_cell,
    number_cell,
    number_columns,
    text_cell,
    text_columns,
)
from fedtoll.scenarios.measures import EVERYBODY
from fedtoll.toll import ResultsLike

TITLE = "Who is exposed"


def audit_section(results: ResultsLike) -> dict[str, Any] | None:
    """Return the section on the audit in a results folder; ``None`` without a readable audit.

    Returns
    -------
    dict or None
        ``title``; ``sentences``, the first of which says who is exposed most; ``tables``; ``chart`` and its
        text ``alternative``. If the audit is of other settings, records, model code or strategies than the
        results, one sentence that says so, and neither table nor chart.
    """
    try:
        content = json.loads((results.folder / "audit" / "audit.json").read_text(encoding="utf-8"))
        if content["settings"] != settings(results.resolved.get("scenario", {})):
            reason = "The audit in this folder is of other settings than these results, so it is not shown."
            return _without(reason)
        if reason := _mismatch(content, results):
            return _without(reason)
        label = partial(group_label, attribute=attribute(results.resolved))
        return {
            "title": TITLE,
            "sentences": [
                *most_exposed(content, label),
                _method(content, tuned=bool(results.resolved.get("tuning"))),
                verdict(content),
            ],
            "tables": [_membership(content, label), _steps(content, label)],
            "chart": exposure(content, label),
            "alternative": _alternative(content, label),
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _without(reason: str) -> dict[str, Any]:
    return {"title": TITLE, "sentences": [reason], "tables": [], "chart": None, "alternative": ""}


def _alternative(content: dict[str, Any], label: Callable[[str], str]) -> str:
    """Return the text alternative of the chart."""
    rows = exposure_rows(content, label).to_dict("records")
    items = [f"{r['label']} {r['text']} ({r['interval']}) at {r['panel']}" for r in rows]
    return f"Chart. The attacker’s advantage by group: {'; '.join(items)}."


def _mismatch(content: dict[str, Any], results: ResultsLike) -> str:
    """Return a sentence if an audit is not of the same records and code as the results; else ``""``."""
    if "checksums" not in content or any("view" not in row for row in content["canary"]):
        return "This audit is of an earlier version: run fedtoll audit again."
    runs = []
    for run in results.resolved["runs"]:
        file = results.folder / "runs" / run["hash"] / "run.json"
        if file.is_file():
            runs.append(json.loads(file.read_text(encoding="utf-8")))
    other = mismatch(content, fingerprint(runs))
    return f"The audit in this folder is of {other} than these results, so it is not shown." if other else ""


def most_exposed(content: dict[str, Any], label: Callable[[str], str]) -> list[str]:
    """Return sentences on which groups are exposed most and least, at the tightest ε and without privacy."""
    sentences = []
    for row in _ends(content):
        if row["value"] is None:
            continue
        at = f"Under {row['strategy']} at ε = {budget(row['mechanism'], value(row['epsilon']))}"
        by_group = {r["group"]: r for r in content["membership"] if _key(r) == _key(row)}
        most, least = by_group[row["most"]], by_group[row["least"]]
        names = label(row["most"]), label(row["least"])
        ends = f"{_interval(most)} for {names[0]} and {_interval(least)} for {names[1]}"
        by_chance = (
            "if all groups were equally exposed, the largest and the smallest advantage would differ by "
            f"{number(value(row['by_chance']))} on average"
        )
        if value(row["value"]) > value(row["by_chance_high"]):
            sentences.append(
                f"{at}, {names[0]} is exposed most: the attacker’s advantage is {ends}; {by_chance}."
            )
        else:
            sentences.append(f"{at}, no group stands out: the attacker’s advantage is {ends}; {by_chance}.")
        if value(most["ceiling"]) < 1:
            sentences.append(
                f"At this ε, no attack can have an advantage above {number(value(most['ceiling']))}."
            )
    return sentences or ["Fewer than two groups have enough records to compare how exposed they are."]


def _ends(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the first strategy's disparities by LiRA at the tightest ε, and without privacy."""
    rows = [r for r in content["disparity"] if r["attack"] == "lira"]
    rows = [r for r in rows if r["strategy"] == rows[0]["strategy"]]
    private = [r for r in rows if r["mechanism"] == "dp-sgd"]
    tightest = min(private, key=lambda r: value(r["epsilon"]))
    return [tightest, *(r for r in rows if r["mechanism"] == "none")]


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("strategy", "mechanism", "epsilon", "attack"))


def _interval(row: dict[str, Any]) -> str:
    return (
        f"{number(value(row['advantage']))} "
        f"(95% interval {number(value(row['low']))} to {number(value(row['high']))})"
    )


def _method(content: dict[str, Any], tuned: bool) -> str:
    models = len(content["seeds"])
    how = (
        "with the scenario’s own recipe, not with the constants chosen"
        if tuned
        else "as this scenario trains"
    )
    return (
        f"Membership inference: {models} models per strategy and ε, trained {how}, each on "
        "a random half of the same records. Each model is the target once, and the attacker uses the others. "
        "The advantage is TPR − FPR at one threshold for all groups, chosen on other targets; guessing has 0."
    )


def _membership(content: dict[str, Any], label: Callable[[str], str]) -> Table:
    by_loss = {(*_key(r)[:3], r["group"]): r for r in content["membership"] if r["attack"] == "loss"}
    rows = [
        Row(
            (
                text_cell(label(row["group"] or EVERYBODY)),
                text_cell(row["strategy"]),
                budget_cell(row["mechanism"], value(row["epsilon"])),
                Cell(
                    f"{count(value(row['members']))} / {count(value(row['others']))}", value(row["members"])
                ),
                number_cell(value(row["tpr"])),
                number_cell(value(row["fpr"])),
                number_cell(value(row["advantage"])),
                interval_cell(value(row["low"]), value(row["high"])),
                number_cell(value(by_loss[*_key(row)[:3], row["group"]]["advantage"])),
                number_cell(value(row["ceiling"])),
            ),
            too_few=min(value(row["members"]), value(row["others"])) < MIN_MEMBERS,
            everybody=not row["group"],
        )
        for row in content["membership"]
        if row["attack"] == "lira"
    ]
    return Table(
        id="exposed",
        caption="Membership inference by group: the attacker’s advantage TPR − FPR",
        columns=(
            *text_columns("Group", "Strategy"),
            *number_columns("ε", "Members / others", "TPR", "FPR", "Advantage", "95% interval"),
            *number_columns("Loss threshold alone", "Ceiling by ε"),
        ),
        rows=tuple(rows),
        csv=csv(_frame(content["membership"])),
        note="The attack is LiRA; “Loss threshold alone” is the advantage of a threshold on the loss. The "
        "ceiling is what (ε, δ) allows any attack on halves of fixed size, where another record takes the "
        "place of one that is left out: "
        "(e^2ε − 1 + 2δ′)/(e^2ε + 1) with δ′ = (1 + e^ε)δ; without ε it is 1.",
    )


def _steps(content: dict[str, Any], label: Callable[[str], str]) -> Table:
    statistics = sorted({row["view"] for row in content["canary"]} - set(VIEWS))
    views = [v for v in VIEWS if any(r["view"] == v for r in content["canary"])] + statistics
    rows = [
        Row(
            (
                text_cell(label(first["group"] or EVERYBODY)),
                text_cell(first["strategy"]),
                budget_cell("dp-sgd", value(first["epsilon"])),
                Cell(general(value(first["noise_multiplier"])), value(first["noise_multiplier"])),
                *(_claim_and_bound(found.get(view)) for view in views),
            ),
            everybody=not first["group"],
        )
        for first, found in by_client(content)
    ]
    return Table(
        id="canaries",
        caption="White box: the ε that each part of the training claims / the lower bound that canaries show",
        columns=(
            *text_columns("Group", "Strategy"),
            *number_columns("ε", "σ", *(view.capitalize() for view in views)),
        ),
        rows=tuple(rows),
        csv=csv(_frame(content["canary"])),
        note="In the least noised client of each group; the last round in all clients with the least noise. "
        "In the first step, the last step and the last round the record takes part for certain, so σ alone "
        "protects it. The bound from one run (Steinke, Nasr and Jagielski 2023) shows only a small part of "
        "the run’s ε.",
    )


def _claim_and_bound(row: dict[str, Any] | None) -> Cell:
    if row is None:
        return Cell("", math.nan)
    claim, bound = value(row["claim"]), value(row["bound"])
    return Cell(f"{number(claim, 2)} / {number(bound, 2)}", bound)


def _frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(rows).replace({"inf": math.inf})
