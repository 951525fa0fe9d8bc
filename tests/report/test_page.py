"""What the page says, in which order, and what it says if something is missing."""

from __future__ import annotations

import html
import io
import itertools
import re
import tomllib
from copy import copy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from fedtoll.report import alternatives, headline, write
from fedtoll.report.digest import Digest
from fedtoll.report.page import render
from fedtoll.report.provenance import scenario_toml
from tests.report.conftest import HOSTILE
from tests.report.html import Page
from tests.server.fake import INF, adult_race

SECTIONS = [
    "Who pays",
    "Utility against ε",
    "Fairness against utility",
    "Comparisons",
    "The toll, group by group",
    "Groups, clients and weights",
    "Privacy card",
    "Definitions",
    "Provenance",
]


@pytest.mark.slow
def test_sections_come_in_order_and_can_be_reached(page):
    assert [e["text"] for e in page.all("h2")] == SECTIONS
    links = [e for e in page.all("a") if "class" not in e["attrs"]]
    places = [f"#{e['attrs']['id']}" for e in page.all("h2")[1:]]
    assert [e["attrs"]["href"] for e in links] == places
    for link, section in zip(
        links, SECTIONS[1:], strict=True
    ):  # the words are shorter, but those of the heading
        assert set(link["text"].lower().split()) <= set(section.lower().replace(",", "").split()) | {"by"}


@pytest.mark.slow
def test_headings_descend_one_level_at_a_time(page):
    levels = [int(e["tag"][1]) for e in page.elements if e["tag"] in {"h1", "h2", "h3", "h4"}]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_there_are_landmarks_and_a_language(page):
    assert page.all("html")[0]["attrs"]["lang"] == "en"
    assert len(page.all("main")) == len(page.all("header")) == len(page.all("nav")) == 1
    ids = {e["attrs"].get("id") for e in page.elements}
    assert {e["attrs"]["aria-labelledby"] for e in page.all("section")} <= ids


def test_the_headline_leads_and_says_who_pays_first(page, digest):
    (lead,) = page.classed("lead")
    assert " ".join(lead["text"].split()) == headline(digest)
    assert page.all("strong")[0]["text"].startswith("At ε = 0.5 under fedavg, Asian-Pac-Islander (n = 1,515)")


@pytest.mark.slow
def test_every_chart_has_an_alternative_made_from_its_figures(disguise):
    charts = {e["attrs"]["id"]: e["attrs"] for e in disguise.classed("chart")}
    assert set(charts) == {
        "who-pays",
        "others",
        "split",
        "utility-log_loss",
        "utility-tpr",
        "utility-accuracy",
        "front",
        "partition",
        "weights",
        "noise",
    }
    assert all(c["role"] == "img" and c["aria-label"].startswith("Chart. ") for c in charts.values())
    assert f"{HOSTILE['Asian-Pac-Islander']} 0." in charts["who-pays"]["aria-label"]
    assert all(any(c.isdigit() for c in chart["aria-label"]) for chart in charts.values())


def test_tables_are_tables_that_can_be_sorted_and_downloaded(page):
    tables, captions = page.all("table"), page.all("caption")
    assert len(tables) == len(captions) == len(page.csv) == 11
    assert all(c["text"].strip() for c in captions)
    heads = [e for e in page.all("th") if e["attrs"].get("scope") == "col"]
    buttons = [e for e in page.all("button") if "data-csv" not in e["attrs"]]
    assert [b["text"] for b in buttons] == [h["text"] for h in heads]
    assert {e["attrs"].get("scope") for e in page.all("th")} == {"col", "row"}
    assert {e["attrs"]["data-csv"] for e in page.all("button") if "data-csv" in e["attrs"]} == {
        f"csv-{name}" for name in page.csv
    }


def test_the_csv_of_the_tolls_is_tidy_and_whole(page, results):
    from fedtoll.toll import toll

    frame = pd.read_csv(io.StringIO(page.csv["tolls"]))
    assert set(frame["measure"]) == {"log_loss", "tpr", "accuracy", "balanced_accuracy"}
    assert len(frame) == 4 * 3 * 3 * 6
    ours = frame[frame["measure"] == "tpr"].set_index(["strategy", "epsilon", "group"])["toll"]
    frame = toll(results.groups, "tpr", 5).query("mechanism == 'dp-sgd'")
    theirs = frame.set_index(["strategy", "epsilon", "group"])["toll"]
    np.testing.assert_allclose(ours.loc[theirs.index], theirs, rtol=1e-6)


@pytest.mark.parametrize(
    "words",
    [
        "One record of one client",
        "added to or removed from one client",
        "every message of every client",
        "No amplification by client sampling",
        "hyper-parameters",
        "declared public",
        "experimenter’s view",
        "a simulation, not a deployable guarantee",
        "float32",
        "never release paired runs together",
        "side channel",
    ],
)
def test_the_privacy_card_says(text, words):
    assert words in html.unescape(text)


@pytest.fixture(scope="module")
def unprivate(fake_digest):
    return render(fake_digest(epsilons=(INF,), seeds=(0, 1)))


@pytest.mark.slow
def test_without_private_runs_nothing_is_promised_and_no_toll_drawn(unprivate):
    page = Page(unprivate)
    assert page.card["Guarantee"].startswith("None. No run here is private")
    assert "differential privacy" not in page.card["Guarantee"]
    assert page.classed("lead")[0]["text"].strip() == "No run has a finite ε: there is no toll to compare."
    assert not {"who-pays-spec", "others-spec", "front-spec"} & set(page.specs)
    assert "Comparisons" not in [e["text"] for e in page.all("h2")]


@pytest.mark.slow
def test_without_a_reference_no_toll_is_drawn(fake_digest):
    text = render(fake_digest(epsilons=(8.0,), seeds=(0, 1)))
    assert not {"who-pays-spec", "others-spec", "front-spec"} & set(Page(text).specs)
    assert "No toll to show" in html.unescape(text)


@pytest.mark.slow
def test_one_seed_has_no_intervals(fake_digest):
    text = html.unescape(render(fake_digest(seeds=(0,))))
    page = Page(text)
    assert "One seed: no interval." in text
    assert "nan" not in text.replace("nan-inf", "").split("<script>")[0].casefold().split()
    rows = page.specs["who-pays-spec"]["datasets"]["tolls"]
    assert {row["interval"] for row in rows} == {"none"}
    assert all("(" not in row["text"] for row in rows)


def test_provenance_holds_what_an_outsider_needs(page, results):
    data = results.resolved["data"]
    assert page.card["Command"] == "fedtoll run adult-race"
    assert data["citation"] in page.card["Data"]
    assert (page.card["Licence"], page.card["Checksum"]) == (data["licence"], data["checksum"])
    assert "torch 2.13.0" in page.card["Versions"]
    heads = {e["text"] for e in page.all("th")}
    assert {run["hash"] for run in results.resolved["runs"]} <= heads


def test_the_settings_are_the_scenario_as_toml(page, results):
    (shown,) = page.all("pre")
    scenario = results.resolved["scenario"]
    expected = {k: v for k, v in scenario.items() if k not in {"name", "title", "description"}}
    assert tomllib.loads(shown["text"]) == known(expected)
    assert not re.search(r"\b(?:None|True|False)\b", shown["text"])


def known(value):
    """Return JSON without keys that are not set."""
    if isinstance(value, dict):
        return {k: known(v) for k, v in value.items() if v is not None}
    return [known(v) for v in value] if isinstance(value, list) else value


def test_toml_keeps_every_value():
    odd = {
        "a": True,
        "seeds": [1, 2],
        "data": {"we“ird key": 'a "b"\\\n', "keep": {"<=29": 0.5}, "none": None},
    }
    odd |= {"strategies": [{"name": "fedavg"}, {"name": "term", "t": 1e-5}], "empty": []}
    assert tomllib.loads(scenario_toml(odd)) == known(odd)


def test_terms_link_to_their_definitions(page):
    ids = {e["attrs"].get("id") for e in page.elements}
    terms = page.classed("term")
    assert {e["attrs"]["href"][1:] for e in terms} <= ids
    assert {"#def-nats", "#def-interval", "#def-rate", "#def-toll", "#def-gap"} <= {
        e["attrs"]["href"] for e in terms
    }


@pytest.fixture(scope="module")
def holed(results):
    """A page with declared comparisons but without four runs, weights and noise variances."""
    frames = {
        name: frame[(frame["seed"] != 3) | (frame["strategy"] != "uniform")]
        for name in ("groups", "clients", "rounds", "ledger", "predictions")
        for frame in [getattr(results, name)]
    }
    frames["groups"] = frames["groups"].assign(weight=float("nan"))
    frames["rounds"] = frames["rounds"].assign(effective_noise=float("nan"))
    scenario = results.resolved["scenario"] | {"compare": {"measure": "log_loss"}}
    return render(replace(results, resolved=results.resolved | {"scenario": scenario}, **frames))


@pytest.mark.slow
def test_missing_runs_are_named(holed, text):
    assert "4 of 60 runs are missing" in holed
    assert "uniform, ε = 0.5, seed 3" in holed
    assert "are missing" not in text


@pytest.mark.slow
def test_the_page_says_whether_the_comparisons_are_declared(holed, text):
    assert "The scenario’s declared comparisons" in holed
    assert "default comparisons" not in holed
    assert "declared comparisons" not in text
    assert (
        "The default comparisons, since none are declared for these runs: every strategy against fedavg"
        in text
    )


def test_the_page_says_what_collapsed_means(text):
    assert (
        "Collapsed: the model predicts one class at a score of .5, or is not shown to rank better than"
        in text
    )


@pytest.mark.slow
def test_several_classes_have_no_columns_of_dashes(digits):
    text = html.unescape(render(digits))
    page = Page(text)
    assert {"utility-log_loss-spec", "utility-accuracy-spec"} <= set(page.specs)
    assert "utility-tpr-spec" not in page.specs
    heads = [e["text"] for e in page.all("th") if e["attrs"].get("scope") == "col"]
    assert "Group (digit)" in heads
    assert not [h for h in heads if "TPR" in h or "positives" in h or "Base rate" in h or "parity d" in h]
    assert "TPR undefined" not in text
    assert page.classed("lead")[0]["text"].strip().startswith("At ε = 0.5 under fedavg, digit “2” (n = ")
    assert "digit “2”" in {e["text"] for e in page.all("th")}


@pytest.mark.slow
def test_unknown_weights_and_noise_leave_their_charts_out(holed):
    specs = set(Page(holed).specs)
    assert not specs & {"weights-spec", "noise-spec"}
    assert "partition-spec" in specs


@pytest.mark.slow
def test_the_alternative_of_the_others_counts_those_that_it_leaves_out():
    many = adult_race(
        strategies=("fedavg", *(f"s{i}" for i in range(14))), epsilons=(INF, 0.5), seeds=(0, 1), rounds=1
    )
    text = alternatives.others(Digest(many))
    assert text.count(" pays most, ") == 12
    assert text.endswith("; and 2 more.")


def test_the_alternative_of_the_others_names_no_payer_where_nobody_pays(eight):
    digest = copy(eight)
    digest.__dict__["tight"] = eight.tight.assign(toll=-eight.tight["toll"])
    text = alternatives.others(digest)
    assert "pays" not in text.replace("no group pays", "")
    assert re.search(r"uniform: no group pays: [\w-]+ gains least, 0\.\d{3}, [\w-]+ most, \d\.\d{3}", text)


@pytest.mark.slow
def test_write_replaces_the_file_and_leaves_no_other(fake_digest, unprivate, tmp_path):
    file = tmp_path / "report.html"
    file.write_text("old")
    write(fake_digest(epsilons=(INF,), seeds=(0, 1)), file)
    assert file.read_text() == unprivate
    assert list(tmp_path.iterdir()) == [file]
