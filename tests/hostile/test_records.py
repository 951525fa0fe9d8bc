"""Records and plug-ins."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hostile.traps import ESCAPE, KINDS, Trap, bytes_of


def test_a_trap_does_leave_a_mark(tmp_path):
    pickle.loads(pickle.dumps(Trap(tmp_path / "sprung")))
    assert (tmp_path / "sprung").exists()


# Records.


OWN = """\
name = "x"
title = "x"
seeds = [0]
data.file = FILE
data.groups = ["g"]
data.own = { label = "y", positive = "a", negative = ["b"], columns = { x = { low = 0.0, high = 1.0 } }, \
attributes = { g = { values = ["a", "b"] } } }
training = { rounds = 1, sampling_rate = 1.0, local_steps = 1, learning_rate = 1.0, clip = 1.0 }
privacy = { epsilons = ["inf"] }
strategies = [{ name = "fedavg" }]
"""


@pytest.mark.parametrize("suffix", [".parquet", ".feather", ".csv", ".csv.gz"])
@pytest.mark.parametrize("kind", KINDS)
def test_records_that_are_something_else_run_nothing(refused, mark, tmp_path, kind, suffix):
    (tmp_path / f"t{suffix}").write_bytes(bytes_of(kind, mark))
    (tmp_path / "x.toml").write_text(OWN.replace("FILE", json.dumps(f"t{suffix}")))
    refused("run", "x.toml")


@pytest.mark.parametrize(
    "file",
    [
        *(
            "../../../etc/passwd",
            "/etc/passwd",
            "/dev/zero",
            "a\0b.csv",
            "a\nb.csv",
            f"{ESCAPE}.csv",
            "loop.csv",
        ),
        *("x" * 5000 + ".csv", "pipe.csv", "folder.csv", "~nobody/x.csv", "http://localhost/x.csv"),
    ],
)
def test_a_place_of_records_that_cannot_be(refused, elsewhere, tmp_path, file):
    (tmp_path / "loop.csv").symlink_to(tmp_path / "loop.csv")
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "x.toml").write_text(OWN.replace("FILE", json.dumps(file)))
    refused("check", "x.toml")


def test_the_name_of_a_made_up_group_is_one_line(refused, tmp_path):
    group = json.dumps(ESCAPE)
    content = {"name": "x", "title": "x", "seeds": [0], "data": {"source": "synthetic", "groups": ["group"]}}
    content["data"]["synthetic"] = {"groups": {json.loads(group): {"size": 100}}}  # type: ignore[index]
    content |= {"training": {}, "privacy": {}, "strategies": [{"name": "fedavg"}]}
    (tmp_path / "x.json").write_text(json.dumps(content))
    assert "control characters" in refused("check", "x.json")


# Plug-ins.

PATHS = (
    *(
        ":",
        "a:",
        ":b",
        ".py:",
        "x.py:",
        "../x.py:X",
        "/dev/zero.py:X",
        "/dev/null.py:X",
        "nul\0.py:X",
        "loop.py:X",
    ),
    *("..a:b", "a b:c", "os.path:join", "os:system", "sys:exit", "builtins:print", "builtins:eval", "a\0b:c"),
    *("x" * 5000 + ".py:X", "x" * 5000 + ":X", f"{ESCAPE}:X", "folder.py:X", "evil:Evil:Evil", "\udcff:x"),
)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("key", ["strategies", "model"])
def test_a_plug_in_that_cannot_be_is_one_line(refused, tmp_path, key, path):
    (tmp_path / "loop.py").symlink_to(tmp_path / "loop.py")
    (tmp_path / "folder.py").mkdir()
    word = json.dumps(path)
    change = f"strategies=[{{name={word}}}]" if key == "strategies" else f"model.kind={word}"
    refused("check", "adult-race", "--set", change)
    if key == "strategies":
        refused("check-strategy", path)


EVIL = """
import os
os.makedirs({mark!r}, exist_ok=True)
class Evil: pass
def fedavg(*a): pass
"""


@pytest.mark.slow
def test_files_that_nobody_named_are_not_imported(mark, tmp_path):
    """Even if they are in the working directory and named like modules that fedtoll imports."""
    for name in ("fedavg", "server", "clients", "strategies", "scenarios", "torch", "json", "adult", "evil"):
        (tmp_path / f"{name}.py").write_text(EVIL.format(mark=str(mark)))
    for name in ("sitecustomize", "usercustomize", "conftest"):
        (tmp_path / f"{name}.py").write_text(EVIL.format(mark=str(mark)))
    command = Path(sys.executable).with_name("fedtoll")
    for arguments in (("check", "adult-race"), ("list", "strategies"), ("describe", "fedavg")):
        done = subprocess.run([command, *arguments], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    for arguments in (("describe", "evil"), ("check-strategy", "evil"), ("check-strategy", "evil.py")):
        done = subprocess.run([command, *arguments], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
