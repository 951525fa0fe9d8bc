"""The walls of the house: who may import whom."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("scenarios", "strategies", "clients", "server")
FILES = sorted(p.relative_to(ROOT) for room in ROOMS for p in (ROOT / room).rglob("*.py"))

MAY_USE = {  # room: the other rooms that it may import
    "scenarios": set(),
    "strategies": {"scenarios"},
    "clients": {"scenarios"},
    "server": {"scenarios", "strategies", "clients"},
}
ONLY = {  # library: the files that may import it
    "flwr": {
        *("clients/app.py", "clients/train.py", "clients/wire.py"),
        *("server/app.py", "server/adapter.py", "server/grid.py"),
    },
    "opacus": {"clients/engines/opacus.py", "clients/budget.py"},
    "fairlearn": {"server/evaluate.py", "server/findings/reductions.py", "scenarios/data/acs.py"},
    "ray": {"server/executor.py"},
}
MADE_BY_SKLEARN = {"scenarios/data/digits.py", "scenarios/data/synthetic.py"}


def imports(path):
    """Yield every module that a file imports, wherever in the file it does so."""
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield f"{node.module}"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_there_are_files_to_hold():
    assert len(FILES) > 30


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_run_one_way(path):
    room = path.parts[0]
    for module in imports(path):
        parts = module.split(".")
        assert parts[0] not in ROOMS, f"{path}: bare import of {module}"
        if parts[0] == "fedtoll" and len(parts) > 1 and parts[1] in ROOMS:
            assert parts[1] in MAY_USE[room] | {room}, f"{path} must not import {module}"
        for library, allowed in ONLY.items():
            if parts[0] == library:
                assert str(path) in allowed, f"{path} must not import {library}"
        if room == "scenarios":
            assert parts[0] != "torch", f"{path} must not import {module}"
            assert parts[0] != "sklearn" or str(path) in MADE_BY_SKLEARN, f"{path} must not import {module}"
        if room == "strategies":
            assert parts[0] not in {"torch", "pandas", "sklearn"}, f"{path} must not import {module}"


def test_the_wall_can_fail(tmp_path, monkeypatch):
    (tmp_path / "strategies").mkdir()
    (tmp_path / "strategies" / "x.py").write_text("def f():\n    from fedtoll.clients import train\n")
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    with pytest.raises(AssertionError, match=r"must not import fedtoll\.clients"):
        test_imports_run_one_way(Path("strategies/x.py"))


@pytest.mark.parametrize("path", FILES, ids=str)
def test_files_stay_readable(path):
    assert len((ROOT / path).read_text(encoding="utf-8").splitlines()) <= 400
