"""Objective perturbation: the noise is added once, to the objective of logistic regression.

Chaudhuri, Monteleoni and Sarwate (2011), Differentially private empirical risk minimization, JMLR 12,
Algorithm 2 and Theorem 9, with the loss curvature c = 1/4 of logistic regression, and stated for records of
norm at most R (records x / R with weights R·w are those of the paper).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

CURVATURE = 0.25
"""The largest second derivative of the logistic loss log(1 + exp(−z))."""

TOLERANCE = 1e-9
"""The largest component of the gradient of the mean objective at which the solver stops."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    """The constants of the perturbed objective.

    Parameters
    ----------
    scale
        The noise b has a uniform direction and a norm that is Gamma distributed with shape d and this scale;
        in units of the gradient of the summed loss.
    extra
        What is added to the weight λ of ½‖w‖².
    """

    scale: float
    extra: float


def calibrate(epsilon: float, norm: float, regularisation: float) -> Calibration:
    """Return the noise and the extra regularisation at which the minimiser is ε-differentially private.

    Neighbours differ in one *replaced* record, so the number of records is public; δ is 0. The paper's
    constants are, with λ = n·Λ and its own norm of 1,

    - ε' = ε − 2·log(1 + cR²/λ) and no extra regularisation, if this ε' is positive,
    - ε' = ε/2 and λ + extra = cR² / (exp(ε/4) − 1) otherwise,

    and the scale is 2R/ε'.

    Parameters
    ----------
    epsilon
        ε, positive and finite.
    norm
        R, the largest norm of a record, its constant included.
    regularisation
        λ, the weight of ½‖w‖² beside the *summed* loss.

    Examples
    --------
    >>> calibrate(1.0, norm=1.0, regularisation=0.1).extra > 0
    True
    >>> calibrate(1.0, norm=1.0, regularisation=100.0).extra
    0.0
    """
    curvature = CURVATURE * norm**2
    left, extra = epsilon - 2 * math.log1p(curvature / regularisation), 0.0
    if left <= 0:
        left, extra = epsilon / 2, curvature / math.expm1(epsilon / 4) - regularisation
    return Calibration(scale=2 * norm / left, extra=extra)


def fit(
    X: Floats,
    y: NDArray[np.int64],
    *,
    epsilon: float,
    norm: float,
    regularisation: float,
    rng: np.random.Generator,
) -> Floats:
    """Return the weights of a logistic regression under objective perturbation, shape ``[d]``.

    There is no intercept apart from ``X``: add a constant feature, so that it is regularised and counted in
    the norm, as the proof needs. The guarantee is that of the exact minimiser; ours is within
    :data:`TOLERANCE`, and its noise comes from a seeded stream, so this is a simulation.

    Parameters
    ----------
    X
        The records, shape ``[n, d]``; those longer than ``norm`` are shortened to it.
    y
        The labels 0 and 1, shape ``[n]``.
    epsilon, norm, regularisation
        As in :func:`calibrate`.
    rng
        Where the noise comes from: d normal draws, then one Gamma draw.

    Raises
    ------
    ValueError
        If the minimum is not reached.
    """
    n, d = X.shape
    constants = calibrate(epsilon, norm, regularisation)
    direction = rng.standard_normal(d)
    noise = direction / np.linalg.norm(direction) * rng.gamma(d, constants.scale)
    weight = regularisation + constants.extra
    lengths = np.linalg.norm(X, axis=1, keepdims=True)
    X = X * np.minimum(1.0, norm / np.maximum(lengths, np.finfo(float).tiny))
    sign = 2.0 * y - 1.0

    def objective(w: Floats) -> tuple[float, Floats]:
        margins = sign * (X @ w)
        value = np.logaddexp(0, -margins).sum() + 0.5 * weight * (w @ w) + noise @ w
        gradient = X.T @ (-sign * special.expit(-margins)) + weight * w + noise
        return float(value) / n, gradient / n

    found = optimize.minimize(
        objective,
        np.zeros(d),
        jac=True,
        method="L-BFGS-B",
        options={"gtol": TOLERANCE, "ftol": 0.0, "maxiter": 20_000, "maxfun": 20_000, "maxcor": 50},
    )
    if np.abs(found.jac).max() > 1000 * TOLERANCE:
        raise ValueError(f"objective perturbation did not converge: {found.message}")
    return np.asarray(found.x, dtype=np.float64)
