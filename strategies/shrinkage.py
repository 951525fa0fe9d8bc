"""Shrinkage (Wiener): steps are shortened, coordinate by coordinate, by the known share of noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedtoll.strategies.base import Arrays, Report, State, Weights
from fedtoll.strategies.moments import Moments, Source, aggregate, observe
from fedtoll.strategies.server_optimizer import check
from fedtoll.strategies.wrapper import Wrapper


@dataclass(frozen=True)
class Shrinkage(Wrapper):
    """Shrinkage: any strategy's weights, with steps shortened where they are mostly noise.

    The target gives the weights. The step in each coordinate is then

        max(0, 1 − V / s) · m

    where m and s are bias-corrected moving averages of the aggregate D = Σ_k p_k Δ_k and of D², with decay
    rates ``momentum`` and ``memory``, and V = Σ_k p_k² v_k is the variance of D's noise. In expectation s is
    the signal's square plus V, so the factor is the share of D² that is signal: a Wiener filter, or
    positive-part James–Stein shrinkage with the moment estimate of the signal. (If the weights change from
    round to round, V is averaged as s is.)

    ``by = "client"`` does this for every client's update, with its own averages and V = v_k, and then adds
    Σ_k p_k · step_k: a client whose updates are noise moves nothing.

    V is a constant of the plan, and the updates are private already, so this costs no privacy. Without noise
    the factor is 1: with ``momentum = 0`` the strategy is its target, else its target with averaged steps.
    (Averaging lags: on ``adult-race`` with a learning rate of 2 and ε = .5, momentum .9 raises everybody's
    log-loss from .371 to .392.) A coordinate's step has no single coefficient per client, so the results
    record the coefficients as undefined (NaN).

    Parameters
    ----------
    by
        ``"aggregate"`` or ``"client"``.
    momentum
        Decay rate of m; 0 takes the update of the current round alone.
    memory
        Decay rate of s; larger values estimate the share of noise from more rounds.
    target
        The strategy that gives the weights: one of fedtoll's own, and one that adds up updates. (The steps
        of ``fedavgm``, ``fedadam`` and ``fedyogi`` have noise of former rounds, whose variance is not V.)
    target_parameters
        The target's parameters; those not given have their defaults.

    References
    ----------
    Wiener, *Extrapolation, interpolation, and smoothing of stationary time series*, MIT Press 1949; James and
    Stein, *Estimation with quadratic loss*, Berkeley Symposium 1961. Its use on a server's steps is ours.

    Examples
    --------
    >>> reports = [
    ...     Report(k, 50, "g", update=(np.array([d, 0.5]),), noise_variance=2.0)
    ...     for k, d in enumerate([1.0, 3.0])
    ... ]
    >>> strategy = Shrinkage()
    >>> weights, state = strategy.weigh(reports, strategy.init(reports))
    >>> strategy.combine((np.zeros(2),), reports, weights, state)[0]
    (array([1.5, 0. ]),)
    """

    by: Literal["aggregate", "client"] = "aggregate"
    momentum: float = 0.0
    memory: float = 0.9
    target: str = "fedavg"
    target_parameters: dict[str, bool | int | float | str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        check(1.0, momentum=self.momentum, memory=self.memory)
        self.check_target(adds_updates=True)

    def combine(
        self, params: Arrays, reports: Sequence[Report], weights: Weights, state: State
    ) -> tuple[Arrays, State, Weights]:
        """Move by the shrunk steps; the coefficients are undefined."""
        _, state, coefficients = super().combine(params, reports, weights, state)
        if self.by == "client":
            chosen = sorted(zip(reports, coefficients, strict=True), key=lambda pair: pair[0].client)
            sources = [Source(r.client, r.update, r.noise_variance) for r, _ in chosen]
            shares = [float(a) for _, a in chosen]
        else:
            sources, shares = [aggregate(reports, coefficients)], [1.0]
        moments, state = observe(state, sources, self.momentum, self.memory)
        moved = tuple(
            np.asarray(
                old + sum(a * step(m, i) for a, m in zip(shares, moments, strict=True)), dtype=old.dtype
            )
            for i, old in enumerate(params)
        )
        return moved, state, np.full(len(reports), math.nan)


def step(moments: Moments, tensor: int) -> NDArray[np.float64]:
    """Return max(0, 1 − V / s) · m for one tensor; 0 where s is 0."""
    m, s = moments.first[tensor], moments.second[tensor]
    share = np.divide(np.maximum(s - moments.noise, 0.0), s, out=np.zeros(np.shape(s)), where=s > 0)
    return np.asarray(share * m)
