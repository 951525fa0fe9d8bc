from __future__ import annotations

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.partition import Client, clients, partition
from fedtoll.scenarios.split import split

PER_GROUP = {"White": 8, "Black": 2, "*": 1}


def test_the_thirteen_clients_of_adult_by_race(adult):
    race = adult.groups(["race"])
    made = clients(adult, race, PER_GROUP, "folds", 5)
    assert [client.id for client in made] == list(range(13))
    assert made[0] == Client(0, "White", 4176)  # ⌊41,762 · 4 / 5 / 8⌋
    assert made[8:] == (
        Client(8, "Black", 1874),
        Client(9, "Black", 1874),
        Client(10, "Asian-Pac-Islander", 1215),
        Client(11, "Amer-Indian-Eskimo", 376),
        Client(12, "Other", 324),
    )


def test_public_sizes_of_the_canonical_split(adult):
    race = adult.groups(["race"])
    made = clients(adult, race, {}, "canonical", 5)
    # The counts of the published training file.
    assert [client.size for client in made] == [27_816, 3_124, 1_039, 311, 271]


def test_public_sizes_come_from_counts_alone(make_table):
    """Neither the records' order nor their labels nor a seed can reach a public size."""
    codes = np.repeat([0, 1, 2, 3], [50, 31, 17, 9])
    shuffled = np.random.default_rng(0).permutation(codes)
    made = []
    for table in (make_table(codes), make_table(shuffled, label=np.arange(len(codes)) % 2)):
        made.append(clients(table, table.groups(["group"]), {"a": 3, "*": 2}, "folds", 5))
    assert made[0] == made[1]
    assert [client.size for client in made[0]] == [13, 13, 13, 12, 12, 6, 6, 3, 3]


@given(
    codes=hnp.arrays(np.int64, st.integers(0, 150), elements=st.integers(0, 3)),
    per_group=st.fixed_dictionaries(
        {}, optional={name: st.integers(1, 4) for name in ("a", "b", "c", "d", "*")}
    ),
    k=st.integers(2, 6),
    seed=st.integers(0, 1000),
)
def test_every_training_row_is_held_once_by_a_client_of_its_group(make_table, codes, per_group, k, seed):
    codes = np.concatenate([codes, np.repeat(np.arange(4), 12)])
    table = make_table(codes, label=np.arange(len(codes)) % 2)
    groups = table.groups(["group"])
    made = clients(table, groups, per_group, "folds", k)
    train, _ = split(table, groups, "folds", k, seed)
    held = partition(table, groups, made, train, seed)

    assert len(held) == len(made)
    np.testing.assert_array_equal(np.sort(np.concatenate(held)), train)
    sizes: dict[str, list[int]] = {}
    for client, rows in zip(made, held, strict=True):
        assert (np.diff(rows) > 0).all()
        assert {groups.names[code] for code in codes[rows]} == {client.group}
        assert client.size >= 1
        assert abs(len(rows) - client.size) <= 1  # near its public size, but it need not be equal
        sizes.setdefault(client.group, []).append(len(rows))
    assert all(max(group) - min(group) <= 1 for group in sizes.values())
    assert {name: len(group) for name, group in sizes.items()} == {
        name: per_group.get(name, per_group.get("*", 1)) for name in groups.names
    }


def test_the_shuffle_depends_on_the_seed_and_nothing_else(adult):
    race = adult.groups(["race"])
    made = clients(adult, race, PER_GROUP, "canonical", 5)
    train, _ = split(adult, race, "canonical", 5, 0)
    first, again, other = (partition(adult, race, made, train, seed) for seed in (0, 0, 1))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first[0], other[0])
    np.testing.assert_array_equal(first[12], other[12])  # the only client of its group holds all of it
    # Client 0 holds a random eighth, not a stretch of the file.
    assert abs(np.median(first[0]) - np.median(train)) < 1500


def test_held_and_public_sizes_do_differ(adult):
    """The records held are never recounted into a public size: on Adult some client holds one more."""
    race = adult.groups(["race"])
    made = clients(adult, race, PER_GROUP, "folds", 5)
    differences = set()
    for seed in range(5):
        held = partition(adult, race, made, split(adult, race, "folds", 5, seed)[0], seed)
        differences |= {len(rows) - client.size for client, rows in zip(made, held, strict=True)}
    assert differences == {0, 1}


@pytest.mark.parametrize(
    ("per_group", "told"),
    [
        ({"Blck": 2}, "no group 'Blck' of race; did you mean 'Black'"),
        ({"White": 0}, "0 clients of group 'White'; give 1 or more"),
        ({"*": -1}, r"-1 clients of group '\*'; give 1 or more"),
        ({"Other": 400}, "group 'Other' of race has 406 records, 324 for training: too few for 400 clients"),
    ],
)
def test_mistakes_are_told_in_one_line(adult, per_group, told):
    with pytest.raises(ScenarioError, match=told) as caught:
        clients(adult, adult.groups(["race"]), per_group, "folds", 5)
    assert "\n" not in str(caught.value)


def test_a_group_without_records_is_told(make_table):
    table = make_table([0, 0, 1, 1, 2, 2])
    with pytest.raises(ScenarioError, match="group 'd' of group has no record in 'made'"):
        clients(table, table.groups(["group"]), {}, "folds", 2)


def test_a_group_that_the_canonical_split_only_tests_is_told(make_table):
    table = make_table([0, 1, 2, 3, 3], test=[False, False, False, True, True])
    with pytest.raises(ScenarioError, match="group 'd' of group has 2 records, 0 for training"):
        clients(table, table.groups(["group"]), {}, "canonical", 2)


def test_rows_of_a_group_without_a_client_are_never_dropped(make_table):
    table = make_table([0, 0, 1, 1])
    with pytest.raises(ValueError, match="2 training rows of group 'b'"):
        partition(table, table.groups(["group"]), [Client(0, "a", 2)], np.arange(4), 0)
