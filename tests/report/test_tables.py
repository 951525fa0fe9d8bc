"""The tables: n with every toll, flags, verdicts, and sort keys that equal the numbers."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from fedtoll.formatting import estimate, group_label
from fedtoll.report import tables
from fedtoll.report.digest import Digest
from fedtoll.report.tables.compared import quantity_label, verdict
from fedtoll.toll import fairness


def column(table, name):
    return next(i for i, c in enumerate(table.columns) if c.name == name)


def cells(table, name):
    i = column(table, name)
    return [row.cells[i] for row in table.rows]


def test_the_toll_table_is_flat_and_who_pays_most_comes_first(eight):
    digest = eight
    table = tables.toll_table(digest)
    assert len(table.rows) == (3 + 1) * 3 * 6  # three ε and clip-only, strategies, groups and everybody
    first = [cell.text for cell in table.rows[0].cells]
    tight = digest.tight.query("strategy == 'fedavg'").set_index("group")
    row = tight.loc["Asian-Pac-Islander"]
    assert first[:4] == ["Asian-Pac-Islander", "0.5", "fedavg", "1,515 (410)"]
    assert first[4] == f"{row['toll']:.3f}"
    assert first[5] == f"{row['toll_low']:.3f} to {row['toll_high']:.3f}"
    for part in ("clipping", "noise"):
        half = 2.364624 * row[f"{part}_se"]  # the .975 quantile of t with 7 degrees of freedom
        within = f"{row[part] - half:.3f} to {row[part] + half:.3f}".replace("-", "−")
        shown = cells(table, f"{part.capitalize()} part (95% interval)")[0].text
        assert shown == f"{row[part]:.3f} ({within})"
    assert table.rows[5].cells[0].text == "everybody"
    assert table.rows[5].everybody
    assert [c.text for c in cells(table, "ε")][::18] == ["0.5", "2", "8", "∞ clip"]


def test_ranges_are_intervals_from_low_to_high_and_plus_minus_is_not_used(eight, text):
    assert "±" not in text.split("<script>")[0]
    table = tables.utility_table(eight)
    row = eight.loss.query("strategy == 'fedavg' and mechanism == 'none' and group == 'White'").iloc[0]
    half = 2.364624 * row["value_sd"] / 8**0.5
    shown = [
        c.text
        for r, c in zip(table.rows, cells(table, "Log-loss (95% interval)"), strict=True)
        if [x.text for x in r.cells[:3]] == ["White", "∞", "fedavg"]
    ]
    assert shown == [f"{row['value']:.3f} ({row['value'] - half:.3f} to {row['value'] + half:.3f})"]


@pytest.mark.slow
def test_every_toll_comes_with_n_and_positives(eight):
    for build in (tables.toll_table, tables.utility_table, tables.literature_table):
        table = build(eight)
        assert table is not None
        assert all(re.fullmatch(r"[\d,]+ \([\d,]+\)", c.text) for c in cells(table, "n (positives)"))


def test_without_clip_only_runs_nothing_is_split(digest):
    assert not [c for c in tables.toll_table(digest).columns if " part" in c.name]


def test_the_utility_table_has_the_references(eight):
    table = tables.utility_table(eight)
    assert len(table.rows) == (3 + 2) * 3 * 6
    assert cells(table, "ε")[-1].text == "∞"


def test_sort_keys_are_the_numbers(eight):
    digest = eight
    for table in (tables.toll_table(digest), tables.gap_table(digest), tables.group_table(digest)):
        for i, col in enumerate(table.columns):
            if col.is_text:
                continue
            for row in table.rows:
                cell = row.cells[i]
                number = re.match(r"[−\d,.]+", cell.text)
                if cell.sort and number and "∞" not in cell.text:
                    shown = float(number[0].replace(",", "").replace("−", "-"))
                    scale = 100 if "%" in cell.text else 1
                    assert shown == pytest.approx(scale * float(cell.sort), abs=0.06 if scale > 1 else 6e-4)
                elif cell.text == "–":
                    assert cell.sort == ""


@pytest.mark.slow
def test_flags_are_shown(results):
    groups = results.groups.copy()
    last = groups["round"] == groups["round"].max()
    one = last & (groups["group"] == "Other") & (groups["seed"] == 1)
    groups.loc[one, ["collapsed", "below_majority"]] = True
    groups.loc[last & (groups["group"] == "Other"), "positives"] = 2
    groups.loc[last & (groups["group"] == "Black") & (groups["seed"] == 2), "tpr"] = float("nan")
    table = tables.toll_table(Digest(replace(results, groups=groups)))
    flags = [c.text for c in cells(table, "Flags")]
    assert any(c.startswith("too few; collapsed ") and "below majority 1/5" in c for c in flags)
    assert "TPR undefined 1/5" in flags
    assert any(row.too_few for row in table.rows)


def test_the_gap_table_shows_payers_and_the_front(eight):
    digest = eight
    table = tables.gap_table(digest)
    gaps = digest.gaps[digest.gaps["epsilon"] == 0.5].set_index("strategy")
    for row in table.rows[:3]:
        gap = gaps.loc[row.cells[0].text]
        assert row.cells[2].text == f"{gap['gap']:.3f}"
        assert row.cells[4].text.endswith("Asian-Pac-Islander (n\u00a0=\u00a01,515)")
        assert row.cells[7].text == ("on the front" if gap["on_front"] else "beaten")
    assert [c.text for c in cells(table, "Toll gap")][-3:] == ["reference"] * 3
    assert {c.text for c in cells(table, "Pareto front")[-3:]} == {"–"}


def test_one_seed_has_no_interval_in_any_table_of_differences(results):
    one = replace(results, groups=results.groups[results.groups["seed"] == 0])
    table = tables.disparity_table(Digest(one))
    for name in ("Demographic parity difference", "Equalized odds difference"):
        assert all(re.fullmatch(r"\d\.\d{3}", cell.text) for cell in cells(table, name))


def test_equalised_odds_count_the_seeds_in_which_they_are_defined(results):
    groups = results.groups.copy()
    groups.loc[(groups["group"] == "Black") & (groups["seed"] < 3), "positives"] = 0
    digest = Digest(replace(results, groups=groups))
    row = fairness(groups).query("strategy == 'fedavg' and epsilon == 0.5").iloc[0]
    assert (row["seeds"], row["undefined"]) == (5, 3)
    odds, half = row["equalized_odds_difference"], 12.7062 * row["equalized_odds_difference_se"]
    within = f"{max(odds - half, 0):.3f} to {min(odds + half, 1):.3f}"
    shown = cells(tables.disparity_table(digest), "Equalized odds difference")[0].text
    assert shown == f"{odds:.3f} ({within}) (undefined 3/5)"  # t with 1 degree of freedom, not 4


def test_a_quantity_has_one_interval_on_the_page(eight):
    """Excessive risk is the toll in log-loss, privacy cost that in accuracy."""
    table = tables.literature_table(eight)
    assert table is not None
    tolls = {m: eight.tolls[m].set_index(["strategy", "epsilon", "group"]) for m in ("log_loss", "accuracy")}
    names = {group_label(g, eight.attribute): g for g in eight.loss["group"]}
    for row in table.rows:
        name, strategy = (cell.text for cell in row.cells[:2])
        for measure, column_name in (("log_loss", "Excessive risk"), ("accuracy", "Privacy cost")):
            own = tolls[measure].loc[strategy, 0.5, names[name]]
            cell = row.cells[column(table, f"{column_name} (95% interval)")]
            assert cell.text == estimate(own["toll"], own["toll_low"], own["toll_high"])


def test_the_parts_of_a_partial_sweep_have_the_seeds_with_all_three_runs(clipped):
    groups = clipped.groups
    some = groups[(groups["mechanism"] != "clip-only") | (groups["seed"] < 3)]
    digest = Digest(replace(clipped, groups=some))
    table = tables.toll_table(digest)
    row: Any = digest.tight.query("strategy == 'fedavg'").set_index("group").loc["Asian-Pac-Islander"]
    assert (row["seeds"], row["part_seeds"]) == (8, 3)
    half = 4.302653 * row["clipping_se"]  # the .975 quantile of t with 2 degrees of freedom
    shown = cells(table, "Clipping part (95% interval)")[0].text
    assert shown == estimate(row["clipping"], row["clipping"] - half, row["clipping"] + half)
    assert "seeds with all three runs" in table.note


ODDS = "equalised odds difference"


@pytest.mark.parametrize(
    ("quantity", "difference", "p", "significant", "reason", "expected"),
    [
        ("toll gap", -0.1, 0.01, True, "", "narrower gap"),
        ("toll gap", 0.1, 0.01, True, "", "wider gap"),
        ("utility", 0.1, 0.01, True, "", "better utility"),
        ("utility", -0.1, 0.01, True, "", "worse utility"),
        ("disparity", -0.1, 0.01, True, "", "less disparity"),
        ("disparity", 0.1, 0.01, True, "", "more disparity"),
        (ODDS, -0.1, 0.01, True, "", "smaller difference"),
        (ODDS, 0.1, 0.01, True, "", "larger difference"),
        ("toll gap", -0.1, 0.06, False, "", "no significant difference"),
        ("toll gap", -0.1, 0.01, False, "", "no significant difference: interval includes 0"),
        ("toll gap", -0.1, 0.01, False, "too few seeds", "no test: too few seeds"),
    ],
)
def test_the_verdict_is_in_words(quantity, difference, p, significant, reason, expected):
    row = {"quantity": quantity, "difference": difference, "significant": significant, "reason": reason}
    assert verdict(pd.Series(row | {"p_holm": p})) == expected


@pytest.mark.parametrize(
    ("quantity", "expected"),
    [
        ("toll gap", "toll gap, log-loss"),
        ("disparity", "disparity, log-loss"),
        ("utility", "everybody’s utility, log-loss"),
        (ODDS, ODDS),
    ],
)
def test_the_quantity_is_named_with_its_measure_if_it_has_one(quantity, expected):
    assert quantity_label(pd.Series({"quantity": quantity, "measure": "log_loss"})) == expected


def test_comparisons_show_difference_interval_p_and_verdict(eight, digest, fake_digest):
    table = tables.comparison_table(eight)
    assert table is not None
    assert table.caption == f"Comparisons of strategies, within seeds ({len(eight.comparisons)})"
    for row, (_, found) in zip(table.rows, eight.comparisons.iterrows(), strict=True):
        texts = [c.text for c in row.cells]
        assert texts[:2] == [found["strategy"], "fedavg"]
        assert texts[5].replace("−", "-") == f"{found['difference']:.3f}"
        assert texts[-1] == verdict(found)
    few = tables.comparison_table(digest)
    assert few is not None
    assert {row.cells[-1].text.split(":")[0] for row in few.rows} == {"no test"}
    assert {row.cells[8].text for row in few.rows} == {"–"}
    assert tables.comparison_table(fake_digest(strategies=("fedavg",), seeds=(0, 1))) is None


def test_clipping_alone_is_labelled(eight):
    table = tables.gap_table(eight)
    assert [c.text for c in cells(table, "ε")] == ["0.5"] * 3 + ["2"] * 3 + ["8"] * 3 + ["∞ clip"] * 3 + [
        "∞"
    ] * 3


def test_the_download_says_whether_the_family_is_declared(eight):
    for section, declared in ((None, "False"), ({"quantities": ["utility"]}, "True")):
        scenario = eight.results.resolved["scenario"] | {"compare": section}
        asked = Digest(replace(eight.results, resolved=eight.results.resolved | {"scenario": scenario}))
        table = tables.comparison_table(asked)
        assert table is not None
        lines = table.csv.splitlines()
        assert lines[0].endswith(",declared")
        assert {line.rsplit(",", 1)[1] for line in lines[1:]} == {declared}
