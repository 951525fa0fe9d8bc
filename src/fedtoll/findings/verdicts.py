"""Verdicts on claims, from paired differences over seeds: t intervals, sign-flip tests and Holm's correction.

A claim states a region for one seed-mean or several. It is *reproduced* if the mean and its 95% t interval
lie inside the region, and *contradicted* if both lie outside; in either case the sign-flip test at the bound
must reject at .05 after Holm's correction over all claims of the finding. Otherwise it is *not reproduced*:
the results are compatible with the claim and with its opposite. If no test can decide, it is *undecided*,
with the reason.

A share of seeds uses the exact binomial test and interval instead. A correlation must also hold over groups.

Examples
--------
>>> import numpy as np
>>> contrast = Part(np.array([3.0, 4, 5, 4, 3, 4, 5, 4, 3, 4]), low=0.0)
>>> judge([Case((contrast,))])[0].verdict
'reproduced'
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedtoll.scenarios.claims import LEAST_SEEDS
from fedtoll.scenarios.compare import LEVEL, unreachable
from fedtoll.toll.intervals import holm, sign_flip, t_interval
from fedtoll.toll.shares import against, clopper_pearson

Verdict = Literal["reproduced", "not reproduced", "contradicted", "undecided"]
VERDICTS: tuple[Verdict, ...] = ("reproduced", "not reproduced", "contradicted", "undecided")


@dataclass(frozen=True, eq=False)
class Part:
    """One paired contrast, and the region that must contain its mean.

    Parameters
    ----------
    x
        One value per seed; NaN is dropped.
    low, high
        The bounds of the region.
    guard
        Whether this is a step of a curve. A guard cannot establish the claim, but its mean must lie inside,
        and it contradicts the claim if it lies outside significantly.
    share
        Whether the values are 0 and 1, so that the mean is a share of seeds.
    """

    x: NDArray[np.float64]
    low: float = -math.inf
    high: float = math.inf
    guard: bool = False
    share: bool = False

    @property
    def known(self) -> NDArray[np.float64]:
        """The values that are defined."""
        return self.x[np.isfinite(self.x)]

    @property
    def seeds(self) -> int:
        """The number of seeds with a value."""
        return len(self.known)

    def interval(self) -> tuple[float, float, float]:
        """Return the mean and the 95% interval: Student's t, or Clopper and Pearson's for a share.

        The t interval is NaN if all seeds are equal: its width would be 0, which is not certainty.
        """
        known = self.known
        if not known.size:
            return (math.nan,) * 3
        if self.share:
            return float(known.mean()), *clopper_pearson(int(known.sum()), known.size)
        mean, low, high = (float(v) for v in t_interval(known))
        return mean, low, high

    def p_value(self, bound: float, *, above: bool) -> float:
        """Return the two-sided p-value of the mean against a bound."""
        if self.share:
            return against(int(self.known.sum()), self.seeds, bound, above=above)
        return sign_flip(self.x - bound)

    def locate(self) -> tuple[bool, bool, float]:
        """Return whether the mean lies inside, whether its whole interval lies on the same side, and p."""
        mean, low, high = self.interval()
        if math.isnan(mean):
            return False, False, math.nan
        bounds = [(b, above) for b, above in ((self.low, True), (self.high, False)) if math.isfinite(b)]
        if self.low <= mean <= self.high:
            clear = (low > self.low or self.low == -math.inf) and (high < self.high or self.high == math.inf)
            sure = clear and not math.isnan(low)
            return True, sure, max((self.p_value(b, above=above) for b, above in bounds), default=0.0)
        above = mean > self.high
        clear = high < self.low or low > self.high
        return False, clear, self.p_value(self.high if above else self.low, above=above)


@dataclass(frozen=True)
class Case:
    """A claim in one setting, ready to be judged.

    Parameters
    ----------
    parts
        The contrasts; all must lie inside their regions.
    undecidable
        Why the claim cannot be decided; empty if it can.
    undefined
        Why the claim is meaningless for these results, e.g. a ratio to 0; it is then not reproduced.
    over
        For a correlation, the groups that it is over and their permutation p-value, which must be at most
        .05.
    """

    parts: tuple[Part, ...]
    undecidable: str = ""
    undefined: str = ""
    over: tuple[str, float] | None = None


@dataclass(frozen=True)
class Judged:
    """A verdict, its reason in words, and the p-value before and after Holm's correction."""

    verdict: Verdict
    why: str
    p: float
    p_holm: float


@dataclass(frozen=True)
class Outcome:
    """The outcome of one claim in one setting: everything that the page and ``--json`` show.

    ``mean``, ``low`` and ``high`` belong to the quantity that ``figure`` names (a difference, a ratio, a
    value). ``sides`` has the description and seed-mean of every side. For a correlation, ``over`` says how
    many groups it is over and ``p_over`` is their permutation p-value. ``runs`` identifies the runs that the
    claim reads.
    """

    claim: str
    says: str
    kind: str
    setting: str
    verdict: Verdict
    why: str
    published: str
    region: str
    reason: str
    figure: str
    mean: float
    low: float
    high: float
    sides: tuple[tuple[str, float], ...]
    seeds: int
    p: float
    p_holm: float
    over: str = ""
    p_over: float = math.nan
    runs: str = ""


@dataclass(frozen=True)
class _Evidence:
    """Whether a mean lies inside, whether its interval lies on the same side, p, and any other objection."""

    inside: bool
    clear: bool
    p: float
    objection: str = ""


def judge(cases: Sequence[Case]) -> list[Judged]:
    """Return the verdict of every case; together they are the family of Holm's correction."""
    evidence = [_combine(case.parts) for case in cases]
    adjusted = holm([e.p for e in evidence])
    judged = []
    for case, e, p_holm in zip(cases, evidence, adjusted, strict=True):
        seeds = min((part.seeds for part in case.parts), default=0)
        undecided = Judged("undecided", "", e.p, float(p_holm))
        if why := case.undecidable or _why_undecided(case.parts, seeds, len(cases), e.p):
            judged.append(replace(undecided, why=why))
        elif case.undefined:
            judged.append(replace(undecided, verdict="not reproduced", why=case.undefined))
        else:
            verdict, why = _decide(e, float(p_holm), case.over)
            judged.append(replace(undecided, verdict=verdict, why=why))
    return judged


def _why_undecided(parts: Sequence[Part], seeds: int, family: int, p: float) -> str:
    if seeds == 0:
        return "undefined in every seed"
    if seeds < LEAST_SEEDS:
        return f"too few seeds: {seeds}, at least {LEAST_SEEDS} are needed"
    if why := unreachable(family, seeds) or ("undefined" if math.isnan(p) else ""):
        return why
    if any(not part.guard and math.isnan(part.interval()[1]) for part in parts):
        return "the same value in every seed, so there is no interval"
    return ""


def _decide(evidence: _Evidence, p_holm: float, over: tuple[str, float] | None) -> tuple[Verdict, str]:
    what, p_over = over or ("", 0.0)
    if evidence.clear and p_holm <= LEVEL and p_over <= LEVEL:
        if evidence.inside:
            return "reproduced", "mean and interval lie inside the claimed region"
        return "contradicted", "mean and interval lie outside the claimed region"
    which = "agrees" if evidence.inside else "disagrees"
    objection = evidence.objection or "its interval includes the bound"
    if evidence.clear:
        objection = "p is above .05 after Holm" if p_holm > LEVEL else f"p over {what} is above .05"
    return "not reproduced", f"the mean {which}, but {objection}"


def _combine(parts: Sequence[Part]) -> _Evidence:
    """Return the joint evidence of the parts of a claim.

    Inside: all parts lie inside, and all but the guards must do so clearly, so p is their largest (an
    intersection-union test). Outside: one part does, or one guard significantly, so p is the smallest times
    the number of parts that could have.
    """
    located = [(part, _Evidence(*part.locate())) for part in parts]
    main = [e for part, e in located if not part.guard]
    guards = [e for part, e in located if part.guard]
    broken = [g for g in guards if not g.inside and g.clear and g.p * len(guards) <= LEVEL]
    if broken:
        worst = min(broken, key=lambda g: g.p)
        return _Evidence(False, True, min(1.0, worst.p * len(guards)))
    if any(math.isnan(e.p) for e in main) or not main:
        return _Evidence(False, False, math.nan)
    if all(e.inside for e in main):
        if not all(g.inside for g in guards):
            p = max(e.p for e in main)
            return _Evidence(True, False, p, "the mean of one of its steps goes the other way")
        return _Evidence(True, all(e.clear for e in main), max(e.p for e in main))
    outside = [e for e in main if not e.inside]
    worst = min(outside, key=lambda e: (not e.clear, e.p))
    return _Evidence(False, worst.clear, min(1.0, worst.p * len(main)))


def fieller(a: NDArray[np.float64], b: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the ratio of two paired seed-means and its 95% interval (Fieller 1954).

    The interval contains every r for which the t interval of a − r·b covers 0. It is unbounded, and returned
    as NaN, if the interval of b itself covers 0.

    Examples
    --------
    >>> a, b = np.array([2.0, 2.2, 1.8, 2.1]), np.array([1.0, 1.1, 1.0, 0.9])
    >>> [round(v, 2) for v in fieller(a, b)]
    [2.02, 1.72, 2.39]
    """
    from scipy import stats

    known = np.isfinite(a) & np.isfinite(b)
    a, b = a[known], b[known]
    if a.size < 2 or b.mean() == 0:
        return math.nan, math.nan, math.nan
    mean = float(a.mean() / b.mean())
    t2 = float(stats.t.ppf(0.975, a.size - 1)) ** 2 / a.size
    (aa, ab), (_, bb) = np.cov(a, b)
    square = float(b.mean() ** 2 - t2 * bb)
    cross = float(a.mean() * b.mean() - t2 * ab)
    root = cross**2 - square * float(a.mean() ** 2 - t2 * aa)
    if square <= 0 or root < 0:
        return mean, math.nan, math.nan
    return mean, (cross - math.sqrt(root)) / square, (cross + math.sqrt(root)) / square
