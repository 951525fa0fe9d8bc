"""A user's own table: every format gives the same features, and every mistake is one line."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import feather

from fedtoll.scenarios.data import (
    Categorical,
    Numeric,
    Source,
    encode,
    load_table,
    source_of,
    user_file,
)
from fedtoll.scenarios.data.config import MOST_FEATURES, MOST_GROUPS, MOST_VALUES
from fedtoll.scenarios.errors import FedtollError, ScenarioError
from fedtoll.scenarios.federation import Federation
from fedtoll.scenarios.run import Run
from fedtoll.server.plan import check, plan
from tests.scenarios.people import OWN, SUFFIXES, declare, people, write
from tests.scenarios.tiny import told


def made(path, **changes):
    """Return the table of a file."""
    return load_table(source_of(declare(path, **changes).data))


def refusal(path, **changes):
    """Return the line with which a file is refused."""
    with pytest.raises(ScenarioError) as caught:
        made(path, **changes)
    return told(caught)


def csv(tmp_path, text):
    path = tmp_path / "people.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def changed(tmp_path, column, row, value, suffix=".csv"):
    """Write a file with another value in one cell (rows count from 1)."""
    frame = people().astype({column: object})
    frame.loc[row - 1, column] = value
    return write(frame, tmp_path / f"people{suffix}")


# --- What is read ---------------------------------------------------------------------------------------


@pytest.fixture
def expected():
    """The table of the same records as a built-in source would declare them."""
    frame = people()
    frame["age"] = frame["age"].clip(18, 90)
    frame["income"] = frame["income"].clip(0, 1_000_000)
    source = Source(
        name="people",
        title="",
        archive=None,
        read=lambda folder: frame,
        version=1,
        fingerprint="",
        licence="",
        citation="",
        rows=0,
        label="approved",
        positive="yes",
        classes=("no", "yes"),
        columns=(
            Numeric.bounded("age", 18, 90),
            Numeric.bounded("income", 0, 1_000_000, "log1p"),
            Categorical("job", ("clerk", "nurse")),
        ),
        counts={"race": {"White": 0, "Black": 0}, "age": {"<=29": 0, "30-44": 0, "45+": 0}},
        bins={"age": (29, 44)},
    )
    return encode(frame, source)


def same(table, other):
    np.testing.assert_array_equal(table.features, other.features)
    np.testing.assert_array_equal(table.label, other.label)
    assert table.feature_names == other.feature_names
    assert table.feature_columns == other.feature_columns
    assert table.classes == other.classes
    assert list(table.attributes) == list(other.attributes)
    for name, attribute in other.attributes.items():
        np.testing.assert_array_equal(table.attributes[name].codes, attribute.codes)
        assert table.attributes[name].names == attribute.names


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".CSV"])
def test_every_form_gives_the_table_that_a_built_in_source_would(tmp_path, expected, suffix):
    found = made(write(people(), tmp_path / f"people{suffix}"))
    same(found, expected)
    assert found.features.shape == (40, 4)
    assert (found.features[:, :2].min(), found.features[:, :2].max()) == (-1, 1)  # cut off at both ends
    assert found.canonical_test is None


def test_texts_whole_numbers_and_booleans_are_the_same_in_every_form(tmp_path):
    frame = people().assign(
        approved=lambda f: f["approved"] == "yes",
        race=lambda f: (f["race"] == "Black").astype(np.int8),
        job=lambda f: f["job"].astype("category"),
    )
    facts = {"positive": True, "negative": [False], "attributes": {"race": {"values": [0, 1]}}}
    tables = [made(write(frame, tmp_path / f"people{suffix}"), **facts) for suffix in SUFFIXES]
    for other in tables[1:]:
        same(tables[0], other)
    assert tables[0].classes == ("False", "True")
    assert tables[0].groups(["race"]).names == ("0", "1")


@pytest.mark.parametrize(
    "kind",
    [pa.int8(), pa.uint64(), pa.float16(), pa.float64(), pa.decimal128(20, 3), pa.string(), pa.large_utf8()],
)
def test_a_number_may_be_of_any_type_that_holds_numbers(tmp_path, kind):
    frame = pa.Table.from_pandas(people().assign(age=lambda f: f["age"].clip(18, 90)), preserve_index=False)
    place = frame.schema.get_field_index("age")
    other = frame.set_column(place, "age", frame["age"].cast(pa.int32()).cast(kind))
    pq.write_table(other, tmp_path / "people.parquet")
    np.testing.assert_array_equal(
        made(tmp_path / "people.parquet").features, made(write(people(), tmp_path / "people.csv")).features
    )


def test_columns_that_are_not_declared_are_not_read(tmp_path):
    text = people().assign(**{"__index_level_0__": 1, 'q"uo,te\nd': 2, "x" * 5000: 3}).to_csv(index=False)
    same(made(csv(tmp_path, text)), made(write(people(), tmp_path / "plain.csv")))
    twice = text.replace("comment", "job ", 1).replace("q", "job ", 1)
    same(made(csv(tmp_path, twice)), made(tmp_path / "plain.csv"))


def test_marks_of_spreadsheets_are_no_mistakes(tmp_path):
    plain = made(write(people(), tmp_path / "plain.csv"))
    text = people().drop(columns="comment").to_csv(index=False)
    for other in (
        "\ufeff" + text,
        text.replace("\n", "\r\n"),
        text.replace("\n", "\r"),
        text.replace("\n", "\n\n"),
    ):
        same(made(csv(tmp_path, other)), plain)


def test_a_missing_text_is_a_value_of_its_own_where_a_scenario_says_so(tmp_path):
    attributes = {"race": {"values": ["White", "Black", "(missing)"]}}
    for suffix in SUFFIXES:
        frame = people()
        frame.loc[[0, 4], "job"] = None
        frame.loc[[4, 5], "race"] = None
        found = made(write(frame, tmp_path / f"people{suffix}"), missing="category", attributes=attributes)
        assert found.feature_names[2:] == ("job=clerk", "job=nurse", "job=(missing)")
        np.testing.assert_array_equal(np.flatnonzero(found.features[:, 4]), [0, 4])
        race = found.groups(["race"])
        np.testing.assert_array_equal(np.flatnonzero(race.codes == 2), [4, 5])
        assert race.names == ("White", "Black", "(missing)")


def test_all_that_is_not_positive_is_one_class(tmp_path):
    frame = people()
    frame.loc[frame.index[::5], "approved"] = "pending"
    found = made(write(frame, tmp_path / "people.csv"), negative=["no", "pending"])
    assert found.classes == ("not yes", "yes")
    np.testing.assert_array_equal(found.label, frame["approved"] == "yes")


def test_centre_and_scale_leave_numbers_as_they_are(tmp_path):
    facts = {"age": {"centre": 50, "scale": 10}, "income": {"centre": 10, "scale": 2, "transform": "log1p"}}
    found = made(write(people(), tmp_path / "people.csv"), columns=facts)
    np.testing.assert_allclose(found.features[:, 0], (people()["age"] - 50) / 10, rtol=1e-6)
    np.testing.assert_allclose(found.features[:, 1], (np.log1p(people()["income"]) - 10) / 2, rtol=1e-6)


def test_nothing_is_fitted_on_records(tmp_path):
    whole = made(write(people(), tmp_path / "people.csv"))
    for row in (0, 17):
        alone = made(write(people().iloc[[row]], tmp_path / "one.csv"))
        np.testing.assert_array_equal(alone.features[0], whole.features[row])


# --- Mistakes in the records ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("job", "cleark", "column 'job' holds the undeclared value 'cleark' in row 3; did you mean 'clerk'?"),
        ("job", " clerk", "the undeclared value ' clerk' in row 3; did you mean 'clerk'?"),
        ("job", "x" * 5000, f"the undeclared value '{'x' * 60}…' in row 3; known: clerk, nurse"),
        ("job", "a\nb", r"the undeclared value 'a\nb' in row 3; known: clerk, nurse"),
        ("job", None, "column 'job' has no value in row 3; data.own.missing = 'category' makes"),
        ("job", "  ", "column 'job' has no value in row 3"),
        ("race", "white", "column 'race' holds the undeclared value 'white' in row 3; did you mean 'White'?"),
        ("race", "NA", "column 'race' holds the undeclared value 'NA' in row 3"),
        (
            "approved",
            "Yes",
            "column 'approved' holds the undeclared value 'Yes' in row 3; did you mean 'yes'?",
        ),
        ("approved", None, "column 'approved' has no value in row 3, and a label cannot be missing"),
        ("age", None, "column 'age' has no value in row 3; declare what is read in its place"),
        ("age", "old", "column 'age' holds 'old' in row 3, which is not a number"),
        ("age", "2020-01-31", "column 'age' holds '2020-01-31' in row 3, which is not a number"),
        ("age", "True", "column 'age' holds 'True' in row 3, which is not a number"),
        ("income", "1.234,5", "column 'income' holds '1.234,5' in row 3, which is not a number"),
        ("income", "1_000", "column 'income' holds '1_000' in row 3, which is not a number"),
        ("income", "0x10", "column 'income' holds '0x10' in row 3, which is not a number"),
        ("income", "٣", "column 'income' holds '٣' in row 3, which is not a number"),
        ("income", "NaN", "column 'income' has no value in row 3; declare what is read"),
        ("income", "-inf", "column 'income' holds -inf in row 3, which is not finite"),
        ("income", "1e999", "column 'income' holds inf in row 3, which is not finite"),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".tsv.gz", ".parquet"])
def test_a_value_that_does_not_fit_is_reported_with_its_place(tmp_path, column, value, expected, suffix):
    if suffix == ".parquet" and column in {"age", "income"}:
        frame = people().astype({column: str})
        frame.loc[2, column] = value
        path = write(frame, tmp_path / "people.parquet")
    else:
        path = changed(tmp_path, column, 3, value, suffix)
    line = refusal(path)
    assert line.startswith(f"data 'people{suffix}': ")
    assert expected in line


@pytest.mark.parametrize("suffix", [".parquet", ".feather"])
@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        ("age", [True, False], "column 'age' has type bool, but is declared as a number"),
        ("age", pd.to_datetime(["2020-01-01", "2020-01-02"]), "column 'age' has type timestamp"),
        ("age", [float("nan"), 2.0], "column 'age' "),
        ("age", [np.inf, 2.0], "column 'age' holds inf in row 1, which is not finite"),
        ("age", [None, None], "column 'age' has no value in row 1"),
        ("age", [[1], [2]], "column 'age' has type list"),
        (
            "job",
            [1.5, 2.5],
            "column 'job' holds the undeclared value '1.5' in row 1 (and 1 more)",
        ),
        ("job", pd.to_datetime(["2020-01-01", "2020-01-02"]), "column 'job' has type timestamp"),
        ("job", [b"clerk", b"nurse"], "column 'job' has type binary"),
        ("job", [None, None], "column 'job' has no value in row 1"),
        (
            "job",
            [1, 2],
            "column 'job' holds the undeclared value '1' in row 1 (and 1 more); known: clerk, nurse",
        ),
        ("approved", [True, False], "column 'approved' holds the undeclared value 'True' in row 1"),
    ],
)
def test_a_column_of_another_type_is_refused(tmp_path, suffix, column, values, expected):
    line = refusal(write(people(2).assign(**{column: values}), tmp_path / f"people{suffix}"))
    assert expected in line


def test_a_group_without_a_declared_name_for_the_missing_is_an_error_that_says_what_to_add(tmp_path):
    line = refusal(changed(tmp_path, "race", 7, None), missing="category")
    assert "column 'race' has no value in row 7; add '(missing)' to data.own.attributes.race.values" in line


def test_numbers_that_make_no_feature_are_refused(tmp_path):
    path = write(people(), tmp_path / "people.csv")
    line = refusal(path, columns={"age": {"centre": 50, "scale": 1e-300}})
    assert "scales from its centre; declare low and high" in line
    path = changed(tmp_path, "income", 5, -1)
    line = refusal(path, columns={"income": {"centre": 10, "scale": 2, "transform": "log1p"}})
    assert "column 'income' holds -1 in row 5, but log1p needs numbers above -1" in line


HEADER = "age,income,job,race,approved\n"
ROW = "30,1000,clerk,White,yes\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "data.file = '{path}': is empty"),
        ("\n\r\n", "is empty"),
        ("\ufeff", "is empty"),
        (HEADER, "holds no records"),
        (HEADER.strip(), "holds no records"),
        (HEADER + "\n\n", "holds no records"),
        (HEADER.replace("job", "jobb") + ROW, "no column 'job' in the file; did you mean 'jobb'?"),
        (HEADER.replace("job", " job") + ROW, "no column 'job' in the file; did you mean ' job'?"),
        (HEADER.replace("income", "age") + ROW, "column 'age' appears 2 times in the file; rename one"),
        (
            (HEADER + ROW).replace(",", ";"),
            "cells seem to be separated by semicolons; a .csv needs commas, a .tsv tabs",
        ),
        ((HEADER + ROW).replace(",", "\t"), "cells seem to be separated by tabs"),
        (HEADER + ROW + "30,1000,clerk,White\n", "row 2 has 4 cells, the header 5"),
        (HEADER + ROW + "30,1,000,clerk,White,yes\n", "row 2 has 6 cells, the header 5"),
        (HEADER + '30,1000,"clerk,White,yes\n', 'a quotation mark (") is not closed'),
        ((HEADER + ROW).encode("utf-16"), "is UTF-16, not UTF-8 text; save it as UTF-8"),
        (
            (HEADER + ROW * 2 + ROW.replace("clerk", "clerké")).encode("latin-1"),
            "column 'job' is not UTF-8 text in row 3",
        ),
        ((HEADER.replace("age", "âge") + ROW).encode("latin-1"), "its header is not UTF-8 text"),
        (HEADER + ROW.replace("clerk", "x" * 2**25), "cannot be read as CSV"),
        (b"\x00" * 100, "no column 'approved' in the file"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path, text, expected):
    path = csv(tmp_path, text)
    assert expected.format(path=path) in refusal(path)


@pytest.mark.parametrize("suffix", [".parquet", ".feather", ".csv.gz"])
def test_a_damaged_file_is_refused(tmp_path, suffix):
    whole = write(people(), tmp_path / f"whole{suffix}").read_bytes()
    kind = {".parquet": "as Parquet", ".feather": "as Feather", ".csv.gz": "unpacked as gzip"}[suffix]
    path = tmp_path / f"people{suffix}"
    for damaged in (whole[:-7], whole[: len(whole) // 2], b"not what its name says" * 9, whole[:4]):
        path.write_bytes(damaged)
        assert kind in refusal(path)


@pytest.mark.parametrize("write_table", [pq.write_table, feather.write_feather])
def test_columns_that_stand_twice_are_refused_in_every_form(tmp_path, write_table):
    frame = pa.Table.from_pandas(people(), preserve_index=False)
    path = tmp_path / ("people.parquet" if write_table is pq.write_table else "people.feather")
    write_table(frame.append_column("race", frame["job"]), path)
    assert "column 'race' appears 2 times in the file; rename one" in refusal(path)
    write_table(frame.append_column("comment", frame["job"]), path)  # nobody asks for that one
    made(path)


def test_what_is_too_large_is_refused_with_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(user_file, "MOST_ROWS", 39)
    for suffix in (".csv", ".parquet", ".feather"):
        path = write(people(), tmp_path / f"people{suffix}")
        assert "holds 40 records, more than 39" in refusal(path)
    monkeypatch.setattr(user_file, "MOST_ROWS", 40)
    monkeypatch.setattr(user_file, "MOST_CELLS", 199)
    for suffix in (".csv", ".parquet", ".feather"):
        line = refusal(tmp_path / f"people{suffix}")
        assert "40 records of 5 columns are more than 199 cells" in line
    monkeypatch.setattr(user_file, "MOST_CELLS", 239)
    job = {"job": {"values": ["clerk", "nurse", "a", "b", "c", "d"]}}
    line = refusal(tmp_path / "people.csv", columns=job)
    assert "40 records of 6 features are more than 239 cells" in line
    monkeypatch.setattr(user_file, "MOST_BYTES", 1000)
    assert "GiB, more than 1 GiB" in refusal(tmp_path / "people.csv")
    path = tmp_path / "small.csv.gz"
    path.write_bytes(gzip.compress(b"age\n" * 5000))
    assert "has more than 1 GiB unpacked" in refusal(path)


# --- Mistakes in the name of the file -------------------------------------------------------------------


def test_a_file_that_is_not_there_suggests_the_nearest(tmp_path):
    write(people(), tmp_path / "people.csv")
    (tmp_path / "people.txt").write_text("x")
    (tmp_path / "folder.csv").mkdir()
    for name, expected in {
        "peple.csv": "no such file; did you mean 'people.csv'?",
        "people.parquet": "no such file; known: people.csv",
        "none/people.csv": "no such file; no such folder either: ",
        "people.txt": "unknown suffix of a table; known: .csv, .csv.bz2, .csv.gz, .csv.zst, .feather",
        "folder.csv": "a folder, not a file",
        "people.csv/x.csv": "no such file",
        "x" * 300 + ".csv": "cannot be read (File name too long)",
        "a\nb.csv": "no such file",
    }.items():
        line = refusal(tmp_path / name)
        assert line.startswith(f"data.file = '{tmp_path}")
        assert expected in line
    (tmp_path / "loop.csv").symlink_to("loop.csv")
    assert "data.file" in refusal(tmp_path / "loop.csv")
    os.mkfifo(tmp_path / "pipe.csv")
    assert "a device, not a file" in refusal(tmp_path / "pipe.csv")


def test_a_file_that_may_not_be_read_is_reported(tmp_path, monkeypatch):
    path = write(people(), tmp_path / "people.csv")
    monkeypatch.setattr(os, "access", lambda *_: False)  # the tests may run as root, who may read all
    assert refusal(path).endswith("cannot be read (Permission denied)")
    monkeypatch.undo()
    source = source_of(declare(path).data)
    path.unlink()
    with pytest.raises(ScenarioError, match=r"data 'people.csv': cannot be read \(No such file"):
        load_table(source)


@pytest.mark.parametrize("name", ["a\\u0000b.csv", "~nobody-has-this-name/x.csv"])
def test_a_path_that_is_none_is_reported(here, tmp_path, name):
    text = TOML.replace('"people.csv"', f'"{name}"')
    (tmp_path / "mine.toml").write_text(text)
    code, _, err = here("check", "mine.toml")
    assert code == 2
    assert err.startswith("fedtoll: mine.toml: data.file = ")
    assert err.count("\n") == 1


# --- Mistakes in the declaration ------------------------------------------------------------------------


def _many(n, **facts):
    return {f"c{i}": facts for i in range(n)}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"label": "age"}, "data.own: columns.age: this column is the label already"),
        ({"label": "race"}, "data.own: attributes.race: this column is the label already"),
        ({"negative": ["yes"]}, "data.own: 'yes' appears twice"),
        ({"negative": []}, "data.own: negative: required, or classes"),
        ({"positive": 1.5}, "data.own.positive = 1.5"),
        ({"positive": ""}, "data.own.positive = '': must not be empty"),
        ({"labl": "x"}, "data.own.labl: unknown key; did you mean 'label'?"),
        ({"missing": "categry"}, "data.own.missing = 'categry': unknown; did you mean 'category'?"),
        ({"columns": {}}, "data.own.columns"),
        ({"columns": {"age": {"low": 18}}}, "data.own.columns.age: give low and high"),
        ({"columns": {"age": {"low": 18, "high": 18}}}, "data.own.columns.age: low must be less than high"),
        ({"columns": {"age": {"low": "18", "high": 90}}}, "data.own.columns.age.low = '18'"),
        ({"columns": {"age": {"low": float("nan"), "high": 90}}}, "data.own.columns.age.low = nan"),
        ({"columns": {"age": {"low": -1.7e308, "high": 1.7e308}}}, "too close together or too far apart"),
        ({"columns": {"age": {"low": 0, "high": 5e-324}}}, "too close together or too far apart"),
        ({"columns": {"age": {"low": -2, "high": 9, "transform": "log1p"}}}, "needs numbers above -1"),
        (
            {"columns": {"age": {"low": 18, "hgh": 90}}},
            "data.own.columns.age.hgh: unknown key; did you mean 'high'?",
        ),
        (
            {"columns": {"low": {"low": 18, "hgh": 90}}},
            "data.own.columns.low.hgh: unknown key; did you mean 'high'?",
        ),
        ({"columns": {"job": {"values": ["a", "a"]}}}, "data.own.columns.job: 'a' appears twice"),
        ({"columns": {"job": {"values": [1.5]}}}, "data.own.columns.job.values[0] = 1.5"),
        ({"columns": {"a\nb": {"values": ["a"]}}}, r"data.own.columns.'a\nb' = 'a\nb': must be one line"),
        ({"columns": {"x" * 201: {"values": ["a"]}}}, "has 201 characters, more than 200"),
        ({"columns": {"canonical_test": {"low": 0, "high": 1}}}, "a reserved name; rename the column"),
        (
            {"columns": {"job": {"values": [f"v{i}" for i in range(1001)]}}},
            "values: 1,001, more than 1,000 per column",
        ),
        (
            {"columns": _many(2001, low=0, high=1)},
            "columns: 2,001 features, more than 2,000",
        ),
        ({"attributes": {}}, "data.own.attributes"),
        (
            {"attributes": {"race": {"values": ["a"], "bins": [1]}}},
            "data.own.attributes.race: give values or bins",
        ),
        (
            {"attributes": {"race": {"values": ["(all)"]}}},
            "'(all)' is reserved for a group of fedtoll's",
        ),
        ({"attributes": {"race": {"values": ["a", "a"]}}}, "data.own.attributes.race: 'a' appears twice"),
        ({"attributes": {"race": {"bins": [2, 1]}}}, "bins must be in increasing order"),
        ({"attributes": {"race": {"bins": list(range(200))}}}, "201 groups, more than 200 per attribute"),
        (
            {"attributes": {"age": {"values": ["a"]}}},
            "attributes.age: columns.age is a number; give bins",
        ),
        ({"attributes": {"job": {"bins": [1]}}}, "attributes.job: columns.job is a text; give values"),
        ({"attributes": {"age": {"bins": [90]}}}, "attributes.age.bins: 90 is outside 18 to 90"),
    ],
)
def test_a_declaration_that_contradicts_itself_is_refused(tmp_path, changes, expected):
    with pytest.raises(ScenarioError) as caught:
        declare(tmp_path / "people.csv", **changes)
    assert told(caught).startswith("mine.toml: data.own")
    assert expected in told(caught)


def test_crossings_are_bounded_and_unambiguous(tmp_path):
    attributes = {"a": {"values": [f"{i}" for i in range(20)]}, "b": {"values": [f"{i}" for i in range(11)]}}
    with pytest.raises(ScenarioError, match="the crossing has 220 groups, more than 200"):
        declare(tmp_path / "people.csv", attributes=attributes, data={"groups": ["a", "b"]})
    attributes = {"a": {"values": ["x", "x/y"]}, "b": {"values": ["z", "y/z"]}}
    with pytest.raises(ScenarioError, match="'x/y/z' appears twice"):
        declare(tmp_path / "people.csv", attributes=attributes, data={"groups": ["a", "b"]})


def test_the_limits_are_those_of_the_guide():
    guide = (Path(__file__).parents[2] / "docs/data.md").read_text(encoding="utf-8")
    for number in (MOST_VALUES, MOST_FEATURES, MOST_GROUPS, user_file.MOST_ROWS, user_file.MOST_CELLS):
        assert f"{number:,}" in guide
    assert f"{user_file.MOST_BYTES // 2**30} GiB" in guide


# --- Checksums ------------------------------------------------------------------------------------------


def test_the_checksum_is_of_the_bytes_and_the_declaration_not_of_the_place(tmp_path):
    path = write(people(), tmp_path / "people.csv")
    (tmp_path / "elsewhere").mkdir()
    moved = shutil.copy(path, tmp_path / "elsewhere" / "others.csv")
    first = plan(declare(path), "mine.toml").runs[0]
    second = plan(declare(moved), "mine.toml").runs[0]
    assert len(first.checksum) == 64
    assert (first.checksum, first.hash) == (second.checksum, second.hash)
    assert str(tmp_path) not in source_of(declare(path).data).checksum

    others = {
        "bytes": plan(declare(changed(tmp_path / "elsewhere", "age", 3, 44)), "x").runs[0],
        "bounds": plan(declare(path, columns={**OWN["columns"], "age": {"low": 18, "high": 91}}), "x").runs[
            0
        ],
        "order": plan(declare(path, columns=dict(reversed(OWN["columns"].items()))), "x").runs[0],
        "missing": plan(declare(path, missing="category"), "x").runs[0],
    }
    assert len({run.checksum for run in others.values()} | {first.checksum}) == 5
    assert len({run.hash for run in others.values()} | {first.hash}) == 5


def test_a_run_crosses_processes_with_the_order_of_its_columns(tmp_path):
    path = write(people(), tmp_path / "people.csv")
    run = plan(declare(path), "mine.toml").runs[0]
    again = Run.from_json(run.to_json())
    user_table = again.data.own
    assert user_table is not None
    assert list(user_table.columns) == ["age", "income", "job"]
    assert list(user_table.attributes) == ["race", "age"]
    assert (again, again.hash, hash(again.data)) == (run, run.hash, hash(run.data))
    federation = Federation.of(run)
    assert Federation.of(again, like=federation) is federation  # read once


def test_a_worker_that_finds_other_bytes_says_so(tmp_path):
    path = write(people(), tmp_path / "people.csv")
    run = plan(declare(path), "mine.toml").runs[0]
    changed(tmp_path, "age", 3, 44)
    with pytest.raises(FedtollError) as caught:
        Federation.of(run)
    assert re.fullmatch(
        r"data 'people.csv': not the records that were planned with \(checksum \w{12}, here \w{12}\); "
        "run the command again",
        str(caught.value),
    )


def test_a_file_that_changes_between_two_looks_is_reported(tmp_path):
    path = write(people(), tmp_path / "people.csv")
    source = source_of(declare(path).data)
    assert source.checksum
    changed(tmp_path, "age", 3, 44)
    with pytest.raises(ScenarioError, match="changed while it was in use; run the command again"):
        load_table(source)


def test_a_changed_file_is_read_again_by_the_next_plan_and_an_unchanged_one_is_not(tmp_path):
    path = write(people(), tmp_path / "people.csv")
    scenario = declare(path)
    first = plan(scenario, "mine.toml")
    again = plan(scenario, "mine.toml", like=first.federation)
    assert again.runs[0] == first.runs[0]
    assert again.federation is first.federation
    changed(tmp_path, "age", 3, 44)
    # A process at work keeps what it has.
    assert Federation.of(first.runs[0], like=first.federation) is first.federation
    second = plan(scenario, "mine.toml", like=first.federation)
    assert second.runs[0].checksum != first.runs[0].checksum
    assert second.federation.table is not first.federation.table


def test_a_check_reads_no_record(tmp_path, monkeypatch):
    path = write(people(), tmp_path / "people.csv")
    monkeypatch.setattr(user_file.TableFile, "_content", lambda _: pytest.fail("the file was read"))
    monkeypatch.setattr(user_file.TableFile, "sha256", property(lambda _: pytest.fail("the file was read")))
    check(declare(path), "mine.toml")
    with pytest.raises(
        ScenarioError, match=r"mine.toml: data.groups = 'rase': not a column of people.csv; did you"
    ):
        check(declare(path, data={"groups": ["rase"]}), "mine.toml")
    with pytest.raises(ScenarioError, match=r"mine.toml: data.file = .*no such file"):
        check(declare(tmp_path / "peple.csv"), "mine.toml")


def test_clients_may_be_counted_by_the_values_of_a_column_and_by_the_rest(tmp_path):
    path = write(people(), tmp_path / "people.csv")
    by_job = {"kind": "column", "column": "job", "clients": {"nurse": 2}}
    facts = {"attributes": {**OWN["attributes"], "job": {"values": ["clerk", "nurse"]}}}
    assert len(plan(declare(path, partition=by_job, **facts), "x").runs[0].clients) == 3
    for wrong in ({"clients": {"nurs": 2}}, {"column": "jb"}):
        with pytest.raises(ScenarioError, match="did you mean"):
            check(declare(path, partition={**by_job, **wrong}, **facts), "x")
    floor = declare(path, data={"floor": 20}, partition={"clients": {"(rest)": 2}})
    assert [c.group for c in plan(floor, "x").runs[0].clients] == ["White", "(rest)", "(rest)"]


def test_a_declared_group_without_a_record_is_an_error_or_left_out_by_a_floor(tmp_path):
    path = write(people(), tmp_path / "people.csv")
    facts = {"attributes": {"race": {"values": ["White", "Asian", "Black"]}}}
    with pytest.raises(ScenarioError, match=r"group 'Asian' of race has no records in 'people\.csv'"):
        plan(declare(path, **facts), "x")
    assert plan(declare(path, data={"floor": 1}, **facts), "x").runs[0].groups == ("White", "Black")


# --- The command line -----------------------------------------------------------------------------------

TOML = """\
name = "mine"
title = "Who pays among my people?"
seeds = "0:2"

[data]
file = "people.csv"
groups = ["race"]

[data.own]
label = "approved"
positive = "yes"
negative = ["no"]

[data.own.columns]
age = { low = 18, high = 90 }
income = { low = 0, high = 1000000, transform = "log1p" }
job = { values = ["clerk", "nurse"] }

[data.own.attributes]
race = { values = ["White", "Black"] }
age = { bins = [29, 44] }

[training]
rounds = 2
sampling_rate = 0.5
local_steps = 2
learning_rate = 1.0
clip = 1.0

[privacy]
epsilons = ["inf", 4]

[[strategies]]
name = "fedavg"
"""


@pytest.mark.slow
def test_a_run_on_a_file_of_ones_own(here, tmp_path):
    (tmp_path / "mine.toml").write_text(TOML)
    write(people(200), tmp_path / "people.csv")
    assert here("check", "mine.toml")[:2] == (0, "mine.toml: valid, 4 runs\n")
    code, out, err = here("run", "mine.toml", "--executor", "serial")
    assert code == 0, err
    assert "Black" in out
    resolved = json.loads((tmp_path / "results/mine/resolved.json").read_text())
    assert resolved["data"] == {
        "source": "people.csv",
        "title": "A table of your own",
        "rows": 200,
        "licence": "yours: fedtoll knows of none",
        "citation": "Label, columns and groups are declared by you.",
        "checksum": resolved["data"]["checksum"],
    }
    page = (tmp_path / "results/mine/report.html").read_text()
    assert (
        "A table of your own (people.csv), 200 records. Label, columns and groups are declared by you."
        in page
    )

    (tmp_path / "moved").mkdir()
    for name in ("mine.toml", "people.csv", "results"):
        (tmp_path / name).rename(tmp_path / "moved" / name)
    code, _, err = here("run", "moved/mine.toml", "--executor", "serial", "--out", "moved/results/mine")
    assert code == 0
    assert "4 of 4 runs are stored already" in err


def test_a_mistake_in_the_file_is_one_line_and_nothing_is_written(here, tmp_path):
    (tmp_path / "mine.toml").write_text(TOML)
    changed(tmp_path, "job", 3, "cleark")
    code, out, err = here("run", "mine.toml", "--executor", "serial")
    assert (code, out) == (2, "")
    assert err == (
        "fedtoll: mine.toml: data 'people.csv': column 'job' holds the undeclared value 'cleark' in row 3; "
        "did you mean 'clerk'?\n"
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine.toml", "people.csv"]


# --- All errors at once, and what is said about the records ---------------------------------------------


def test_all_columns_that_do_not_fit_are_named_at_once_with_counts(tmp_path):
    frame = people().astype(object)
    frame.loc[[2, 5, 9], "job"] = "pilot"
    frame.loc[3, "age"] = "old"
    frame.loc[[4, 6], "approved"] = ""
    line = refusal(write(frame, tmp_path / "people.csv"))
    assert line == (
        "data 'people.csv': 3 columns are not as declared: "
        "(1) column 'age' holds 'old' in row 4, which is not a number; "
        "(2) column 'job' holds the undeclared value 'pilot' in row 3 (and 2 more); known: clerk, nurse; "
        "(3) column 'approved' has no value in row 5 (and 1 more), and a label cannot be missing"
    )


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_whole_numbers_with_decimals_match_declared_ones(tmp_path, suffix):
    codes = np.arange(40) % 2
    declared = {"columns": {"job": {"values": [0, 1]}}}
    tables = [
        made(write(people().assign(job=job), tmp_path / f"people{suffix}"), **declared)
        for job in (codes, codes.astype(float))
    ]
    assert np.array_equal(tables[0].features, tables[1].features)
    assert set(tables[0].features[:, -1]) == {0.0, 1.0}
    line = refusal(write(people().assign(job=codes + 0.5), tmp_path / f"people{suffix}"), **declared)
    assert "undeclared value '0.5' in row 1 (and 39 more)" in line


def test_title_licence_and_citation_are_shown_and_change_no_run(tmp_path):
    path = write(people(), tmp_path / "people.csv")
    plain, said = declare(path), declare(path, title="My table", licence="CC0-1.0", citation="Doe 2026")
    sources = [source_of(scenario.data) for scenario in (plain, said)]
    assert (sources[1].title, sources[1].licence, sources[1].citation) == ("My table", "CC0-1.0", "Doe 2026")
    assert sources[0].checksum == sources[1].checksum
    runs = [plan(scenario, "x").runs[0] for scenario in (plain, said)]
    assert runs[0].hash == runs[1].hash
    assert '"licence":' not in runs[0].to_json()
