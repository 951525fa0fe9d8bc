"""Verdicts on claims, from paired differences over seeds: the toll's intervals, sign flips and Holm.

A claim names a region for one seed-mean or several. It is *reproduced* where the mean lies inside and its
95% t interval too; *contradicted* where both lie outside; in either case the sign-flip test at the bound must
reject at .05 after Holm over all claims of the finding. Else it is *not reproduced*: the figures agree with
the claim and with its opposite. Where no test can decide it is *undecided*, with the reason.

A share of seeds has the exact binomial test and interval instead; a correlation must hold over groups too.

Examples
--------
>>> import numpy as np
>>> apart = Part(np.array([3.0, 4, 5, 4, 3, 4, 5, 4, 3, 4]), low=0.0)
>>> judge([Case((apart,))])[0].verdict
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

Word = Literal["reproduced", "not reproduced", "contradicted", "undecided"]
VERDICTS: tuple[Word, ...] = ("reproduced", "not reproduced", "contradicted", "undecided")


@dataclass(frozen=True, eq=False)
class Part:
    """One paired contrast, and the region in which its mean must lie.

    Parameters
    ----------
    x
        One value a seed; NaN is dropped.
    low, high
        The region.
    guard
        A step of a curve: its mean must lie inside, and it contradicts where it is outside beyond doubt.
    share
        The values are 0 and 1, and the mean is a share of seeds.
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
        """How many seeds have a value."""
        return len(self.known)

    def interval(self) -> tuple[float, float, float]:
        """Return mean, low and high of the 95% interval: Student's, of a share Clopper and Pearson's.

        NaN where all seeds are equal, of which t knows no width: that is no certainty.
        """
        known = self.known
        if not known.size:
            return (math.nan,) * 3
        if self.share:
            return float(known.mean()), *clopper_pearson(int(known.sum()), known.size)
        mean, low, high = (float(v) for v in t_interval(known))
        return mean, low, high

    def against(self, bound: float, *, above: bool) -> float:
        """Return p, two-sided, that the mean lies on that side of a bound by chance."""
        if self.share:
            return against(int(self.known.sum()), self.seeds, bound, above=above)
        return sign_flip(self.x - bound)

    def place(self) -> tuple[bool, bool, float]:
        """Return whether the mean lies inside, whether all of its interval lies on that side too, and p."""
        mean, low, high = self.interval()
        if math.isnan(mean):
            return False, False, math.nan
        bounds = [(b, above) for b, above in ((self.low, True), (self.high, False)) if math.isfinite(b)]
        if self.low <= mean <= self.high:
            clear = (low > self.low or self.low == -math.inf) and (high < self.high or self.high == math.inf)
            sure = clear and not math.isnan(low)
            return True, sure, max((self.against(b, above=above) for b, above in bounds), default=0.0)
        above = mean > self.high
        clear = high < self.low or low > self.high
        return False, clear, self.against(self.high if above else self.low, above=above)


@dataclass(frozen=True)
class Case:
    """A claim ready to be judged.

    Parameters
    ----------
    parts
        All of them must lie inside.
    barred
        Why it cannot be decided; empty where it can.
    void
        Why the claim has no sense with these figures (a ratio to nothing): then it is not reproduced.
    over
        Of a correlation, what it is over; and p of shuffling them, which must be at most .05 as well.
    """

    parts: tuple[Part, ...]
    barred: str = ""
    void: str = ""
    over: tuple[str, float] | None = None


@dataclass(frozen=True)
class Judged:
    """A verdict, the reason in words, and the p-value before and after Holm."""

    verdict: Word
    why: str
    p: float
    p_holm: float


@dataclass(frozen=True)
class Outcome:
    """What became of one claim in one setting: everything that the page and ``--json`` show.

    ``mean``, ``low`` and ``high`` are of the figure that ``figure`` names (a difference, a ratio, a value),
    and ``sides`` gives the seed-mean of every side with what it is. ``over`` and ``p_over`` are of a
    correlation: over how many groups it is, and p of shuffling them.
    """

    claim: str
    says: str
    kind: str
    setting: str
    verdict: Word
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


@dataclass(frozen=True)
class _Leaning:
    inside: bool
    clear: bool
    p: float
    doubt: str = ""


def judge(cases: Sequence[Case]) -> list[Judged]:
    """Return the verdict of every case; together they are the family of Holm's correction."""
    leanings = [_lean(case.parts) for case in cases]
    adjusted = holm([leaning.p for leaning in leanings])
    made = []
    for case, leaning, p_holm in zip(cases, leanings, adjusted, strict=True):
        seeds = min((part.seeds for part in case.parts), default=0)
        bare = Judged("undecided", "", leaning.p, float(p_holm))
        if why := case.barred or _undecided(case.parts, seeds, len(cases), leaning.p):
            made.append(replace(bare, why=why))
        elif case.void:
            made.append(replace(bare, verdict="not reproduced", why=case.void))
        else:
            verdict, why = _decided(leaning, float(p_holm), case.over)
            made.append(replace(bare, verdict=verdict, why=why))
    return made


def _undecided(parts: Sequence[Part], seeds: int, family: int, p: float) -> str:
    if seeds == 0:
        return "undefined in every seed"
    if seeds < LEAST_SEEDS:
        return f"too few seeds: {seeds}, and {LEAST_SEEDS} are the fewest"
    if why := unreachable(family, seeds) or ("undefined" if math.isnan(p) else ""):
        return why
    if any(not part.guard and math.isnan(part.interval()[1]) for part in parts):
        return "the same value in every seed, so that there is no interval"
    return ""


def _decided(leaning: _Leaning, p_holm: float, over: tuple[str, float] | None) -> tuple[Word, str]:
    what, p_over = over or ("", 0.0)
    if leaning.clear and p_holm <= LEVEL and p_over <= LEVEL:
        if leaning.inside:
            return "reproduced", "mean and interval lie where the claim says"
        return "contradicted", "mean and interval lie where the claim says they do not"
    which = "agree" if leaning.inside else "disagree"
    doubt = leaning.doubt or "its interval reaches over the bound"
    if leaning.clear:
        doubt = "p is above .05 after Holm" if p_holm > LEVEL else f"p over {what} is above .05"
    return "not reproduced", f"the mean would {which}, but {doubt}"


def _lean(parts: Sequence[Part]) -> _Leaning:
    """Return towards what the parts of a claim lean together.

    Inside: all parts are, and all but the guards clearly, so p is the largest of these (an intersection-union
    test). Outside: one is, or one guard is beyond doubt, so p is the smallest times the number of those that
    could have been.
    """
    placed = [(part, _Leaning(*part.place())) for part in parts]
    own = [leaning for part, leaning in placed if not part.guard]
    guards = [leaning for part, leaning in placed if part.guard]
    fallen = [g for g in guards if not g.inside and g.clear and g.p * len(guards) <= LEVEL]
    if fallen:
        worst = min(fallen, key=lambda g: g.p)
        return _Leaning(False, True, min(1.0, worst.p * len(guards)))
    if any(math.isnan(leaning.p) for leaning in own) or not own:
        return _Leaning(False, False, math.nan)
    if all(leaning.inside for leaning in own):
        if not all(g.inside for g in guards):
            p = max(leaning.p for leaning in own)
            return _Leaning(True, False, p, "the mean of one of its steps goes the other way")
        return _Leaning(True, all(leaning.clear for leaning in own), max(leaning.p for leaning in own))
    out = [leaning for leaning in own if not leaning.inside]
    worst = min(out, key=lambda leaning: (not leaning.clear, leaning.p))
    return _Leaning(False, worst.clear, min(1.0, worst.p * len(own)))


def fieller(a: NDArray[np.float64], b: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the ratio of two seed-means and its 95% interval (Fieller 1954), paired.

    The interval holds every r at which the t interval of a − r·b covers 0. It is unbounded, and NaN is
    returned, where b itself is not clear of 0.

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
