"""The examples of README, docs/strategies.md and CHANGELOG work and agree with the code."""

from __future__ import annotations

import dataclasses
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from fedtoll.scenarios.statistics import STATISTICS
from fedtoll.strategies import registry
from fedtoll.strategies.base import Report, Strategy
from fedtoll.strategies.conformance import INSTRUCTIONS, assert_conforms

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs/strategies.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(text):
    """Return every Python block that defines a class."""
    return [b for b in re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL) if "class " in b]


def test_the_readme_shows_the_numbers_of_the_tutorial():
    """The tutorial's output is compared with that of the command (tests/test_docs_tutorial.py)."""
    tutorial = (ROOT / "docs/tutorial.md").read_text(encoding="utf-8").splitlines()
    (table,) = re.findall(r"^Price at best constants, .*?^```$", README, re.MULTILINE | re.DOTALL)
    title, *lines = table.splitlines()
    assert title in tutorial
    rows = [line for line in lines if re.search(r"\d\.\d{3} +\S*\d\.\d{3} to ", line)]
    races = ["Asian-Pac-Islander", "race “Other”", "White", "Black", "Amer-Indian-Eskimo"]
    assert [row.split("  ")[0] for row in rows] == [*races, "everybody", "price gap"]
    for row in rows:
        (fedavg,) = re.findall(r"^.* to \S+", row)
        assert any(fedavg.split() == line.split() for line in tutorial), row


def test_the_readme_has_no_broken_link():
    links = re.findall(r"\]\((?!https://)([^)#]+)[^)]*\)", README)
    assert len(links) > 10
    for link in links:
        assert (ROOT / link).exists(), link


def test_the_changelog_names_modules_that_exist():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    moved = re.findall(r"^\| `(fedtoll[\w.]+)`.* \| `(fedtoll[\w.]+)` \|$", text, re.MULTILINE)
    assert len(moved) > 5
    for old, new in moved:
        assert find_spec(new), new
        assert old not in re.findall(r"fedtoll[\w.]+", README), old


def test_the_example_is_short_and_the_same_in_both_places():
    example = blocks(GUIDE)[0]
    assert len(example.splitlines()) < 25
    assert example.startswith("# mine.py\n")
    assert blocks(README) == [example]
    assert "docs/strategies.md" in README


@pytest.mark.slow
@pytest.mark.parametrize(
    ("block", "name", "parameters"),
    [
        (0, "LossPower", {}),
        (0, "LossPower", {"a": 2.0}),
        (1, "Patient", {}),
        (1, "Momentum", {}),
        (1, "Loosening", {}),
    ],
)
def test_every_example_conforms(tmp_path, block, name, parameters):
    file = tmp_path / "mine.py"
    file.write_text(blocks(GUIDE)[block], encoding="utf-8")
    path, digest = registry.resolve(f"{file}:{name}")
    assert digest
    strategy = registry.build(path, parameters)
    assert isinstance(strategy, Strategy)
    assert_conforms(strategy)


def test_the_tables_are_complete():
    for field in dataclasses.fields(Report):
        assert f"| `{field.name}` | " in GUIDE
    for name, statistic in STATISTICS.items():
        assert re.search(rf"^\| `{statistic.__name__}\(.*`{name}`", GUIDE, re.MULTILINE)
    for word in INSTRUCTIONS:
        assert f"`{word}`" in GUIDE


WRAPPERS = ("noise-fair", "shrinkage", "dp-adam-bc")


def test_the_table_of_strategies_is_complete_and_says_what_each_asks_for():
    words = {
        "mean_loss": "mean loss",
        "group_loss": "group losses",
        "label_group_loss": "label and group losses",
        "group_confusion": "confusion counts",
        "group_score": "score sums",
    }
    ours = [n for n in registry.names() if registry.resolve(n)[0].startswith("fedtoll.")]
    rows = {
        row[0].strip("`"): row for row in re.findall(r"^\| (`\S+`) \| (.+) \| (.+) \| (.+) \|$", GUIDE, re.M)
    }
    assert len(ours) == 27
    for name in ours:
        asked = registry.build(registry.resolve(name)[0], {}).requests
        expected = ", ".join(words[s.name] for s in asked) or "nothing"
        assert rows[name][2] == ("what its target asks" if name in WRAPPERS else expected)


@pytest.mark.parametrize("name", sorted(STATISTICS))
def test_shapes_and_sensitivities_are_those_of_the_declarations(name):
    row = next(line for line in GUIDE.splitlines() if f"| `{name}` |" in line)
    _, _, _, shape, sensitivity, _, _ = (cell.strip() for cell in row.split("|"))
    statistic = STATISTICS[name]()
    groups, classes = 7, 3
    expected = (
        []
        if shape == "a number"
        else [{"G": groups, "C": classes}.get(x, x) for x in shape[1:-1].split(", ")]
    )
    assert tuple(int(x) for x in expected) == statistic.shape(groups, classes)
    B = getattr(statistic, "clip", 0.0)
    assert {"B / n": B / 50, "1 / n": 1 / 50, "√2": 2**0.5, "1": 1.0}[sensitivity] == statistic.sensitivity(
        50
    )
