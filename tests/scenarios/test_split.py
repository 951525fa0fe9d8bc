from __future__ import annotations

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.split import folds, public, split, training_share

STRATA = hnp.arrays(np.int64, st.integers(7, 200), elements=st.integers(0, 6))


def spread(fold: np.ndarray, k: int) -> int:
    counts = np.bincount(fold, minlength=k)
    return int(counts.max() - counts.min())


@given(strata=STRATA, k=st.integers(2, 7))
def test_folds_are_equal_overall_and_in_every_stratum(strata, k):
    fold = folds(strata, k)
    assert fold.shape == strata.shape
    assert set(fold) <= set(range(k))
    assert spread(fold, k) <= 1
    for stratum in np.unique(strata):
        assert spread(fold[strata == stratum], k) <= 1


@given(strata=STRATA, k=st.integers(2, 7))
def test_folds_of_consecutive_strata_are_equal_too(strata, k):
    """Strata are group × label, so a group's records are shared out as evenly as its strata are."""
    fold = folds(strata, k)
    for group in np.unique(strata // 2):
        assert spread(fold[strata // 2 == group], k) <= 1


def test_folds_do_not_follow_the_order_of_the_file():
    fold = folds(np.zeros(1000, np.int64), 5)
    assert not np.array_equal(fold, np.arange(1000) % 5)
    assert abs(np.corrcoef(fold, np.arange(1000))[0, 1]) < 0.1


@pytest.mark.parametrize("k", [1, 0, -2, 11])
def test_folds_out_of_range_are_refused(k):
    with pytest.raises(ScenarioError, match=f"{k} folds of 10 records"):
        folds(np.zeros(10, np.int64), k)
    with pytest.raises(ScenarioError, match="1 records cannot be split"):
        folds(np.zeros(1, np.int64), 2)


def test_consecutive_seeds_test_every_record_exactly_once(adult):
    race = adult.groups(["race"])
    tested = np.zeros(len(adult), np.int64)
    for seed in range(7, 12):
        train, test = split(adult, race, "folds", 5, seed)
        assert np.array_equal(np.sort(np.concatenate([train, test])), np.arange(len(adult)))
        assert len(test) in (9768, 9769)
        tested[test] += 1
    assert (tested == 1).all()


def test_every_fold_of_adult_has_the_base_rate_of_every_group(adult):
    cells = adult.groups(["race", "sex"])
    _, test = split(adult, cells, "folds", 5, 0)
    for code in range(len(cells.names)):
        positives = adult.label[cells.codes == code].sum()
        assert abs(adult.label[test][cells.codes[test] == code].sum() - positives / 5) < 1


def test_a_fold_is_the_seed_modulo_k(adult):
    race = adult.groups(["race"])
    for ours, theirs in zip(
        split(adult, race, "folds", 5, 3), split(adult, race, "folds", 5, 8), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_canonical_is_the_sources_own_split(adult):
    race = adult.groups(["race"])
    for seed in (0, 4):
        train, test = split(adult, race, "canonical", 5, seed)
        np.testing.assert_array_equal(train, np.arange(32_561))
        np.testing.assert_array_equal(test, np.arange(32_561, 48_842))


def test_of_the_sources_own_split_the_public_part_is_taken_from_training(adult):
    race = adult.groups(["race"])
    declared = public(adult, race, "canonical", 0.1)
    assert len(declared) == pytest.approx(3256, abs=5)
    assert declared.max() < 32_561
    train, test = split(adult, race, "canonical", 5, 3, 0.1)
    np.testing.assert_array_equal(train, np.setdiff1d(np.arange(32_561), declared))
    np.testing.assert_array_equal(test, np.arange(32_561, 48_842))
    counts, denominator = training_share(adult, race, "canonical", 5, groups=race, validation=0.1)
    np.testing.assert_array_equal(counts, np.bincount(race.codes[train], minlength=len(race.names)))
    assert denominator == 1


def test_canonical_needs_a_canonical_test_set(make_table):
    table = make_table([0, 0, 1, 1])
    with pytest.raises(ScenarioError, match="'made' has no canonical test set"):
        split(table, table.groups(["group"]), "canonical", 2, 0)


def test_an_unknown_kind_suggests_the_nearest(make_table):
    table = make_table([0, 0, 1, 1])
    for asked in (
        lambda kind: split(table, table.groups(["group"]), kind, 2, 0),
        lambda kind: training_share(table, table.groups(["group"]), kind, 2),
    ):
        with pytest.raises(ScenarioError, match="no kind 'fold'; did you mean 'folds'"):
            asked("fold")


@given(codes=hnp.arrays(np.int64, st.integers(8, 100), elements=st.integers(0, 3)), k=st.integers(2, 6),
       seed=st.integers(0, 20))  # fmt: skip
def test_training_rows_are_within_one_of_the_training_share(make_table, codes, k, seed):
    table = make_table(codes, label=np.arange(len(codes)) % 2)
    groups = table.groups(["group"])
    train, _ = split(table, groups, "folds", k, seed)
    numerators, denominator = training_share(table, groups, "folds", k)
    found = np.bincount(codes[train], minlength=4)
    assert (np.abs(found - numerators / denominator) < 1).all()
