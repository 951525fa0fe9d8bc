"""The choice of constants, when it is paid for: how many candidates were tried, and what each released.

The number K of candidates is random, because only then does a choice among private trainings have a privacy
bound that hardly grows with K (Liu and Talwar 2019; Papernot and Steinke 2022, arXiv 2110.03620). Everything
here is public. :mod:`fedtoll.privacy.selection` computes the price.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from fedtoll.scenarios.fields import Count, Positive, Rate, Section


class TruncatedNegativeBinomial(Section):
    """K ≥ 1 with P[K = k] ∝ (1 − γ)^k Π_{l<k} (l + η)/(l + 1) (Papernot and Steinke 2022, definition 1).

    ``eta`` = 1 is the geometric distribution, ``eta`` = 0 the logarithmic. A smaller ``gamma`` means more
    candidates.

    Examples
    --------
    >>> TruncatedNegativeBinomial(eta=1.0, gamma=0.125).expected
    8.0
    """

    kind: Literal["truncated-negative-binomial"] = "truncated-negative-binomial"
    eta: Annotated[float, Field(strict=True, gt=-1, le=10)] = 1.0
    gamma: Annotated[float, Field(strict=True, ge=1e-6, lt=1)]

    @staticmethod
    def with_expected(expected: float, eta: float = 1.0) -> TruncatedNegativeBinomial:
        """Return the distribution of a mean number of candidates, greater than 1.

        Examples
        --------
        >>> TruncatedNegativeBinomial.with_expected(8.0)
        TruncatedNegativeBinomial(kind='truncated-negative-binomial', eta=1.0, gamma=0.125)
        """
        if eta == 1:
            return TruncatedNegativeBinomial(eta=1.0, gamma=1 / expected)
        low, high = 1e-6, 1.0 - 1e-9
        for _ in range(100):
            middle = math.sqrt(low * high)
            if TruncatedNegativeBinomial(eta=eta, gamma=middle).expected < expected:
                high = middle
            else:
                low = middle
        return TruncatedNegativeBinomial(eta=eta, gamma=low)

    @property
    def expected(self) -> float:
        """E[K]."""
        if self.eta == 0:
            return (1 / self.gamma - 1) / -math.log(self.gamma)
        return self.eta * (1 - self.gamma) / (self.gamma * self._truncation)

    @property
    def _truncation(self) -> float:
        """1 − γ^η, the probability of K ≥ 1 before truncation; negative for η < 0."""
        return -math.expm1(self.eta * math.log(self.gamma))

    def draw(self, rng: np.random.Generator) -> int:
        """Draw K from one uniform number."""
        if self.eta == 0:
            first = (1 - self.gamma) / -math.log(self.gamma)
        else:
            first = (1 - self.gamma) * self.eta * self.gamma**self.eta / self._truncation
        return _inverse(rng.random(), 1, first, lambda k: (1 - self.gamma) * (k + self.eta) / (k + 1))


class Poisson(Section):
    """K from a Poisson distribution; it can be 0, and then the constants must not depend on any record.

    Examples
    --------
    >>> Poisson(mean=8.0).expected
    8.0
    """

    kind: Literal["poisson"] = "poisson"
    mean: Annotated[float, Field(strict=True, ge=1, le=500)]

    @property
    def expected(self) -> float:
        """E[K]."""
        return self.mean

    def draw(self, rng: np.random.Generator) -> int:
        """Draw K from one uniform number."""
        return _inverse(rng.random(), 0, math.exp(-self.mean), lambda k: self.mean / (k + 1))


Distribution = TruncatedNegativeBinomial | Poisson
"""The distribution of the number of candidates."""


def _inverse(uniform: float, smallest: int, first: float, ratio: Callable[[int], float]) -> int:
    """Return the smallest k whose cumulative probability exceeds ``uniform``.

    ``first`` is the probability of ``smallest``; ``ratio(k)`` is P[K = k + 1] / P[K = k].
    """
    k, probability, total = smallest, first, first
    while total <= uniform:
        probability *= ratio(k)
        if total + probability == total:  # the rest is smaller than rounding
            break
        k, total = k + 1, total + probability
    return k


class Tried(Section):
    """What one client releases in one training of a candidate: DP-SGD and statistics, over all rounds.

    ``noise_multiplier`` is σ, ``steps`` the number of DP-SGD steps. All statistics have one noise multiplier.
    """

    sampling_rate: Rate
    noise_multiplier: Positive
    steps: Count
    statistic_noise_multiplier: Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)] = 0.0
    statistic_releases: Annotated[int, Field(strict=True, ge=0)] = 0

    @model_validator(mode="after")
    def _consistent(self) -> Tried:
        if (self.statistic_noise_multiplier > 0) != (self.statistic_releases > 0):
            raise ValueError("statistics need noise, and noise needs statistics")
        return self


class Choice(Section):
    """The public facts of a choice of constants, from which anyone can recompute its price.

    The number of candidates has ``distribution``. Each is drawn uniformly, with replacement, from a grid, and
    trained ``trainings`` times. ``others`` has, for every client in the order of the run, the grid's
    candidates that release something else than the run itself, each once. It has one entry if all clients
    have the same, and none if no candidate differs.
    """

    distribution: Annotated[Distribution, Field(discriminator="kind")]
    trainings: Count
    others: tuple[tuple[Tried, ...], ...] = ()

    def others_of(self, client: int) -> tuple[Tried, ...]:
        """Return the entry of a client."""
        return self.others[client if len(self.others) > 1 else 0] if self.others else ()


def seeds_of(seeds: Sequence[int], draw: int) -> tuple[int, ...]:
    """Return the seeds of the trainings of one draw, counted from 0, so that no two draws share noise.

    The bound holds for independent candidates. Runs of one seed share batches and noise, so two candidates,
    or one candidate drawn twice, must not be trained with the same seeds.

    Examples
    --------
    >>> seeds_of((1000, 1001), 0) == seeds_of((1000, 1001), 0), len(seeds_of((1000, 1001), 1))
    (True, 2)
    """
    return tuple(int(np.random.SeedSequence((seed, draw)).generate_state(1)[0]) for seed in seeds)
