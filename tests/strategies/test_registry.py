"""From names to classes and instances: any mistake in a user's class is reported in one line."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from fedtoll.scenarios import shipped
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.scenario import StrategySpec
from fedtoll.server import plan
from fedtoll.strategies import registry
from fedtoll.strategies.base import Strategy
from fedtoll.strategies.term import Term
from tests.server.federation import scenario
from tests.strategies.reports import cohort

HEAD = """
from __future__ import annotations
from dataclasses import dataclass, field
import numpy as np
from fedtoll.scenarios.statistics import MeanLoss
from fedtoll.strategies.base import Strategy, sizes

"""


@pytest.fixture
def mine(tmp_path):
    """Write a file of strategies; return the name of a class in it."""

    def write(text, cls="Mine", file="mine.py"):
        (tmp_path / file).write_text(HEAD + text, encoding="utf-8")
        return f"{tmp_path / file}:{cls}"

    return write


def test_every_installed_strategy_is_found_by_its_name():
    for name in registry.names():
        path, digest = registry.resolve(name)
        assert issubclass(registry.load(path), Strategy)
        assert (digest == "") == path.startswith("fedtoll.")


MISTAKES = [
    ("fedavgg", {}, "'fedavgg' is unknown; did you mean 'fedavg'"),
    ("fedtoll.strategies.term:Terms", {}, "no class 'Terms'; did you mean 'Term'"),
    ("no_such_package:X", {}, "cannot be imported"),
    ("nowhere/file.py:X", {}, "no such file"),
    ("x" * 300 + ".py:X", {}, "not a file: "),
    ("nowhere/file.py", {}, "write nowhere/file.py:Class, with the name of its class"),
    ("term", {"tt": 1.0}, "unknown parameter 'tt'; did you mean 't'"),
    ("term", {"t": "five"}, "t = 'five'"),
    ("term", {"t": -1.0}, "t = -1.0: must be 0 or greater"),
    ("term", {"t": float("nan")}, "t = nan: must be finite"),
    ("term", {"t": True}, "t = True"),
    ("term", {"clip": 0.0}, "clip = 0.0: must be greater than 0"),
    ("fedavg", {"t": 1.0}, "unknown parameter 't'"),
]


@pytest.mark.parametrize(("name", "parameters", "message"), MISTAKES)
def test_a_mistake_is_one_line(name, parameters, message):
    with pytest.raises(ScenarioError) as caught:
        registry.build(registry.resolve(name)[0], parameters)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_stored_path_that_is_too_long_is_one_line():
    with pytest.raises(ScenarioError, match="no such file"):
        registry.load("/" + "x" * 300 + ".py:X")


def test_whole_numbers_are_fine_where_numbers_are_asked():
    assert registry.build(registry.resolve("term")[0], {"t": 5}) == Term(t=5.0)


WEIGH = """
    def weigh(self, reports, state):
        return sizes(reports), state
"""
DECLARED = "@dataclass(frozen=True)\nclass Mine(Strategy):\n"
FORM = "Mine: requests must be a @property that returns a tuple of declarations, e.g. (MeanLoss(),); it "
CLASSES = {  # what is wrong: the class, and what is said
    "an attribute of its own": (
        DECLARED + "    def __post_init__(self):\n        self.cache = {}\n",
        "Mine: cannot assign to field 'cache': a strategy holds only its parameters",
    ),
    "an array": (
        DECLARED + "    x: np.ndarray = field(default_factory=lambda: np.ones(2))\n",
        "Mine: x: must be a number, a string, true or false, or a list or table of these",
    ),
    "an array in a loose type": (
        "from typing import Any\n\n" + DECLARED + "    x: Any = field(default_factory=lambda: np.ones(2))\n",
        "Mine: x: must be a number, a string, true or false, or a list or table of these",
    ),
    "a type that does not exist": (
        DECLARED + "    x: Nowhere = 1.0\n",
        "Mine: the type of a parameter cannot be resolved: name 'Nowhere' is not defined",
    ),
    "an __init__ of its own": (
        "class Mine(Strategy):\n    def __init__(self, a=1.0):\n        self.a = a\n",
        "Mine: defines its own __init__; parameters are the fields of the dataclass",
    ),
    "an __init__ beside its fields": (
        DECLARED + "    a: float = 1.0\n    def __init__(self, b=1.0):\n        pass\n",
        "Mine: defines its own __init__; parameters are the fields of the dataclass",
    ),
    "no decorator": (
        "class Mine(Strategy):\n    a: float = 1.0\n",
        "Mine: 'a' is not a parameter yet: write @dataclass(frozen=True) above class Mine",
    ),
    "no decorator on its base": (
        "class Base(Strategy):\n    a: float = 1.0\n\n"
        "@dataclass(frozen=True)\nclass Mine(Base):\n    b: float = 1.0\n",
        "Mine: 'a' is not a parameter yet: write @dataclass(frozen=True) above class Base",
    ),
    "no frozen": (
        "@dataclass\nclass Mine(Strategy):\n    a: float = 1.0\n",
        "cannot inherit non-frozen dataclass from a frozen one",
    ),
    "a check that raises": (
        DECLARED + "    def __post_init__(self):\n        {}['x\\ny']\n",
        "Mine: cannot be created: KeyError('x\\ny')",
    ),
    "a default that raises": (
        DECLARED + "    x: float = field(default_factory=lambda: 1 / 0)\n",
        "Mine: the default of a parameter raises ZeroDivisionError",
    ),
    "a default of another type": (
        DECLARED + "    x: float = None\n",
        "Mine: x = None: input should be a valid number",
    ),
    "no comma": (
        DECLARED + "    @property\n    def requests(self):\n        return (MeanLoss(clip=1.0))\n",
        FORM + "is a MeanLoss",
    ),
    "no @property": (
        DECLARED + "    def requests(self):\n        return (MeanLoss(),)\n",
        FORM + "is a method",
    ),
    "a text": (
        DECLARED + "    @property\n    def requests(self):\n        return ('mean_loss',)\n",
        FORM + "holds 'mean_loss'",
    ),
    "nothing but a text": (
        "class Mine(Strategy):\n    requests = 'mean_loss'\n",
        FORM + "is a str",
    ),
    "a class": (
        DECLARED + "    @property\n    def requests(self):\n        return (MeanLoss,)\n",
        FORM + "holds the class MeanLoss",
    ),
    "nothing": (
        DECLARED + "    @property\n    def requests(self):\n        pass\n",
        FORM + "is a NoneType",
    ),
    "a bad clip": (
        DECLARED + "    @property\n    def requests(self):\n        return (MeanLoss(clip=-1.0),)\n",
        "Mine: requests raises ValueError: clip = -1.0: must be greater than 0",
    ),
    "twice": (
        DECLARED + "    @property\n    def requests(self):\n        return (MeanLoss(1.0), MeanLoss(2.0))\n",
        "Mine: requests 'mean_loss' twice",
    ),
    "what nobody answers": (
        "class Median:\n    name = 'median_loss'\n\n"
        + DECLARED
        + "    @property\n    def requests(self):\n        return (Median(),)\n",
        "Mine: requests 'median_loss', which clients cannot compute; did you mean 'mean_loss'?",
    ),
}


@pytest.mark.parametrize("wrong", CLASSES)
def test_a_mistake_in_a_users_class_is_one_line_of_check(mine, wrong):
    text, words = CLASSES[wrong]
    with pytest.raises(ScenarioError) as caught:
        plan.check(scenario({"name": mine(text + WEIGH)}), "sex.toml")
    line = str(caught.value)
    assert line.startswith("sex.toml: strategies: ")
    assert words in line
    assert "\n" not in line


def test_what_was_right_stays_right(mine):
    right = """
from typing import ClassVar, Literal

class Plain(Strategy):
    words: ClassVar[tuple[str, ...]] = ("a", "b")
    b = 2.0

@dataclass(frozen=True)
class Mine(Plain):
    steps: tuple[int, ...] = (1, 2)
    kind: Literal["a", "b"] = "a"
    table: dict[str, float] = field(default_factory=dict)
    hidden: float = field(default=1.0, init=False)
"""
    name = mine(right + WEIGH)
    asked = {"name": name, "steps": [3, 4], "table": {"x": 1}}
    plan.check(scenario(asked), "sex.toml")
    path, _ = registry.resolve(name)
    made = registry.build(path, {"steps": [3, 4], "table": {"x": 1}})
    assert vars(made) == {"steps": (3, 4), "kind": "a", "table": {"x": 1.0}}


def test_a_file_that_raises_is_one_line(mine):
    for text, words in [
        ("1 / 0\n", "raises when imported: ZeroDivisionError"),
        ("open('/nowhere')\n", "raises when imported: FileNotFoundError"),
        ("import nowhere\n", "cannot be imported: No module named 'nowhere'"),
        ("def broken(:\n", "raises when imported: SyntaxError"),
    ]:
        with pytest.raises(ScenarioError, match=words) as caught:
            registry.resolve(mine(text))
        assert "\n" not in str(caught.value)


def test_a_missing_module_suggests_the_file_of_that_name(mine, tmp_path, monkeypatch):
    mine(DECLARED + WEIGH)
    (tmp_path / "inner").mkdir()
    mine(DECLARED + WEIGH, file="inner/other.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [p for p in __import__("sys").path if p])
    for name, meant in [("mine:Mine", "mine.py:Mine"), ("inner.other:Mine", "inner/other.py:Mine")]:
        with pytest.raises(ScenarioError, match=f"did you mean '{meant}'"):
            registry.resolve(name)
        registry.resolve(meant)


def test_a_strategy_from_a_file(mine):
    name = mine(
        "@dataclass(frozen=True)\n"
        "class Largest(Strategy):\n"
        "    power: float = 1.0\n\n"
        "    def weigh(self, reports, state):\n"
        "        n = np.array([float(r.size) for r in reports]) ** self.power\n"
        "        return n / n.sum(), state\n",
        "Largest",
    )
    path, digest = registry.resolve(name)
    assert len(digest) == 64
    strategy = registry.build(path, {"power": 2})
    np.testing.assert_allclose(strategy.weigh(cohort([1, 3]), {})[0], [0.1, 0.9])


def test_the_file_that_is_named_is_the_one_that_is_watched(mine, tmp_path, monkeypatch):
    """Not the file that its class is imported from."""
    monkeypatch.syspath_prepend(tmp_path)
    mine(DECLARED + WEIGH, file="origin_of_mine.py")
    for text in (
        "from origin_of_mine import Mine\n",
        "from fedtoll.strategies.fedavg import FedAvg as Mine\n",
    ):
        name = mine(text)
        digest = hashlib.sha256((tmp_path / "mine.py").read_bytes()).hexdigest()
        assert registry.resolve(name) == (name, digest)
    origin = hashlib.sha256((tmp_path / "origin_of_mine.py").read_bytes()).hexdigest()
    assert registry.resolve("origin_of_mine:Mine") == ("origin_of_mine:Mine", origin)


def test_what_was_hashed_is_executed_even_if_the_file_changes_in_between(mine, tmp_path, monkeypatch):
    name = mine(DECLARED + WEIGH)
    read = shipped.read_bytes

    def replaced_after_reading(path: Path) -> bytes:
        found = read(path)
        (tmp_path / "mine.py").write_text("raise RuntimeError('not what was hashed')")
        return found

    monkeypatch.setattr(shipped, "read_bytes", replaced_after_reading)
    assert registry.load(name).__name__ == "Mine"
    assert not (tmp_path / "__pycache__").exists()


def test_a_class_that_raises_when_its_attributes_are_asked_for_is_one_line(mine):
    name = mine(DECLARED + WEIGH + "    def __getattr__(self, name):\n        raise KeyError(name)\n")
    with pytest.raises(ScenarioError, match=r"^strategies: Mine: raises KeyError\('wrapped'\)$"):
        plan.strategy_plan(StrategySpec(name=name))


def test_a_method_that_raises_while_runs_are_planned_is_one_line(mine):
    name = mine(DECLARED + WEIGH + "    def unsuited(self, classes):\n        raise SystemExit(classes)\n")
    with pytest.raises(ScenarioError, match=r"^strategies: Mine: unsuited raises SystemExit\(2\)$"):
        plan.unsuited(plan.strategy_plan(StrategySpec(name=name)), 2)
