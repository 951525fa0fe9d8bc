"""``fedtoll findings``: complete runs, resuming, and the page."""

from __future__ import annotations

import dataclasses
import html.parser
import json
import math
import re
import tomllib

import pytest

from fedtoll.findings import prepare, write
from fedtoll.findings.page import render
from fedtoll.findings.run import run_finding
from fedtoll.scenarios.errors import RunError, ScenarioError
from fedtoll.scenarios.read import findings, read
from tests.report.browser import CHROMIUM, Browser

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
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += f" {data}"


@pytest.mark.slow
def test_a_finding_runs_and_resumes_to_the_same_result(small, here, tmp_path, monkeypatch):
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

    monkeypatch.setattr("fedtoll.sweep.executor._train", no)
    code, out, _ = here("findings", small, "--quick", "--json")
    assert code == 0
    assert json.loads(out) == first
    assert (tmp_path / first["page"]).read_bytes() == page
    code, out, _ = here("findings", small, "--quick")
    assert code == 0
    lines = out.splitlines()
    assert lines[1:-1] == [f"{NAME}: ran, 2 claims in 2 settings undecided"]  # one line a finding
    assert "No claim is decided" in lines[0]
    assert first["failed"] == {}
    assert found["claims"] == {
        "disparity-vanishes": "undecided",
        "not-constant-without-privacy": "undecided",
    }
    assert out.rstrip().endswith("page: results/findings-quick/findings.html")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nothing"], "no such finding"),
        (["exact-fairness-is-trivia"], "did you mean 'exact-fairness-is-trivial'?"),
        ([NAME, "--executor", "threads"], "executor 'threads' is unknown"),
        (["mine.toml"], "no such file"),
        ([NAME, "poor-become-richer"], "did you mean 'poor-become-poorer'?"),
        ([NAME, "adult-race"], "no such finding"),
    ],
)
def test_mistakes_are_one_line(here, arguments, expected, tmp_path):
    code, out, err = here("findings", *arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert expected in err
    assert not (tmp_path / "results").exists()


def test_two_findings_with_one_name_are_rejected(small, here, tmp_path):
    code, out, err = here("findings", NAME, small, "--quick")
    assert (code, out) == (2, "")
    assert f"name = '{NAME}' is also the name of '{NAME}'" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "results").exists()


@pytest.fixture(scope="module")
def trained(small, tmp_path_factory):
    return run_finding(prepare(str(small), quick=True), tmp_path_factory.mktemp("finding"))


@pytest.mark.slow
def test_a_quick_run_has_a_banner_and_no_interval(trained):
    assert trained.quick
    assert all(math.isnan(o.low) and math.isnan(o.high) for o in trained.outcomes)
    assert any(not math.isnan(o.mean) for o in trained.outcomes)
    text = render([trained], "fedtoll findings --quick")
    assert 'id="quick"' in text
    assert not {'id="held"', 'id="not-held"'} & set(re.findall(r'id="[^"]+"', text))  # nothing is decided
    assert "95% interval)" not in text
    assert not re.search(r"\([−\d.]+ to [−\d.]+\)", text)
    assert 'id="quick"' not in render([decided(trained)], "fedtoll findings")


def decided(trained):
    """Return the finding with verdicts, as from a full run; its first claim is published."""
    from dataclasses import replace

    verdicts = ("reproduced", "contradicted", "not reproduced", "undecided")
    claims = list(dict.fromkeys(o.claim for o in trained.outcomes))
    outcomes = tuple(
        replace(
            o,
            verdict=verdicts[i % 4],
            why=f"reason {i}",
            says=f"<b>claim</b> {claims.index(o.claim)}",
            published="as there" if o.claim == claims[0] else "",
        )
        for i, o in enumerate(trained.outcomes)
    )
    return replace(trained, outcomes=outcomes, quick=False)


@pytest.mark.slow
def test_the_page_says_plainly_what_did_not_hold(trained):
    """One line per claim names the settings in which it did not hold and those in which it did."""
    finding = decided(trained)
    text = render([finding], "fedtoll findings")
    page = Page(text)
    failures = text[text.index('id="not-held"') : text.index('id="held"')]
    names = list(dict.fromkeys(o.claim for o in finding.outcomes))
    assert len(names) == 2
    assert failures.count("<li>") == 2
    listed = " ".join(Page(failures).text.split())
    assert listed.index("Published claims") < listed.index("claim</b> 0") < listed.index("Our own claims")
    assert "Contradicted in federated; reproduced in base." in listed
    assert "Not reproduced in base; undecided in federated." in listed
    for o in finding.outcomes:
        assert (o.why in page.text) == (o.verdict in {"not reproduced", "undecided"})
    assert "<b>" not in text
    header = " ".join(Page(text[text.index("<header>") : text.index("</header>")]).text.split())
    assert "Of 1 published claim, 1 was contradicted in at least one setting." in header
    assert "Of 1 claim of our own, 1 could not be shown in any." in header
    source = finding.scenario.source
    for part in (source.paper, source.setting, source.differs, source.constants):
        assert part in page.text
    assert "10% of the records are public" in page.text
    assert "published: as there" in listed
    assert "as there" in page.text
    for claim in finding.scenario.claim:
        assert claim.reason in page.text


@pytest.mark.slow
def test_the_page_is_self_contained(trained):
    text = render([trained], "fedtoll findings")
    page = Page(text)
    policy = next(t[1]["content"] for t in page.tags if t[1].get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'")
    assert "script" not in {tag for tag, _ in page.tags}
    assert not re.findall(r"(?:src|href)=\"(?!#|data:)", text)
    links = {str(a["href"])[1:] for tag, a in page.tags if tag == "a" and a.get("href")}
    assert links <= {a["id"] for _, a in page.tags if a.get("id")}


def test_the_page_says_what_survives_and_draws_the_front(trained):
    from dataclasses import replace

    from fedtoll.findings.survival import Survival

    survives = (Survival("tuning", "no", "of 3 it lost 1"), Survival("blind", "yes", "of 3 it kept 3"))
    constant = replace(trained.front[-1], collapsed=0.9, standing="collapsed")
    text = render([replace(trained, survives=survives, front=(*trained.front[:-1], constant))], "x")
    page = Page(text)
    assert "Survives tuning? No : of 3 it lost 1." in " ".join(page.text.split())
    assert "Survives blind? Yes : of 3" in " ".join(page.text.split())
    images = [a for tag, a in page.tags if tag == "img"]
    assert [str(a["src"])[:26] for a in images] == ["data:image/svg+xml;base64,"] * 2
    assert "ε = 0.03: accuracy" in str(images[1]["alt"])
    assert str(images[1]["alt"]).endswith(", collapsed.")
    assert "so their parity means nothing: federated, fedavg at ε = 0.03 (90% of seeds)." in page.text


def test_the_page_shows_no_command_that_would_run_something_else(trained):
    """``fedtoll run`` does not support grids, and tunes unless it is told not to."""
    for name, commands in (
        ("exact-fairness-is-trivial", {}),
        ("private-reductions", dict.fromkeys(("parity", "odds"), "also trains its grid")),
    ):
        scenario = read(name)
        text = render([dataclasses.replace(trained, scenario=scenario, outcomes=(), front=(), tuned={})], "x")
        settings = dict(re.findall(r"<dt>([\w-]+)</dt><dd>(.*?)</dd>", text, re.S))
        for setting in scenario.setting:
            alone = f"<code>fedtoll run {name}" in settings[setting.name]
            assert alone == (setting.name not in commands)
            assert (" --no-tune</code>" in settings[setting.name]) == (
                alone and scenario.tune is not None and not setting.tuned
            )
            if not alone:
                assert f"fedtoll findings {name}</code> {commands[setting.name]}." in settings[setting.name]


def test_the_page_says_that_choosing_costs_privacy(trained):
    text = " ".join(Page(render([trained], "x")).text.split())
    assert "the ε shown does not count that" in text
    assert "At ∞ there are fewer candidates, which biases tolls downwards" in text


@pytest.mark.slow
def test_the_same_outcomes_give_the_same_bytes(trained, tmp_path):
    write([trained], tmp_path / "a.html", "x")
    write([trained], tmp_path / "b.html", "x")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    (tmp_path / "c.html").mkdir()
    with pytest.raises(ScenarioError, match=r"c\.html: cannot be written"):
        write([trained], tmp_path / "c.html", "x")


@pytest.mark.slow
def test_the_page_gives_the_reason_for_what_is_left_out(trained):
    for name in findings():
        scenario = read(name)
        names = {s.name for s in scenario.setting}
        shown = dataclasses.replace(trained, scenario=scenario, outcomes=(), front=(), tuned={})
        text = Page(render([shown], "x")).text
        assert ("What is not tested, and why" in text) == bool(scenario.source and scenario.source.left_out)
        if not any(s.tuned for s in scenario.setting) or not any("blind" in setting for setting in names):
            assert scenario.source is not None
            assert scenario.source.left_out
            assert scenario.source.left_out.rstrip(".") in text


def test_figures_are_written_as_sources_write_them(trained):
    """A difference of accuracies in points, a share of seeds in percent; a bound likewise."""
    finding = dataclasses.replace(
        trained,
        outcomes=tuple(dataclasses.replace(o, mean=0.123, low=0.1, high=0.2) for o in trained.outcomes),
    )
    text = " ".join(Page(render([finding], "x")).text.split())
    assert "a = 12.30 points (10.00 to 20.00)" in text
    assert "a is at most 2 points" in text
    assert "a = 12% of seeds (10% to 20%)" in text
    assert "a is at most 50% of seeds" in text


@pytest.mark.slow
def test_a_cold_start_in_another_folder_gives_the_same_bytes(tuned, here, tmp_path, monkeypatch):
    outputs = []
    for place in ("first", "second"):
        (tmp_path / place).mkdir()
        monkeypatch.chdir(tmp_path / place)
        code, out, err = here("findings", tuned, "--quick", "--json")
        assert (code, err) == (0, "")
        assert json.loads(out)["findings"][0]["tuned"]["tuned"].keys() == {"inf", "0.03"}
        outputs.append((out, (tmp_path / place / json.loads(out)["page"]).read_bytes()))
    assert outputs[0] == outputs[1]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """The finding with one claim, in a tuned setting and without tuning."""
    table = tomllib.loads(findings()[NAME].read_text(encoding="utf-8"))
    table["privacy"]["epsilons"] = ["inf", 0.03]
    table["claim"] = [
        c | {"settings": ["base", "tuned"]} for c in table["claim"] if c["name"] == "disparity-vanishes"
    ]
    file = tmp_path_factory.mktemp("tuned") / "tuned.json"
    file.write_text(json.dumps(table))
    return file


@pytest.mark.slow
def test_an_interrupted_finding_resumes_to_the_same_result(small, here, tmp_path, monkeypatch):
    from fedtoll.sweep import executor

    code, uninterrupted, _ = here("findings", small, "--quick", "--json")
    assert code == 0
    (tmp_path / "results").rename(tmp_path / "whole")
    train = executor._train
    trained: list[str] = []

    def counting(trainer, texts, most=3):
        if len(trained) >= most:
            raise KeyboardInterrupt
        trained.extend(texts)
        return train(trainer, texts)

    monkeypatch.setattr("fedtoll.sweep.executor._train", counting)
    code, out, err = here("findings", small, "--quick", "--json")
    assert (code, out) == (130, "")
    assert err == "fedtoll: interrupted; the same command resumes\n"
    assert not (tmp_path / "results/findings-quick/findings.html").exists()
    monkeypatch.setattr(
        "fedtoll.sweep.executor._train", lambda trainer, texts: counting(trainer, texts, most=9)
    )
    code, out, _ = here("findings", small, "--quick", "--json")
    assert code == 0
    assert out == uninterrupted
    assert len(trained) == len(set(trained)) == 8
    page = "findings-quick/findings.html"
    assert (tmp_path / "results" / page).read_bytes() == (tmp_path / "whole" / page).read_bytes()


@pytest.mark.slow
def test_if_one_finding_fails_the_others_are_judged(small, here, tmp_path, monkeypatch):
    """A failed run gives exit code 1, as in ``fedtoll run``, and the page names the missing finding."""
    from fedtoll.sweep import executor

    other = json.loads(small.read_text()) | {"name": "other"}
    other["training"]["learning_rate"] = 1.5
    file = tmp_path / "other.json"
    file.write_text(json.dumps(other))
    train = executor._train

    def broken(trainer, texts):
        if json.loads(texts[0])["learning_rate"] == 1.5:
            raise RunError("it broke")
        return train(trainer, texts)

    monkeypatch.setattr("fedtoll.sweep.executor._train", broken)
    code, out, err = here("findings", small, file, "--quick", "--json")
    assert code == 1
    assert re.fullmatch(
        r"fedtoll: failed: .*other\.json: setting 'base': 4 of 4 runs failed, first .*it broke.*\n", err
    )
    printed = json.loads(out)
    assert [f["name"] for f in printed["findings"]] == [NAME]
    assert list(printed["failed"]) == ["other"]
    text = Page((tmp_path / printed["page"]).read_text()).text
    assert "Missing because a run failed: other." in text
    code, out, err = here("findings", file, "--quick", "--json", "--out", "alone")
    assert (code, out) == (1, "")
    assert "it broke" in err
    assert not (tmp_path / "alone/findings.html").exists()
    monkeypatch.setattr("fedtoll.sweep.executor._train", train)
    code, out, err = here("findings", small, file, "--quick", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["failed"] == {}


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_a_real_browser_shows_it_and_asks_for_nothing(trained, tmp_path):
    write([decided(trained)], tmp_path / "findings.html", "fedtoll findings")
    for width in (390, 1280):
        with Browser(tmp_path / str(width)) as browser:
            browser.open(tmp_path / "findings.html", width=width, height=900)
            assert browser.logged == []
            assert [a for a in browser.requested if not a.startswith(("file:", "data:"))] == []
            shown = browser.run("document.querySelectorAll('.verdict').length")
            assert shown > len(trained.outcomes)  # failed claims are listed twice
            assert browser.run("document.documentElement.scrollWidth") <= width


@pytest.mark.thorough
def test_every_finding_runs_quickly(here):
    code, out, err = here("findings", "--quick", "--json")
    assert (code, err) == (0, "")
    printed = json.loads(out)
    assert [f["name"] for f in printed["findings"]] == list(findings())
    assert {o["verdict"] for f in printed["findings"] for o in f["outcomes"]} == {"undecided"}
    assert all(o["mean"] is not None for f in printed["findings"] for o in f["outcomes"])
