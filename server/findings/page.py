"""The page of findings: claim, published figure, ours, verdict; what did not hold comes first.

It is one file without scripts, and its policy admits none.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedtoll.scenarios.beside import replace_bytes
from fedtoll.scenarios.claims import BASE
from fedtoll.server.findings import front
from fedtoll.server.findings.conduct import Finding
from fedtoll.server.findings.survival import did_not_hold
from fedtoll.server.findings.verdicts import VERDICTS, Outcome, Word
from fedtoll.server.report.words import UNDEFINED, listed, number

_HERE = Path(__file__).parent


def write(findings: Sequence[Finding], path: Path, command: str) -> None:
    """Write the page as one HTML file, beside and renamed; the same outcomes give the same bytes."""
    replace_bytes(Path(path), render(findings, command).encode())


def render(findings: Sequence[Finding], command: str) -> str:
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
    every = [(f, o) for f in findings for o in f.outcomes]
    counts = Counter(o.verdict for _, o in every)
    fallen = [
        _row(f, o) for word in ("contradicted", "not reproduced") for f, o in every if o.verdict == word
    ]
    return (
        environment.get_template("findings.html").render(
            version=__version__,
            command=command,
            lead=_lead(len(findings), counts),
            fell=did_not_hold((f.scenario.name, o) for f, o in every),
            fallen=fallen,
            findings=[_section(f) for f in findings],
            counts=[Counter(o.verdict for o in f.outcomes) for f in findings],
            verdicts=VERDICTS,
        )
        + "\n"
    )


def _lead(findings: int, counts: Mapping[Word, int]) -> str:
    """Return the page's first sentence.

    Examples
    --------
    >>> _lead(1, Counter({"reproduced": 3, "contradicted": 1}))
    'Of 4 verdicts on 1 finding: 3 reproduced and 1 contradicted.'
    """
    total = sum(counts.values())
    parts = listed(f"{counts[word]} {word}" for word in VERDICTS if counts.get(word))
    return f"Of {total} verdicts on {findings} finding{'s' * (findings != 1)}: {parts}."


def _section(finding: Finding) -> dict[str, Any]:
    """Return what the template shows of one finding."""
    scenario = finding.scenario
    settings: list[tuple[str, str, tuple[str, ...]]] = [(BASE, "the scenario itself", ())]
    settings += [(s.name, s.title + (" (tuned)" if s.tuned else ""), s.set) for s in scenario.setting]
    return {
        "name": scenario.name,
        "title": scenario.title,
        "description": scenario.description,
        "source": scenario.source,
        "settings": settings,
        "whole": {s.name: "chooses its constants first" for s in scenario.setting if s.tuned}
        | {s.name: "trains its grid beside it" for s in scenario.setting if s.reduction is not None},
        "tuned": finding.tuned,
        "survives": finding.survives,
        "panels": _panels(finding),
        "constant": front.summary(finding.front) if finding.front else "",
        "seeds": sorted({o.seeds for o in finding.outcomes}),
        "rows": [_row(finding, o) for o in finding.outcomes],
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
                interval(*p.accuracy),
                interval(*p.disparity),
                f"{p.collapsed:.0%}",
                p.standing,
            )
            for p in own
        ]
        made.append({"setting": setting, "image": front.drawing(own), "told": front.told(own), "rows": rows})
    return made


def _row(finding: Finding, o: Outcome) -> dict[str, Any]:
    return {
        "finding": finding.scenario.name,
        "claim": o.claim,
        "says": o.says,
        "setting": o.setting,
        "published": o.published or UNDEFINED,
        "region": o.region,
        "reason": o.reason,
        "figure": o.figure,
        "ours": interval(o.mean, o.low, o.high),
        "sides": _sides(finding, o),
        "seeds": o.seeds,
        "over": o.over and f"over {o.over}: {number(o.p_over, 4)}",
        "p": UNDEFINED if math.isnan(o.p_holm) else f"{o.p_holm:.3g}",
        "verdict": o.verdict,
        "style": o.verdict.replace(" ", "-"),
        "why": o.why,
    }


def _sides(finding: Finding, o: Outcome) -> list[str]:
    """Return the seed-means behind the figure, each with what it is; a curve in one line."""
    claim = next(c for c in finding.scenario.claim if c.name == o.claim)
    names = ("a", "b") if claim.b is not None else ("a",)
    steps = len(o.sides) // len(names)
    lines = []
    for i, name in enumerate(names):
        own = o.sides[i * steps : (i + 1) * steps]
        means = " → ".join(number(mean, 4) for _, mean in own)
        through = f"{own[0][0]} … {own[-1][0]}" if steps > 1 else own[0][0]
        lines.append(f"{name} = {means}: {through}")
    return lines


def interval(mean: float, low: float, high: float) -> str:
    """Write a figure with its interval.

    Examples
    --------
    >>> interval(3.25, 2.5, 4.0), interval(0.5, float("nan"), float("nan"))
    ('3.2500 (2.5000 to 4.0000)', '0.5000')
    """
    if math.isnan(low) or math.isnan(high):
        return number(mean, 4)
    return f"{number(mean, 4)} ({number(low, 4)} to {number(high, 4)})"
