"""Robust-HDP: weights by noise that is estimated from the updates themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedtoll.strategies.base import Report, State, Strategy, Weights, recall, remember

Matrix = NDArray[np.float64]

TOLERANCE = 1e-7
"""The error ‖Q − L − S‖ at which principal component pursuit ends, relative to ‖Q‖."""

MOST_STEPS = 300
"""The most steps of principal component pursuit."""


@dataclass(frozen=True)
class RobustHDP(Strategy):
    """Robust-HDP: less weight to clients whose updates look noisier.

    p_k ∝ 1 / σ̂_k², with σ̂_k² = ‖S_k‖², where the matrix Q of all updates, a column for each client, is split
    into a low-rank part L and a sparse part S by principal component pursuit: min ‖L‖_* + λ ‖S‖_1 with
    L + S = Q and λ = 1 / √max(rows, columns). L is what clients have in common, S_k is taken for the noise of
    client k. The estimate is made in the first round in which a client trains, with all clients of that
    round. It is made again when the client trains with more clients than before, because few show little of
    what they have in common; otherwise it is kept.

    The method asks no client for its ε, so that none gains by a false one. Here every client's noise is a
    constant of the plan, and ``inverse-variance`` uses it. What differs from others for another reason is
    taken for noise, too: a client of another group gets less weight, at ε = ∞ as well.

    ``rows``: the estimate is made on this many weights, evenly spread over the model, if it has more.

    If some σ̂_k are 0, the clients that have them share the whole weight.

    References
    ----------
    Malekmohammadi, Yu and Cao, *Noise-aware algorithm for heterogeneous differentially private federated
    learning*, ICML 2024, arXiv 2406.03519. The rule, and the single estimate where everybody takes part,
    are those of the authors' code; the paper's own text was not checked. For large models they take the
    first rows of the matrix, here they are spread. Principal component pursuit: Candès, Li, Ma and
    Wright, *Robust principal component analysis?*, J. ACM 2011, arXiv 0912.3599, algorithm 1.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> common = rng.normal(size=50)
    >>> updates = [common + sd * rng.normal(size=50) for sd in (0.1, 0.1, 1.0)]
    >>> reports = [Report(k, 100, "g", update=(u,)) for k, u in enumerate(updates)]
    >>> weights = RobustHDP().weigh(reports, {})[0]
    >>> bool(weights[2] < 0.1 < weights[:2].min())
    True
    """

    rows: int = 1000

    def __post_init__(self) -> None:
        """Refuse a number of rows with which nothing can be estimated."""
        if self.rows < 1:
            raise ValueError(f"rows = {self.rows}: must be 1 or more")

    def weigh(self, reports: Sequence[Report], state: State) -> tuple[Weights, State]:
        """Return 1 / σ̂_k², normalised, and the state with the new estimates."""
        together = dict(zip(state.get("together.clients", ()), state.get("together", ()), strict=True))
        new = [i for i, r in enumerate(reports) if together.get(r.client, 0) < len(reports)]
        if new:
            estimated, count = noise_of(reports, self.rows)[new], np.full(len(new), len(reports))
            state = remember(state, [reports[i] for i in new], noise=estimated, together=count)
        noise = recall(state, reports, "noise")
        least = noise.min()
        weights = np.asarray(noise == 0, dtype=np.float64) if least == 0 else (least / noise) ** 2
        return weights / weights.sum(), state


def noise_of(reports: Sequence[Report], rows: int) -> Weights:
    """Return ‖S_k‖ of every update: what principal component pursuit does not find in the others.

    Undefined (NaN) if an update is not finite.
    """
    columns = [np.concatenate([np.ravel(a) for a in r.update]) for r in reports]
    q = np.stack(columns, axis=1).astype(np.float64)
    q = q[np.unique(np.linspace(0, len(q) - 1, min(rows, len(q))).round().astype(int))]
    largest = float(np.abs(q).max())
    if not np.isfinite(largest):
        return np.full(len(reports), np.nan)
    _, sparse = pursued(q / largest if largest else q)  # so that no square overflows
    return np.asarray(np.linalg.norm(sparse, axis=0) * largest)


def pursued(q: Matrix) -> tuple[Matrix, Matrix]:
    """Split a matrix into a low-rank and a sparse part, by alternating directions.

    Each step shrinks the singular values of Q − S + Y / μ by 1 / μ, and then the entries of Q − L + Y / μ by
    λ / μ. μ = rows · columns / (4 Σ |Q_ij|).

    Examples
    --------
    >>> spike = np.ones((20, 10))
    >>> spike[3, 4] = 9.0
    >>> low, sparse = pursued(spike)
    >>> np.round(low[3, 4], 3), np.round(sparse[3, 4], 3), int((np.abs(sparse) > 1e-3).sum())
    (np.float64(1.0), np.float64(8.0), 1)
    """
    low, sparse, dual = np.zeros_like(q), np.zeros_like(q), np.zeros_like(q)
    total, scale = float(np.abs(q).sum()), float(np.linalg.norm(q))
    if total == 0:
        return low, sparse
    mu = q.size / (4 * total)
    weight = 1 / np.sqrt(max(q.shape))
    for _ in range(MOST_STEPS):
        low = _shrunk(q - sparse + dual / mu, 1 / mu)
        rest = q - low + dual / mu
        sparse = np.sign(rest) * np.maximum(np.abs(rest) - weight / mu, 0)
        gap = q - low - sparse
        dual += mu * gap
        if np.linalg.norm(gap) <= TOLERANCE * scale:
            break
    return low, sparse


def _shrunk(matrix: Matrix, by: float) -> Matrix:
    """Return the matrix with its singular values less ``by``, at least 0.

    From the eigenvectors of the smaller Gram matrix, which is many times faster for few clients.
    """
    wide = matrix.shape[0] < matrix.shape[1]
    tall = matrix.T if wide else matrix
    squares, vectors = np.linalg.eigh(tall.T @ tall)
    values = np.sqrt(np.maximum(squares, 0))
    kept = np.where(values > by, 1 - by / np.maximum(values, by), 0.0)
    low: Matrix = tall @ ((vectors * kept) @ vectors.T)
    return low.T if wide else low
