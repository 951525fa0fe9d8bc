from __future__ import annotations

import dataclasses
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fedtoll.scenarios.data import Attribute
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.partition import Client, Layout, deal, layout
from fedtoll.scenarios.scenario import Partition, Split
from fedtoll.scenarios.split import public, split

PER_GROUP = {"White": 8, "Black": 2, "*": 1}


def clients(table, groups, per_group, kind, k):
    """Return the planned clients of a partition by group."""
    return layout(table, groups, Partition(clients=per_group), Split(kind=kind, folds=k)).clients


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


def dealt(table, groups, train, seed, split=None, **how):
    """Return the plan of a partition, and the rows of its clients."""
    wanted = Partition(**how)
    plan: Layout = layout(table, groups, wanted, split or Split())
    return plan, deal(plan, groups, wanted, train, seed)


@pytest.mark.slow
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
    train, _ = split(table, groups, "folds", k, seed)
    plan, held = dealt(table, groups, train, seed, Split(folds=k), clients=per_group)
    made = plan.clients
    for client in made:
        name, number = client.group, sum(c.group == client.group for c in made)
        count = int(groups.counts[groups.names.index(name)])
        assert client.size == count * (k - 1) // (k * number)
        assert number == per_group.get(name, per_group.get("*", 1))

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
    train, _ = split(adult, race, "canonical", 5, 0)
    first, again, other = (
        dealt(adult, race, train, seed, Split(kind="canonical"), clients=PER_GROUP)[1] for seed in (0, 0, 1)
    )
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first[0], other[0])
    np.testing.assert_array_equal(first[12], other[12])  # the only client of its group holds all of it
    # Client 0 holds a random eighth, not a stretch of the file.
    assert abs(np.median(first[0]) - np.median(train)) < 1500


def test_held_and_public_sizes_do_differ(adult):
    """Public sizes are not recounted from the records held: on Adult, some client holds one more."""
    race = adult.groups(["race"])
    differences = set()
    for seed in range(5):
        train = split(adult, race, "folds", 5, seed)[0]
        plan, held = dealt(adult, race, train, seed, clients=PER_GROUP)
        differences |= {len(rows) - client.size for client, rows in zip(plan.clients, held, strict=True)}
    assert differences == {0, 1}


@pytest.mark.parametrize(
    ("per_group", "told"),
    [
        ({"Blck": 2}, "no group 'Blck' of race; did you mean 'Black'"),
        ({"Other": 400}, "group 'Other' of race has 406 records, 324 for training: too few for 400 clients"),
    ],
)
def test_mistakes_are_reported_in_one_line(adult, per_group, told):
    with pytest.raises(ScenarioError, match=told) as caught:
        clients(adult, adult.groups(["race"]), per_group, "folds", 5)
    assert "\n" not in str(caught.value)


def test_too_few_is_reported_without_the_public_part(places):
    """30 clients can share 40 · 4 / 5 records, and not what is left when half are public."""
    groups = places.groups(["group"])
    how = Partition(clients={"d": 30})
    assert len(layout(places, groups, how, Split()).clients) == 33
    left = len(np.setdiff1d(np.flatnonzero(groups.codes == 3), public(places, groups, "folds", 0.5)))
    told = f"group 'd' of group has 40 records, {left * 4 // 5} for training: too few for 30 clients"
    with pytest.raises(ScenarioError, match=told):
        layout(places, groups, how, Split(validation=0.5))


def test_by_column_the_public_part_is_still_that_of_the_groups(places):
    groups, place = places.groups(["group"]), places.attributes["place"]
    train = np.setdiff1d(np.arange(len(places)), public(places, groups, "folds", 0.3))
    north = int((place.codes[train] == 0).sum()) * 4 // 5
    drawn = [int((place.codes[public(places, by, "folds", 0.3)] == 0).sum()) for by in (groups, place)]
    assert drawn[0] != drawn[1]  # by place it would be another part
    split_ = Split(validation=0.3)

    def plan(n):
        return layout(places, groups, Partition(kind="column", column="place", clients={"north": n}), split_)

    assert len(plan(north).clients) == north + 1
    with pytest.raises(ScenarioError, match=f", {north} for training: too few for {north + 1} clients"):
        plan(north + 1)


def test_a_group_without_records_is_reported(make_table):
    table = make_table([0, 0, 1, 1, 2, 2])
    with pytest.raises(ScenarioError, match="group 'd' of group has no records in 'made'"):
        clients(table, table.groups(["group"]), {}, "folds", 2)


def test_a_group_that_the_canonical_split_only_tests_is_reported(make_table):
    table = make_table([0, 1, 2, 3, 3], test=[False, False, False, True, True])
    with pytest.raises(ScenarioError, match="group 'd' of group has 2 records, 0 for training"):
        clients(table, table.groups(["group"]), {}, "canonical", 2)


# The other kinds.

SHARES = [[0.7, 0.1, 0.0, 0.5], [0.2, 0.1, 1.0, 0.25], [0.1, 0.8, 0.0, 0.25]]
KINDS: dict[str, dict[str, Any]] = {
    "iid": {"kind": "iid", "clients": 7},
    "skewed": {"kind": "iid", "clients": 6, "skew": 1.0},
    "column": {"kind": "column", "column": "place", "clients": {"north": 2}},
    "dirichlet over groups": {"kind": "dirichlet", "clients": 4, "alpha": 0.7},
    "dirichlet over labels": {"kind": "dirichlet", "clients": 4, "alpha": 0.7, "over": "label"},
    "shares": {"kind": "shares", "shares": SHARES},
}


@pytest.fixture(scope="module")
def places(make_table):
    """A table of four groups of 400 to 40 records, in two places, with two labels."""
    rng = np.random.default_rng(5)
    codes = rng.permutation(np.repeat([0, 1, 2, 3], [400, 200, 80, 40]))
    table = make_table(codes, label=rng.integers(0, 2, len(codes)))
    place = Attribute("place", rng.integers(0, 2, len(codes)), ("north", "south"))
    return dataclasses.replace(table, attributes={**table.attributes, "place": place})


@pytest.mark.parametrize("seed", [0, 3, 11])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_deals_every_training_record_once_near_the_public_sizes(places, kind, seed):
    groups = places.groups(["group"])
    train, _ = split(places, groups, "folds", 5, seed)
    plan, held = dealt(places, groups, train, seed, **KINDS[kind])
    np.testing.assert_array_equal(np.sort(np.concatenate(held)), train)
    assert {c.group for c in plan.clients} == {""}
    assert [c.id for c in plan.clients] == list(range(len(held)))
    strata = len(plan.strata.names)
    for client, rows in zip(plan.clients, held, strict=True):
        assert (np.diff(rows) > 0).all()
        assert abs(len(rows) - client.size) <= strata + 1
    of = np.array([np.bincount(groups.codes[rows], minlength=4) for rows in held])
    np.testing.assert_allclose(plan.expected_KG.sum(axis=0), of.sum(axis=0), atol=1.01)
    assert np.abs(plan.expected_KG - of).max() < 4 * np.sqrt(of.max())  # dealt at random within a stratum
    again = dealt(places, groups, train, seed, **KINDS[kind])[1]
    assert all(np.array_equal(a, b) for a, b in zip(held, again, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_clients_and_sizes_do_not_depend_on_the_seed(places, kind):
    groups = places.groups(["group"])
    plans = [
        dealt(places, groups, split(places, groups, "folds", 5, s)[0], s, **KINDS[kind])[0] for s in (0, 1)
    ]
    assert plans[0].clients == plans[1].clients


def test_a_matrix_of_shares_is_what_clients_hold(places):
    groups = places.groups(["group"])
    train, _ = split(places, groups, "folds", 5, 0)
    _, held = dealt(places, groups, train, 0, kind="shares", shares=SHARES)
    of = np.bincount(groups.codes[train])
    for row, rows in zip(SHARES, held, strict=True):
        np.testing.assert_allclose(np.bincount(groups.codes[rows], minlength=4) / of, row, atol=0.02)


def test_dirichlet_shares_spread_as_alpha_says(places):
    groups = places.groups(["group"])
    spread = []
    for alpha in (0.3, 100.0):
        plan = layout(places, groups, Partition(kind="dirichlet", clients=4, alpha=alpha, draw=2), Split())
        shares = plan.shares_KS
        np.testing.assert_allclose(shares.sum(axis=0), 1)
        spread.append(shares.std())
    assert spread[0] > 5 * spread[1]
    other = layout(places, groups, Partition(kind="dirichlet", clients=4, alpha=100.0, draw=3), Split())
    assert not np.array_equal(other.shares_KS, shares)


def test_skewed_sizes_fall_as_stated(places):
    groups = places.groups(["group"])
    plan = layout(places, groups, Partition(kind="iid", clients=6, skew=1.0), Split())
    sizes = np.array([c.size for c in plan.clients], dtype=float)
    np.testing.assert_allclose(sizes[0] / sizes, np.arange(1, 7), rtol=0.05)


def test_a_column_makes_clients_whose_group_is_not_public(places):
    groups = places.groups(["group"])
    train, _ = split(places, groups, "folds", 5, 0)
    _, held = dealt(places, groups, train, 0, **KINDS["column"])
    place = places.attributes["place"].codes
    assert [sorted(set(place[rows])) for rows in held] == [[0], [0], [1]]


@pytest.mark.parametrize("kind", [{"clients": {"a": 4}}, {"kind": "iid", "clients": 5}])
def test_keeping_a_share_of_a_group_takes_its_training_records_alone(places, kind):
    groups = places.groups(["group"])
    train, _ = split(places, groups, "folds", 5, 1)
    whole, all_ = dealt(places, groups, train, 1, **kind)
    plan, held = dealt(places, groups, train, 1, **kind, keep={"a": 0.25})
    kept, before = (np.bincount(groups.codes[np.concatenate(h)]) for h in (held, all_))
    assert kept[0] == round(0.25 * before[0])
    assert kept[1:].tolist() == before[1:].tolist()
    assert sum(c.size for c in plan.clients) == pytest.approx(kept.sum(), abs=len(plan.clients) + 1)
    assert sum(c.size for c in whole.clients) > sum(c.size for c in plan.clients)
    fewer = dealt(places, groups, train, 1, **kind, keep={"a": 0.1})[1]
    assert set(np.concatenate(fewer)) < set(np.concatenate(held))  # paired: less is a part of more


@pytest.mark.parametrize("kind", [{"clients": {"*": 3}}, {"kind": "iid", "clients": 5}])
def test_copies_are_held_by_as_many_different_clients(places, kind):
    groups = places.groups(["group"])
    train, _ = split(places, groups, "folds", 5, 1)
    plan, held = dealt(places, groups, train, 1, **kind, copies=2)
    rows, times = np.unique(np.concatenate(held), return_counts=True)
    np.testing.assert_array_equal(rows, train)
    assert set(times) == {2}
    for client, own in zip(plan.clients, held, strict=True):
        assert len(set(own)) == len(own)
        assert abs(len(own) - client.size) <= 3


WRONG = [
    ({"kind": "column", "column": "plaice", "clients": {}}, "no attribute of 'made'; did you mean 'place'"),
    ({"kind": "shares", "shares": [[1.0, 1.0]]}, "2 columns for 4 groups: a, b, c, d"),
    ({"kind": "iid", "clients": 700}, "client 0 of 700 would hold none of 576 training records"),
    ({"kind": "iid", "clients": 10**13}, "clients = 10000000000000: more than the 720 records of 'made'"),
    ({"kind": "dirichlet", "clients": 10**13, "alpha": 1.0}, "more than the 720 records of 'made'"),
    ({"clients": {"d": 10**13}}, "group 'd' of group has 40 records: too few for 10000000000000 clients"),
    ({"clients": {"*": 10**13}, "copies": 10**13}, "too few for 10000000000000 clients"),
    ({"kind": "column", "column": "place", "clients": {"*": 10**13}}, "too few for 10000000000000 clients"),
    ({"keep": {"e": 0.5}}, "partition.keep: no group 'e'"),
    ({"copies": 2}, "'a' has 1 clients; give at least 2"),
]


@pytest.mark.parametrize(("how", "told"), WRONG)
def test_other_mistakes_are_reported_in_one_line(places, how, told):
    with pytest.raises(ScenarioError) as caught:
        layout(places, places.groups(["group"]), Partition(**how), Split())
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_shares_that_do_not_add_up_are_refused_before_records_are_read():
    with pytest.raises(ValidationError, match=r"shares: column 3 adds up to 0.4, not 1"):
        Partition(kind="shares", shares=[[1.0, 0.5, 0.4, 1.0], [0.0, 0.5, 0.0, 0.0]])


def test_public_records_are_neither_trained_nor_tested_on_in_any_seed(places):
    groups = places.groups(["group"])
    declared = public(places, groups, "folds", 0.2)
    np.testing.assert_allclose(
        np.bincount(groups.codes[declared], minlength=4) / groups.counts, 0.2, atol=0.03
    )
    tested = []
    for seed in range(5):
        train, test = split(places, groups, "folds", 5, seed, 0.2)
        np.testing.assert_array_equal(
            np.sort(np.concatenate([train, declared, test])), np.arange(len(places))
        )
        planned = layout(places, groups, Partition(), Split(validation=0.2))
        sizes = {c.group: c.size for c in planned.clients}
        held = np.bincount(groups.codes[train], minlength=4)
        assert all(abs(held[groups.names.index(g)] - n) <= 1 for g, n in sizes.items())
        tested.append(test)
    np.testing.assert_array_equal(  # and all the others are tested once
        np.sort(np.concatenate(tested)), np.setdiff1d(np.arange(len(places)), declared)
    )


def test_small_cells_become_one_group(places):
    merged = places.groups(["group"]).merged(100)
    assert merged.names == ("a", "b", "(rest)")
    assert merged.counts.tolist() == [400, 200, 120]
    assert places.groups(["group"]).merged(0).names == ("a", "b", "c", "d")
