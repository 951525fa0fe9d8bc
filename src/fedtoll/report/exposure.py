"""The report's section "Who is exposed": what an audit found, as text for a page."""

from __future__ import annotations

import json
import math
from typing import Any

import pandas as pd

from fedtoll.audit.attacks import MIN_MEMBERS
from fedtoll.audit.subject import fingerprint, mismatch, settings, value, verdict
from fedtoll.formatting import budget, count, general, number
from fedtoll.report.tables.table import Cell, Row, Table, csv, figure, numbers, privacy, text, within, words
from fedtoll.toll import ResultsLike

TITLE = "Who is exposed"


def audit_section(results: ResultsLike) -> dict[str, Any] | None:
    """Return the section of a results folder that holds an audit of the same settings; else ``None``.

    Returns
    -------
    dict or None
        ``title``; ``sentences``, the first of which says who is exposed most; ``tables`` of the page. An
        audit of other settings, records, model code or strategies gives one sentence that says so, and no
        table.
    """
    try:
        content = json.loads((results.folder / "audit" / "audit.json").read_text(encoding="utf-8"))
        if content["settings"] != settings(results.resolved.get("scenario", {})):
            told = "The audit in this folder is of other settings than these results, so it is not shown."
            return {"title": TITLE, "sentences": [told], "tables": []}
        if told := _not_of_these(content, results):
            return {"title": TITLE, "sentences": [told], "tables": []}
        return {
            "title": TITLE,
            "sentences": [_most_exposed(content), _method(content), verdict(content)],
            "tables": [_membership(content), _steps(content)],
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _not_of_these(content: dict[str, Any], results: ResultsLike) -> str:
    """Say in a sentence that an audit is not of these results' own records and code; empty where it is."""
    if "checksums" not in content:
        return "This audit was made before audits kept what they are of: run fedtoll audit again."
    runs = []
    for run in results.resolved["runs"]:
        file = results.folder / "runs" / run["hash"] / "run.json"
        if file.is_file():
            runs.append(json.loads(file.read_text(encoding="utf-8")))
    other = mismatch(content, fingerprint(runs))
    return f"The audit in this folder is of {other} than these results, so it is not shown." if other else ""


def _most_exposed(content: dict[str, Any]) -> str:
    """Say which group is exposed most and least, at the tightest ε and without privacy."""
    made = []
    for row in _ends(content):
        if row["value"] is None:
            continue
        at = f"Under {row['strategy']} at ε = {budget(row['mechanism'], value(row['epsilon']))}"
        of = {r["group"]: r for r in content["membership"] if _key(r) == _key(row)}
        most, least = of[row["most"]], of[row["least"]]
        ends = f"{_interval(most)} for {row['most']} and {_interval(least)} for {row['least']}"
        told = f"by chance groups that are equally exposed differ by {number(value(row['by_chance']))}"
        if value(row["value"]) > value(row["by_chance_high"]):
            made.append(f"{at} {row['most']} is exposed most: the attacker’s advantage is {ends}; {told}.")
        else:
            made.append(f"{at} no group stands out: the attacker’s advantage is {ends}, and {told}.")
        if value(most["ceiling"]) < 1:
            made.append(f"This ε allows at most {number(value(most['ceiling']))}.")
    return " ".join(made) or "Too few records of any two groups to compare how exposed they are."


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


def _method(content: dict[str, Any]) -> str:
    models = len(content["seeds"])
    return (
        f"Membership inference: {models} models of each strategy and ε, each trained by this scenario on a "
        "random half of the same records; each is the target once and the others are the attacker’s. The "
        "advantage is TPR − FPR at one threshold for all groups, chosen on other targets; 0 is a coin."
    )


def _membership(content: dict[str, Any]) -> Table:
    by_loss = {(*_key(r)[:3], r["group"]): r for r in content["membership"] if r["attack"] == "loss"}
    rows = [
        Row(
            (
                text(row["group"] or "(all)"),
                text(row["strategy"]),
                privacy(row["mechanism"], value(row["epsilon"])),
                Cell(
                    f"{count(value(row['members']))} / {count(value(row['others']))}", value(row["members"])
                ),
                figure(value(row["tpr"])),
                figure(value(row["fpr"])),
                figure(value(row["advantage"])),
                within(value(row["low"]), value(row["high"])),
                figure(value(by_loss[*_key(row)[:3], row["group"]]["advantage"])),
                figure(value(row["ceiling"])),
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
            *words("Group", "Strategy"),
            *numbers("ε", "Members / others", "TPR", "FPR", "Advantage", "95% interval"),
            *numbers("By loss alone", "Ceiling by ε"),
        ),
        rows=tuple(rows),
        csv=csv(_frame(content["membership"])),
        note="By LiRA; beside it the advantage of a threshold on the loss alone. The ceiling is what (ε, δ) "
        "allows any attack on halves of fixed size, where another record stands in for one that is out: "
        "(e^2ε − 1 + 2δ′)/(e^2ε + 1) with δ′ = (1 + e^ε)δ; without ε it is 1.",
    )


def _steps(content: dict[str, Any]) -> Table:
    rows = [
        Row(
            (
                text(row["group"]),
                text(row["strategy"]),
                privacy("dp-sgd", value(row["epsilon"])),
                Cell(general(value(row["noise_multiplier"])), value(row["noise_multiplier"])),
                figure(value(row["claim"])),
                figure(value(row["bound"])),
                Cell(count(row["observations"]), row["observations"]),
                figure(value(row["run_claim"])),
                figure(value(row["run_bound"])),
                Cell(f"{row['run_correct']} of {row['run_guesses']}", row["run_correct"]),
            )
        )
        for row in content["canary"]
    ]
    return Table(
        id="canaries",
        caption="White box: canaries put into the client of each group that is noised least",
        columns=(
            *words("Group", "Strategy"),
            *numbers("ε", "σ", "ε of one step", "Shown at least", "Observations a side"),
            *numbers("ε of the run", "Shown by one run", "Right guesses"),
        ),
        rows=tuple(rows),
        csv=csv(_frame(content["canary"])),
        note="One step: the record surely takes part, so σ alone protects it. One run (Steinke, Nasr and "
        "Jagielski 2023) shows little of the whole run’s ε; it stands beside the rest and decides nothing.",
    )


def _frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(rows).replace({"inf": math.inf})
