"""Characters that a terminal or a browser obeys: they are shown as escapes, wherever names come from."""

from __future__ import annotations

import json
import logging
import re
import shutil
import sys
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest

from fedtoll.console import console, echo
from fedtoll.report.page import render
from fedtoll.scenarios.errors import one_line
from fedtoll.scenarios.visible import all_visible, visible
from tests.report.html import Page
from tests.server.fake import GROUPS, adult_race

OBEYED = "\u202e\x1b]0;owned\x07\u2066\u200f\x9b2J\x7f\u2028\ufeff"
"""An override, an escape sequence, an isolate, a mark, a C1 sequence, and what is not drawn."""


def assert_shown(text: str) -> None:
    allowed = "\n\t\u200c\u200d"
    raw = {c for c in text if unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"}} - {*allowed}
    assert not raw, [hex(ord(c)) for c in raw]


@pytest.mark.parametrize("category", ["Cc", "Cs", "Zl", "Zp"])
def test_all_control_characters_are_shown(category):
    found = [c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(c) == category]
    assert_shown(visible("".join(found)))


def test_all_bidirectional_characters_are_shown():
    kinds = {"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"}
    found = [c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.bidirectional(c) in kinds]
    assert len(found) == 9
    assert visible("".join(found)).isascii()


def test_letters_of_any_script_stay_as_they_are():
    for word in ("Ναί", "日本", "شما\u200cها", "עברית", "👩\u200d🔬", "é\u0301", "a\nb\tc", "ε = ∞"):
        assert visible(word) == word


def test_json_stays_the_same_json():
    content = {f"a{OBEYED}": [f"{OBEYED}b", "\U000e0001", "\ud800"]}
    shown = visible(json.dumps(content, ensure_ascii=False))
    assert_shown(shown)
    assert json.loads(shown) == content
    assert all_visible(content) != content


def test_an_error_is_one_line_of_printable_characters():
    assert one_line(f"a\n{OBEYED}b\u00a0c").isprintable()
    assert one_line("a\x1bb") == "a\\u001bb"


def test_the_terminal_shows_them(capsys):
    from rich.table import Table
    from rich.text import Text

    table = Table()
    table.add_column(Text(OBEYED))
    table.add_row(Text(OBEYED))
    console().print(table, Text(OBEYED))
    console(stderr=True).print(OBEYED, markup=False)
    echo(OBEYED)
    out, err = capsys.readouterr()
    for text in (out, err):
        assert "\\u202e" in text
        assert_shown(text)


def test_warnings_show_them(here, capsys, monkeypatch):
    here("--version")
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    logging.getLogger("fedtoll").warning("fedtoll: %s", OBEYED)
    err = capsys.readouterr().err
    assert "\\u202e" in err
    assert_shown(err)


@pytest.fixture(scope="module")
def named():
    """Results whose every name has such characters."""
    fake = adult_race(seeds=(0, 1), records=60, names={group: f"{group}{OBEYED}" for group in GROUPS})
    scenario = fake.resolved["scenario"] | dict.fromkeys(("name", "title", "description"), f"a{OBEYED}")
    scenario["data"] = scenario["data"] | {"groups": [f"race{OBEYED}"]}
    resolved = fake.resolved | {"scenario": scenario, "command": OBEYED}
    resolved["data"] = resolved["data"] | dict.fromkeys(("title", "source", "licence", "citation"), OBEYED)
    return replace(fake, resolved=resolved)


@pytest.mark.slow
def test_the_page_shows_them(named):
    page = render(named)
    text = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)  # Vega's own
    assert "\\u202e" in text
    assert_shown(text)
    specs = Page(page).specs
    assert "who-pays-spec" in specs
    for spec in specs.values():
        assert_shown(json.dumps(spec, ensure_ascii=False))


@pytest.mark.slow
def test_the_report_in_the_terminal_shows_them(here, named, tmp_path):
    from tests.toll.test_two_folders import written

    folder = written(tmp_path / "one", named)
    shutil.copytree(folder, tmp_path / "two")
    file = Path(tmp_path / "two/resolved.json")
    file.write_text(file.read_text().replace('"clip": 3.0', '"clip": 1.0'))
    for command in (["report", "one"], ["compare", "one", "two"], ["compare", "one", "two", "--json"]):
        code, out, err = here(*command)
        assert (code, err) == (0, "")
        assert "u202e" in out
        assert_shown(out)
    for svg in (folder / "figures").glob("*.svg"):
        assert_shown(svg.read_text())
