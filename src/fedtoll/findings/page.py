"""The page of findings: what did not hold, what held, and claim by claim the figures behind it.

It is one file without scripts, and its policy admits none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedtoll.findings import front, units
from fedtoll.findings.run import Finding
from fedtoll.findings.summary import STANDINGS, Told, by_source, claims, fallen, leads
from fedtoll.findings.survival import same_runs
from fedtoll.findings.verdicts import Outcome
from fedtoll.formatting import UNDEFINED, number
from fedtoll.scenarios.atomic import write_bytes
from fedtoll.scenarios.claims import BASE, Claim
from fedtoll.scenarios.errors import ScenarioError

_HERE = Path(__file__).parent
_FIGURE = {"a − b": "a difference of ", "a / b": "a ratio of ", "a": "", "ρ": "ρ = "}
"""How the list above says what the table shows as ``a − b``; others are words already."""


def write(findings: Sequence[Finding], path: Path, command: str, missing: Sequence[str] = ()) -> None:
    """Write the page as one HTML file, beside and renamed; the same outcomes give the same bytes.

    Parameters
    ----------
    findings
        In the order of the page.
    path
        The file.
    command
        For the record.
    missing
        The names of findings that were asked too, and whose runs failed.

    Raises
    ------
    ScenarioError
        If it cannot be written.
    """
    text = render(findings, command, missing)
    try:
        write_bytes(Path(path), text.encode())
    except OSError as error:
        raise ScenarioError(f"{path}: cannot be written: {error.strerror}") from None


def render(findings: Sequence[Finding], command: str, missing: Sequence[str] = ()) -> str:
    """Return the page as a string of HTML."""
    import jinja2

    from fedtoll import __version__

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([_HERE, _HERE.parent / "report"]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    by_name = {f.scenario.name: f for f in findings}
    told = claims((f.scenario.name, o) for f in findings for o in f.outcomes)
    theirs, ours = by_source(told)
    return (
        environment.get_template("findings.html").render(
            version=__version__,
            command=command,
            leads=leads(told),
            missing=missing,
            fallen=[
                ("Published claims", [_fallen(by_name[t.finding], t) for t in fallen(theirs)]),
                ("Claims of ours", [_fallen(by_name[t.finding], t) for t in fallen(ours)]),
            ],
            held=[t for t in [*theirs, *ours] if t.standing == "held"],
            undecided=[t for t in told if t.standing == "undecided"],
            findings=[_section(f) for f in findings],
            counts=[
                {s: sum(t.standing == s for t in told if t.finding == f.scenario.name) for s in STANDINGS}
                for f in findings
            ],
            standings=STANDINGS,
        )
        + "\n"
    )


def _fallen(finding: Finding, told: Told) -> dict[str, Any]:
    """Return what the list of what did not hold shows of one claim."""
    o, unit = told.worst, units.of_figure(_claim(finding, told.claim))
    label = _FIGURE.get(o.figure, f"{o.figure} = ")
    return {
        "finding": told.finding,
        "says": told.says,
        "published": told.published,
        "standing": told.standing,
        "style": told.standing.replace(" ", "-"),
        "where": told.where,
        "setting": o.setting,
        "ours": label + units.interval(o.mean, o.low, o.high, unit),
        "why": o.why if o.verdict != "contradicted" else "",
    }


def _claim(finding: Finding, name: str) -> Claim:
    return next(c for c in finding.scenario.claim if c.name == name)


def _section(finding: Finding) -> dict[str, Any]:
    """Return what the template shows of one finding."""
    scenario = finding.scenario
    settings: list[tuple[str, str, tuple[str, ...]]] = [(BASE, "the scenario itself", ())]
    settings += [(s.name, s.title + (" (tuned)" if s.tuned else ""), s.set) for s in scenario.setting]
    usual = max((o.seeds for o in finding.outcomes), default=0)
    told = claims((scenario.name, o) for o in finding.outcomes)
    return {
        "name": scenario.name,
        "title": scenario.title,
        "description": scenario.description,
        "source": scenario.source,
        "public": f"{scenario.split.validation:.0%}" if scenario.split.validation else "",
        "settings": settings,
        "whole": {s.name: "chooses its constants first" for s in scenario.setting if s.tuned}
        | {s.name: "trains its grid beside it" for s in scenario.setting if s.reduction is not None},
        "tuned": finding.tuned,
        "survives": finding.survives,
        "panels": _panels(finding),
        "constant": front.summary(finding.front) if finding.front else "",
        "seeds": usual,
        "claims": [_table(_claim(finding, t.claim), t, usual) for t in told],
    }


def _panels(finding: Finding) -> list[dict[str, Any]]:
    """Return the front's charts, one a setting, each with its words and its rows."""
    made = []
    for setting in dict.fromkeys(p.setting for p in finding.front):
        own = [p for p in finding.front if p.setting == setting]
        rows = [
            (
                p.strategy,
                p.epsilon,
                units.interval(*p.accuracy),
                units.interval(*p.disparity, "points"),
                f"{p.collapsed:.0%}",
                p.standing,
            )
            for p in own
        ]
        made.append({"setting": setting, "image": front.drawing(own), "told": front.told(own), "rows": rows})
    return made


def _table(claim: Claim, told: Told, usual: int) -> dict[str, Any]:
    """Return one claim with a row for each setting; what its sides are is said once where it is the same."""
    unit = units.of_figure(claim)
    sides = [_sides(claim, o) for o in told.outcomes]
    words = [[f"{name}: {what}" for name, _, what in own] for own in sides]
    same = all(w == words[0] for w in words)
    first = told.outcomes[0]
    return {
        "says": told.says,
        "published": told.published or UNDEFINED,
        "region": first.region,
        "reason": first.reason,
        "sides": words[0] if same else [],
        "rows": [
            {
                "setting": o.setting,
                "figure": o.figure,
                "ours": units.interval(o.mean, o.low, o.high, unit),
                "sides": [f"{name} = {values}" + ("" if same else f": {what}") for name, values, what in own]
                * (len(o.sides) > 1),
                "p": UNDEFINED if math.isnan(o.p_holm) else f"{o.p_holm:.3g}",
                "over": o.over and f"{o.over} shuffled: {number(o.p_over, 4)}",
                "verdict": o.verdict,
                "style": o.verdict.replace(" ", "-"),
                "why": o.why if o.verdict in {"not reproduced", "undecided"} else "",
                "same": next((p.setting for p in told.outcomes[:i] if same_runs(o, p)), ""),
                "seeds": f"{o.seeds} seeds" if o.seeds != usual else "",
            }
            for i, (o, own) in enumerate(zip(told.outcomes, sides, strict=True))
        ],
    }


def _sides(claim: Claim, o: Outcome) -> list[tuple[str, str, str]]:
    """Return name, seed-means and words of each side; a curve is one of them."""
    terms = claim.terms(o.setting)
    names = ("a", "b") if claim.b is not None else ("a",)
    steps = len(o.sides) // len(names)
    made = []
    for i, name in enumerate(names):
        own = o.sides[i * steps : (i + 1) * steps]
        unit = units.of_side(terms[i * steps])
        values = " → ".join(units.written(mean, unit) for _, mean in own)
        what = [said.removesuffix(f", {o.setting}") for said, _ in own]
        if claim.over and isinstance(claim.over[0], str):
            what = [said for said, _ in own]
        made.append((name, f"{values} {unit}".rstrip(), f"{what[0]} … {what[-1]}" if steps > 1 else what[0]))
    return made
