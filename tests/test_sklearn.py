"""DPClassifier: scikit-learn's contract, ε of an oracle, the steps of a federation, fairlearn's wrappers."""

from __future__ import annotations

import math
import pickle
import re
import warnings
from typing import Any

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from fedtoll.privacy import accounting
from fedtoll.scenarios.read import read
from fedtoll.server.plan import plan
from fedtoll.server.trainer import simulate
from fedtoll.sklearn import DPClassifier
from tests.shared import records

pytestmark = pytest.mark.filterwarnings("ignore:.*not given. taken from the data:UserWarning")

INF = float("inf")
FEW: dict[str, Any] = {"epochs": 2, "batch_size": 4000, "random_state": 0}
FAIR: dict[str, Any] = {"epochs": 4, "batch_size": 600, "learning_rate": 2.0, "clip": 3.0, "random_state": 0}


def expected_failures(estimator):
    return {
        "check_sample_weight_equivalence_on_dense_data": (
            "a weight of two is clipped once and two records twice; draws follow the number of records"
        )
    }


@parametrize_with_checks(
    [
        DPClassifier(),
        DPClassifier(epsilon=INF, hidden=(16,)),
    ],
    expected_failed_checks=expected_failures,
    xfail_strict=True,
)
def test_scikit_learns_contract(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks(
    [DPClassifier(epsilon=8.0, hidden=(8,), public_size=200)],
    expected_failed_checks=expected_failures,
    xfail_strict=True,
)
def test_its_contract_with_a_network_of_given_public_size(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def central():
    """Two rounds of one epoch on all of Adult, held by one client."""
    overrides = [
        "training={rounds=2, local_epochs=1, batch_size=2000, learning_rate=1.0, clip=1.0}",
        'privacy.epsilons=["inf", "clip-only", 1]',
    ]
    return plan(read("adult-central", overrides, "3:4"), "x").runs


@pytest.fixture(scope="module")
def adult(central):
    return records(central[0])


@pytest.mark.parametrize("hidden", [(), (6,)])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_it_is_the_step_of_a_federation_of_one(central, adult, which, hidden):
    run = central[which]
    if hidden:
        run = run.model_copy(update={"model": type(run.model)(kind="mlp", hidden=hidden)})
    seen = []
    tables = simulate(run, lambda round, parameters: seen.append(parameters))
    classifier = DPClassifier(
        epsilon="clip-only" if run.mechanism == "clip-only" else run.epsilon,
        clip=1.0,
        epochs=2,
        batch_size=2000,
        learning_rate=1.0,
        delta=1e-6,
        hidden=hidden,
        public_size=run.clients[0].size,
        random_state=run.seed,
    )
    held = adult.held[0]
    classifier.fit(adult.table.features[held], adult.table.label[held])
    for ours, theirs in zip(classifier.parameters_, seen[-1], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    scores = classifier.predict_proba(adult.table.features[adult.test])[:, 1]
    np.testing.assert_allclose(scores, tables["predictions"]["score"], rtol=1e-5, atol=1e-6)
    assert classifier.noise_multiplier_ == run.clients[0].noise_multiplier
    spent = tables["ledger"]["epsilon_spent"].max()
    assert classifier.epsilon_ == (spent if run.mechanism == "dp-sgd" else INF)


def test_delta_is_compared_with_the_number_of_records(adult):
    rows = adult.held[0][:2000]
    few = DPClassifier(1.0, 1e-4, epochs=1, classes=[0, 1], public_size=2000)
    with pytest.warns(UserWarning, match=r"^delta = 0.0001: times 2,000 records that is 0.2, .*give 1e-05"):
        few.fit(adult.table.features[rows], adult.table.label[rows])
    with pytest.raises(ValueError, match=r"^delta = 0.001: times 2,000 records that is 2, and it must be"):
        few.set_params(delta=1e-3).fit(adult.table.features[rows], adult.table.label[rows])
    few.set_params(epsilon=INF).fit(adult.table.features[rows], adult.table.label[rows])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("epsilon", "size", "accountant"),
    [(0.5, 2000, "pld"), (1.0, 300, "pld"), (1.0, 300, "rdp"), (8.0, 5000, "pld"), (8.0, 5000, "rdp")],
)
def test_its_epsilon_is_the_oracles_with_sample_weights(adult, epsilon, size, accountant):
    rows = adult.held[0][:size]
    weights = np.random.default_rng(0).exponential(3.0, size)
    settings: dict[str, Any] = {} if accountant == "pld" else {"accountant": accountant}  # the default
    classifier = DPClassifier(epsilon, epochs=5, batch_size=200, random_state=1, **settings)
    classifier.fit(adult.table.features[rows], adult.table.label[rows], sample_weight=weights)
    step = PoissonSampledDpEvent(classifier.sampling_rate_, GaussianDpEvent(classifier.noise_multiplier_))
    whole = SelfComposedDpEvent(step, classifier.n_steps_)
    relation: dict[str, Any] = {"neighboring_relation": NeighboringRelation.ADD_OR_REMOVE_ONE}
    renyi = RdpAccountant(orders=list(accounting.ORDERS), **relation).compose(whole).get_epsilon(1e-5)
    exact = PLDAccountant(**relation).compose(whole).get_epsilon(1e-5)
    # At fractional orders theirs is an upper bound, by 1.5% at most (tests/peers/test_accounting.py).
    assert exact * (1 - 1e-4) < classifier.epsilon_ <= renyi * (1 + 1e-9)
    close = {"rdp": (renyi, 1.5e-2), "pld": (exact, 3e-4)}[accountant]
    assert classifier.epsilon_ == pytest.approx(close[0], rel=close[1])
    assert 0.99 * epsilon < classifier.epsilon_ <= epsilon


def test_a_record_moves_a_step_by_the_clip_at_most_whatever_its_weight(adult):
    """Take one full-batch step without noise on two add/remove neighbours."""
    rows = adult.held[0][:50]
    X, y = adult.table.features[rows], adult.table.label[rows]
    settings: dict[str, Any] = {"clip": 0.7, "epochs": 1, "batch_size": 50, "public_size": 50}
    weights = np.ones(50)
    for weight in (1e-3, 1.0, 1e6):
        weights[0] = weight
        classifier = [
            DPClassifier("clip-only", **settings, random_state=0).fit(X[s:], y[s:], weights[s:]).parameters_
            for s in (0, 1)
        ]
        moved = math.sqrt(sum(float(((a - b) ** 2).sum()) for a, b in zip(*classifier, strict=True)))
        assert moved <= 0.7 / 50 * (1 + 1e-4)
        if weight >= 1:
            assert moved > 0.69 / 50  # it is clipped, so it moves by the whole clip
        else:
            assert moved < 0.01 / 50


def test_a_weight_of_zero_is_absence_where_nothing_is_sampled(adult):
    rows = adult.held[0][:60]
    X, y = adult.table.features[rows], adult.table.label[rows]
    settings: dict[str, Any] = {"epochs": 3, "batch_size": 60, "public_size": 60, "random_state": 0}
    weights = np.r_[np.zeros(20), np.ones(40)]
    a = DPClassifier(2.0, **settings).fit(X, y, weights)
    b = DPClassifier(2.0, **settings).fit(X[20:], y[20:])
    for one, other in zip(a.parameters_, b.parameters_, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_public_facts_are_declared_and_never_fitted(adult):
    rows = adult.held[0][:500]
    X, y = adult.table.features[rows].astype(float), adult.table.label[rows]
    D = X.shape[1]
    plain = DPClassifier(1.0, **FEW).fit(X, y)
    facts = DPClassifier(1.0, **FEW, centre=np.full(D, 5.0), scale=2.0).fit(2 * X + 5, y)
    for one, other in zip(plain.parameters_, facts.parameters_, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    declared = DPClassifier(1.0, **FEW, classes=[0, 1], public_size=500).fit(X, np.zeros(500, dtype=int))
    assert declared.classes_.tolist() == [0, 1]  # the declared classes, although y has only one
    assert declared.public_size_ == 500
    names = np.array(["<=50K", ">50K"], dtype=object)
    named = DPClassifier(1.0, **FEW).fit(X, names[y])
    assert set(named.predict(X)) <= set(names)
    assert (named.predict(X) == names[plain.predict(X)]).all()


def test_without_a_random_state_every_fit_has_noise_of_its_own(adult):
    rows = adult.held[0][:200]
    X, y = adult.table.features[rows], adult.table.label[rows]
    random = [DPClassifier(1.0, epochs=1, random_state=None).fit(X, y).parameters_[0] for _ in range(2)]
    assert not np.allclose(random[0], random[1])
    fixed = [DPClassifier(1.0, epochs=1, random_state=7).fit(X, y).parameters_[0] for _ in range(2)]
    np.testing.assert_array_equal(fixed[0], fixed[1])


def test_it_is_pickled_and_cloned(adult):
    rows = adult.held[0][:200]
    X, y = adult.table.features[rows], adult.table.label[rows]
    classifier = DPClassifier(1.0, **FEW, hidden=(4,)).fit(X, y)
    again = pickle.loads(pickle.dumps(classifier))
    np.testing.assert_array_equal(classifier.predict_proba(X), again.predict_proba(X))
    np.testing.assert_array_equal(clone(classifier).fit(X, y).predict_proba(X), classifier.predict_proba(X))


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"epsilon": 0}, "epsilon = 0"),
        ({"epsilon": "tight"}, "epsilon = 'tight'"),
        ({"epsilon": float("nan")}, "epsilon = nan"),
        ({"epsilon": 1e-4, "accountant": "rdp"}, "cannot be reached"),
        ({"delta": 1.0}, "delta = 1.0"),
        ({"clip": -1}, "clip = -1"),
        ({"clip": INF}, "clip = inf"),
        ({"epochs": 0}, "epochs = 0"),
        ({"epochs": 2.5}, "epochs = 2.5"),
        ({"batch_size": True}, "batch_size = True"),
        ({"hidden": (8, 0)}, r"hidden\[1\] = 0"),
        ({"public_size": 0}, "public_size = 0"),
        ({"scale": 0.0}, "scale"),
        ({"centre": [1.0, 2.0, 3.0]}, "centre: must be a number or 2 of them"),
        ({"accountant": "gdp"}, "accountant = 'gdp'"),
        ({"classes": [0]}, "one class"),
        ({"classes": [0, 2]}, "y contains .*1.*, which is not among"),
    ],
)
def test_mistakes_are_reported(parameters, words):
    X, y = np.random.default_rng(0).normal(size=(30, 2)), np.arange(30) % 2
    with pytest.raises(ValueError, match=words):
        DPClassifier(**parameters).fit(X, y)
    with pytest.raises(ValueError, match="sample_weight"):
        DPClassifier().fit(X, y, sample_weight=np.full(30, -1.0))


@pytest.fixture(scope="module")
def by_sex(adult):
    rows = adult.held[0][:6000]
    sex = adult.table.attributes["sex"]
    names = np.array(sex.names, dtype=object)
    return adult.table.features[rows], adult.table.label[rows], names[sex.codes[rows]]


def parity(classifier, X, sex):
    from fairlearn.metrics import demographic_parity_difference

    predicted = classifier.predict(X)
    return demographic_parity_difference(predicted, predicted, sensitive_features=sex)


@pytest.mark.slow
def test_fairlearns_reductions_run_over_it_unchanged(by_sex):
    from fairlearn.reductions import DemographicParity, EqualizedOdds, ExponentiatedGradient, GridSearch

    X, y, sex = by_sex
    one = DPClassifier(8.0, **FAIR)
    plain = clone(one).fit(X, y)
    assert parity(plain, X, sex) > 0.05
    grid = GridSearch(clone(one), DemographicParity(), grid_size=7).fit(X, y, sensitive_features=sex)
    assert all(p.epsilon_ <= 8.0 for p in grid.predictors_ if isinstance(p, DPClassifier))
    assert len({p.predict(X).mean().round(6) for p in grid.predictors_}) > 3  # weights reach the training
    assert min(parity(p, X, sex) for p in grid.predictors_) < parity(plain, X, sex)
    odds = GridSearch(clone(one), EqualizedOdds(), grid_size=3).fit(X, y, sensitive_features=sex)
    assert set(np.unique(odds.predict(X))) <= {0, 1}
    gradient = ExponentiatedGradient(clone(one), DemographicParity(), max_iter=3)
    gradient.fit(X, y, sensitive_features=sex)
    assert np.isfinite(gradient.predict(X, random_state=0)).all()


@pytest.mark.slow
def test_fairlearns_threshold_optimizer_runs_over_it_unchanged(by_sex):
    from fairlearn.postprocessing import ThresholdOptimizer

    X, y, sex = by_sex
    classifier = DPClassifier(8.0, **FAIR).fit(X, y)
    assert parity(classifier, X, sex) > 0.05
    for method in ("predict_proba", "decision_function", "auto"):
        fair = ThresholdOptimizer(
            estimator=classifier, constraints="demographic_parity", prefit=True, predict_method=method
        ).fit(X, y, sensitive_features=sex)
        predicted = fair.predict(X, sensitive_features=sex, random_state=0)
        rates = [predicted[sex == name].mean() for name in np.unique(sex)]
        assert np.ptp(rates) < parity(classifier, X, sex) / 2


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"epsilon": 1.0}, "public_size and classes not given"),
        ({"epsilon": 1.0, "classes": [0, 1]}, "^public_size not given"),
        ({"epsilon": 1.0, "public_size": 30}, "^classes not given"),
        ({"epsilon": 1.0, "public_size": 30, "classes": [0, 1]}, None),
        ({"epsilon": INF}, None),
        ({"epsilon": "clip-only"}, None),
    ],
)
def test_what_is_taken_from_the_data_is_warned_of_once(parameters, words):
    X, y = np.random.default_rng(0).normal(size=(30, 2)), np.arange(30) % 2
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        DPClassifier(**parameters, epochs=1).fit(X, y)
    messages = [str(w.message) for w in caught if w.category is UserWarning]
    assert len(messages) == (words is not None)
    if words is not None:
        assert re.search(words, messages[0])
        assert caught[0].filename == __file__
    assert "taken from the data" in str(DPClassifier.__doc__)
