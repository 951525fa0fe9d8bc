"""The toll: paired, honest about what is undefined, and equal to numbers worked out by hand."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from fedtoll.scenarios.errors import ScenarioError
from fedtoll.server.toll import MEASURES, fairness, folds_of, sign_flip, toll, toll_gap

INF = float("inf")
NAN = float("nan")


def table(*rows: Any, **columns: Any) -> pd.DataFrame:
    """Make a groups table from (strategy, mechanism, epsilon, seed, group, log_loss) and further columns."""
    frame = pd.DataFrame(rows, columns=["strategy", "mechanism", "epsilon", "seed", "group", "log_loss"])
    defaults = {
        "round": 5,
        "n": 500,
        "positives": 100,
        "tpr": 0.5,
        "collapsed": False,
        "below_majority": False,
    }
    return frame.assign(**(defaults | columns))


def pair(
    losses: Any, strategy: str = "fedavg", group: str = "a", epsilon: float = 1.0, **columns: Any
) -> pd.DataFrame:
    """One strategy and group at ∞ and at ε: ``losses`` holds a pair (at ∞, at ε) for each seed."""
    rows = [
        (strategy, mechanism, e, seed, group, loss[i])
        for i, (mechanism, e) in enumerate((("none", INF), ("dp-sgd", epsilon)))
        for seed, loss in enumerate(losses)
    ]
    return table(*rows, **columns)


def at(frame: pd.DataFrame, mechanism: str = "dp-sgd", **where: Any) -> Any:
    """Return the one row of a mechanism (and of further columns)."""
    rows = frame[frame["mechanism"] == mechanism]
    for column, value in where.items():
        rows = rows[rows[column] == value]
    assert len(rows) == 1
    return rows.iloc[0]


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


@pytest.mark.parametrize("seeds", [2, 3, 7, 20])
def test_the_interval_is_scipys_t_interval(seeds):
    rng = np.random.default_rng(seeds)
    losses = rng.uniform(0.2, 0.6, size=(seeds, 2))
    row = at(toll(pair(losses)))
    expected = stats.ttest_1samp(losses[:, 1] - losses[:, 0], 0).confidence_interval(0.95)
    assert (row["toll_low"], row["toll_high"]) == pytest.approx((expected.low, expected.high))


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


def test_without_fedavg_there_is_no_price():
    row = at(toll(pair([(0.2, 0.3), (0.2, 0.4)], strategy="q")))
    assert row["toll"] == pytest.approx(0.15)
    assert row[["price", "price_se"]].isna().all()


@pytest.mark.parametrize(
    ("n", "positives", "too_few"), [(100, 20, False), (99, 50, True), (500, 19, True), (99, 19, True)]
)
def test_too_few_records_or_positives_are_marked(n, positives, too_few):
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


def test_the_gap_is_taken_of_seed_means():
    # Per seed the groups are .2 apart, one way and the other; in the mean they pay the same.
    a = pair([(0.2, 0.3), (0.2, 0.5)], group="a")
    b = pair([(0.2, 0.5), (0.2, 0.3)], group="b")
    row = at(toll_gap(toll(pd.concat([a, b]))))
    assert row["gap"] == pytest.approx(0)
    assert row["groups"] == 2


def test_the_gap_names_who_pays_most_and_least():
    parts = [pair([(0.2, 0.2 + cost)] * 2, group=g) for g, cost in (("a", 0.05), ("b", 0.25), ("c", -0.01))]
    row = at(toll_gap(toll(pd.concat(parts))))
    assert row["gap"] == pytest.approx(0.26)
    assert (row["worst_group"], row["best_group"]) == ("b", "c")
    assert (row["worst_toll"], row["best_toll"]) == pytest.approx((0.25, -0.01))
    assert row["disparity"] == pytest.approx(0.26)


def test_everybody_and_groups_with_too_few_records_take_no_part_in_the_gap():
    parts = [pair([(0.2, 0.2 + cost)] * 2, group=g) for g, cost in (("a", 0.05), ("b", 0.06), ("(all)", 0.5))]
    parts.append(pair([(0.2, 0.9)] * 2, group="tiny", n=20, positives=4))
    row = at(toll_gap(toll(pd.concat(parts))))
    assert (row["groups"], row["worst_group"]) == (2, "b")
    assert row["gap"] == pytest.approx(0.01)


def test_one_group_has_no_gap():
    row = at(toll_gap(toll(pair([(0.2, 0.3)] * 2))))
    assert row[["gap", "worst_toll", "disparity"]].isna().all()
    assert pd.isna(row["worst_group"])


def test_disparity_is_that_of_the_utility_at_epsilon():
    parts = [pair([(0.3, 0.5), (0.3, 0.7)], group="a"), pair([(0.2, 0.1), (0.2, 0.3)], group="b")]
    frame = toll_gap(toll(pd.concat(parts)))
    assert at(frame)["disparity"] == pytest.approx(0.6 - 0.2)
    assert at(frame, "none")["disparity"] == pytest.approx(0.1)


def predictions(seed: int, n: int = 300, groups: str = "abc") -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "strategy": "fedavg",
            "mechanism": "dp-sgd",
            "epsilon": 1.0,
            "seed": seed,
            "record": np.arange(n),
            "group": rng.choice(list(groups), n),
            "label": rng.integers(0, 2, n),
            "score": rng.uniform(size=n),
        }
    )


def test_fairness_equals_fairlearn():
    from fairlearn.metrics import demographic_parity_difference, equalized_odds_difference

    runs = [predictions(seed) for seed in range(4)]
    expected = [
        [
            metric(run["label"], run["score"] >= 0.5, sensitive_features=run["group"])
            for metric in (demographic_parity_difference, equalized_odds_difference)
        ]
        for run in runs
    ]
    row = at(fairness(pd.concat(runs)))
    assert row["demographic_parity_difference"] == pytest.approx(np.mean(expected, axis=0)[0])
    assert row["equalized_odds_difference"] == pytest.approx(np.mean(expected, axis=0)[1])
    assert row["equalized_odds_difference_se"] == pytest.approx(stats.sem(expected)[1])
    assert (row["seeds"], row["undefined"]) == (4, 0)


@pytest.mark.parametrize("missing", [0, 1])
def test_a_group_without_positives_makes_no_difference_out_of_nothing(missing):
    from fairlearn.metrics import equalized_odds_difference

    run = predictions(0)
    run.loc[run["group"] == "c", "label"] = 1 - missing
    silent = equalized_odds_difference(run["label"], run["score"] >= 0.5, sensitive_features=run["group"])
    assert silent > 0.3  # fairlearn reads the missing rate as zero
    alone = at(fairness(run))
    assert np.isnan(alone["equalized_odds_difference"])
    assert alone["demographic_parity_difference"] > 0
    both = at(fairness(pd.concat([run, predictions(1)])))
    assert both["equalized_odds_difference"] == pytest.approx(
        at(fairness(predictions(1)))["equalized_odds_difference"]
    )
    assert (both["seeds"], both["undefined"]) == (2, 1)


def test_fairness_is_undefined_with_one_group_and_with_many_classes():
    one = at(fairness(predictions(0, groups="a")))
    many = at(fairness(predictions(0).rename(columns={"score": "score_0"})))
    for row in (one, many):
        assert row[["demographic_parity_difference", "equalized_odds_difference"]].isna().all()


def test_sign_flip_is_exact():
    assert sign_flip([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]) == pytest.approx(2 / 64)
    x = np.array([0.3, -0.1, 0.4, 0.2, 0.5, -0.2, 0.6])
    means = [(x * signs).mean() for signs in product((-1, 1), repeat=7)]
    tail = np.mean(np.array(means) >= x.mean() - 1e-12)
    assert sign_flip(x) == pytest.approx(2 * tail)
    assert sign_flip([*x, NAN]) == sign_flip(x)


def test_five_seeds_cannot_be_tested():
    assert np.isnan(sign_flip([0.1, 0.2, 0.3, 0.4, 0.5]))


def test_a_strategy_with_itself_is_rarely_significant():
    rng = np.random.default_rng(1)
    rejected = [sign_flip(rng.normal(size=8)) <= 0.05 for _ in range(200)]
    assert np.mean(rejected) <= 0.09  # .05 and three standard errors
