"""Strategies against their equations, and the registry."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.statistics import Estimate, MeanLoss
from fedtoll.strategies import registry
from fedtoll.strategies.base import Report, Strategy, sizes
from fedtoll.strategies.fedavg import FedAvg
from fedtoll.strategies.term import Term
from fedtoll.strategies.uniform import Uniform


def reports(sizes_, losses=None, sds=None):
    rng = np.random.default_rng(0)
    losses = losses or [0.5] * len(sizes_)
    sds = sds or [0.0] * len(sizes_)
    return [
        Report(k, n, "g", (rng.normal(size=(2, 3)), rng.normal(size=2)), {"mean_loss": Estimate(f, s)})
        for k, (n, f, s) in enumerate(zip(sizes_, losses, sds, strict=True))
    ]


cohorts = st.lists(
    st.tuples(st.integers(1, 10**6), st.floats(-2, 6), st.floats(0, 2)), min_size=1, max_size=8
)


@given(cohorts, st.sampled_from([FedAvg(), Uniform(), Term(t=5.0), Term(t=100.0), Term(t=3.0, debias=False)]))
def test_weights_are_on_the_simplex_and_follow_the_clients_not_their_order(cohort, strategy):
    given_ = reports(*zip(*cohort, strict=True))
    weights, state = strategy.weigh(given_, strategy.init(given_))
    assert weights.shape == (len(cohort),)
    assert np.isfinite(weights).all()
    assert (weights >= 0).all()
    assert weights.sum() == pytest.approx(1)
    turned, _ = strategy.weigh(given_[::-1], state)
    np.testing.assert_allclose(turned[::-1], weights, atol=1e-12)


def test_fedavg_is_the_mean_over_records():
    given_ = reports([10, 30, 60])
    weights, state = FedAvg().weigh(given_, {})
    start = (np.ones((2, 3)), np.zeros(2))
    combined, _, coefficients = FedAvg().combine(start, given_, weights, state)
    for i in range(2):
        expected = start[i] + np.average([r.update[i] for r in given_], axis=0, weights=[10, 30, 60])
        np.testing.assert_allclose(combined[i], expected, atol=1e-14)
    np.testing.assert_array_equal(coefficients, weights)


def test_combining_keeps_the_precision_of_the_parameters():
    given_ = reports([10, 30])
    start = (np.ones((2, 3), dtype=np.float32), np.zeros(2, dtype=np.float32))
    combined, _, _ = FedAvg().combine(start, given_, sizes(given_), {})
    assert all(a.dtype == np.float32 for a in combined)


def test_term_without_tilt_is_fedavg():
    given_ = reports([10, 30, 60], [0.1, 0.9, 0.4], [0.0, 0.3, 0.1])
    np.testing.assert_allclose(Term(t=0.0).weigh(given_, {})[0], [0.1, 0.3, 0.6])


def test_term_is_its_equation():
    n, f = np.array([10.0, 30.0, 60.0]), np.array([0.1, 0.9, 0.4])
    expected = n * np.exp(2 * f) / (n * np.exp(2 * f)).sum()
    np.testing.assert_allclose(Term(t=2.0).weigh(reports(n.tolist(), f.tolist()), {})[0], expected)


def test_debiasing_makes_the_unnormalised_tilt_unbiased():
    rng = np.random.default_rng(1)
    t, f, s = 5.0, 0.3, 0.2
    noisy = f + s * rng.normal(size=200_000)
    biased = np.exp(t * noisy).mean() / np.exp(t * f)
    debiased = np.exp(t * noisy - (t * s) ** 2 / 2).mean() / np.exp(t * f)
    assert biased == pytest.approx(np.exp(t**2 * s**2 / 2), rel=0.03)
    assert debiased == pytest.approx(1, rel=0.02)
    # ... and the strategy applies exactly that factor.
    two = reports([1, 1], [f, f], [s, 0.0])
    plain, corrected = (Term(t=t, debias=d).weigh(two, {})[0] for d in (False, True))
    ratio = (corrected[0] / corrected[1]) / (plain[0] / plain[1])
    assert ratio == pytest.approx(np.exp(-(t**2) * s**2 / 2))


def test_huge_tilts_do_not_overflow():
    weights, _ = Term(t=1e4).weigh(reports([1, 1], [600.0, 700.0]), {})
    np.testing.assert_allclose(weights, [0, 1])


def test_only_term_asks_for_a_statistic():
    assert FedAvg().requests == Uniform().requests == ()
    assert Term(clip=2.0).requests == (MeanLoss(2.0),)


def test_the_base_says_what_to_write():
    with pytest.raises(NotImplementedError, match="Strategy must define weigh"):
        Strategy().weigh([], {})


def test_every_installed_strategy_is_found_by_its_name():
    for name, path in registry.names().items():
        assert registry.resolve(name) == (path, "")
        assert issubclass(registry.load(path), Strategy)


MISTAKES = [
    ("fedavgg", {}, "'fedavgg' is unknown; did you mean 'fedavg'"),
    ("fedtoll.strategies.term:Terms", {}, "no class 'Terms'; did you mean 'Term'"),
    ("no_such_package:X", {}, "cannot be imported"),
    ("nowhere/file.py:X", {}, "no such file"),
    ("term", {"tt": 1.0}, "unknown parameter 'tt'; did you mean 't'"),
    ("term", {"t": "five"}, "t = 'five'"),
    ("term", {"t": -1.0}, "t = -1.0: must be 0 or greater"),
    ("term", {"t": float("nan")}, "t = nan: must be finite"),
    ("term", {"t": True}, "t = True"),
    ("term", {"clip": 0.0}, "clip = 0.0: must be greater than 0"),
    ("fedavg", {"t": 1.0}, "unknown parameter 't'"),
]


@pytest.mark.parametrize(("name", "parameters", "message"), MISTAKES)
def test_a_mistake_is_one_line(name, parameters, message):
    with pytest.raises(ScenarioError) as caught:
        registry.build(registry.resolve(name)[0], parameters)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_whole_numbers_are_fine_where_numbers_are_asked():
    assert registry.build(registry.resolve("term")[0], {"t": 5}) == Term(t=5.0)


def test_a_file_that_raises_is_one_line(tmp_path):
    (tmp_path / "bad.py").write_text("1 / 0\n")
    with pytest.raises(ScenarioError, match="raises when imported: ZeroDivisionError"):
        registry.resolve(f"{tmp_path}/bad.py:X")


def test_a_strategy_from_a_file(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "import numpy as np\n"
        "from fedtoll.strategies.base import Strategy\n\n"
        "@dataclass(frozen=True)\n"
        "class Largest(Strategy):\n"
        "    power: float = 1.0\n\n"
        "    def weigh(self, reports, state):\n"
        "        n = np.array([float(r.size) for r in reports]) ** self.power\n"
        "        return n / n.sum(), state\n"
    )
    path, digest = registry.resolve(f"{tmp_path}/mine.py:Largest")
    assert len(digest) == 64
    strategy = registry.build(path, {"power": 2})
    np.testing.assert_allclose(strategy.weigh(reports([1, 3]), {})[0], [0.1, 0.9])
