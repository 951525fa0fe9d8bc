"""Atypicality of groups and correlations with it, on planted records and planted tolls."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from fedtoll.findings.atypicality import group_permutation_p, rank_correlation, traits
from fedtoll.findings.contrasts import outcomes
from fedtoll.scenarios.claims import Claim
from fedtoll.scenarios.data.table import Attribute, Table
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.read import findings, read, validate
from tests.findings.planted import study

NAMES = tuple("abcdefgh")


def people(sizes: list[int], shift: list[float], salt: int) -> tuple[Table, Attribute]:
    """Return a table whose groups are shifted in the first of three features."""
    rng = np.random.default_rng(salt)
    codes = np.repeat(np.arange(len(sizes)), sizes)
    features = rng.normal(0, 1, (len(codes), 3)).astype(np.float32)
    features[:, 0] += np.asarray(shift)[codes]
    groups = Attribute("g", codes, NAMES[: len(sizes)])
    label = rng.integers(0, 2, len(codes))
    columns = ("x", "y", "z")
    return Table("planted", features, columns, columns, label, ("no", "yes"), {"g": groups}), groups


@pytest.mark.slow
def test_a_small_group_is_not_atypical_by_chance():
    samples = [traits(*people([20, 2000, 2000], [0.0] * 3, salt))["atypicality"] for salt in range(300)]
    small = np.array([sample["a"] for sample in samples])
    assert abs(small.mean()) < 4 * small.std() / np.sqrt(300)
    # The uncorrected squared distance has this mean, which the test would detect.
    assert 8 * small.std() / np.sqrt(300) < (3 + 0.25) / 20


def test_atypicality_is_the_planted_squared_distance():
    samples = pd.concat([traits(*people([50, 50, 400], [2.0, 0.0, 0.0], salt)) for salt in range(100)])
    mean = samples.groupby(level=0)["atypicality"].mean()
    assert mean["a"] == pytest.approx(4.0, abs=0.15)
    assert mean["b"] == pytest.approx((2.0 * 50 / 450) ** 2, abs=0.05)  # the rest includes the shifted group
    assert samples["size"].max() == 400


def test_the_label_counts_and_what_is_undefined_is_nan():
    table, groups = people([1, 300, 300], [0.0, 0.0, 0.0], 0)
    assert np.isnan(traits(table, groups)["atypicality"]["a"])
    labelled = replace(
        table, label=(groups.codes == 1).astype(np.int64), features=np.zeros_like(table.features)
    )
    assert traits(labelled, groups)["atypicality"]["b"] == pytest.approx(1.0, abs=0.01)


def test_rank_correlation_is_spearmans():
    rng = np.random.default_rng(0)
    values = pd.DataFrame(rng.normal(size=(5, 8)), columns=list(NAMES))
    along = pd.Series(rng.normal(size=8), index=list(NAMES))
    expected = [stats.spearmanr(row, along).statistic for row in values.to_numpy()]
    np.testing.assert_allclose(rank_correlation(values, along), expected)


def test_the_partial_correlation_is_that_of_the_residuals_of_ranks():
    rng = np.random.default_rng(1)
    values = pd.DataFrame(rng.normal(size=(3, 8)), columns=list(NAMES))
    along, given = (pd.Series(rng.normal(size=8), index=list(NAMES)) for _ in range(2))

    def residual(x):
        z = stats.rankdata(given)
        return x - np.polyval(np.polyfit(z, x, 1), z)

    expected = [
        stats.pearsonr(residual(stats.rankdata(row)), residual(stats.rankdata(along))).statistic
        for row in values.to_numpy()
    ]
    np.testing.assert_allclose(rank_correlation(values, along, given), expected)
    assert rank_correlation(values, along, along).isna().all()  # nothing is left


def test_what_has_no_correlation_is_undefined():
    along = pd.Series([1.0, 2, 3, 4], index=list("abcd"))
    values = pd.DataFrame([[1.0, 2, 3, np.nan], [1, 1, 1, 1], [4, 3, 2, 1]], columns=list("abcd"))
    assert rank_correlation(values, along).isna().tolist() == [True, True, False]
    assert rank_correlation(values[["a", "b", "c"]], along).isna().all()


CLAIM = Claim(
    name="c", says="c", kind="correlation", along="atypicality", measure="accuracy", epsilon=1.0, at_least=0.0
)


@pytest.mark.parametrize(("sign", "verdict"), [(1, "reproduced"), (-1, "contradicted")])
def test_a_planted_rise_is_found_over_the_groups_with_enough_records(sign, verdict):
    tolls = {g: 0.1 + sign * 0.02 * i for i, g in enumerate(NAMES)}
    tolls["h"] = 0.1 - sign * 0.5  # against the trend, but with too few records
    about = pd.DataFrame({"atypicality": range(8), "size": [5, 3, 8, 1, 7, 2, 6, 4]}, index=list(NAMES))
    planted_study = replace(study({1.0: tolls}, n={"h": 5}), traits=about.astype(float))
    (found,) = outcomes([CLAIM], {"base": planted_study})
    assert (found.verdict, found.figure) == (verdict, "ρ")
    assert found.mean == pytest.approx(sign, abs=0.1)
    assert found.region == "ρ is at least 0"
    assert "over 7 groups of the toll in accuracy of each group, ε = 1" in found.sides[0][0]


def test_a_correlation_due_to_size_vanishes_given_size():
    rng = np.random.default_rng(2)
    size = np.arange(8.0)
    atypical = size + rng.normal(0, 1.5, 8)
    tolls = {g: 0.02 * size[i] for i, g in enumerate(NAMES)}
    about = pd.DataFrame({"atypicality": atypical, "size": size}, index=list(NAMES))
    planted_study = replace(study({1.0: tolls}, noise=0.05), traits=about)
    alone, given = outcomes([CLAIM, CLAIM.model_copy(update={"given": "size"})], {"base": planted_study})
    assert alone.verdict == "reproduced"
    assert given.verdict != "reproduced"
    assert abs(given.mean) < alone.mean / 2


def test_more_seeds_are_not_more_groups():
    """A weak correlation over twelve groups, the same in every seed: certain over seeds, not over groups."""
    names = [f"g{i}" for i in range(12)]
    order = [4, 2, 8, 0, 9, 5, 1, 11, 3, 6, 10, 7]
    assert 0.3 < stats.spearmanr(order, range(12)).statistic < 0.5
    tolls = {f"g{g}": 0.1 + 0.02 * i for i, g in enumerate(order)}
    about = pd.DataFrame({"atypicality": np.arange(12.0), "size": 1.0}, index=names)
    planted_study = replace(study({1.0: tolls}, noise=0.02), traits=about)
    (found,) = outcomes([CLAIM], {"base": planted_study})
    assert found.low > 0
    assert found.p_holm < 0.05
    assert (found.over, found.verdict) == ("12 groups", "not reproduced")
    assert found.p_over > 0.05
    assert found.why == "the mean agrees, but p over 12 groups is above .05"


@pytest.mark.slow
def test_shuffling_groups_is_a_fair_test_and_exact_where_they_are_few():
    rng = np.random.default_rng(3)
    along = pd.Series(rng.normal(size=6), index=list("abcdef"))
    values = pd.DataFrame(rng.normal(size=(4, 6)), columns=list("abcdef"))
    every = [
        abs(stats.spearmanr(values.mean(), list(order)).statistic) for order in itertools.permutations(along)
    ]
    observed = abs(stats.spearmanr(values.mean(), along).statistic)
    assert group_permutation_p(values, along) == pytest.approx(np.mean(np.array(every) >= observed - 1e-9))
    names = [f"g{i}" for i in range(20)]
    drawn = [
        group_permutation_p(
            *(
                pd.DataFrame(rng.normal(size=(1, 20)), columns=names),
                pd.Series(dict.fromkeys(names, 0.0)) + rng.normal(size=20),
            )
        )
        for _ in range(100)
    ]
    assert sum(p <= 0.05 for p in drawn) <= 12
    strong = pd.Series(np.arange(20.0), index=names)
    assert group_permutation_p(pd.DataFrame([strong]), strong) == 1 / 10_000
    assert np.isnan(group_permutation_p(pd.DataFrame([strong[:3]]), strong))


def test_shuffling_given_a_trait_removes_its_effect():
    rng = np.random.default_rng(4)
    names = [f"g{i}" for i in range(30)]
    size = pd.Series(np.arange(30.0), index=names)
    atypical = size + rng.normal(0, 3, 30)
    values = pd.DataFrame([size + rng.normal(0, 3, 30)])
    assert group_permutation_p(values, atypical) < 0.001
    assert group_permutation_p(values, atypical, size) > 0.05
    losses = pd.DataFrame([size + 3 * (atypical - size)])
    assert group_permutation_p(losses, atypical, size) < 0.001


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"along": None}, "along: required by kind = 'correlation'"),
        ({"along": "size", "given": "size"}, "given: 'size' needs along = 'atypicality'"),
        ({"at_least": None}, "kind = 'correlation' needs at least one of them"),
        ({"of": "spread"}, "a correlation needs 'toll'"),
        ({"b": {}}, "kind = 'correlation' has only one side, a"),
        ({"kind": "threshold"}, "along: only with kind = 'correlation'"),
    ],
)
def test_mistakes_are_one_line(change, words):
    table = read("atypical-clients").model_dump(mode="json", exclude_none=True)
    table["claim"][0] = {k: v for k, v in (table["claim"][0] | change).items() if v is not None}
    with pytest.raises(ScenarioError) as caught:
        validate(table, "mine.toml")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "atypical-clients" in findings()
