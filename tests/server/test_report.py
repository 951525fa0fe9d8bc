"""The report: self-contained, walled in, honest, and the same bytes for the same results."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fedtoll.clients import budget
from fedtoll.server.report import headline, privacy, toll_table, write, write_figures
from fedtoll.server.report.page import render

from .fake import INF, Fake, adult_race

HOSTILE = {
    "White": "</script><script>alert(1)</script>",
    "Black": "<img src=x onerror=alert(2)>",
    "Asian-Pac-Islander": "x" * 120,
    "Amer-Indian-Eskimo": "{{ 7 * 7 }}",
    "Other": "[red] \u2028'\"&amp;]]><!--<script>",
}


class Page(HTMLParser):
    """What a browser would make of a page: its elements, and the text of each."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[dict[str, Any]] = []
        self._open: list[dict[str, Any]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        element = {"tag": tag, "attrs": dict(attrs), "text": ""}
        self.elements.append(element)
        if tag not in {"meta", "link", "img", "br"}:
            self._open.append(element)

    def handle_endtag(self, tag):
        while self._open and self._open.pop()["tag"] != tag:
            pass

    def handle_data(self, data):
        for element in self._open:
            element["text"] += data

    def all(self, tag: str) -> list[dict[str, Any]]:
        return [e for e in self.elements if e["tag"] == tag]

    @property
    def specs(self) -> dict[str, Any]:
        scripts = [e for e in self.all("script") if e["attrs"].get("type") == "application/json"]
        return {e["attrs"]["id"]: json.loads(e["text"]) for e in scripts}

    @property
    def code(self) -> list[str]:
        return [e["text"] for e in self.all("script") if "type" not in e["attrs"]]


@pytest.fixture(scope="module")
def results():
    return adult_race()


@pytest.fixture(scope="module")
def text(results):
    return render(results)


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


@pytest.fixture(scope="module")
def hostile():
    fake = adult_race(
        names=HOSTILE, strategies=("fedavg", "</script><b>evil</b>", "javascript:alert(3)[/bold]")
    )
    fake.resolved["scenario"]["title"] = "<script>alert(4)</script>"
    fake.resolved["command"] = "</code><script>alert(5)</script>"
    return fake


def terminal(results: Fake, width: int = 100) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(toll_table(results))
    return out.getvalue()


# The wall


def test_the_page_names_no_other_place(page, text):
    addresses = [
        value
        for e in page.elements
        for name, value in e["attrs"].items()
        if name in {"src", "href", "srcset", "action", "data", "poster", "xlink:href"}
    ]
    assert addresses == ["data:,"]  # the icon, so that no browser asks for one
    style = "".join(e["text"] for e in page.all("style"))
    assert "url(" not in style
    assert "@import" not in style
    assert not {e["tag"] for e in page.elements} & {"iframe", "object", "embed", "base", "form", "a", "img"}


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
    # The policy binds what comes after it.
    tags = [e["tag"] for e in page.elements]
    first = page.elements.index(next(e for e in page.elements if "http-equiv" in e["attrs"]))
    assert not set(tags[:first]) & {"script", "style", "link"}


def test_the_page_is_small_and_holds_vega_once(text, page):
    assert len(text.encode()) < 2_000_000
    assert len(page.code) == 1
    assert len(page.specs) == 7


@pytest.mark.slow
def test_many_strategies_stay_under_the_limit():
    many = adult_race(strategies=("fedavg", *(f"s(t={i})" for i in range(22))), seeds=(0, 1), rounds=60)
    assert len(render(many).encode()) < 2_000_000


def test_the_same_results_give_the_same_bytes(results, text):
    assert render(results) == text
    assert render(adult_race()) == text


@pytest.mark.slow
def test_another_process_gives_the_same_bytes(text):
    program = (
        "import hashlib; from tests.server.fake import adult_race; "
        "from fedtoll.server.report.page import render; "
        "print(hashlib.sha256(render(adult_race()).encode()).hexdigest())"
    )
    root = Path(__file__).parents[2]
    out = subprocess.run(
        [sys.executable, "-c", program],
        cwd=root,
        env={"PYTHONPATH": str(root), "PYTHONHASHSEED": "7", "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert out.stdout.strip() == hashlib.sha256(text.encode()).hexdigest()


# Names that come from users


def test_hostile_names_stay_text(hostile, page):
    evil = Page(render(hostile))
    assert len(evil.code) == 1
    assert {e["tag"] for e in evil.elements} == {e["tag"] for e in page.elements}
    assert not [e for e in evil.elements if any(a.startswith("on") for a in e["attrs"])]
    heads = {e["text"] for e in evil.all("th")}
    assert set(HOSTILE.values()) <= heads
    assert evil.all("h1")[0]["text"] == "<script>alert(4)</script>"


def test_hostile_names_reach_the_charts_unharmed_and_escaped(hostile):
    text = render(hostile)
    spec = Page(text).specs["who-pays-log_loss-spec"]
    panels = {row["panel"].split("\n")[0] for rows in spec["datasets"].values() for row in rows}
    assert set(HOSTILE.values()) <= panels
    raw = re.search(r'id="who-pays-log_loss-spec">(.*?)</script>', text, re.DOTALL)
    assert raw is not None
    assert not set("<>&\u2028") & set(raw[1])


def test_hostile_names_do_not_break_the_figures(hostile, tmp_path):
    svg, _ = write_figures(hostile, tmp_path)
    drawn = svg.read_text()
    assert "<script" not in drawn
    assert "<b>" not in drawn
    assert "&lt;img src=x onerror=alert(2)&gt;" in drawn


def test_hostile_names_are_no_markup_in_the_terminal(hostile):
    out = terminal(hostile)
    assert "[red]" in out
    assert "[/bold]" in re.sub(r"\s", "", out)


CHROMIUM = shutil.which("chromium")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_a_browser_draws_every_chart_and_complains_of_nothing(hostile, tmp_path):
    assert CHROMIUM is not None
    file = tmp_path / "report.html"
    write(hostile, file)
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-sync",
    ]
    flags += [
        "--disable-background-networking",
        "--disable-component-update",
        "--host-resolver-rules=MAP * ~NOTFOUND",
    ]
    flags += [
        f"--user-data-dir={tmp_path / 'profile'}",
        "--enable-logging=stderr",
        "--virtual-time-budget=20000",
    ]
    done = subprocess.run(
        [CHROMIUM, *flags, "--dump-dom", file.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    drawn = Page(done.stdout)
    assert len(drawn.all("svg")) == 7
    assert "CONSOLE" not in done.stderr


# What it says


def test_sections_come_in_order(page):
    assert [e["text"] for e in page.all("h2")] == [
        "Who pays",
        "The toll",
        "The toll gap",
        "Groups, clients and weights",
        "Privacy card",
        "Provenance",
    ]


def test_the_headline_leads(page, results):
    lead = next(e for e in page.all("p") if e["attrs"].get("class") == "lead")
    assert lead["text"] == headline(results)


def test_tables_are_tables(page):
    tables, captions = page.all("table"), page.all("caption")
    assert len(tables) == len(captions) == 10
    assert all(c["text"].strip() for c in captions)
    assert {e["attrs"].get("scope") for e in page.all("th")} == {"col", "row", "rowgroup"}


def test_n_and_positives_stand_beside_every_toll(results):
    from fedtoll.server.report.tables import toll_tables
    from fedtoll.server.toll import toll

    tolls = {m: toll(results.groups, m, 5) for m in ("log_loss", "tpr", "accuracy", "balanced_accuracy")}
    tables = toll_tables(tolls)
    assert [t.caption for t in tables] == ["ε = 8", "ε = 2", "ε = 0.5", "ε = ∞, the reference (non-private)"]
    for table in tables:
        for section in table.sections:
            assert len(section.rows) == 6
            assert all(re.fullmatch(r"[\d,]+ \([\d,]+\)", row.cells[0]) for row in section.rows)
    first = tables[2].sections[0]
    assert first.title == "fedavg"
    assert first.rows[0].head == "Asian-Pac-Islander"  # who pays most comes first
    assert first.rows[-1].head == "everybody"
    row = (
        tolls["log_loss"]
        .query("epsilon == .5 and strategy == 'fedavg' and group == 'Asian-Pac-Islander'")
        .iloc[0]
    )
    assert first.rows[0].cells[1] == f"{row['toll']:.3f} ± {row['toll_se']:.3f}"
    assert first.rows[0].cells[2] == f"{row['toll_low']:.3f} to {row['toll_high']:.3f}"


def test_flags_are_told(results):
    groups = results.groups.copy()
    last = groups["round"] == groups["round"].max()
    groups.loc[
        last & (groups["group"] == "Other") & (groups["seed"] == 1), ["collapsed", "below_majority"]
    ] = True
    groups.loc[last & (groups["group"] == "Other"), "positives"] = 2
    groups.loc[last & (groups["group"] == "Black") & (groups["seed"] == 2), "tpr"] = float("nan")
    cells = [html.unescape(e["text"]) for e in Page(render(replace(results, groups=groups))).all("td")]
    assert any(c.startswith("too few; collapsed ") and "below majority 1/5" in c for c in cells)
    assert "TPR undefined 1/5" in cells


def test_clipping_alone_is_labelled_non_private(results):
    page = Page(render(adult_race(clip_only=True, seeds=(0, 1))))
    captions = [e["text"] for e in page.all("caption")]
    assert "ε = ∞, clipped and not noised (non-private)" in captions
    assert "clipped, yet not noised" in words_of_card(page)["Not private"]


def words_of_card(page: Page) -> dict[str, str]:
    terms, words = [e["text"] for e in page.all("dt")], [e["text"] for e in page.all("dd")]
    return dict(reversed(list(zip(terms, words, strict=True))))  # the first of a name


def test_the_privacy_card_is_made_from_the_results(results):
    ledger = results.ledger.assign(delta=3e-6, accountant="prv")
    loud = (ledger["client"] == 11) & (ledger["epsilon"] == 0.5)
    ledger.loc[loud, "epsilon_spent"] = 0.75
    page = Page(render(replace(results, ledger=ledger)))
    guarantee = words_of_card(page)["Guarantee"]
    assert "δ = 3e-06" in guarantee
    assert "prv accountant" in guarantee
    assert "0.75 of ε = 0.5" in guarantee
    cells = [e["text"] for e in page.all("td")]
    assert "client 11, Amer-Indian-Eskimo, n\u00a0=\u00a0376" in cells
    assert "mean_loss: 3 releases, noise multiplier 100" in cells
    assert "to norm 3 and adds" in words_of_card(page)["Mechanism"]


@pytest.mark.parametrize(
    "words",
    [
        "One record of one client",
        "added to or removed from one client",
        "every message of every client",
        "no amplification from sampling clients",
        "hyper-parameters",
        "declared public",
        "experimenter’s view",
        "a simulation, not a deployable guarantee",
        "float32",
        "paired runs must never be released together",
        "side channel",
    ],
)
def test_the_privacy_card_says(text, words):
    assert words in html.unescape(text)


def test_without_private_runs_the_card_promises_nothing():
    page = Page(render(adult_race(epsilons=(INF,), seeds=(0, 1))))
    assert "No run here is private" in words_of_card(page)["None"]
    assert "Guarantee" not in words_of_card(page)


def test_provenance_holds_what_an_outsider_needs(page, results):
    words = words_of_card(page)
    data = results.resolved["data"]
    assert words["Command"] == "fedtoll run adult-race"
    assert data["citation"] in words["Data"]
    assert (words["Licence"], words["Checksum"]) == (data["licence"], data["checksum"])
    assert "torch 2.13.0" in words["Versions"]
    heads = {e["text"] for e in page.all("th")}
    assert {run["hash"] for run in results.resolved["runs"]} <= heads


def test_missing_runs_are_told(results, text):
    frames = {
        name: frame[(frame["seed"] != 3) | (frame["strategy"] != "uniform")]
        for name in ("groups", "clients", "rounds", "ledger", "predictions")
        for frame in [getattr(results, name)]
    }
    holed = render(replace(results, **frames))
    assert "4 of 60 runs are missing" in holed
    assert "uniform, ε = 0.5, seed 3" in holed
    assert "are missing" not in text


def test_with_more_than_two_classes_rates_are_dashes(results):
    groups = results.groups.assign(tpr=float("nan"), fpr=float("nan"), selection_rate=float("nan"))
    frames = {"groups": groups, "predictions": results.predictions.rename(columns={"score": "score_0"})}
    page = Page(render(replace(results, **frames)))
    assert "TPR undefined 5/5" in {e["text"] for e in page.all("td")}


def test_unknown_weights_and_noise_leave_their_charts_out(results):
    frames = {
        "groups": results.groups.assign(weight=float("nan")),
        "rounds": results.rounds.assign(effective_noise=float("nan")),
    }
    assert set(Page(render(replace(results, **frames))).specs) == {
        "who-pays-log_loss-spec",
        "who-pays-tpr-spec",
        "who-pays-accuracy-spec",
        "tolls-spec",
        "partition-spec",
    }


def test_the_card_adds_the_ledgers_of_a_record_that_several_clients_hold(results):
    scenario = results.resolved["scenario"]
    copied = {**scenario, "partition": {**scenario["partition"], "copies": 2}}
    card = privacy.card(replace(results, resolved={**results.resolved, "scenario": copied}))
    guarantee = dict(card.promises)["Guarantee"]
    assert "Each record is held by 2 clients, so its ledgers add" in guarantee
    single, double = (budget.epsilon(_events(results, k), 1e-5) for k in (1, 2))
    assert double > 1.2 * single
    assert f"{double:.4g} of ε = 0.5" in guarantee
    assert "Clients hold disjoint records" in dict(privacy.card(results).promises)["Guarantee"]


def _events(results, clients):
    """What so many equal clients of the strategy that spends most release at ε = .5, in one run."""
    one = results.ledger.query("epsilon == 0.5 and strategy == 'term(t=5)' and seed == 0 and client == 0")
    releases = zip(one["noise_multiplier"], one["sampling_rate"], one["count"], strict=True)
    return [budget.Event(z, q, n) for z, q, n in releases] * clients


def test_who_pays_goes_from_no_privacy_to_the_tightest(page):
    spec = page.specs["who-pays-log_loss-spec"]
    x = spec["spec"]["layer"][1]["encoding"]["x"]
    assert x["scale"]["domain"] == ["∞", "8", "2", "0.5"]
    rows = [row for data in spec["datasets"].values() for row in data]
    assert len(rows) == 6 * 3 * 4
    assert {row["panel"] for row in rows} >= {"Black\nn = 4,685", "everybody\nn = 48,835"}
    assert all(row["low"] < row["value"] < row["high"] for row in rows)


# The headline


def test_the_headline_says_who_pays_and_what_changes(results):
    from fedtoll.server.toll import toll, toll_gap

    words = headline(results)
    frame = toll(results.groups, folds=5).query("epsilon == .5")
    worst = frame.query("strategy == 'fedavg' and group == 'Asian-Pac-Islander'").iloc[0]
    gaps = toll_gap(frame).set_index("strategy")["gap"]
    assert words.startswith(
        f"At ε = 0.5 fedavg costs Asian-Pac-Islander {worst['toll']:.3f} nats of log-loss (95% interval "
        f"{worst['toll_low']:.3f} to {worst['toll_high']:.3f}) and White "
    )
    assert f"the toll gap from {gaps['fedavg']:.3f} to {gaps['term(t=5)']:.3f}" in words
    assert words.endswith("5 seeds: too few seeds for a test.")


def test_the_headline_degrades_honestly():
    assert headline(adult_race(seeds=(0,))).endswith("One seed: no interval and no test.")
    assert "interval 0" not in headline(adult_race(seeds=(0,)))
    assert "too few seeds" not in headline(adult_race(seeds=tuple(range(6))))
    assert headline(adult_race(epsilons=(INF,))) == "No run has a finite ε: there is no toll to compare."
    assert headline(adult_race(epsilons=(8.0,))).startswith("No toll can be stated at ε = 8")
    alone = headline(adult_race(strategies=("uniform",)))
    assert alone.startswith("At ε = 0.5 uniform costs Asian-Pac-Islander")
    assert "gap" not in alone


def test_the_headline_names_no_group_with_too_few_records(results):
    groups = results.groups.assign(positives=1)
    words = headline(replace(results, groups=groups))
    assert "over all groups; every group has too few test records" in words
    assert "Asian" not in words


def test_the_headline_does_not_praise_a_useless_model(results):
    groups = results.groups.copy()
    useless = (groups["strategy"] == "term(t=5)") & (groups["epsilon"] == 0.5)
    groups.loc[useless, "below_majority"] = True
    assert "But term(t=5) does no better than predicting the majority." in headline(
        replace(results, groups=groups)
    )


# Files and the terminal


def test_write_replaces_and_leaves_nothing_beside(results, text, tmp_path):
    file = tmp_path / "report.html"
    file.write_text("old")
    write(results, file)
    assert file.read_text() == text
    assert list(tmp_path.iterdir()) == [file]


def test_figures_are_drawn_twice_alike(results, tmp_path):
    first = write_figures(results, tmp_path / "a")
    second = write_figures(results, tmp_path / "b")
    assert [f.name for f in first] == ["who-pays.svg", "who-pays.png"]
    assert [f.read_bytes() for f in first] == [f.read_bytes() for f in second]
    assert first[1].read_bytes().startswith(b"\x89PNG")
    svg = first[0].read_text()
    assert "Asian-Pac-Islander" in svg
    assert "n = 1,515" in svg


def test_the_terminal_table_fits_and_is_plain(results):
    out = terminal(results)
    assert max(map(len, out.splitlines())) <= 100
    assert "\x1b" not in out
    assert [line for line in out.splitlines() if line.startswith("ε = ")] == [
        f"ε = {e}: what privacy costs, in log-loss (± s.e.) and in TPR".ljust(len(line))
        for e, line in zip((8, 2, 0.5), [x for x in out.splitlines() if x.startswith("ε = ")], strict=True)
    ]
    assert " ".join(out.split()).endswith(headline(results))
    asian = [line for line in out.splitlines() if line.startswith("Asian-Pac-Islander")]
    assert len(asian) == 3  # one row an ε, three strategies across
    assert all("1,515" in line and "410" in line and line.count("±") == 3 for line in asian)


def test_the_terminal_marks_what_may_not_be_claimed():
    out = terminal(adult_race(seeds=(0,)))
    assert re.search(r"Other +81 +10\*", out)
    assert "* too few records or positives for a claim" in out
    assert "±" not in re.sub(r"\(± s\.e\.\)", "", out)  # one seed has no standard error


def test_more_strategies_go_beneath():
    out = terminal(adult_race(strategies=("fedavg", "uniform", "a", "b"), seeds=(0, 1)))
    assert max(map(len, out.splitlines())) <= 100
    assert len(re.findall(r"^White +\d+,", out, re.MULTILINE)) == 6
