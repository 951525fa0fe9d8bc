"""The toll: paired by seed, explicit about undefined values, and equal to numbers computed by hand."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.measures import MEASURES
from fedtoll.toll import folds_of, results_toll, toll
from fedtoll.toll.intervals import seed_interval
from tests.toll.tables import INF, NAN, FakeResults, at, pair, table


def test_the_toll_is_the_mean_of_the_paired_differences():
    # Differences .10, .02, .06: mean .06, sd .04, s.e. .04/√3, t(.975, 2) = 4.30265.
    row = at(toll(pair([(0.20, 0.30), (0.50, 0.52), (0.30, 0.36)])))
    assert row["toll"] == pytest.approx(0.06)
    assert row["toll_se"] == pytest.approx(0.04 / np.sqrt(3))
    assert row["toll_low"] == pytest.approx(0.06 - 4.30265 * 0.04 / np.sqrt(3), abs=1e-6)
    assert row["toll_high"] == pytest.approx(0.06 + 4.30265 * 0.04 / np.sqrt(3), abs=1e-6)
    assert row["value"] == pytest.approx((0.30 + 0.52 + 0.36) / 3)
    assert (row["runs"], row["seeds"], row["undefined"]) == (3, 3, 0)


def test_pairs_are_matched_by_seed_whatever_the_order_of_rows():
    groups = pair([(0.20, 0.30), (0.50, 0.52), (0.30, 0.36), (0.1, 0.4)])
    shuffled = groups.sample(frac=1, random_state=3)
    pd.testing.assert_series_equal(at(toll(groups)), at(toll(shuffled)), check_names=False)


def test_a_utility_loss_is_positive_whichever_way_the_measure_points():
    groups = pair([(0.2, 0.3), (0.2, 0.3)])
    groups["tpr"] = np.where(groups["mechanism"] == "none", 0.6, 0.4)
    assert at(toll(groups, "log_loss"))["toll"] == pytest.approx(0.1)
    assert at(toll(groups, "tpr"))["toll"] == pytest.approx(0.2)


@pytest.mark.parametrize("seeds", [2, 3, 4])
def test_with_few_seeds_the_interval_is_scipys_t_interval(seeds):
    rng = np.random.default_rng(seeds)
    losses = rng.uniform(0.2, 0.6, size=(seeds, 2))
    row = at(toll(pair(losses)))
    expected = stats.ttest_1samp(losses[:, 1] - losses[:, 0], 0).confidence_interval(0.95)
    assert (row["toll_low"], row["toll_high"]) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize("seeds", [5, 7, 20])
def test_with_more_it_is_corrected_for_skewness(seeds):
    rng = np.random.default_rng(seeds)
    losses = np.column_stack([np.full(seeds, 0.2), 0.2 + rng.exponential(0.1, seeds)])
    expected = seed_interval(losses[:, 1] - losses[:, 0])
    row = at(toll(pair(losses)))
    assert (row["toll"], row["toll_low"], row["toll_high"]) == pytest.approx(expected)
    assert (row["price"], row["price_low"], row["price_high"]) == pytest.approx(
        seed_interval(losses[:, 1] - losses[:, 0])
    )
    assert row["toll_high"] - row["toll"] > 1.1 * (row["toll"] - row["toll_low"])


def test_only_the_final_round_counts():
    early = pair([(0.9, 0.9), (0.9, 0.9)], round=4)
    late = pair([(0.2, 0.3), (0.2, 0.5)], round=5)
    assert at(toll(pd.concat([late, early])))["toll"] == pytest.approx(0.2)


def test_one_seed_has_a_toll_and_no_interval():
    row = at(toll(pair([(0.2, 0.3)])))
    assert row["toll"] == pytest.approx(0.1)
    assert row[["toll_se", "toll_low", "toll_high", "price_se"]].isna().all()


def test_without_a_reference_there_is_no_toll():
    groups = pair([(0.2, 0.3), (0.2, 0.3)])
    row = at(toll(groups[groups["mechanism"] != "none"]))
    assert row[["toll", "toll_se", "toll_low", "toll_high", "price"]].isna().all()
    assert row["value"] == pytest.approx(0.3)
    assert (row["runs"], row["seeds"], row["undefined"]) == (2, 0, 0)


def test_clip_only_is_no_reference_but_has_a_toll():
    rows = [
        ("fedavg", m, INF, s, "a", loss) for s in (0, 1) for m, loss in (("none", 0.2), ("clip-only", 0.21))
    ]
    frame = toll(table(*rows))
    assert at(frame, "clip-only")["toll"] == pytest.approx(0.01)
    assert at(frame, "none")["toll"] == 0


def test_a_seed_without_its_reference_is_left_out_and_seen():
    groups = pair([(0.2, 0.3), (0.2, 0.5), (0.2, 0.9)])
    row = at(toll(groups[(groups["mechanism"] != "none") | (groups["seed"] != 2)]))
    assert row["toll"] == pytest.approx(0.2)
    assert (row["runs"], row["seeds"], row["undefined"]) == (3, 2, 0)


@pytest.mark.parametrize("side", ["none", "dp-sgd"])
def test_an_undefined_rate_never_becomes_zero(side):
    groups = pair([(0.2, 0.3)] * 3)
    groups["tpr"] = np.where(groups["mechanism"] == "none", 0.6, 0.4)
    groups.loc[(groups["mechanism"] == side) & (groups["seed"] == 1), "tpr"] = NAN
    row = at(toll(groups, "tpr"))
    assert row["toll"] == pytest.approx(0.2)  # a zero would make it .0 or .4 in the mean
    assert row["value"] == pytest.approx(0.4)
    assert (row["runs"], row["seeds"], row["undefined"]) == (3, 2, 1)


def test_a_rate_that_is_undefined_in_every_seed_stays_undefined():
    row = at(toll(pair([(0.2, 0.3)] * 3, tpr=NAN), "tpr"))
    assert np.isnan(row["toll"])
    assert np.isnan(row["value"])
    assert (row["seeds"], row["undefined"]) == (0, 3)


def test_the_price_is_against_fedavg_without_privacy():
    # q at ∞ is bad already: its toll is small, its price is not. Prices of the seeds: .31, .29.
    groups = pd.concat([pair([(0.20, 0.25), (0.22, 0.27)]), pair([(0.50, 0.51), (0.50, 0.51)], strategy="q")])
    frame = toll(groups)
    assert at(frame, strategy="q")["toll"] == pytest.approx(0.01)
    assert at(frame, strategy="q")["price"] == pytest.approx(0.30)
    assert at(frame, strategy="q")["price_se"] == pytest.approx(0.01)
    assert at(frame, "none", strategy="q")["price"] == pytest.approx(0.29)
    assert at(frame, strategy="fedavg")["price"] == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("name", "label", "price"),
    [
        ("fedavg", "fedavg", 0.30),
        ("fedtoll.strategies.fedavg:FedAvg", "FedAvg", 0.30),
        ("mine.py:fedavg", "fedavg", NAN),
        ("flwr.serverapp.strategy:FedAvg", "FedAvg", NAN),
    ],
)
def test_prices_refer_to_fedtolls_fedavg_whatever_its_label(name, label, price):
    groups = pd.concat([pair([(0.20, 0.25)] * 2, strategy=label), pair([(0.50, 0.50)] * 2, strategy="q")])
    names = [{"name": name, "label": label}, {"name": "q", "label": "q"}]
    results = FakeResults(groups, {"scenario": {"strategies": names}})
    assert at(results_toll(results), strategy="q")["price"] == pytest.approx(price, nan_ok=True)


def test_without_fedavg_there_is_no_price():
    row = at(toll(pair([(0.2, 0.3), (0.2, 0.4)], strategy="q")))
    assert row["toll"] == pytest.approx(0.15)
    assert row[["price", "price_se"]].isna().all()


@pytest.mark.parametrize(
    ("n", "positives", "too_few"),
    [
        (100, 20, False),
        (99, 50, True),
        (500, 19, True),
        (99, 19, True),
        (500, 481, True),
        (500, 480, False),
    ],
)
def test_too_few_records_or_of_the_rarer_class_are_marked(n, positives, too_few):
    assert at(toll(pair([(0.2, 0.3)], n=n, positives=positives)))["too_few"] == too_few


def test_records_are_pooled_over_distinct_test_sets():
    groups = pair([(0.2, 0.3)] * 10, n=30, positives=3)
    row = at(toll(groups, folds=5))
    assert (row["n"], row["positives"], row["too_few"]) == (150, 15, True)  # each fold once, not twice
    assert (row["n_per_seed"], row["positives_per_seed"]) == (30, 3)
    assert at(toll(groups, folds=1))["n"] == 30
    assert at(toll(groups))["n"] == 300


def test_folds_are_read_from_the_split():
    assert folds_of({"scenario": {"split": {"kind": "folds", "folds": 7}}}) == 7
    assert folds_of({"scenario": {"split": {"kind": "canonical", "folds": 5}}}) == 1
    assert folds_of({}) == 1


def test_flags_are_shares_of_seeds():
    groups = pair([(0.2, 0.3)] * 4)
    groups["collapsed"] = (groups["mechanism"] == "dp-sgd") & (groups["seed"] == 0)
    groups["below_majority"] = (groups["mechanism"] == "dp-sgd") & (groups["seed"] < 3)
    row = at(toll(groups))
    assert (row["collapsed"], row["below_majority"]) == (0.25, 0.75)
    assert at(toll(groups), "none")["collapsed"] == 0


def test_rows_go_from_no_privacy_to_the_tightest():
    cells = [("dp-sgd", 0.5), ("dp-sgd", 8.0), ("clip-only", INF), ("none", INF)]
    frame = toll(table(*[(s, m, e, 0, "a", 0.2) for (m, e), s in product(cells, ("z", "a"))]))
    assert list(zip(frame["mechanism"], frame["epsilon"], strict=True))[::2] == cells[::-1]
    assert list(frame["strategy"]) == ["z", "a"] * 4  # as they came, not by name


def test_an_unknown_measure_is_named_with_the_nearest():
    with pytest.raises(ScenarioError, match=r"'log_los'.*'log_loss'"):
        toll(pair([(0.2, 0.3)]), "log_los")


def test_every_measure_has_a_way_and_log_loss_comes_first():
    assert next(iter(MEASURES)) == "log_loss"
    assert {m.name: m.sign for m in MEASURES.values()} == {
        "log_loss": -1,
        "tpr": 1,
        "accuracy": 1,
        "balanced_accuracy": 1,
        "auroc": 1,
        "fpr": -1,
    }


def split(clipped: float | None) -> pd.DataFrame:
    """Make two seeds (∞: .20, .30; clip-only: .21, .35; ε: .30, .50) and a third without clip-only."""
    groups = [pair([(0.20, 0.30), (0.30, 0.50), (0.2, 0.9)])]
    if clipped is not None:
        groups.append(
            table(*[("fedavg", "clip-only", INF, s, "a", v) for s, v in enumerate((0.21, clipped))])
        )
    return pd.concat(groups)


def test_the_toll_splits_into_clipping_and_noise():
    frame = toll(split(0.35))
    row = at(frame)
    assert row[["clipping", "noise"]].tolist() == pytest.approx(
        [0.03, 0.12]
    )  # seeds 0 and 1, who have all three
    assert row["clipping_se"] == pytest.approx(0.02)  # .01 and .05
    assert row["noise_se"] == pytest.approx(0.03)  # .09 and .15
    assert (row["toll"], row["seeds"]) == (pytest.approx(1 / 3), 3)
    assert at(frame, "clip-only")[["clipping", "noise"]].isna().all()
    assert at(frame, "clip-only")["toll"] == pytest.approx(0.03)


def test_parts_add_up_to_the_toll_where_every_seed_has_them():
    groups = split(0.35)
    row = at(toll(groups[groups["seed"] < 2]))
    assert row["clipping"] + row["noise"] == pytest.approx(row["toll"])


@pytest.mark.parametrize("missing", [None, NAN])
def test_without_clip_only_there_are_no_parts(missing):
    row = at(toll(split(missing).query("seed == 1")))
    assert row[["clipping", "clipping_se", "noise", "noise_se"]].isna().all()
    assert row["toll"] == pytest.approx(0.2)


def test_the_price_has_an_interval():
    groups = pd.concat([pair([(0.20, 0.25), (0.22, 0.27)]), pair([(0.50, 0.51), (0.50, 0.51)], strategy="q")])
    row = at(toll(groups), strategy="q")
    half = stats.t.ppf(0.975, 1) * 0.01
    assert (row["price_low"], row["price_high"]) == pytest.approx((0.30 - half, 0.30 + half))


def test_a_measure_that_resolves_nothing_gives_no_interval():
    # Ten records and the same nine hits in every seed: no spread seen is no certainty.
    groups = pair([(0.2, 0.3)] * 10)
    groups["tpr"] = np.where(groups["mechanism"] == "none", 0.9, 0.8)
    row = at(toll(groups, "tpr"))
    assert row["toll"] == pytest.approx(0.1)
    assert row[["toll_low", "toll_high"]].isna().all()


def test_the_reference_has_a_toll_of_nothing_and_that_is_certain():
    row = at(toll(pair([(0.2, 0.3), (0.4, 0.5)])), "none")
    assert (row["toll"], row["toll_low"], row["toll_high"]) == (0, 0, 0)


def test_the_interval_of_a_rate_stays_in_its_range():
    groups = pair([(0.2, 0.3)] * 3)
    free = groups["mechanism"] == "none"
    groups["tpr"] = np.where(free, 0.9, [0.0, 0.5, 0.9] * 2)  # tolls of .9, .4 and 0
    groups["log_loss"] = np.where(free, 0.2, [9.0, 4.0, 0.2] * 2)
    row, loss = at(toll(groups, "tpr")), at(toll(groups))
    assert row["toll"] == pytest.approx(1.3 / 3)
    assert row["toll_low"] == pytest.approx(1.3 / 3 - 4.302653 * row["toll_se"])
    assert (row["toll_high"], row["price_high"]) == (1, 1)
    assert loss["toll_high"] > 9  # nats have no range
