"""``fedtoll findings``: everything runs, the same again, and a page that a reviewer can read."""

from __future__ import annotations

import dataclasses
import html.parser
import json
import re
import tomllib

import pytest

from fedtoll.scenarios.scenario import findings, read
from fedtoll.server.findings import write
from fedtoll.server.findings.conduct import conduct, prepare
from fedtoll.server.findings.page import render
from tests.server.report.browser import CHROMIUM, Browser

NAME = "exact-fairness-is-trivial"


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The finding with two of its claims, two settings and two ε, as a user's own file."""
    table = tomllib.loads(findings()[NAME].read_text(encoding="utf-8"))
    table["privacy"]["epsilons"] = ["inf", 0.03]
    kept = ("disparity-vanishes", "not-constant-without-privacy")
    table["claim"] = [c | {"settings": ["base", "federated"]} for c in table["claim"] if c["name"] in kept]
    file = tmp_path_factory.mktemp("small") / "small.json"
    file.write_text(json.dumps(table))
    return file


class Page(html.parser.HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words += f" {data}"


def test_a_finding_runs_resumes_and_gives_the_same(small, here, tmp_path, monkeypatch):
    code, out, err = here("findings", small, "--quick", "--json")
    assert (code, err) == (0, "")
    first = json.loads(out)
    (found,) = first["findings"]
    assert found["name"] == NAME
    assert {o["verdict"] for o in found["outcomes"]} == {"undecided"}
    assert {o["why"] for o in found["outcomes"]} == {"quick: few seeds and rounds"}
    assert {o["setting"] for o in found["outcomes"]} == {"base", "federated"}
    assert {q: s["answer"] for q, s in found["survives"].items()} == {
        "tuning": "not asked",
        "blind": "not asked",
    }
    assert [(p["setting"], p["epsilon"]) for p in found["front"]] == [
        (setting, epsilon) for setting in ("base", "federated") for epsilon in ("∞", "0.03")
    ]
    page = (tmp_path / first["page"]).read_bytes()
    assert (tmp_path / "results/findings-quick" / NAME / "federated/resolved.json").exists()

    def no(*a, **k):
        raise AssertionError("trained again")

    monkeypatch.setattr("fedtoll.server.executor._train", no)
    code, out, _ = here("findings", small, "--quick", "--json")
    assert code == 0
    assert json.loads(out) == first
    assert (tmp_path / first["page"]).read_bytes() == page
    code, out, _ = here("findings", small, "--quick")
    assert code == 0
    assert "disparity-vanishes" in out
    assert "survives tuning? not asked: no claim is asked" in out
    assert "\nNo claim could be decided.\n" in out
    assert out.rstrip().endswith("page: results/findings-quick/findings.html")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing"], "there is no such finding"),
        (["exact-fairness-is-trivia"], "did you mean 'exact-fairness-is-trivial'?"),
        ([NAME, "--executor", "threads"], "executor 'threads' is unknown"),
        (["mine.toml"], "no such file"),
    ],
)
def test_mistakes_are_one_line(here, arguments, words, tmp_path):
    code, out, err = here("findings", *arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert words in err
    assert not (tmp_path / "results").exists()


@pytest.fixture(scope="module")
def made(small, tmp_path_factory):
    return conduct(prepare(str(small), quick=True), tmp_path_factory.mktemp("finding"))


def decided(made):
    """The finding with verdicts, as a full run would have."""
    from dataclasses import replace

    words = ("reproduced", "contradicted", "not reproduced", "undecided")
    outcomes = tuple(
        replace(o, verdict=words[i % 4], why=f"reason {i}", says=f"<b>claim</b> {i}")
        for i, o in enumerate(made.outcomes)
    )
    return replace(made, outcomes=outcomes)


def test_the_page_says_plainly_what_did_not_hold(made):
    finding = decided(made)
    text = render([finding], "fedtoll findings")
    page = Page(text)
    fallen = text[text.index('id="not-held"') : text.index('id="overview"')]
    for o in finding.outcomes:
        there = f"&lt;b&gt;claim&lt;/b&gt; {o.says.rsplit(' ', 1)[1]}" in fallen
        assert there == (o.verdict in {"contradicted", "not reproduced"})
        assert o.why in page.words
    assert "<b>" not in text
    assert "Could not be shown, in one setting or more: " in text
    header = text[text.index("<header>") : text.index("</header>")]
    assert "Contradicted here: “&lt;b&gt;claim&lt;/b&gt; 1”" in header
    assert "claim&lt;/b&gt; 0”" not in header
    source = finding.scenario.source
    for words in (source.paper, source.setting, source.differs, source.constants):
        assert words in page.words
    for claim in finding.scenario.claim:
        assert claim.published in page.words
        assert claim.reason in page.words


def test_the_page_is_self_contained(made):
    text = render([made], "fedtoll findings")
    page = Page(text)
    policy = next(t[1]["content"] for t in page.tags if t[1].get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'")
    assert "script" not in {tag for tag, _ in page.tags}
    assert not re.findall(r"(?:src|href)=\"(?!#|data:)", text)
    links = {str(a["href"])[1:] for tag, a in page.tags if tag == "a" and a.get("href")}
    assert links <= {a["id"] for _, a in page.tags if a.get("id")}


def test_the_page_says_what_survives_and_draws_the_front(made):
    from dataclasses import replace

    from fedtoll.server.findings.survival import Survival

    survives = (Survival("tuning", "no", "of 3 it lost 1"), Survival("blind", "yes", "of 3 it kept 3"))
    constant = replace(made.front[-1], collapsed=0.9, standing="collapsed")
    text = render([replace(made, survives=survives, front=(*made.front[:-1], constant))], "x")
    page = Page(text)
    assert "Survives tuning? No : of 3 it lost 1." in " ".join(page.words.split())
    assert "Survives blind? Yes : of 3" in " ".join(page.words.split())
    images = [a for tag, a in page.tags if tag == "img"]
    assert [str(a["src"])[:26] for a in images] == ["data:image/svg+xml;base64,"] * 2
    assert "ε = 0.03: accuracy" in str(images[1]["alt"])
    assert str(images[1]["alt"]).endswith(", collapsed.")
    assert "so that their parity says nothing: federated, fedavg at ε = 0.03 (90% of seeds)." in page.words


def test_no_command_is_given_that_would_run_something_else(made):
    """``fedtoll run`` knows neither tuning nor grids."""
    for name, told in (
        ("exact-fairness-is-trivial", {"tuned": "chooses its constants first"}),
        ("private-reductions", dict.fromkeys(("parity", "odds"), "trains its grid beside it")),
    ):
        scenario = read(name)
        text = render([dataclasses.replace(made, scenario=scenario, outcomes=(), front=(), tuned={})], "x")
        settings = dict(re.findall(r"<dt>([\w-]+)</dt><dd>(.*?)</dd>", text, re.S))
        for setting in scenario.setting:
            alone = f"<code>fedtoll run {name} --set" in settings[setting.name]
            assert alone == (setting.name not in told)
            if not alone:
                assert f"fedtoll findings {name}</code> {told[setting.name]}." in settings[setting.name]


def test_the_page_says_that_choosing_costs_privacy(made):
    words = " ".join(Page(render([made], "x")).words.split())
    assert "the ε shown does not count that" in words
    assert "At ∞ there are fewer to choose from, so tolls lean down" in words


def test_the_same_outcomes_give_the_same_bytes(made, tmp_path):
    write([made], tmp_path / "a.html", "x")
    write([made], tmp_path / "b.html", "x")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_a_real_browser_shows_it_and_asks_for_nothing(made, tmp_path):
    write([decided(made)], tmp_path / "findings.html", "fedtoll findings")
    for width in (390, 1280):
        with Browser(tmp_path / str(width)) as browser:
            browser.open(tmp_path / "findings.html", width=width, height=900)
            assert browser.said == []
            assert [a for a in browser.asked if not a.startswith(("file:", "data:"))] == []
            shown = browser.run("document.querySelectorAll('.verdict').length")
            assert shown > len(made.outcomes)  # those that fell stand above as well
            assert browser.run("document.documentElement.scrollWidth") <= width


@pytest.mark.slow
def test_every_finding_runs_quickly(here):
    code, out, err = here("findings", "--quick", "--json")
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert [f["name"] for f in told["findings"]] == list(findings())
    assert {o["verdict"] for f in told["findings"] for o in f["outcomes"]} == {"undecided"}
    assert all(o["mean"] is not None for f in told["findings"] for o in f["outcomes"])
