"""``fedtoll new-scenario``: a table becomes a scenario that runs, with every looked-up fact marked."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fedtoll.scenarios.data import load_table, source_of
from fedtoll.scenarios.data.draft import GIVES_AWAY, LOOKED_UP, _down, draft
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.read import read
from tests.scenarios.people import people, write


def table(n: int = 60) -> pd.DataFrame:
    frame = people(n)
    frame["job"] = frame["job"].where(np.arange(n) % 5 != 0, "")
    frame["code"] = np.arange(n) % 3 * 1.0
    frame["constant"] = 1
    frame["gap"] = pd.Series(np.arange(n) + 0.5).where(np.arange(n) != 4)
    return frame.rename(columns={"income": 'the "income", yearly'})


@pytest.mark.parametrize("suffix", [".csv", ".tsv.gz", ".csv.zst", ".parquet", ".feather"])
def test_a_draft_is_a_scenario_that_fits_its_table(tmp_path, suffix):
    path = write(table(), tmp_path / f"My people{suffix}")
    drafted = draft(path, "approved", ["race", "age"])
    (tmp_path / "mine.toml").write_text(drafted.text)
    scenario = read(str(tmp_path / "mine.toml"))
    own = scenario.data.own
    assert own is not None
    assert scenario.name == "my-people"
    assert scenario.data.groups == ("race", "age")
    assert set(own.columns) == {"age", 'the "income", yearly', "job", "race", "code", "gap"}
    assert own.columns["gap"].missing == 30.25  # half way
    assert own.columns["code"].values == ("0", "1", "2")  # noqa: PD011
    assert own.columns['the "income", yearly'].transform == "log1p"
    assert own.missing == "category"
    assert own.positive == table()["approved"].value_counts().index[-1]
    loaded = load_table(source_of(scenario.data))
    assert len(loaded) == 60
    assert not (table()["age"] < own.columns["age"].low).any()
    assert not (table()["age"] > own.columns["age"].high).any()


def test_every_looked_up_fact_is_marked_and_what_is_left_out_says_why(tmp_path):
    drafted = draft(write(table(), tmp_path / "x.csv"), "approved", ["race"])
    facts = [line for line in drafted.text.splitlines() if " = { " in line or line.startswith("negative")]
    assert len(facts) == 8
    assert all(line.endswith(f"# {LOOKED_UP}") for line in facts)
    assert set(drafted.left_out) == {"comment", "constant"}
    assert "60 distinct texts" in drafted.left_out["comment"]
    assert drafted.left_out["constant"] == "has one value"


def test_columns_that_give_the_label_away_are_marked(tmp_path):
    rng = np.random.default_rng(0)
    n = 20_000
    label = rng.random(n) < 0.2
    frame = pd.DataFrame(
        {
            "label": np.where(label, "yes", "no"),
            "race": rng.choice(["a", "b"], n),
            "code": np.where(label ^ (rng.random(n) < 0.001), "c1", "c2"),
            "payout": np.where(label, rng.uniform(500, 900, n), rng.uniform(0, 400, n)).round(1),
            "likely": np.where(label ^ (rng.random(n) < 0.05), 1.0, 0.0) + rng.random(n).round(3),
        }
    )
    drafted = draft(write(frame, tmp_path / "x.csv"), "label", ["race"])
    assert drafted.giving_away == ("code", "payout")
    marked = [line for line in drafted.text.splitlines() if GIVES_AWAY in line]
    assert [line.split(" ")[0] for line in marked] == ["code", "payout"]


def test_a_column_of_a_small_table_is_not_blamed(tmp_path):
    assert draft(write(table(), tmp_path / "x.csv"), "approved", ["race"]).giving_away == ()


@pytest.mark.parametrize(
    ("label", "groups", "positive", "words"),
    [
        ("aproved", ["race"], "", "no column 'aproved'; did you mean 'approved'?"),
        ("approved", ["rase"], "", "no column 'rase'; did you mean 'race'?"),
        ("approved", ["approved"], "", "it cannot be a group"),
        ("approved", ["race"], "yess", "no label 'yess'; did you mean 'yes'?"),
        ('the "income", yearly', ["race"], "", "name the positive one"),
        ("constant", ["race"], "", "has 1 values (1): nothing to predict"),
        ("job", ["race"], "", "has no value in 12 rows"),
        ("approved", ["comment"], "", "has 60 values, too many for groups"),
    ],
)
def test_mistakes_are_one_line(tmp_path, label, groups, positive, words):
    path = write(table(), tmp_path / "x.csv")
    with pytest.raises(ScenarioError) as caught:
        draft(path, label, groups, positive)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bounds_are_rounded_outwards():
    for value in (0.0, 17.0, 17.3, 0.0123, 90241.0, -3.456, 1e-9):
        assert _down(value) <= value <= -_down(-value)
        assert len(f"{abs(_down(value)):.6g}".replace(".", "").strip("0").split("e")[0]) <= 2


def test_the_command_writes_a_file_that_checks(here, tmp_path):
    write(table(), tmp_path / "x.csv")
    code, out, err = here("new-scenario", "x.csv", "--label", "approved")
    assert (code, out) == (2, "")
    assert "--group is needed; columns: comment, age" in err
    code, out, err = here("new-scenario", "x.csv", "--label", "approved", "--group", "race")
    assert code == 0
    assert out.splitlines()[0] == "x.toml"
    assert "column 'comment' is left out: it has 60 distinct texts" in err
    code, out, err = here("data", "check", "x.toml")
    assert (code, err) == (0, "")
    assert out.startswith("x.toml: 60 records as declared, ")
    assert "  White: 40 records\n" in out
    code, out, err = here("new-scenario", "x.csv", "--label", "approved", "--group", "race")
    assert (code, err) == (2, "fedtoll: x.toml: exists already; choose another --out\n")


def test_more_than_two_labels_are_classes_and_words_for_missing_numbers_are_blank(tmp_path):
    frame = people(60)
    frame["level"] = [f"L{i % 3}" for i in range(60)]
    frame["score"] = [("NA" if i == 7 else "?" if i == 9 else f"{i / 7:.3f}") for i in range(60)]
    path = write(frame, tmp_path / "x.csv")
    (tmp_path / "x.toml").write_text(draft(path, "level", ["race"]).text)
    scenario = read(str(tmp_path / "x.toml"))
    own = scenario.data.own
    assert own is not None
    assert own.classes == own.class_names == ("L0", "L1", "L2")
    assert own.blank == ("?", "NA")
    table = load_table(source_of(scenario.data))
    assert table.classes == own.classes
    marks = table.features[:, table.feature_names.index("score=(missing)")]
    assert np.flatnonzero(marks).tolist() == [7, 9]


def test_fractions_are_numbers_and_make_groups_by_the_middle_of_their_range(tmp_path):
    """0 and 1 with a few imputed fractions between: three values, but no codes."""
    frame = people(60)
    frame["black"] = [0.0 if i % 4 else 1.0 if i % 12 else 0.0068104 for i in range(60)]
    (tmp_path / "x.toml").write_text(draft(write(frame, tmp_path / "x.csv"), "approved", ["black"]).text)
    own = read(str(tmp_path / "x.toml")).data.own
    assert own is not None
    assert (own.columns["black"].low, own.columns["black"].high) == (0, 1)
    assert own.attributes["black"].names == ("<=0.5", ">0.5")
