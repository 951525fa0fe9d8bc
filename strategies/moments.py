"""Moving averages of updates, their squares and their known noise, for servers that know the noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedtoll.strategies.base import Arrays, Report, State, Weights
from fedtoll.strategies.server_optimizer import mean_update


@dataclass(frozen=True)
class Source:
    """One stream of noisy updates: the aggregate, or one client.

    Parameters
    ----------
    id
        The client's number; −1 for the aggregate.
    update
        One array per tensor.
    variance
        Variance of the noise in each coordinate of ``update``, known in advance.
    """

    id: int
    update: Arrays
    variance: float


@dataclass(frozen=True)
class Moments:
    """Bias-corrected moving averages of one source.

    Parameters
    ----------
    first, second
        The averages of the update and of its square, one array per tensor.
    noise
        The average of the variance, with the weights of ``second``.
    """

    first: Arrays
    second: Arrays
    noise: float


def aggregate(reports: Sequence[Report], coefficients: Weights) -> Source:
    """Return the sum Σ_k a_k Δ_k with its variance Σ_k a_k² v_k.

    Examples
    --------
    >>> reports = [Report(k, 1, "g", (np.array([d]),), noise_variance=4.0) for k, d in enumerate([1.0, 4.0])]
    >>> aggregate(reports, np.array([0.75, 0.25]))
    Source(id=-1, update=(array([1.75]),), variance=2.5)
    """
    variance = float(np.sum(np.square(coefficients) * [r.noise_variance for r in reports]))
    return Source(-1, mean_update(reports, coefficients), variance)


def observe(
    state: State, sources: Sequence[Source], beta1: float, beta2: float
) -> tuple[list[Moments], State]:
    """Add an update of every source to its averages, and return them with the new state.

    m ← β₁ m + (1 − β₁) Δ and s ← β₂ s + (1 − β₂) Δ², both from 0, are divided by 1 − βᵗ after t updates of
    the source, as in Adam. Sources that are absent keep their averages.

    Examples
    --------
    >>> state = {}
    >>> for value in (1.0, 4.0):
    ...     (moments,), state = observe(state, [Source(-1, (np.array([value]),), 2.0)], 0.5, 0.0)
    ...     print(moments)
    Moments(first=(array([1.]),), second=(array([1.]),), noise=2.0)
    Moments(first=(array([3.]),), second=(array([16.]),), noise=2.0)
    """
    rows = _rows(state, len(sources[0].update))
    moments = []
    for source in sources:
        zeros = tuple(np.zeros(u.shape) for u in source.update)
        rounds, noise, first, second = rows.get(source.id, (0, 0.0, zeros, zeros))
        rounds += 1
        noise = beta2 * noise + (1 - beta2) * source.variance
        first = tuple(
            np.asarray(beta1 * m + (1 - beta1) * u) for m, u in zip(first, source.update, strict=True)
        )
        second = tuple(
            np.asarray(beta2 * s + (1 - beta2) * np.square(u, dtype=np.float64))
            for s, u in zip(second, source.update, strict=True)
        )
        rows[source.id] = rounds, noise, first, second
        c1, c2 = 1 - beta1**rounds, 1 - beta2**rounds
        moments.append(Moments(tuple(m / c1 for m in first), tuple(s / c2 for s in second), noise / c2))
    return moments, state | _arrays(rows)


_Row = tuple[int, float, Arrays, Arrays]


def _rows(state: State, tensors: int) -> dict[int, _Row]:
    """Return what is stored of every source: rounds, noise, first and second moments."""
    return {
        int(id_): (
            int(state["moments.rounds"][i]),
            float(state["moments.noise"][i]),
            tuple(state[f"moments.m{t}"][i] for t in range(tensors)),
            tuple(state[f"moments.s{t}"][i] for t in range(tensors)),
        )
        for i, id_ in enumerate(state.get("moments.ids", ()))
    }


def _arrays(rows: dict[int, _Row]) -> dict[str, NDArray[np.generic]]:
    """Return the rows as plain arrays, sorted by source."""
    ids = sorted(rows)
    rounds, noise, first, second = zip(*(rows[i] for i in ids), strict=True)
    stored: dict[str, NDArray[np.generic]] = {
        "moments.ids": np.array(ids, dtype=np.int64),
        "moments.rounds": np.array(rounds, dtype=np.int64),
        "moments.noise": np.array(noise),
    }
    for t in range(len(first[0])):
        stored[f"moments.m{t}"] = np.stack([arrays[t] for arrays in first])
        stored[f"moments.s{t}"] = np.stack([arrays[t] for arrays in second])
    return stored
