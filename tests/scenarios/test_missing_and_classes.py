"""A table of the user's own: numbers that are missing, and labels with three or more classes."""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fedtoll.scenarios.errors import ScenarioError
from tests.scenarios.people import OWN, SCENARIO, declare, people, write
from tests.scenarios.test_user_table import changed, made, refusal
from tests.scenarios.tiny import told


def columns(**facts):
    """Return the declared columns with other facts for one."""
    return {name: OWN["columns"][name] | facts.get(name, {}) for name in OWN["columns"]}


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".feather"])
def test_a_missing_number_is_the_declared_one_and_marked_by_a_feature(tmp_path, suffix):
    whole = made(write(people(), tmp_path / f"whole{suffix}"), attributes={"race": OWN["attributes"]["race"]})
    frame = people().astype({"age": object})
    frame.loc[[2, 5], "age"] = [None, None if suffix == ".csv" else float("nan")]
    path = write(frame, tmp_path / f"people{suffix}")
    attributes = {"race": OWN["attributes"]["race"]}
    table = made(path, columns=columns(age={"missing": 54}), attributes=attributes)
    at = table.feature_names.index("age")
    assert table.feature_names[at + 1] == "age=(missing)"
    assert np.flatnonzero(table.features[:, at + 1]).tolist() == [2, 5]
    assert table.features[[2, 5], at].tolist() == [0, 0]  # 54 is the middle of 18 to 90
    rest = [i for i in range(len(table)) if i not in {2, 5}]
    assert np.array_equal(np.delete(table.features, at + 1, axis=1)[rest], whole.features[rest])
    assert "age=(missing)" not in table.without(["age"]).feature_names


def test_a_missing_number_that_is_not_declared_says_how_to(tmp_path):
    line = refusal(changed(tmp_path, "age", 3, None))
    assert "column 'age' has no value in row 3; declare what is read" in line
    assert "data.own.columns.age.missing" in line


def test_texts_for_missing_values_are_declared(tmp_path):
    path = changed(tmp_path, "age", 3, "NA")
    line = refusal(path)
    assert "'NA' in row 3, which is not a number; data.own.blank = ['NA'] says" in line
    attributes = {"race": OWN["attributes"]["race"]}
    table = made(path, columns=columns(age={"missing": 54}), attributes=attributes, blank=["NA"])
    assert table.features[2, table.feature_names.index("age=(missing)")] == 1
    frame = people()
    frame.loc[1, "job"] = " ? "
    table = made(write(frame, tmp_path / "jobs.csv"), blank=["?"], missing="category")
    assert table.features[1, table.feature_names.index("job=(missing)")] == 1


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"age": {"missing": 17}}, "missing: 17 is outside 18 to 90"),
        ({"age": {"missing": "x"}}, "data.own.columns.age.missing = 'x'"),
        ({"job": {"missing": 1}}, "missing: is for numbers; data.own.missing = 'category' is for texts"),
        (
            {"age": {"missing": 54}},
            "attributes.age: columns.age has missing numbers, which belong to no group",
        ),
    ],
)
def test_what_is_read_for_a_missing_number_must_fit(tmp_path, facts, expected):
    with pytest.raises(ScenarioError) as caught:
        declare(tmp_path / "people.csv", columns=columns(**facts), attributes={"age": {"bins": [29]}})
    assert expected in told(caught)


def test_facts_without_missing_numbers_keep_their_json_and_checksum(tmp_path):
    own = declare(write(people(), tmp_path / "people.csv")).data.own
    assert own is not None
    content = json.loads(own.model_dump_json())
    assert not {"classes", "blank"} & set(content)
    assert all("missing" not in facts for facts in content["columns"].values())
    with_missing = declare(tmp_path / "people.csv", columns=columns(income={"missing": 50_000})).data.own
    assert with_missing is not None
    assert json.loads(with_missing.model_dump_json())["columns"]["income"]["missing"] == 50_000


THREE: dict[str, Any] = {"classes": ["low", "middle", "high"], "positive": None, "negative": []}


def levels(path, n=24):
    frame = people(n)
    frame["approved"] = [THREE["classes"][i % 3] for i in range(n)]
    return write(frame, path)


def test_three_values_of_the_label_are_three_classes(tmp_path):
    table = made(levels(tmp_path / "people.csv"), **THREE)
    assert table.classes == ("low", "middle", "high")
    assert table.label[:4].tolist() == [0, 1, 2, 0]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"classes": ["a", "b"], "positive": None, "negative": []}, "classes: needs three or more"),
        ({"classes": ["a", "b", "c"]}, "classes: give either these, or positive and negative"),
        ({"classes": ["a", "b", "b"], "positive": None, "negative": []}, "'b' appears twice"),
        ({"positive": None}, "positive: required, or classes with three or more values"),
        ({**THREE, "blank": ["high"]}, "blank: 'high' is a value of the label"),
    ],
)
def test_classes_that_contradict_other_keys_are_refused(tmp_path, changes, expected):
    with pytest.raises(ScenarioError) as caught:
        declare(tmp_path / "people.csv", **changes)
    assert expected in told(caught)


@pytest.mark.slow
def test_a_run_with_three_classes_has_no_rates(here, tmp_path):
    """Log-loss and accuracy are measured; rates that need two classes are undefined, and the page says so."""
    levels(tmp_path / "people.csv")
    content = copy.deepcopy(SCENARIO)
    content["data"] |= {"file": "people.csv"}
    del content["data"]["own"]["positive"]
    content["data"]["own"] |= {"classes": THREE["classes"], "negative": []}
    content["privacy"]["epsilons"] = ["inf", 8]
    (tmp_path / "mine.json").write_text(json.dumps(content))
    code, out, err = here("run", tmp_path / "mine.json", "--executor", "serial", "--no-probe", "--out", "r")
    assert code == 0, err
    groups = (
        pd.read_parquet(tmp_path / "r/groups.parquet") if (tmp_path / "r/groups.parquet").exists() else None
    )
    from fedtoll.server.results import load

    groups = load(tmp_path / "r").groups
    assert groups["log_loss"].notna().all()
    assert groups["accuracy"].notna().all()
    assert groups["tpr"].isna().all()
    assert "true-positive rate" not in out
    page = (tmp_path / "r/report.html").read_text(encoding="utf-8")
    assert "three or more classes" in page or "more than two classes" in page
