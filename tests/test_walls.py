"""The walls of the house: who may import whom, which libraries, and how large a room may be."""

from __future__ import annotations

import ast
import os
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "fedtoll"

MAY_USE: dict[str, set[str]] = {}
"""By room, the rooms that it may import: those above it in this order."""
for room, also in {
    "scenarios": (),
    "privacy": ("scenarios",),
    "strategies": ("scenarios",),
    "toll": ("scenarios",),
    "clients": ("scenarios", "privacy"),
    "cluster": ("scenarios", "strategies", "clients"),
    "server": ("scenarios", "privacy", "strategies", "toll", "clients", "cluster"),
    "sweep": ("scenarios", "privacy", "strategies", "toll", "clients", "cluster", "server"),
    "audit": ("scenarios", "privacy", "strategies", "toll", "clients", "cluster", "server", "sweep"),
    "report": [
        "scenarios",
        "privacy",
        "strategies",
        "toll",
        "clients",
        "cluster",
        "server",
        "sweep",
        "audit",
    ],
    "deploy": ("scenarios", "server"),
    "findings": [
        "scenarios",
        "privacy",
        "strategies",
        "toll",
        "clients",
        "cluster",
        "server",
        "sweep",
        "audit",
        "report",
    ],
}.items():
    MAY_USE[room] = {room, *also}

SHARED = {"__version__": set(MAY_USE), "formatting": {"audit", "report", "findings"}}
"""Names of fedtoll itself, and the rooms that may import them."""

DOORS = {"findings": {"sklearn"}}
"""Doors that a room may import: the reductions of a finding train the central baseline."""

ONLY: dict[str, set[str]] = {  # library: the files and folders that may import it
    "flwr": {
        *("clients/app.py", "clients/node.py", "clients/roll_call.py", "clients/state.py"),
        *("clients/train.py", "clients/wire.py"),
        *("clients/personal.py", "server/personal.py", "clients/calibration.py", "server/calibration.py"),
        *("server/app.py", "server/adapter.py", "server/grid.py", "server/strict.py"),
    },
    "opacus": {"clients/engines/opacus.py", "privacy/opacus_prv.py"},
    "fairlearn": {"server/evaluate.py", "findings/reductions.py", "scenarios/data/acs.py"},
    "ray": {"cluster/"},
    "altair": {"report/charts/", "findings/front.py"},
    "vl_convert": {"report/vega.py"},
}
MADE_BY_SKLEARN = {"scenarios/data/digits.py", "scenarios/data/synthetic.py"}
NEVER = {  # room: libraries that no file of it may import
    "scenarios": {"torch", "flwr", "opacus", "ray", "sklearn"},
    "strategies": {"torch", "flwr", "pandas", "sklearn"},
    "privacy": {"torch", "flwr", "pandas", "sklearn"},
    "toll": {"torch", "flwr", "opacus", "ray", "sklearn"},
}

LARGEST_ROOM = 0.25
LARGEST_FILE = 400
LARGEST_SERVER = 3800


def walk(room: Path) -> list[Path]:
    return [
        Path(folder, name).relative_to(SOURCE)
        for folder, _, names in os.walk(room, followlinks=True)
        for name in sorted(names)
        if name.endswith(".py")
    ]


FILES = sorted(walk(SOURCE))


@cache
def lines(path: Path) -> int:
    return len((SOURCE / path).read_text(encoding="utf-8").splitlines())


def imports(path: Path) -> list[str]:
    """Every module that a file imports, wherever in the file it does so."""
    found = []
    for node in ast.walk(ast.parse((SOURCE / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found += [f"{node.module}", *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def check_walls(path: Path) -> None:
    room, file = path.parts[0], path.as_posix()
    allowed = MAY_USE.get(room)
    for module in imports(path):
        parts = module.split(".")
        assert parts[0] not in MAY_USE, f"{file}: bare import of {module}"
        if allowed is not None and parts[0] == "fedtoll" and len(parts) > 1:
            name = parts[1]
            fits = name in allowed or room in SHARED.get(name, ()) or name in DOORS.get(room, ())
            assert fits, f"{file} must not import {module}"
        if parts[0] in ONLY:
            assert file.startswith(tuple(ONLY[parts[0]])), f"{file} must not import {parts[0]}"
        never = NEVER.get(room, set()) - ({"sklearn"} if file in MADE_BY_SKLEARN else set())
        assert parts[0] not in never, f"{file} must not import {module}"


def module(path: Path) -> str:
    name = ".".join(path.with_suffix("").parts)
    return f"fedtoll.{name}".removesuffix(".__init__").removesuffix(".")


def circles() -> list[list[str]]:
    """Groups of files that import each other, at the top of the file or inside functions."""
    names = {module(p): p for p in FILES}
    arrows = {name: {m for m in imports(path) if m in names and m != name} for name, path in names.items()}
    for name, targets in arrows.items():  # importing a package's name imports what defines it, not its face
        arrows[name] = {t for t in targets if not any(other.startswith(f"{t}.") for other in targets)}
    found, done = [], set()
    reach = {name: reachable(arrows, name) for name in arrows}
    for name in arrows:
        circle = [other for other in reach[name] if name in reach[other]]
        if name in circle and name not in done:
            found.append(sorted(circle))
            done |= set(circle)
    return found


def reachable(arrows: dict[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    todo = list(arrows[start])
    while todo:
        if (name := todo.pop()) not in seen:
            seen.add(name)
            todo += arrows[name]
    return seen


def test_every_room_is_found():
    assert set(MAY_USE) <= {path.parts[0] for path in FILES}
    assert len(FILES) > 150


@pytest.mark.parametrize("room", sorted({path.parts[0] for path in FILES}))
def test_imports_run_one_way(room):
    for path in FILES:
        if path.parts[0] == room:
            check_walls(path)


@pytest.mark.slow
def test_there_is_no_circle():
    assert circles() == []


@pytest.mark.parametrize("room", MAY_USE)
def test_every_room_says_its_question(room):
    text = ast.get_docstring(ast.parse((SOURCE / room / "__init__.py").read_text(encoding="utf-8")))
    assert text is not None
    assert "?" in text.splitlines()[0], f"{room}/__init__.py says no question"


def test_files_stay_readable():
    assert {str(path): lines(path) for path in FILES if lines(path) > LARGEST_FILE} == {}


def test_rooms_stay_small():
    sizes = {room: sum(lines(p) for p in FILES if p.parts[0] == room) for room in MAY_USE}
    total = sum(lines(p) for p in FILES)
    assert max(sizes.values()) < LARGEST_ROOM * total, sizes
    assert sizes["server"] < LARGEST_SERVER


@pytest.mark.parametrize(
    ("file", "line", "why"),
    [
        ("strategies/x.py", "def f():\n    from fedtoll.clients import train\n", "must not import fedtoll"),
        ("toll/x.py", "import torch\n", "must not import torch"),
        ("clients/x.py", "from fedtoll.formatting import number\n", "must not import fedtoll.formatting"),
        ("server/x.py", "import ray\n", "must not import ray"),
        ("report/x.py", "import server.app\n", "bare import"),
    ],
)
def test_the_walls_can_fail(tmp_path, monkeypatch, file, line, why):
    monkeypatch.setattr(f"{__name__}.SOURCE", tmp_path)
    (tmp_path / file).parent.mkdir()
    (tmp_path / file).write_text(line)
    with pytest.raises(AssertionError, match=why):
        check_walls(Path(file))


def test_a_circle_is_found(tmp_path, monkeypatch):
    (tmp_path / "toll").mkdir()
    for name, other in ("ab", "ba"):
        (tmp_path / f"toll/{name}.py").write_text(f"def f():\n    from fedtoll.toll import {other}\n")
    monkeypatch.setattr(f"{__name__}.SOURCE", tmp_path)
    monkeypatch.setattr(f"{__name__}.FILES", [Path("toll/a.py"), Path("toll/b.py")])
    assert circles() == [["fedtoll.toll.a", "fedtoll.toll.b"]]
