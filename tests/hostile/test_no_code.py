"""``fedtoll check --no-code`` checks a scenario without running code of whoever wrote it."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from pathlib import Path

import pytest

from fedtoll.strategies import registry

EVIL = """
import os
os.makedirs({mark!r}, exist_ok=True)
class Evil: pass
def evil(*a): pass
"""


@pytest.fixture
def evil(mark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of a module, also a file here, that leaves a mark when it is imported."""
    (tmp_path / "evil_module.py").write_text(EVIL.format(mark=str(mark)))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "evil_module", raising=False)
    return "evil_module"


def strategies(*names: str, **parameters: object) -> list[str]:
    keys = "".join(f", {key} = {json.dumps(value)}" for key, value in parameters.items())
    inner = ", ".join(f"{{ name = {json.dumps(name)}{keys} }}" for name in names)
    return ["--set", f"strategies=[{inner}]"]


@pytest.mark.parametrize("path", ["evil_module.py:Evil", "evil_module:Evil", "./evil_module.py:Evil"])
def test_a_strategy_of_somebody_else_is_not_imported(here, evil, path):
    code, out, err = here("check", "adult-race", "--no-code", *strategies("fedavg", path))
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("adult-race.toml: valid, apart from what was not checked, ")
    assert lines[1:] == [f"not checked: strategy {path}, which is not fedtoll's code"]


def test_a_model_of_somebody_else_is_not_imported(here, evil):
    code, out, err = here("check", "adult-race", "--no-code", "--set", f'model.kind="{evil}:evil"')
    assert (code, err) == (0, "")
    assert f"not checked: model {evil}:evil" in out


def test_a_strategy_inside_a_strategy_is_not_imported(here, evil):
    target = "evil_module.py:Evil"
    code, out, _ = here("check", "adult-race", "--no-code", *strategies("noise-fair", target=target))
    assert code == 0
    assert "not checked: strategy noise-fair" in out
    tune = f'tune.strategies={{ noise-fair = {{ target = ["uniform", "{target}"] }} }}'
    code, out, _ = here("check", "adult-race", "--no-code", "--set", tune, *strategies("noise-fair"))
    assert code == 0
    assert "not checked: strategy noise-fair" in out


def test_a_strategy_that_another_package_installs_is_not_imported(here, evil, monkeypatch):
    entry = importlib.metadata.EntryPoint("theirs", "evil_module:Evil", registry.GROUP)
    installed = registry._installed()
    monkeypatch.setattr(registry, "_installed", lambda: {**installed, "theirs": [entry]})
    code, out, _ = here("check", "adult-race", "--no-code", *strategies("theirs"))
    assert code == 0
    assert "not checked: strategy theirs" in out


def test_without_it_the_code_runs(here, tmp_path, monkeypatch):
    mark = tmp_path / "sprung"
    (tmp_path / "other.py").write_text(EVIL.format(mark=str(mark)))
    code, _, _ = here("check", "adult-race", *strategies("other.py:Evil"))
    assert code == 2
    assert mark.exists()


def test_all_else_is_checked(here, evil):
    flowers = "flwr.serverapp.strategy:FedMedian"
    code, out, _ = here("check", "adult-race", "--no-code", *strategies("fedavg", flowers))
    assert code == 0
    assert "not checked" not in out
    for arguments, word in (
        ((*strategies("fedavg", "evil_module.py:Evil"), "--set", 'data.groups=["rase"]'), "race"),
        (strategies("evil_module.py:Evil", "fedprox", muu=1.0), "muu"),
        (strategies("none.py:Evil"), "no such file"),
        (strategies("fedavgg"), "fedavg"),
    ):
        code, out, err = here("check", "adult-race", "--no-code", *arguments)
        assert code == 2
        assert out == ""
        assert err.count("\n") == 1
        assert word in err
