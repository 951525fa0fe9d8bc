"""From claims to outcomes: their contrasts, regions and descriptions, and the verdicts on them."""

from __future__ import annotations

import hashlib
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
    claims: Sequence[Claim], studies: Mapping[str, Study], *, undecidable: str = ""
) -> tuple[Outcome, ...]:
    """Judge every claim in each of its settings; together they are one family of tests.

    Parameters
    ----------
    claims
        The claims of one finding.
    studies
        The results of its settings, by name.
    undecidable
        Why no claim can be decided, e.g. because of ``--quick``; empty if claims can.
    """
    pairs = [(claim, setting) for claim in claims for setting in claim.settings]
    sides = [[studies[t.setting or ""].side(claim, t) for t in claim.terms(s)] for claim, s in pairs]
    values = [_align(quantities) for quantities in sides]
    cases = [
        _case(claim, x, quantities, undecidable)
        for (claim, _), x, quantities in zip(pairs, values, sides, strict=True)
    ]
    verdicts = judge(cases)
    results = []
    for (claim, setting), x, quantities, case, judged in zip(
        pairs, values, sides, cases, verdicts, strict=True
    ):
        figure, (mean, low, high) = _figure(claim, x, case)
        results.append(
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
                sides=tuple((q.description, _mean(v)) for q, v in zip(quantities, x, strict=True)),
                seeds=min(part.seeds for part in case.parts),
                p=judged.p,
                p_holm=judged.p_holm,
                over=case.over[0] if case.over else "",
                p_over=case.over[1] if case.over else math.nan,
                runs=_digest(claim, setting, studies),
            )
        )
    return tuple(results)


def _digest(claim: Claim, setting: str, studies: Mapping[str, Study]) -> str:
    """Return a digest of the runs that a claim reads in a setting."""
    losses = [studies[term.setting or ""].losses(term) for term in claim.terms(setting)]
    return hashlib.sha256(b"".join(losses)).hexdigest()


def _align(quantities: Sequence[Quantity]) -> list[Floats]:
    """Return the sides as arrays over the seeds that all of them have."""
    seeds = set.intersection(*(set(q.seeds.index) for q in quantities))
    return [np.asarray(q.seeds.reindex(sorted(seeds)), dtype=np.float64) for q in quantities]


def _case(claim: Claim, x: Sequence[Floats], quantities: Sequence[Quantity], undecidable: str) -> Case:
    few = sorted({group for q in quantities for group in q.too_few})
    if few and not undecidable:
        undecidable = f"too few records: {', '.join(few)}"
    undefined = ""
    if claim.kind == "ratio":
        mean, low, _ = Part(x[1]).interval()
        constant = math.isnan(low) and mean > 0  # e.g. FedAvg's weights, which every seed shares
        undefined = "" if low > 0 or constant else "there is no ratio: the denominator is not clearly above 0"
    over = next((q.over for q in quantities if q.over is not None), None)
    return Case(tuple(parts(claim, x)), undecidable=undecidable, undefined=undefined, over=over)


def parts(claim: Claim, x: Sequence[Floats]) -> list[Part]:
    """Return the contrasts of a claim, each with its region.

    Parameters
    ----------
    claim
        A claim of any kind.
    x
        The sides, one value per seed each. For a shape, a at every step, then b at every step if there is
        one.
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
    if claim.kind == "ratio":  # a / b ≥ r is a − r·b ≥ 0, a paired contrast
        lower = [Part(x[0] - low * x[1], low=0.0)] if math.isfinite(low) else []
        return lower + ([Part(x[0] - high * x[1], high=0.0)] if math.isfinite(high) else [])
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
    ends = Part(sign * (x[-1] - x[0]), low=0.0)
    steps = [Part(sign * (b - a), low=0.0, guard=True) for a, b in pairwise(x)]
    return [ends, *(steps if len(steps) > 1 else ())]


def _figure(claim: Claim, x: Sequence[Floats], case: Case) -> tuple[str, tuple[float, float, float]]:
    """Return the name of the figure that the page shows, with its mean and interval."""
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
    """Return the region of a claim in words.

    Examples
    --------
    >>> from fedtoll.scenarios.claims import Term
    >>> region(Claim(name="x", says="x", kind="ratio", b=Term(), at_least=2.0))
    'a / b is at least 2'
    """
    unit = units.figure_unit(claim)
    if claim.kind == "shape":
        over = ", ".join(_step(step) for step in claim.over)
        details = f" at {_step(claim.peak)}" if claim.peak is not None else ""
        details += f" within {units.format_bound(claim.margin, unit)}" if claim.margin is not None else ""
        return f"{'a' if claim.b is None else 'a − b'} {claim.shape}{details} over {over}"
    figure = {
        "order": "a − b",
        "difference": "a − b",
        "threshold": "a",
        "ratio": "a / b",
        "correlation": "ρ",
    }[claim.kind]
    if claim.kind == "order":
        return f"{figure} is greater than 0"
    bounds = [
        f"at {side} {units.format_bound(bound, unit)}"
        for side, bound in (("least", claim.at_least), ("most", claim.at_most))
        if bound is not None
    ]
    return f"{figure} is {' and '.join(bounds)}"


def _step(step: float | str) -> str:
    """Return a step of a curve, an ε or a setting, in words."""
    return step if isinstance(step, str) else "∞" if step == math.inf else f"{step:g}"


def _mean(x: Floats) -> float:
    known = x[np.isfinite(x)]
    return float(known.mean()) if known.size else math.nan
