"""What is sent to a node is enough for it to load runs, without their files."""

from __future__ import annotations

import dataclasses
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedtoll.cluster import parcel
from fedtoll.cluster.nodes import difference, inspection, names
from fedtoll.scenarios.data import archive, builtin, template
from fedtoll.scenarios.read import read
from fedtoll.scenarios.run import Run
from fedtoll.server.plan import plan
from tests.server import own

STRATEGY = """
from dataclasses import dataclass
from fedtoll.strategies.fedavg import FedAvg
from space.helpers import NOTHING

@dataclass(frozen=True)
class Mine(FedAvg):
    pass
"""

NODE = """
import pickle, sys
parcel = pickle.loads(sys.stdin.buffer.read())
from fedtoll.cluster.parcel import lacking
print(lacking(parcel), end="")
"""


@pytest.fixture
def runs(tmp_path, monkeypatch) -> Iterator[list[Run]]:
    """Yield runs on an own table, strategy and model, all of it in a folder that they are imported from."""
    monkeypatch.syspath_prepend(tmp_path)
    for name, text in {
        "mine.py": STRATEGY,
        "space/helpers.py": "NOTHING = None\n",
        "nets/__init__.py": "from nets.small import small\n",
        "nets/small.py": "from torch import nn\n\ndef small(inputs, outputs):\n"
        "    return nn.Sequential(nn.Linear(inputs, outputs))\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    toml = own.TOML.replace('name = "fedavg"', f'name = "{tmp_path / "mine.py"}:Mine"').replace(
        "[training]", '[model]\nkind = "nets:small"\n\n[training]'
    )
    file = own.write(tmp_path, own.patients(), toml=toml)
    yield list(plan(read(file), "patients.toml").runs)
    for name in [name for name in sys.modules if name.split(".")[0] in {"nets", "space"}]:
        del sys.modules[name]


def node(sent: parcel.Parcel) -> str:
    """Return what a process in another folder lacks."""
    process = subprocess.run(
        [sys.executable, "-c", NODE], input=pickle.dumps(sent), capture_output=True, cwd="/", check=False
    )
    assert process.returncode == 0, process.stderr.decode()
    return process.stdout.decode()


@pytest.mark.slow
def test_a_node_without_the_files_can_load_the_runs(runs, tmp_path):
    sent = parcel.pack([run.to_json() for run in runs])
    assert len(sent.examples) == 2
    mine = {path: module for module, path in sent.modules.items()}
    assert {mine[str(tmp_path / f)] for f in ("nets/__init__.py", "nets/small.py", "space/helpers.py")} == {
        *("nets", "nets.small", "space.helpers")
    }
    assert sent.modules["space"] == ""
    assert [name for name in sent.modules if name.split(".")[0] == "fedtoll"] == []  # installed editable, too
    for file in [*tmp_path.rglob("*.py"), tmp_path / "patients.csv"]:
        file.unlink()
    assert node(sent) == ""
    assert node(dataclasses.replace(sent, modules={})).endswith("cannot be imported: No module named 'space'")
    without = {path: content for path, content in sent.files.items() if not path.endswith(".csv")}
    assert "patients.csv" in node(dataclasses.replace(sent, files=without))


@pytest.mark.slow
def test_a_source_that_is_not_the_planned_one_is_named(runs, tmp_path):
    sent = parcel.pack([run.to_json() for run in runs])
    path = str(tmp_path / "mine.py")
    edited = {**sent.files, path: sent.files[path] + b"\n"}
    assert node(dataclasses.replace(sent, files=edited)) == (
        f"{path}:Mine: not the source that the sweep was planned with"
    )


@pytest.mark.slow
def test_a_node_without_the_file_of_a_data_source_can_load_it(tmp_path):
    path, _, scenario = template.write("my-records", tmp_path)
    sent = parcel.pack([run.to_json() for run in plan(read(str(scenario)), "x.toml").runs])
    assert str(path) in sent.files
    assert len(sent.examples) == 1
    path.unlink()
    assert node(sent) == ""
    edited = {**sent.files, str(path): sent.files[str(path)] + b"\n"}
    assert "not the records that were planned with" in node(dataclasses.replace(sent, files=edited))


@pytest.mark.slow
def test_jobs_may_be_tuples_with_other_strings(runs):
    sent = parcel.pack([(run.to_json(), "{}") for run in runs])
    assert sent == parcel.pack([run.to_json() for run in runs])


def test_only_what_is_needed_is_sent(small):
    planned = plan(small, "small.toml")
    sent = parcel.pack([run.to_json() for run in planned.runs])
    assert (sent.files, sent.modules) == ({}, {})
    assert list(sent.records) == [archive.cache_file(builtin("adult")).name]


def test_records_are_written_where_a_fetch_would_write_them(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDTOLL_DATA", str(tmp_path / "cache"))
    sent = parcel.Parcel(records={"adult-v1-0.parquet": b"content"})
    sent.unpack()
    (written,) = Path(tmp_path / "cache").iterdir()
    assert (written.name, written.read_bytes()) == ("adult-v1-0.parquet", b"content")


def test_an_inspection_opens_nothing_if_versions_differ():
    here, reason = inspection()()
    assert reason == ""
    assert {"Python", "fedtoll", "torch", "opacus", "flwr", "numpy"} == here.keys()
    assert "sources" in here["fedtoll"]
    other = {**here, "torch": "0.1"}
    assert inspection()(b"not a parcel", other) == (here, "")
    assert difference(other, here) == f"has torch {here['torch']}, here is 0.1"


def test_nodes_have_names_that_tell_them_apart():
    facts = [
        {"NodeID": f"{i}" * 56, "NodeManagerHostname": host, "NodeManagerAddress": "10.0.0.1"}
        for i, host in enumerate("aab")
    ]
    assert list(names(facts[1:]).values()) == ["a (10.0.0.1)", "b (10.0.0.1)"]
    assert names(facts)["0" * 56] == "a (10.0.0.1), 00000000"
