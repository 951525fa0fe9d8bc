"""From a claim to what is judged: its contrasts, their regions, and the words beside the figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from fedtoll.findings import units
from fedtoll.findings.quantities import Quantity, Study
from fedtoll.findings.verdicts import Case, Outcome, Part, fieller, judge
from fedtoll.scenarios.claims import Claim
from fedtoll.scenarios.measures import FLAGS

Floats = NDArray[np.float64]


def outcomes(
    claims: Sequence[Claim], studies: Mapping[str, Study], *, barred: str = ""
) -> tuple[Outcome, ...]:
    """Judge every claim in each of its settings; together they are one family.

    Parameters
    ----------
    claims
        Of one finding.
    studies
        The results of its settings, by name.
    barred
        Why nothing is decided, e.g. ``quick``.
    """
    asked = [(claim, setting) for claim in claims for setting in claim.settings]
    sides = [[studies[t.setting or ""].side(claim, t) for t in claim.terms(s)] for claim, s in asked]
    values = [_aligned(quantities) for quantities in sides]
    cases = [
        _case(claim, x, quantities, barred)
        for (claim, _), x, quantities in zip(asked, values, sides, strict=True)
    ]
    verdicts = judge(cases)
    made = []
    for (claim, setting), x, quantities, case, judged in zip(
        asked, values, sides, cases, verdicts, strict=True
    ):
        figure, (mean, low, high) = _figure(claim, x, case)
        made.append(
            Outcome(
                claim=claim.name,
                says=claim.says,
                kind=claim.kind if claim.shape is None else f"shape: {claim.shape}",
                setting=setting,
                verdict=judged.verdict,
                why=judged.why,
                published=claim.published,
                region=region(claim),
                reason=claim.reason,
                figure=figure,
                mean=mean,
                low=low,
                high=high,
                sides=tuple((q.words, _mean(v)) for q, v in zip(quantities, x, strict=True)),
                seeds=min(part.seeds for part in case.parts),
                p=judged.p,
                p_holm=judged.p_holm,
                over=case.over[0] if case.over else "",
                p_over=case.over[1] if case.over else math.nan,
            )
        )
    return tuple(made)


def _aligned(quantities: Sequence[Quantity]) -> list[Floats]:
    """Return the sides as arrays over the same seeds: those that all of them ran."""
    seeds = set.intersection(*(set(q.seeds.index) for q in quantities))
    return [np.asarray(q.seeds.reindex(sorted(seeds)), dtype=np.float64) for q in quantities]


def _case(claim: Claim, x: Sequence[Floats], quantities: Sequence[Quantity], barred: str) -> Case:
    few = sorted({group for q in quantities for group in q.too_few})
    if few and not barred:
        barred = f"too few records: {', '.join(few)}"
    void = ""
    if claim.kind == "ratio":
        mean, low, _ = Part(x[1]).interval()
        same = math.isnan(low) and mean > 0  # FedAvg's weights are those of sizes, in every seed
        void = "" if low > 0 or same else "there is no ratio: what it would divide by is not clearly above 0"
    over = next((q.over for q in quantities if q.over is not None), None)
    return Case(tuple(parts(claim, x)), barred=barred, void=void, over=over)


def parts(claim: Claim, x: Sequence[Floats]) -> list[Part]:
    """Return the contrasts of a claim, each with its region.

    Parameters
    ----------
    claim
        Of any kind.
    x
        The sides, one value a seed; of a shape, a at every step, and then b where there is one.
    """
    low = -math.inf if claim.at_least is None else claim.at_least
    high = math.inf if claim.at_most is None else claim.at_most
    if claim.kind == "order":
        return [Part(x[0] - x[1], low=0.0)]
    if claim.kind == "difference":
        return [Part(x[0] - x[1], low, high)]
    if claim.kind in {"threshold", "correlation"}:
        share = claim.kind == "threshold" and (claim.a.measure or claim.measure) in FLAGS
        return [Part(x[0], low, high, share=share)]
    if claim.kind == "ratio":  # a / b ≥ r is a − r·b ≥ 0, which pairs
        made = [Part(x[0] - low * x[1], low=0.0)] if math.isfinite(low) else []
        return made + ([Part(x[0] - high * x[1], high=0.0)] if math.isfinite(high) else [])
    if claim.b is not None:
        half = len(x) // 2
        x = [np.subtract(a, b) for a, b in zip(x[:half], x[half:], strict=True)]
    if claim.shape == "flat":
        margin = claim.margin or 0.0
        return [Part(step - x[0], -margin, margin) for step in x[1:]]
    if claim.shape == "peaks":
        top = x[claim.over.index(claim.peak)]
        return [Part(top - x[0], low=0.0), Part(top - x[-1], low=0.0)]
    sign = 1.0 if claim.shape == "rises" else -1.0
    whole = Part(sign * (x[-1] - x[0]), low=0.0)
    steps = [Part(sign * (b - a), low=0.0, guard=True) for a, b in pairwise(x)]
    return [whole, *(steps if len(steps) > 1 else ())]


def _figure(claim: Claim, x: Sequence[Floats], case: Case) -> tuple[str, tuple[float, float, float]]:
    """Return what the page shows of ours, with its interval."""
    if claim.kind == "ratio":
        return "a / b", fieller(x[0], x[1])
    if claim.kind == "correlation":
        return "ρ", case.parts[0].interval()
    if claim.kind == "threshold":
        return "a", case.parts[0].interval()
    if claim.kind in {"order", "difference"}:
        return "a − b", case.parts[0].interval()
    if claim.shape == "flat":
        means = [part.interval() for part in case.parts]
        return "furthest step − first", max(means, key=lambda m: -1.0 if math.isnan(m[0]) else abs(m[0]))
    if claim.shape == "peaks":
        means = [part.interval() for part in case.parts]
        return "peak − higher end", min(means, key=lambda m: math.inf if math.isnan(m[0]) else m[0])
    mean, low, high = case.parts[0].interval()
    return "last − first", (mean, low, high) if claim.shape == "rises" else (-mean, -high, -low)


def region(claim: Claim) -> str:
    """Return where the figure must lie, in words.

    Examples
    --------
    >>> from fedtoll.scenarios.claims import Term
    >>> region(Claim(name="x", says="x", kind="ratio", b=Term(), at_least=2.0))
    'a / b is at least 2'
    """
    unit = units.of_figure(claim)
    if claim.kind == "shape":
        over = ", ".join(
            "∞" if s == math.inf else f"{s:g}" if isinstance(s, float) else s for s in claim.over
        )
        more = f" at {claim.peak}" if claim.peak is not None else ""
        more += f" within {units.bound(claim.margin, unit)}" if claim.margin is not None else ""
        return f"{'a' if claim.b is None else 'a − b'} {claim.shape}{more} over {over}"
    what = {"order": "a − b", "difference": "a − b", "threshold": "a", "ratio": "a / b", "correlation": "ρ"}[
        claim.kind
    ]
    if claim.kind == "order":
        return f"{what} is greater than 0"
    bounds = [
        f"at {side} {units.bound(bound, unit)}"
        for side, bound in (("least", claim.at_least), ("most", claim.at_most))
        if bound is not None
    ]
    return f"{what} is {' and '.join(bounds)}"


def _step(step: float | str) -> str:
    return step if isinstance(step, str) else "∞" if step == math.inf else f"{step:g}"


def _mean(x: Floats) -> float:
    known = x[np.isfinite(x)]
    return float(known.mean()) if known.size else math.nan
