"""The page is self-contained and walled in, and names that come from users stay text."""

from __future__ import annotations

import base64
import hashlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fedtoll.report.page import render
from tests.report.conftest import HOSTILE
from tests.server.fake import adult_race


def test_the_page_names_no_other_address(page):
    addresses = [
        value
        for e in page.elements
        for name, value in e["attrs"].items()
        if name in {"src", "href", "srcset", "action", "data", "poster", "xlink:href"}
    ]
    inside = [a for a in addresses if a.startswith("#")]
    assert [a for a in addresses if a not in inside] == [
        "data:,"
    ]  # the icon, so that no browser requests one
    ids = {e["attrs"].get("id") for e in page.elements}
    assert {a.removeprefix("#") for a in inside} <= ids
    style = "".join(e["text"] for e in page.all("style"))
    assert "url(" not in style
    assert "@import" not in style
    assert not {e["tag"] for e in page.elements} & {"iframe", "object", "embed", "base", "form", "img"}


def test_the_policy_admits_the_one_script_and_no_connection(page):
    (policy,) = [
        e["attrs"]["content"]
        for e in page.all("meta")
        if e["attrs"].get("http-equiv") == "Content-Security-Policy"
    ]
    (code,) = page.code
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == f"'sha256-{digest}'"
    assert not rules.keys() & {"connect-src", "font-src", "frame-src"}  # they fall back to none
    # A policy applies only to what follows it.
    tags = [e["tag"] for e in page.elements]
    first = page.elements.index(next(e for e in page.elements if "http-equiv" in e["attrs"]))
    assert not set(tags[:first]) & {"script", "style", "link"}


def test_the_page_is_small_and_holds_vega_once(text, page):
    assert len(text.encode()) < 2_000_000
    assert len(page.code) == 1


@pytest.mark.slow
def test_many_strategies_stay_under_the_limit():
    many = adult_race(strategies=("fedavg", *(f"s(t={i})" for i in range(22))), seeds=(0, 1), rounds=60)
    assert len(render(many).encode()) < 2_000_000


@pytest.mark.slow  # test_page.py does this for one digest in the quick suite
def test_the_same_results_give_the_same_bytes(results, text):
    assert render(results) == text


@pytest.mark.slow
def test_another_process_gives_the_same_bytes(text):
    program = (
        "import hashlib; from tests.server.fake import adult_race; "
        "from fedtoll.report.page import render; "
        "print(hashlib.sha256(render(adult_race()).encode()).hexdigest())"
    )
    root = Path(__file__).parents[2]
    out = subprocess.run(
        [sys.executable, "-c", program],
        cwd=root,
        env={"PYTHONPATH": f"{root}:{root / 'src'}", "PYTHONHASHSEED": "7", "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert out.stdout.strip() == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.slow
def test_hostile_names_stay_text(disguise, page):
    evil = disguise
    assert len(evil.code) == 1
    assert {e["tag"] for e in evil.elements} == {e["tag"] for e in page.elements}
    assert not [e for e in evil.elements if any(a.startswith("on") for a in e["attrs"])]
    heads = {e["text"] for e in evil.all("th")}
    assert set(HOSTILE.values()) <= heads
    assert evil.all("h1")[0]["text"] == "<script>alert(4)</script>"


@pytest.mark.slow
def test_hostile_names_reach_the_charts_unharmed_and_escaped(evil, disguise):
    spec = disguise.specs["utility-log_loss-spec"]
    panels = {row["panel"].split("\n")[0] for rows in spec["datasets"].values() for row in rows}
    assert set(HOSTILE.values()) <= panels
    raw = re.findall(r'type="application/(?:json|gzip)" id="[^"]+">(.*?)</script>', evil, re.DOTALL)
    assert len(raw) > 20
    assert not [part for part in raw if set("<>&") & set(part)]


def test_no_name_is_a_formula_in_a_spreadsheet(disguise):
    files = disguise.csv
    for text in files.values():
        assert not re.search(r'(^|,)"?[=+@]', text, re.MULTILINE)
    assert "'=cmd" in files["tolls"]
