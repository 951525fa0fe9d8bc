"""The page of findings: which claims did not hold, which did, and the numbers behind each.

The page is one file without scripts, and its content security policy allows none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedtoll.findings import front, units
from fedtoll.findings.run import Finding
from fedtoll.findings.summary import STATUSES, ClaimSummary, by_claim, by_source, headlines, not_held
from fedtoll.findings.survival import same_runs
from fedtoll.findings.verdicts import Outcome
from fedtoll.formatting import UNDEFINED, number
from fedtoll.report.constants import describe
from fedtoll.report.page import environment
from fedtoll.scenarios.atomic import write_bytes
from fedtoll.scenarios.claims import BASE, Claim
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.scenario import Scenario

_HERE = Path(__file__).parent
_FIGURE = {"a − b": "a difference of ", "a / b": "a ratio of ", "a": "", "ρ": "ρ = "}
"""How lists introduce a figure that the table calls ``a − b``; other figures are words already."""


def write(findings: Sequence[Finding], path: Path, command: str, missing: Sequence[str] = ()) -> None:
    """Write the page as one HTML file, atomically; the same outcomes give the same bytes.

    Parameters
    ----------
    findings
        The findings, in the order of the page.
    path
        The file to write.
    command
        The command line, which the page shows.
    missing
        The names of findings that are not on the page because a run failed.

    Raises
    ------
    ScenarioError
        If the file cannot be written.
    """
    text = render(findings, command, missing)
    try:
        write_bytes(Path(path), text.encode())
    except OSError as error:
        raise ScenarioError(f"{path}: cannot be written: {error.strerror}") from None


def render(findings: Sequence[Finding], command: str, missing: Sequence[str] = ()) -> str:
    """Return the page as HTML."""
    from fedtoll import __version__

    templates = environment(_HERE, _HERE.parent / "report")
    templates.filters["constants"] = describe
    by_name = {f.scenario.name: f for f in findings}
    claims = by_claim((f.scenario.name, o) for f in findings for o in f.outcomes)
    published, own = by_source(claims)
    return (
        templates.get_template("findings.html").render(
            version=__version__,
            command=command,
            headlines=headlines(claims),
            missing=missing,
            quick=any(f.quick for f in findings),
            not_held=[
                ("Published claims", [_failure(by_name[c.finding], c) for c in not_held(published)]),
                ("Our own claims", [_failure(by_name[c.finding], c) for c in not_held(own)]),
            ],
            held=[c for c in [*published, *own] if c.status == "held"],
            undecided=[c for c in claims if c.status == "undecided"],
            findings=[_section(f) for f in findings],
            counts=[
                {s: sum(c.status == s for c in claims if c.finding == f.scenario.name) for s in STATUSES}
                for f in findings
            ],
            statuses=STATUSES,
        )
        + "\n"
    )


def _failure(finding: Finding, summary: ClaimSummary) -> dict[str, Any]:
    """Return the entry of one claim in the list of claims that did not hold."""
    o, unit = summary.worst, units.figure_unit(_claim(finding, summary.claim))
    label = _FIGURE.get(o.figure, f"{o.figure} = ")
    return {
        "finding": summary.finding,
        "says": summary.says,
        "published": summary.published,
        "status": summary.status,
        "style": summary.status.replace(" ", "-"),
        "where": summary.where,
        "setting": o.setting,
        "ours": label + units.format_interval(o.mean, o.low, o.high, unit),
        "why": o.why if o.verdict != "contradicted" else "",
    }


def _claim(finding: Finding, name: str) -> Claim:
    return next(c for c in finding.scenario.claim if c.name == name)


def _section(finding: Finding) -> dict[str, Any]:
    """Return the template's values for one finding."""
    scenario = finding.scenario
    settings: list[tuple[str, str, tuple[str, ...]]] = [(BASE, "the scenario itself", ())]
    settings += [(s.name, s.title + (" (tuned)" if s.tuned else ""), s.set) for s in scenario.setting]
    seeds = max((o.seeds for o in finding.outcomes), default=0)
    claims = by_claim((scenario.name, o) for o in finding.outcomes)
    return {
        "name": scenario.name,
        "title": scenario.title,
        "description": scenario.description,
        "source": scenario.source,
        "public": f"{scenario.split.validation:.0%}" if scenario.split.validation else "",
        "settings": settings,
        "extra": _also_trained(scenario),
        "ignore_tune": set()
        if scenario.tune is None
        else {name for name, *_ in settings} - {s.name for s in scenario.setting if s.tuned},
        "tuned": finding.tuned,
        "survives": finding.survives,
        "panels": _panels(finding),
        "constant": front.collapse_sentence(finding.front) if finding.front else "",
        "seeds": seeds,
        "claims": [_table(_claim(finding, c.claim), c, seeds) for c in claims],
    }


def _also_trained(scenario: Scenario) -> dict[str, str]:
    """Return what only ``fedtoll findings`` trains, in words by setting."""
    words = {s.name: "also trains its grid" for s in scenario.setting if s.reduction is not None}
    return words | {s.name: "also trains its baseline" for s in scenario.setting if s.baseline is not None}


def _panels(finding: Finding) -> list[dict[str, Any]]:
    """Return the charts of the front, one per setting, each with its description and its rows."""
    panels = []
    for setting in dict.fromkeys(p.setting for p in finding.front):
        points = [p for p in finding.front if p.setting == setting]
        rows = [
            (
                p.strategy,
                p.epsilon,
                units.format_interval(*p.accuracy),
                units.format_interval(*p.disparity, "points"),
                f"{p.collapsed:.0%}",
                p.standing,
            )
            for p in points
        ]
        image, alt = front.data_url(points), front.alt_text(points)
        panels.append({"setting": setting, "image": image, "alt": alt, "rows": rows})
    return panels


def _table(claim: Claim, summary: ClaimSummary, usual_seeds: int) -> dict[str, Any]:
    """Return one claim with a row per setting; sides that are the same in all rows are described once."""
    unit = units.figure_unit(claim)
    sides = [_sides(claim, o) for o in summary.outcomes]
    descriptions = [[f"{name}: {what}" for name, _, what in row] for row in sides]
    same = all(d == descriptions[0] for d in descriptions)
    first = summary.outcomes[0]
    return {
        "says": summary.says,
        "published": summary.published or UNDEFINED,
        "region": first.region,
        "reason": first.reason,
        "sides": descriptions[0] if same else [],
        "rows": [
            {
                "setting": o.setting,
                "figure": o.figure,
                "ours": units.format_interval(o.mean, o.low, o.high, unit),
                "sides": [f"{name} = {values}" + ("" if same else f": {what}") for name, values, what in row]
                * (len(o.sides) > 1),
                "p": UNDEFINED if math.isnan(o.p_holm) else f"{o.p_holm:.3g}",
                "over": o.over and f"over {o.over}: {number(o.p_over, 4)}",
                "verdict": o.verdict,
                "style": o.verdict.replace(" ", "-"),
                "why": o.why if o.verdict in {"not reproduced", "undecided"} else "",
                "same": next((p.setting for p in summary.outcomes[:i] if same_runs(o, p)), ""),
                "seeds": f"{o.seeds} seeds" if o.seeds != usual_seeds else "",
            }
            for i, (o, row) in enumerate(zip(summary.outcomes, sides, strict=True))
        ],
    }


def _sides(claim: Claim, o: Outcome) -> list[tuple[str, str, str]]:
    """Return the name, seed-means and description of each side; a curve is one side."""
    terms = claim.terms(o.setting)
    names = ("a", "b") if claim.b is not None else ("a",)
    steps = len(o.sides) // len(names)
    sides = []
    for i, name in enumerate(names):
        points = o.sides[i * steps : (i + 1) * steps]
        unit = units.side_unit(terms[i * steps])
        values = " → ".join(units.format_value(mean, unit) for _, mean in points)
        what = [description for description, _ in points]
        if not (claim.over and isinstance(claim.over[0], str)):  # the row names the setting already
            what = [description.removesuffix(f", {o.setting}") for description in what]
        sides.append((name, f"{values} {unit}".rstrip(), f"{what[0]} … {what[-1]}" if steps > 1 else what[0]))
    return sides
