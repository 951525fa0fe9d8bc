"""Noise in floating point: its distribution, its tails, its grid, and where it is drawn from."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import kstest, norm

from fedtoll.clients import noise
from fedtoll.clients.engines import sampling
from fedtoll.sklearn import DPClassifier
from tests.gate import floating_point
from tests.gate.system import CHECKS, System, check

KEY = np.arange(3, dtype=np.uint64) + np.uint64(2**40 + 17)


def drawn(count, key=KEY):
    generator = sampling.noise_generator()
    sampling.begin(generator, key)
    return generator.standard_normal(count)


@pytest.mark.parametrize("sd", [1e-9, 0.3, 1.0, 1.999, 2.0, 7e5])
def test_a_release_lies_on_a_grid_of_the_noise_and_near_the_real_number(sd):
    values, normals = np.random.default_rng(0).normal(0, 30 * sd, (1, 10_000)), drawn(10_000)[None]
    released = noise.noised(torch.from_numpy(values), torch.from_numpy(normals), [sd]).numpy()
    step = noise.grid_step(sd)
    assert sd * 2**-17 < step <= sd * 2**-16
    assert math.frexp(step)[0] == 0.5  # a power of two
    np.testing.assert_array_equal(released / step, np.round(released / step))
    assert np.abs(released - (values + sd * normals)).max() <= step / 2 * (1 + 1e-9)


def test_each_client_has_its_own_standard_deviation_and_grid():
    normals = torch.from_numpy(drawn(30).reshape(2, 3, 5))
    both = noise.noised(torch.ones(2, 3, 5), normals, [0.7, 40.0])
    for k, sd in enumerate((0.7, 40.0)):
        alone = noise.noised(torch.ones(1, 3, 5), normals[k : k + 1], [sd])
        assert torch.equal(both[k : k + 1], alone)


@pytest.mark.parametrize("sd", [0.0, -1.0, math.inf, math.nan])
def test_noise_that_hides_nothing_is_an_error(sd):
    with pytest.raises(ValueError, match="must be finite and greater than 0"):
        noise.noised(torch.ones(1, 8), torch.from_numpy(drawn(8))[None], [sd])


def test_single_precision_values_are_added_in_double_precision():
    """A sum of 1000 and a noise of 1e-4 keeps the noise, which float32 would lose."""
    released = noise.noised(torch.full((1, 8), 1000.0), torch.from_numpy(drawn(8))[None], [1e-4])
    np.testing.assert_allclose(released[0] - 1000.0, 1e-4 * drawn(8), atol=1e-9)


@pytest.mark.parametrize("draw", [drawn, noise.secret_normals])
def test_normals_are_standard_normal(draw):
    z = draw(200_000)
    assert kstest(z, norm.cdf).pvalue > 1e-6
    assert np.isfinite(z).all()
    assert len(np.unique(z)) == z.size


@pytest.mark.thorough
def test_extremes_occur_as_often_as_they_should():
    """Of 10⁹ draws 7.9 are expected beyond 5.7681, the largest that 24 random bits can give."""
    generator = sampling.noise_generator()
    sampling.begin(generator, KEY)
    buffer, beyond = np.empty(10**7), 0
    for _ in range(100):
        generator.standard_normal(out=buffer)
        beyond += int((np.abs(buffer) > 5.7681).sum())
    assert 1 <= beyond <= 20  # but for 4 cases in 10,000


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["cohort", "opacus"])
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_the_lattice_attack_tells_membership_no_better_than_a_coin(engine, precision):
    """Against noise of 24 random bits it is right 20 of 20 times."""

    @check("guesses")
    def guess(system: System) -> None:
        found.append(floating_point.guesses(system, 20))

    found: list[int] = []
    try:
        guess(System(engine, precision=precision))
    finally:
        del CHECKS["guesses"]
    assert found[0] <= 14


def test_a_classifier_without_a_seed_draws_its_noise_from_the_system(monkeypatch):
    """With the same source of words it trains the same noise; with a seed it does not ask."""
    asked = []

    def words(count):
        asked.append(count)
        return np.random.default_rng(len(asked)).bytes(count)

    monkeypatch.setattr("fedtoll.clients.noise.secrets", SimpleNamespace(token_bytes=words))
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 3)), rng.integers(0, 2, 40)
    facts: dict[str, Any] = {"public_size": 40, "classes": (0, 1), "batch_size": 40, "epochs": 2}
    DPClassifier(epsilon=1.0, random_state=0, **facts).fit(X, y)
    assert asked == []
    fitted = DPClassifier(epsilon=1.0, **facts).fit(X, y)
    assert asked == [32, 32]  # weights and bias together, in each of two steps
    asked.clear()
    again = DPClassifier(epsilon=1.0, **facts).fit(X, y)
    for a, b in zip(fitted.parameters_, again.parameters_, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
