"""Fairlearn's differences computed from counts: the same numbers, but undefined rates stay undefined."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from fedtoll.toll import fairness
from tests.toll.tables import at, rates


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
    row = at(fairness(rates(pd.concat(runs))))
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
    alone = at(fairness(rates(run)))
    assert np.isnan(alone["equalized_odds_difference"])
    assert alone["demographic_parity_difference"] > 0
    both = at(fairness(rates(pd.concat([run, predictions(1)]))))
    assert both["equalized_odds_difference"] == pytest.approx(
        at(fairness(rates(predictions(1))))["equalized_odds_difference"]
    )
    assert (both["seeds"], both["undefined"]) == (2, 1)


def test_fairness_is_undefined_with_one_group_and_with_many_classes():
    one = at(fairness(rates(predictions(0, groups="a"))))
    many = at(fairness(rates(predictions(0).rename(columns={"score": "score_0"}))))
    for row in (one, many):
        assert row[["demographic_parity_difference", "equalized_odds_difference"]].isna().all()


def test_a_group_without_part_is_as_if_it_were_not_there():
    alone = predictions(3, groups="c").assign(strategy="other")
    rows = pd.concat([predictions(0), predictions(1, groups="c"), predictions(2, groups="cd"), alone])
    left = rows[rows["group"] != "c"]
    pd.testing.assert_frame_equal(fairness(rates(rows), without={"c"}), fairness(rates(left)))
    assert fairness(rates(rows), without={"c"})["seeds"].tolist() == [2]
    assert fairness(rates(rows), without=set("abcd")).empty


def test_puffle_disparity_is_a_group_against_all_others():
    run = pd.DataFrame(
        {"group": list("aaaabbc"), "label": [0, 1, 0, 1, 0, 1, 1], "score": [0.9] * 3 + [0.1] * 3 + [0.7]}
    )
    run = run.assign(strategy="q", mechanism="dp-sgd", epsilon=1.0, seed=0, record=range(7))
    row = at(fairness(rates(run)))
    assert row["puffle_disparity"] == pytest.approx(4 / 5)  # b: 0 of 2, others 4 of 5
