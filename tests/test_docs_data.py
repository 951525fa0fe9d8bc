"""The table and the scenario of docs/data.md run as printed, and its lists are complete."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fedtoll.scenarios.data import SOURCES
from fedtoll.scenarios.data.config import AttributeFacts, ColumnFacts, Data, TableFacts
from fedtoll.scenarios.data.user_file import READERS
from fedtoll.scenarios.scenario import Partition, Split

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs/data.md").read_text(encoding="utf-8")


def block(kind):
    text, *_ = re.findall(rf"^```{kind}\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    return text


@pytest.mark.slow
def test_the_table_and_the_scenario_of_the_guide_run(here, tmp_path):
    (tmp_path / "people.csv").write_text(block("csv"))
    (tmp_path / "people.toml").write_text(block("toml"))
    code, out, err = here("check", "people.toml")
    assert (code, err) == (0, "")
    assert f"\n{out}$ fedtoll run people.toml\n" in GUIDE
    code, out, err = here("run", "people.toml", "--executor", "serial", "--set", "training.rounds=1")
    assert code == 0, err
    assert "Black" in out
    assert "* too few records" in out
    assert (tmp_path / "results/people/report.html").exists()


def test_the_guide_names_every_key_kind_suffix_and_source():
    words = set(re.findall(r"[\w.-]+", " ".join(re.findall(r"`([^`\n]*)`", GUIDE)).replace("own.", "own. ")))
    for section in (TableFacts, ColumnFacts, AttributeFacts, Split, Partition):
        assert set(section.model_fields) - {"clients"} <= words, section
    assert {f"data.{key}" for key in Data.model_fields} - {
        "data.source",
        "data.own",
        "data.synthetic",
    } <= words
    assert {"group", "column", "iid", "dirichlet", "shares", "folds", "canonical"} <= words
    assert set(READERS) <= words
    for name in (*SOURCES, "synthetic"):
        assert f"| `{name}` | " in GUIDE
    for name, source in SOURCES.items():
        if source.rows:
            assert re.search(
                rf"^\| `{name}` \|.*\| {source.rows:,} \| {', '.join(source.attributes)} \|$", GUIDE, re.M
            )


def test_the_readme_links_to_the_guide():
    assert "docs/data.md" in (ROOT / "README.md").read_text(encoding="utf-8")
