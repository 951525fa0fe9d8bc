"""Objective perturbation: the definition of privacy itself, the noise, and the minimiser."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import special, stats
from sklearn.linear_model import LogisticRegression

from fedtoll.privacy.objective_perturbation import CURVATURE, Calibration, calibrate, fit


def records(n=400, d=4, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    X *= 2.0 / np.linalg.norm(X, axis=1, keepdims=True)
    return X, (X[:, 0] + rng.normal(size=n) > 0).astype(np.int64)


def largest_privacy_loss(constants: Calibration, norm: float, regularisation: float) -> float:
    """Return the largest log-ratio of the densities of the minimiser over neighbours with one feature.

    Where the objective is least, the noise is minus the gradient b(w) of the rest, so the density of the
    minimiser is that of the noise at b(w), times |b'(w)|.
    """
    w = np.linspace(-40, 40, 8001) / norm
    weight = regularisation + constants.extra

    def log_density(data: tuple[tuple[float, int], ...]) -> np.ndarray:
        b, slope = -weight * w, weight + 0 * w
        for x, sign in data:
            b += sign * x * special.expit(-sign * x * w)
            slope += x**2 * special.expit(x * w) * special.expit(-x * w)
        density: np.ndarray = -np.abs(b) / constants.scale + np.log(slope)
        return density

    choices = [(x * norm, sign) for x in (0.0, 0.5, 1.0) for sign in (-1, 1)]
    losses = []
    for others in itertools.chain([()], itertools.combinations_with_replacement(choices, 2)):
        by_record = [log_density((*others, record)) for record in choices]
        losses += [np.abs(a - b).max() for a, b in itertools.combinations(by_record, 2)]
    return float(max(losses))


@pytest.mark.parametrize("norm", [1.0, math.sqrt(13)])
@pytest.mark.parametrize(("epsilon", "regularisation"), [(0.1, 1.0), (1.0, 1.0), (1.0, 40.0), (5.0, 1.0)])
def test_replacing_a_record_changes_no_density_by_more_than_epsilon(epsilon, regularisation, norm):
    constants = calibrate(epsilon, norm, regularisation)
    loss = largest_privacy_loss(constants, norm, regularisation)
    assert 0.2 * epsilon < loss <= epsilon
    tenth = Calibration(constants.scale / 10, constants.extra)  # much too little noise is noticed
    assert largest_privacy_loss(tenth, norm, regularisation) > epsilon


def test_too_little_regularisation_is_noticed():
    """The slope of the noise differs by up to cR²: the part that extra regularisation pays for."""
    constants = calibrate(0.1, 1.0, 1e-3)
    assert constants.extra > 1
    assert largest_privacy_loss(constants, 1.0, 1e-3) <= 0.1
    assert largest_privacy_loss(Calibration(constants.scale, 0.0), 1.0, 1e-3) > 1.0


def test_the_slope_grows_with_the_square_of_the_norm():
    """With R in place of R², as diffprivlib 0.6.6 has it, the noise does not suffice."""
    epsilon, norm = 0.1, 10.0
    square = calibrate(epsilon, norm, 1.0)
    first = Calibration(square.scale, (square.extra + 1) / norm - 1)
    assert largest_privacy_loss(square, norm, 1.0) <= epsilon
    assert largest_privacy_loss(first, norm, 1.0) > 2 * epsilon


def test_the_constants_are_those_of_the_paper():
    left = 2.0 - math.log(1 + 2 * CURVATURE / 10 + (CURVATURE / 10) ** 2)
    loose = calibrate(2.0, 1.0, 10.0)
    assert loose.scale == pytest.approx(2 / left)
    assert loose.extra == 0
    tight = calibrate(1.0, 1.0, 0.1)
    assert tight.scale == pytest.approx(2 / 0.5)
    assert tight.extra == pytest.approx(CURVATURE / (math.exp(0.25) - 1) - 0.1)
    wide = calibrate(1.0, 3.0, 0.9)  # records 3x with weights w / 3: λ of the paper is .9 / 9
    assert wide.scale == pytest.approx(3 * tight.scale)
    assert wide.extra == pytest.approx(9 * tight.extra)


def test_the_noise_has_the_right_length_and_no_direction():
    """It is what balances the gradient at the weights."""
    X, y = records()
    epsilon, norm, regularisation = 1.0, 2.0, 3.0
    constants = calibrate(epsilon, norm, regularisation)
    sign, noises = 2 * y - 1, []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        w = fit(X, y, epsilon=epsilon, norm=norm, regularisation=regularisation, rng=rng)
        gradient = -X.T @ (sign * special.expit(-sign * (X @ w))) + (regularisation + constants.extra) * w
        noises.append(-gradient)
    lengths = np.linalg.norm(noises, axis=1)
    assert stats.kstest(lengths, stats.gamma(a=4, scale=constants.scale).cdf).pvalue > 0.01
    assert stats.kstest(lengths, stats.gamma(a=4, scale=1.2 * constants.scale).cdf).pvalue < 0.01
    directions = np.array(noises) / lengths[:, None]
    assert np.abs(directions.mean(axis=0)).max() < 4 * math.sqrt(1 / 4 / 200)


def test_with_much_privacy_budget_it_is_scikit_learns_model():
    X, y = records()
    w = fit(X, y, epsilon=1e9, norm=2.0, regularisation=0.5, rng=np.random.default_rng(0))
    model = LogisticRegression(C=2.0, fit_intercept=False, tol=1e-10, max_iter=1000).fit(X, y)
    assert w == pytest.approx(model.coef_[0], abs=1e-5)


def test_a_record_beyond_the_norm_counts_as_one_of_this_norm():
    X, y = records()
    long = X.copy()
    long[0] *= 1000

    def weights(X):
        return fit(X, y, epsilon=1.0, norm=2.0, regularisation=1.0, rng=np.random.default_rng(0))

    assert weights(long) == pytest.approx(weights(X), abs=1e-9)
    assert not np.allclose(weights(0.5 * X), weights(X))  # shorter ones stay as they are


def test_a_minimum_that_is_not_reached_is_an_error(monkeypatch):
    monkeypatch.setattr("fedtoll.privacy.objective_perturbation.TOLERANCE", 1e-300)
    X, y = records(20)
    with pytest.raises(ValueError, match="did not converge"):
        fit(X, y, epsilon=1.0, norm=2.0, regularisation=1.0, rng=np.random.default_rng(0))
