"""Data sources that are plug-ins: read like a user's own table, part of every hash, refused in one line."""

from __future__ import annotations

import json
import re
import shlex
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedtoll
from fedtoll.scenarios import plugins
from fedtoll.scenarios.data import DataSource, load_table, named, plugin, source_of
from fedtoll.scenarios.data.config import TableFacts
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.federation import Federation
from fedtoll.scenarios.read import read
from fedtoll.scenarios.resolved import private_records
from fedtoll.scenarios.run import Run
from fedtoll.server.plan import check, plan
from fedtoll.sweep.export import export
from tests.scenarios.people import people

PAGE = (Path(__file__).parents[2] / "docs/data.md").read_text(encoding="utf-8")
EXAMPLE = next(b for b in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if b.startswith("# mine.py"))
CSV, TOML = (re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)[0] for kind in ("csv", "toml"))
MINE = re.sub(r"file = .*\n", 'source = "mine.py:Applicants"\n', TOML)
MINE = re.sub(r"\[data\.own\].*?(?=\[partition\])", "", MINE, flags=re.DOTALL)

SOURCE = """\
import numpy as np
import pandas as pd
from fedtoll.scenarios.data import DataSource

class Mine(DataSource):
    label, positive, negative = "y", "a", ["b"]
    columns = {"x": {"low": 0, "high": 1}}
    attributes = {"g": {"values": ["u", "v"]}}

    def table(self):
        return pd.DataFrame({"y": ["a", "b"] * 20, "x": [0.5] * 40, "g": ["u"] * 20 + ["v"] * 20})
"""
FRAME = SOURCE.splitlines()[-1].strip().removeprefix("return ")


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """Return the scenario of the page's example, in a folder with its table and its class."""
    (tmp_path / "people.csv").write_text(CSV)
    (tmp_path / "people.toml").write_text(TOML)
    (tmp_path / "mine.py").write_text(EXAMPLE)
    (tmp_path / "mine.toml").write_text(MINE)
    return tmp_path / "mine.toml"


def first(file: Path) -> Run:
    return plan(read(str(file)), file.name).runs[0]


# What it is.


def test_the_example_of_the_page_is_short_and_reads_what_the_own_table_reads(mine):
    assert len([line for line in EXAMPLE.splitlines() if line.strip()]) <= 20
    given, own = (source_of(read(str(mine.with_name(f"{name}.toml"))).data) for name in ("mine", "people"))
    a, b = load_table(given), load_table(own)
    assert a.feature_names == b.feature_names
    np.testing.assert_array_equal(a.features, b.features)
    np.testing.assert_array_equal(a.label, b.label)
    assert {k: v.names for k, v in a.attributes.items()} == {k: v.names for k, v in b.attributes.items()}
    assert given.checksum != own.checksum
    assert (given.name, given.title, given.public) == ("mine.py:Applicants", "Who gets a loan?", False)


def test_a_check_reads_no_record(mine):
    mine.with_name("people.csv").unlink()
    check(read(str(mine)), "mine.toml")
    with pytest.raises(
        ScenarioError, match=r"^mine\.toml: data 'mine.py:Applicants': table\(\) raises FileNotF"
    ):
        plan(read(str(mine)), "mine.toml")


def test_a_frame_may_have_other_types_and_columns(monkeypatch):
    frame = people().assign(
        job=lambda f: f["job"].astype("category"), race=lambda f: f["race"].astype("string")
    )
    frame.index = frame.index[::-1]

    class Typed(DataSource):
        label, positive, negative = "approved", "yes", ("no",)

        def __init__(self):
            income = {"centre": 0, "scale": 1e6, "missing": 0}
            self.columns = {"job": {"values": ["clerk", "nurse"]}, "income": income}
            self.attributes = {"race": {"values": ["White", "Black"]}}

        def table(self):
            return frame.assign(income=frame["income"].where(frame["age"] > 30))

    monkeypatch.setattr(sys.modules[__name__], "Typed", Typed, raising=False)
    table = load_table(named(f"{__name__}:Typed"))
    assert table.feature_names == ("job=clerk", "job=nurse", "income", "income=(missing)")
    np.testing.assert_array_equal(table.features[:, 3], frame["age"].to_numpy() <= 30)


# Its place in a run's hash.


def test_the_hash_covers_the_file_and_the_records_but_no_folder(mine, tmp_path_factory):
    run = first(mine)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for file in mine.parent.iterdir():
        (elsewhere / file.name).write_bytes(file.read_bytes())
    assert first(elsewhere / "mine.toml").hash == run.hash
    (elsewhere / "people.csv").write_text(CSV.replace("57,26700", "57,26701"))
    records = first(elsewhere / "mine.toml").hash
    (elsewhere / "people.csv").write_text(CSV)
    (elsewhere / "mine.py").write_text(EXAMPLE + "# changed\n")
    code = first(elsewhere / "mine.toml").hash
    assert len({run.hash, records, code}) == 3


def test_records_that_changed_since_the_plan_are_noticed(mine):
    run = first(mine)
    assert Federation.of(run).source.checksum == run.checksum
    mine.with_name("people.csv").write_text(CSV.replace("nurse,White,yes", "nurse,White,no", 1))
    with pytest.raises(ScenarioError, match="not the records that were planned with"):
        Federation.of(run)


def test_table_is_called_once_for_a_plan(mine):
    source = plugin.plugin_source(f"{mine.with_name('mine.py')}:Applicants")
    frames = [source.records._returned.table()]
    source.records._returned.table = frames.pop  # a second call raises
    assert len(source.checksum) == 64
    assert len(load_table(source)) == 24
    assert frames == []


def test_plans_of_one_command_share_the_records(mine):
    planned = plan(read(str(mine)), "mine.toml")
    mine.with_name("people.csv").unlink()
    again = plan(read(str(mine), seeds="3:4"), "mine.toml", like=planned.federation)
    assert again.federation is planned.federation
    other = plan(read(str(mine), ["split.folds=3"]), "mine.toml", like=planned.federation)
    assert other.runs[0].checksum == planned.runs[0].checksum
    mine.with_name("mine.py").write_text(EXAMPLE + "# changed\n")
    with pytest.raises(ScenarioError, match="FileNotFoundError"):
        plan(read(str(mine)), "mine.toml", like=planned.federation)


# Refusals.


WRONG = {
    "no file": ("none.py:Mine", SOURCE, "none.py: no such file"),
    "no class": ("mine.py", SOURCE, "write mine.py:Class, with the name of its class"),
    "another class": ("mine.py:Mina", SOURCE, "has no DataSource 'Mina'; did you mean 'Mine'?"),
    "no subclass": ("mine.py:Mine", "class Mine: pass", "has no DataSource 'Mine'"),
    "import": ("mine.py:Mine", "1 / 0", "raises when imported: ZeroDivisionError"),
    "init": (
        "mine.py:Mine",
        f"{SOURCE}\n    def __init__(self):\n        raise KeyError('a\\nb')",
        "KeyError",
    ),
    "exit": ("mine.py:Mine", f"{SOURCE}\n    def __init__(self):\n        exit()", "cannot be created"),
    "no table": ("mine.py:Mine", SOURCE.replace("def table", "def tables"), "has no method table"),
    "public": ("mine.py:Mine", f"{SOURCE}\n    public = 1", "public = 1: must be True or False"),
    "no label": ("mine.py:Mine", SOURCE.replace("label, ", "_, "), "mine.py:Mine: label: missing"),
    "misspelt": ("mine.py:Mine", SOURCE.replace("columns", "colums"), "'colums'; did you mean 'columns'?"),
    "also misspelt": ("mine.py:Mine", f"{SOURCE}\n    blanks = ['?']", "'blanks'; did you mean 'blank'?"),
    "bounds": (
        "mine.py:Mine",
        SOURCE.replace('"low": 0', '"low": 2'),
        "columns.x: low must be less than high",
    ),
    "key": (
        "mine.py:Mine",
        SOURCE.replace('"low"', '"lo"'),
        "columns.x.lo: unknown key; did you mean 'low'?",
    ),
    "group": (
        "mine.py:Mine",
        SOURCE.replace('"g":', '"h":'),
        "data.groups = 'g': not a column of mine.py:Mine",
    ),
}


@pytest.fixture
def scenario(here, tmp_path):
    def write(name: str, source: str) -> None:
        (tmp_path / "mine.py").write_text(source)
        own = MINE.replace("mine.py:Applicants", name).replace('["race"]', '["g"]')
        own = re.sub(r"clients = .*\n", "", own)
        (tmp_path / "x.toml").write_text(own)

    return write


def refused(here, *arguments):
    code, out, err = here(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1), (out, err)
    assert err[:-1].isprintable()
    return err


@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_source_is_one_line(here, scenario, what):
    name, source, message = WRONG[what]
    scenario(name, source)
    error = refused(here, "check", "x.toml")
    assert message in error
    assert error.startswith("fedtoll: x.toml: data.")


RETURNED = {
    "1 / 0": "table() raises ZeroDivisionError",
    "exit(0)": "table() raises SystemExit(0)",
    "[[1]]": "table() returns 'list', not a pandas DataFrame",
    "FRAME.iloc[:0]": "holds no records",
    "FRAME.rename(columns={'x': 'X1'})": "no column 'x' in the table; did you mean 'X1'?",
    "pd.concat([FRAME] * 2, axis=1)": "column 'y' appears 2 times in the table",
    "FRAME.assign(y=[None] + ['a'] * 39)": "no value in row 1, and a label cannot be missing",
    "FRAME.assign(y=[np.nan] + ['a'] * 39)": "column 'y' has no value in row 1",
    "FRAME.assign(y='c')": "column 'y' holds the undeclared value 'c' in row 1 (and 39 more)",
    "FRAME.assign(x=[1.0, np.nan] * 20)": "row 2 (and 19 more); declare what is read in its place: columns.x",
    "FRAME.assign(x=np.inf)": "column 'x' holds inf in row 1, which is not finite",
    "FRAME.assign(x=[object()] * 40)": "column 'x' cannot be read: ArrowInvalid",
    "FRAME.assign(x=pd.Timestamp(0))": "column 'x' has type timestamp",
    "FRAME.assign(x=['a', 1] * 20)": "column 'x' cannot be read",
    "FRAME.rename(columns={'x': type('X', (), {'__str__': 1, '__hash__': lambda _: 1})()})": "cannot be read",
}


@pytest.mark.parametrize("returned", RETURNED)
def test_what_is_no_table_is_one_line(here, scenario, returned):
    scenario("mine.py:Mine", SOURCE.replace(FRAME, returned.replace("FRAME", FRAME)))
    error = refused(here, "data", "check", "x.toml")
    assert error.startswith("fedtoll: data 'mine.py:Mine': ")
    assert RETURNED[returned] in error


def test_records_that_differ_at_every_call_are_found_by_a_check(here, scenario):
    scenario("mine.py:Mine", SOURCE.replace("[0.5] * 40", "np.random.default_rng().random(40)"))
    for what in ("x.toml", "mine.py:Mine"):
        assert "table() returns other records at each call" in refused(here, "data", "check", what)


@pytest.mark.parametrize(
    "name", ["a\0b.py:Mine", f"{'x' * 300}.py:Mine", "~nobody/x.py:Mine", ":Mine", "mine.py:"]
)
def test_odd_names_are_one_line(here, scenario, name):
    scenario("mine.py:Mine", SOURCE)
    assert "data.source" in refused(here, "check", "x.toml", "--set", f"data.source={json.dumps(name)}")


def test_its_code_does_not_run_without_permission(here, scenario, tmp_path):
    scenario("mine.py:Mine", "raise KeyError")
    code, out, _ = here("check", "x.toml", "--no-code")
    assert code == 0
    assert f"not checked: data {tmp_path / 'mine.py'}:Mine, which is not fedtoll's code" in out


def test_clients_with_own_files_need_own_facts(here, scenario):
    scenario("mine.py:Mine", SOURCE)
    holders = 'partition={kind="declared", holders=[{size=10}, {size=10}]}'
    assert "needs data.file" in refused(here, "check", "x.toml", "--set", holders)


# Names.


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """Install a source under a name, and a broken one under another."""
    (tmp_path / "charted.py").write_text(f"{SOURCE}\n    public = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    entries = [EntryPoint("charts", "charted:Mine", plugin.GROUP), EntryPoint("gone", "gone:X", plugin.GROUP)]
    known = plugins.installed
    monkeypatch.setattr(
        plugins, "installed", lambda group: entries if group == plugin.GROUP else known(group)
    )
    return entries


def test_an_installed_one_is_found_by_its_name(here, scenario, installed):
    scenario("charts", "")
    assert read("x.toml").data.source == "charted:Mine"
    code, out, _ = here("data", "check", "x.toml", "charts")
    assert (code, out.splitlines()[0]) == (0, "x.toml: 40 records as declared, 1 features")
    names = json.loads(here("list", "data", "--json")[1])
    assert names["gone"] == "cannot be loaded: 'gone:X' cannot be imported: No module named 'gone'"
    assert names["charts"] == "A table of your own"
    code, out, _ = here("describe", "charts")
    assert code == 0
    assert "records     public" in out
    assert "did you mean 'charts'?" in refused(here, "check", "x.toml", "--set", 'data.source="chartz"')
    installed.append(EntryPoint("charts", "other:Mine", plugin.GROUP))
    assert "'charts' is the name of 2 sources" in refused(here, "check", "x.toml")


def test_the_class_names_every_declaration():
    for key in TableFacts.model_fields:
        assert f"``{key}``" in str(DataSource.__doc__)


# A new one, and its results.


def test_a_new_one_is_written_and_checked(here, tmp_path):
    code, out, err = here("new-source", "my-records")
    assert (code, err) == (0, "")
    assert out.splitlines()[:2] == ["my_records.py", "my_records.toml"]
    code, out, _ = here(*shlex.split(out.splitlines()[2])[1:])
    assert (code, out.splitlines()[0]) == (0, "my_records.toml: 2,000 records as declared, 5 features")
    assert here("check", "my_records.toml")[0] == 0
    assert "exists and is left unchanged" in refused(here, "new-source", "my-records")
    assert "already installed" in refused(here, "new-source", "adult")
    assert not (tmp_path / "adult.toml").exists()


def test_records_are_private_unless_the_class_says_otherwise():
    for data, public, private in (
        ({"source": "adult", "file": ""}, None, False),
        ({"source": "", "file": "x.csv"}, True, True),
        ({"source": "mine.py:Mine", "file": ""}, None, True),
        ({"source": "mine.py:Mine", "file": ""}, False, True),
        ({"source": "mine.py:Mine", "file": ""}, True, False),
    ):
        content = {"scenario": {"data": data}, "data": {} if public is None else {"public": public}}
        assert private_records(content) is private


@pytest.mark.slow
def test_executors_give_the_same_bytes_and_copies_lack_private_records(mine, tmp_path):
    quick: dict[str, Any] = {"rounds": 2, "epsilons": [8], "seeds": "0:2"}
    folders = {}
    for executor in ("serial", "processes"):
        out = tmp_path / executor
        results = fedtoll.run(mine, out=out, executor=executor, workers=2, probe=False, **quick)
        assert results.predictions.empty
        folders[executor] = {
            str(f.relative_to(out)): f.read_bytes()
            for f in out.glob("runs/*/*.parquet")
            if "timing" not in f.name
        }
    assert folders["serial"] == folders["processes"]
    export(tmp_path / "serial", tmp_path / "copy")
    copied = b"".join(f.read_bytes() for f in (tmp_path / "copy").rglob("*") if f.is_file())
    content = json.loads((tmp_path / "serial/resolved.json").read_text())
    assert content["data"]["public"] is False
    for secret in (content["data"]["checksum"], str(tmp_path), content["runs"][0]["hash"]):
        assert secret.encode() not in copied
    assert not list((tmp_path / "copy").rglob("groups.parquet"))
    mine.with_name("mine.py").write_text(f"{EXAMPLE}\n    public = True\n")
    fedtoll.run(mine, out=tmp_path / "open", executor="serial", probe=False, **quick)
    export(tmp_path / "open", tmp_path / "open-copy")
    assert list((tmp_path / "open-copy").rglob("groups.parquet"))
