"""Comparison of two folders: paired if their runs form pairs, otherwise with the reason."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from fedtoll.scenarios.measures import RUN
from fedtoll.server.store import TABLES
from fedtoll.toll import ambiguous_labels, difference, settings
from fedtoll.toll.intervals import seed_interval
from fedtoll.toll.two_folders import unpaired_reason
from tests.server.fake import GROUPS, Fake, adult_race
from tests.toll.tables import INF, at


@pytest.fixture
def first() -> Fake:
    return adult_race(seeds=tuple(range(6)))


@pytest.fixture
def second(first: Fake) -> Fake:
    """Make the same study with .02 and a seed's own amount added to the cost of ε."""
    other = copy.deepcopy(first)
    private = other.groups["mechanism"] == "dp-sgd"
    other.groups.loc[private, "log_loss"] += 0.02 + 0.001 * other.groups.loc[private, "seed"] ** 2
    other.resolved["scenario"]["training"]["clip"] = 1.0
    return other


@pytest.mark.slow
def test_settings_are_the_keys_that_differ(first, second):
    second.resolved["scenario"]["title"] = "Another title"
    second.resolved["versions"]["torch"] = "2.14.0"
    del second.resolved["scenario"]["statistics"]["every"]
    assert settings(first.resolved, second.resolved) == [
        ("training.clip", 3.0, 1.0),
        ("statistics.every", 1, None),
        ("versions.torch", "2.13.0", "2.14.0"),
    ]
    assert settings(first.resolved, first.resolved) == []


@pytest.mark.slow
def test_an_empty_setting_is_none_and_strategies_go_by_their_labels(first, second):
    second.resolved["scenario"] |= {
        "claim": [],
        "tune": None,
        "training": first.resolved["scenario"]["training"],
    }
    assert settings(first.resolved, second.resolved) == []
    second.resolved["scenario"]["strategies"] = [{"name": "term", "label": "term(t=5)", "t": 5.0}]
    ((key, before, after),) = settings(first.resolved, second.resolved)
    assert (key, before, after) == ("strategies", ["fedavg", "uniform", "term(t=5)"], ["term(t=5)"])


@pytest.mark.slow
def test_another_class_with_the_same_label_is_another_setting(first, second):
    second.resolved["scenario"]["training"] = first.resolved["scenario"]["training"]
    second.resolved["scenario"]["strategies"] = [
        {"name": "mine.py:fedavg", "label": "fedavg"},
        {"name": "uniform", "label": "uniform"},
        {"name": "term", "label": "term(t=5)", "t": 5.0},
    ]
    assert settings(first.resolved, second.resolved) == [
        ("strategies", ["fedavg", "uniform", "term(t=5)"], ["mine.py:fedavg", "uniform", "term(t=5)"])
    ]


@pytest.mark.slow
def test_pairs_are_compared_within_seeds(first, second):
    frame = difference(first, second)
    extra = 0.02 + 0.001 * np.arange(6) ** 2
    row = at(frame, strategy="fedavg", epsilon=0.5, group="Black")
    assert (row["difference"], row["low"], row["high"]) == pytest.approx(seed_interval(extra))
    assert row["toll_b"] - row["toll_a"] == pytest.approx(row["difference"])
    assert (row["seeds_a"], row["seeds_b"], row["seeds"], row["unpaired"]) == (6, 6, 6, "")
    assert set(frame["mechanism"]) == {"dp-sgd"}


@pytest.mark.slow
def test_only_seeds_in_common_are_paired(first, second):
    second.groups = second.groups[second.groups["seed"] >= 2]
    row = at(difference(first, second), strategy="fedavg", epsilon=0.5, group="Black")
    assert row["seeds"] == row["seeds_a"] == row["seeds_b"] == 4
    assert row["difference"] == pytest.approx((0.02 + 0.001 * np.arange(2, 6) ** 2).mean())


def changed(study: Fake, section: str, key: str, value: object) -> Fake:
    study.resolved["scenario"].setdefault(section, {})[key] = value
    return study


@pytest.mark.slow
def test_why_runs_are_no_pairs(first, second):
    assert unpaired_reason(first, second) == ""
    assert unpaired_reason(first, changed(copy.deepcopy(second), "data", "exclude", ["race", "sex"])) == ""
    assert (
        unpaired_reason(first, changed(copy.deepcopy(second), "split", "folds", 4)) == "split.folds differs"
    )
    assert (
        unpaired_reason(first, changed(copy.deepcopy(second), "data", "groups", ["sex"]))
        == "data.groups differs"
    )
    assert (
        unpaired_reason(first, changed(copy.deepcopy(second), "partition", "skew", 1.0))
        == "partition.skew differs"
    )
    other = copy.deepcopy(second)
    other.resolved["data"]["checksum"] = "sha256:0"
    assert unpaired_reason(first, other) == "other records"
    second.groups["seed"] += 100
    assert unpaired_reason(first, second) == "no seed in common"


@pytest.mark.slow
def test_what_is_no_pair_has_the_interval_of_welch(first, second):
    second = changed(second, "split", "folds", 4)
    second.groups = second.groups[second.groups["seed"] < 4]
    row = at(difference(first, second), strategy="fedavg", epsilon=0.5, group="Black")
    tolls = []
    for study in (first, second):
        own = study.groups.query("group == 'Black' and strategy == 'fedavg' and round == 3").set_index("seed")
        tolls.append(own.query("epsilon == 0.5")["log_loss"] - own.query("mechanism == 'none'")["log_loss"])
    expected = stats.ttest_ind(tolls[1], tolls[0], equal_var=False).confidence_interval(0.95)
    assert (row["low"], row["high"]) == pytest.approx((expected.low, expected.high))
    assert (row["seeds_a"], row["seeds_b"], row["seeds"]) == (6, 4, 0)
    assert row["unpaired"] == "split.folds differs"


def renamed(study: Fake, label: str, name: str, **parameters: float) -> Fake:
    """Rename uniform, the second strategy of a study."""
    study.groups["strategy"] = study.groups["strategy"].replace("uniform", label)
    study.resolved["scenario"]["strategies"][1] = {"name": name, "label": label, **parameters}
    return study


@pytest.mark.slow
def test_strategies_are_paired_by_what_they_are_and_not_by_their_labels(first, second):
    before = difference(first, second)
    after = difference(first, renamed(copy.deepcopy(second), "equal", "uniform"))
    pd.testing.assert_frame_equal(after, before)
    assert ambiguous_labels(first.resolved, second.resolved) == []


@pytest.mark.slow
def test_a_parameter_may_be_written_with_or_without_a_point(first, second):
    first, second = renamed(first, "q", "q", power=2), renamed(second, "q", "q", power=2.0)
    assert "q" in set(difference(first, second)["strategy"])
    assert ambiguous_labels(first.resolved, second.resolved) == []


@pytest.mark.slow
@pytest.mark.parametrize(("name", "parameters"), [("mine.py:uniform", {}), ("uniform", {"power": 2.0})])
def test_one_label_for_two_strategies_is_not_compared(first, second, name, parameters):
    other = renamed(second, "uniform", name, **parameters)
    assert set(difference(first, other)["strategy"]) == {"fedavg", "term(t=5)"}
    assert ambiguous_labels(first.resolved, other.resolved) == [("uniform", "uniform", name)]


@pytest.mark.slow
def test_nothing_in_common_is_nothing_to_compare(first):
    other = adult_race(strategies=("q-fedavg",))
    assert difference(first, other).empty


# The command


def written(folder: Path, study: Fake) -> Path:
    """Write a study to disk as the store does."""
    (folder / "runs").mkdir(parents=True)
    (folder / "resolved.json").write_text(json.dumps(study.resolved))
    for run in study.resolved["runs"]:
        place = folder / "runs" / run["hash"]
        place.mkdir()
        for name in TABLES:
            table = getattr(study, name)
            own = table["strategy"] == run["strategy"]
            own &= (table["epsilon"] == float(run["epsilon"])) & (table["seed"] == run["seed"])
            table[own].drop(columns=RUN).to_parquet(place / f"{name}.parquet", index=False)
    return folder


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Write two studies with three strategies, two budgets and two seeds."""
    one = adult_race(seeds=(0, 1), epsilons=(INF, 2.0, 0.5), records=60)
    other = copy.deepcopy(one)
    other.groups.loc[other.groups["epsilon"] == 0.5, "log_loss"] += 0.02 + 0.001 * other.groups["seed"]
    other.resolved["scenario"]["training"]["clip"] = 1.0
    folder = tmp_path_factory.mktemp("compare")
    return written(folder / "one", one), written(folder / "two", other)


@pytest.fixture(scope="module")
def least(tmp_path_factory):
    study = adult_race(strategies=("fedavg",), seeds=(0, 1), epsilons=(INF, 0.5), records=60)
    return written(tmp_path_factory.mktemp("least") / "one", study)


@pytest.fixture
def folders(least, tmp_path):
    """Two folders for tests to damage."""
    return [Path(shutil.copytree(least, tmp_path / name)) for name in ("one", "two")]


@pytest.mark.slow
def test_the_command_tells_it_in_one_screen(here, wide):
    code, out, err = here("compare", *wide)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert len(lines) <= 32
    assert max(map(len, lines)) <= 100
    clip = next(line for line in lines if line.startswith("training.clip"))
    assert clip.split() == ["training.clip", "3.0", "1.0"]
    assert "ε = 0.5: toll in log-loss, two minus one" in out
    black = [line for line in lines if line.startswith("Black")]  # two tables: two strategies and one
    assert [line.count("0.021 (0.014 to 0.027)") for line in black] == [2, 1]  # .0205 ± 12.7 · .0005
    assert "Paired within 2 seeds" in out
    assert all(group in out for group in GROUPS)
    assert "Also at ε = 2" in out


@pytest.mark.slow
def test_the_command_gives_every_row_as_json(here, wide):
    code, out, _ = here("compare", *wide, "--measure", "tpr", "--json")
    content = json.loads(out)
    assert code == 0
    assert content["measure"] == "tpr"
    assert content["settings"] == [{"key": "training.clip", "first": 3.0, "second": 1.0}]
    assert len(content["differences"]) == 3 * 2 * 6
    assert {row["difference"] for row in content["differences"]} == {0.0}
    assert {row["low"] for row in content["differences"]} == {None}


def test_of_a_partial_sweep_it_says_how_many_seeds_and_what_is_missing(tmp_path, here):
    study = adult_race(strategies=("fedavg", "uniform"), seeds=(0, 1, 2), epsilons=(INF, 0.5), records=60)
    whole = written(tmp_path / "whole", study)
    part = written(tmp_path / "part", study)
    for run in study.resolved["runs"]:
        if (run["strategy"], run["seed"]) == ("uniform", 2):
            shutil.rmtree(part / "runs" / run["hash"])
    out = " ".join(here("compare", whole, part)[1].split())
    assert "Paired within 2 to 3 seeds: same records" in out
    assert "Missing, and in no number here: 2 of 12 runs of part." in out
    assert "Missing" not in here("compare", whole, whole)[1]


def test_a_folder_against_itself_has_no_difference(here, folders):
    code, out, _ = here("compare", folders[0], folders[0])
    assert code == 0
    assert "The same settings, records and versions." in out


@pytest.mark.slow
def test_the_command_says_whether_it_compares_recipes_or_best_constants(here, folders):
    candidate: dict[str, Any] = {"strategy": "fedavg", "mechanism": "none", "epsilon": "inf", "seeds": 1}
    candidate |= {"constants": {"learning_rate": 0.5}, "loss": {"(all)": 0.5}, "chosen": True}
    words = []
    for tuned in ((), (0,), (1,), (0, 1)):
        for i, folder in enumerate(folders):
            file = folder / "resolved.json"
            content = json.loads(file.read_text())
            content["tuning"] = [candidate] if i in tuned else []
            file.write_text(json.dumps(content))
        words.append(here("compare", *folders)[1])
    assert "Both are tolls of recipes: no strategy was tuned." in words[0]
    assert "Unlike quantities: one has prices at best constants, two tolls of its recipe." in words[1]
    assert "Unlike quantities: two has prices at best constants, one tolls of its recipe." in words[2]
    assert "ε = 0.5: price at best constants in log-loss, two minus one" in words[3]
    assert "recipe" not in words[3]


@pytest.mark.slow
def test_unpaired_folders_say_why(here, folders):
    file = folders[1] / "resolved.json"
    content = json.loads(file.read_text())
    content["scenario"]["split"]["folds"] = 4
    file.write_text(json.dumps(content))
    code, out, _ = here("compare", *folders)
    assert code == 0
    assert "Unpaired, 2 and 2 seeds: split.folds differs." in out
    content["runs"] = [r | {"strategy": f"my-{r['strategy']}"} for r in content["runs"]]
    file.write_text(json.dumps(content))
    assert "share no strategy at a finite ε" in here("compare", *folders)[1]


def test_the_command_says_when_a_label_means_two_strategies(here, folders):
    file = folders[1] / "resolved.json"
    content = json.loads(file.read_text())
    content["scenario"]["strategies"] = [{"name": "mine.py:fedavg", "label": "fedavg"}]
    file.write_text(json.dumps(content))
    code, out, _ = here("compare", *folders)
    assert code == 0
    line = "fedavg is not the same strategy in both folders (fedavg and mine.py:fedavg): not compared."
    assert line in out
    assert "share no strategy at a finite ε" in out
    code, out, _ = here("compare", *folders, "--json")
    labels = [{"label": "fedavg", "first": "fedavg", "second": "mine.py:fedavg"}]
    assert json.loads(out)["ambiguous_labels"] == labels


def spoil(folder, how: str) -> None:
    resolved = folder / "resolved.json"
    run = sorted((folder / "runs").iterdir())[0]
    if how == "gone":
        shutil.rmtree(folder)
    elif how == "no file":
        resolved.unlink()
    elif how == "deep":
        resolved.write_text("[" * 100_000)
    elif how == "runs of words":
        resolved.write_text('{"runs": ["a", "b"]}')
    elif how == "runs of nothing":
        resolved.write_text('{"runs": [{}]}')
    elif how == "scenario of words":
        content = json.loads(resolved.read_text())
        resolved.write_text(json.dumps(content | {"scenario": "adult-race"}))
    elif how == "no Parquet":
        (run / "groups.parquet").write_text("no Parquet")
    elif how == "half a run":
        (run / "ledger.parquet").unlink()
    elif how == "other columns":
        for place in (folder / "runs").iterdir():
            pd.DataFrame({"x": [1]}).to_parquet(place / "groups.parquet")
    elif how == "words for numbers":
        for place in (folder / "runs").iterdir():
            table = pd.read_parquet(place / "groups.parquet")
            table.assign(log_loss="much").to_parquet(place / "groups.parquet")


@pytest.mark.parametrize(
    "how",
    [
        "gone",
        "no file",
        "deep",
        "runs of words",
        "runs of nothing",
        "scenario of words",
        "no Parquet",
        "half a run",
        "other columns",
        "words for numbers",
    ],
)
def test_what_is_no_results_folder_is_one_line(here, folders, how):
    spoil(folders[1], how)
    code, out, err = here("compare", *folders)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert str(folders[1]) in err


def test_wrong_usage_is_one_line(here, folders):
    for arguments, word in (
        ([folders[0]], "Missing argument"),
        ([*folders, "--measure", "tpf"], "did you mean 'tpr'"),
    ):
        code, out, err = here("compare", *arguments)
        assert (code, out) == (2, "")
        assert err.count("\n") == 1
        assert word in err


def test_hostile_names_are_shown_as_they_are(here, folders):
    file = folders[1] / "resolved.json"
    file.write_text(file.read_text().replace('"engine": "opacus"', '"engine": "[red]\\u001b[31m"', 1))
    code, out, _ = here("compare", *folders)
    assert code == 0
    assert "[red]\\u001b[31m" in out
    assert "\x1b" not in out
