"""Names, and files of scenarios."""

from __future__ import annotations

import json
import os
import pickle
import tomllib
from pathlib import Path

import pytest

import fedtoll
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.read import MOST_BYTES, read
from tests.hostile.traps import DEEP, ESCAPE, Trap, state
from tests.server.federation import TOML

# Names.

NAMES = {
    "above": "../../etc/passwd",
    "above.toml": "../../../../../../etc/passwd.toml",
    "absolute": "/etc/passwd",
    "a device": "/dev/zero",
    "nul": "a\0b.toml",
    "nul alone": "adult-race\0",
    "lines": "a\nb\nc.toml",
    "escapes": f"{ESCAPE}.toml",
    "endless": "x" * 10_000,
    "endless.toml": "x" * 10_000 + ".toml",
    "through a name": "adult-race/../adult-race",
    "dots": "..",
    "code": "__import__('os').system('touch mark')",
    "surrogate": "\udcff.toml",
}


@pytest.mark.parametrize("command", ["check", "run", "describe"])
@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_a_name_and_never_a_path_that_is_followed(refused, mark, elsewhere, command, name):
    refused(command, NAMES[name])


@pytest.mark.parametrize("name", [*(n for n in NAMES if "surrogate" not in n)])
def test_a_scenarios_own_name_makes_no_path(refused, elsewhere, tmp_path, name):
    """Results go to results/<name>."""
    (tmp_path / "x.toml").write_text(TOML.replace('"adult-sex"', json.dumps(NAMES[name]), 1))
    assert "name" in refused("run", "x.toml")


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "a\0b", "x\ny", "class", ESCAPE, "json"])
def test_a_new_strategy_goes_where_requested(refused, elsewhere, name):
    refused("new-strategy", name)


def test_a_results_folder_that_cannot_be(refused, tmp_path):
    (tmp_path / "x.toml").write_text(TOML)
    refused("run", "x.toml", "--out", "x" * 5000)
    refused("report", "x" * 5000)
    before = state(tmp_path)
    for folder in ("a\0b", "\udcff\0", "x" * 5000):
        with pytest.raises(ScenarioError):
            fedtoll.run(str(tmp_path / "x.toml"), out=folder, executor="serial")
        with pytest.raises(ScenarioError):
            fedtoll.load(folder)
    assert state(tmp_path) == before


# Files of scenarios.


def files() -> dict[str, tuple[str, bytes]]:
    deep_toml = "x = " + "[" * DEEP + "]" * DEEP
    inline = "x = " + "{a = " * DEEP + "1" + "}" * DEEP
    return {
        "too large": (".toml", TOML.encode() + b"#" * MOST_BYTES),
        "too large, json": (".json", b" " * (MOST_BYTES + 1)),
        "deep arrays": (".toml", deep_toml.encode()),
        "deep tables": (".toml", inline.encode()),
        "deep headers": (".toml", ("[" + ".".join(["a"] * 1000) + "]\n").encode()),
        "deep json": (".json", b"[" * DEEP + b"]" * DEEP),
        "deep json tables": (".json", b'{"a":' * DEEP + b"1" + b"}" * DEEP),
        "half-deep json": (".json", b'{"title":' + b"[" * 500 + b"]" * 500 + b"}"),
        "endless number": (".toml", b"seeds = [" + b"9" * 5000 + b"]\n" + TOML.encode()),
        "endless number, json": (".json", b'{"seeds": [' + b"9" * 5000 + b"]}"),
        "large number": (".toml", TOML.replace("seeds = [0]", f"seeds = [{10**400}]").encode()),
        "many seeds": (".toml", TOML.replace("seeds = [0]", 'seeds = "0:999999999999"').encode()),
        "a list": (".json", b"[]"),
        "a text": (".json", b'"data"'),
        "nothing": (".json", b"null"),
        "not a number": (".json", b'{"seeds": [NaN]}'),
        "nul": (".toml", b"name = \0\n"),
        "latin": (".toml", 'title = "é"'.encode("latin-1")),
        "utf-16": (".toml", TOML.encode("utf-16")),
        "escapes": (".toml", f"name = '{ESCAPE}'\n".encode()),
        "escaped": (".json", json.dumps({"name": ESCAPE, ESCAPE: ESCAPE}).encode()),
        "a pickle": (".toml", pickle.dumps(Trap(Path("mark")))),
        "a pickle, json": (".json", pickle.dumps(Trap(Path("mark")))),
    }


@pytest.mark.parametrize("case", files())
@pytest.mark.parametrize("command", ["check", "run"])
def test_a_scenarios_file_is_refused_in_one_line(refused, mark, tmp_path, command, case):
    suffix, content = files()[case]
    (tmp_path / f"x{suffix}").write_bytes(content)
    error = refused(command, f"x{suffix}")
    if "too large" in case:
        assert "1 MB" in error


def test_a_large_file_is_refused_before_it_is_parsed(tmp_path, monkeypatch):
    (tmp_path / "x.toml").write_bytes(TOML.encode() + b"#" * MOST_BYTES)
    monkeypatch.setattr(tomllib, "loads", lambda text: pytest.fail("it was parsed"))
    with pytest.raises(ScenarioError, match="1 MB"):
        read(str(tmp_path / "x.toml"))


def test_a_link_a_pipe_and_a_folder_are_no_scenario(refused, tmp_path):
    (tmp_path / "loop.toml").symlink_to(tmp_path / "loop.toml")
    (tmp_path / "zero.toml").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.toml")
    (tmp_path / "folder.toml").mkdir()
    for name in ("loop", "zero", "pipe"):
        assert "no such file" in refused("check", f"{name}.toml")
    assert "a folder, not a file" in refused("check", "folder.toml")


OVERRIDES = {
    "deep": "x=" + "[" * DEEP,
    "deep and whole": "x=" + "[" * DEEP + "]" * DEEP,
    "deep key": ".".join(["a"] * 2000) + "=1",
    "endless number": "seeds=" + "9" * 5000,
    "not a section": "name.x=1",
    "code": "__class__.x=1",
    "nul": "name='\0'",
    "lines": 'name="""\na\nb"""',
    "two": "x=1\ny=2",
}


@pytest.mark.parametrize("case", OVERRIDES)
def test_an_override_is_refused_in_one_line(refused, case):
    refused("check", "adult-race", "--set", OVERRIDES[case])
