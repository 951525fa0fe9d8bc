"""One set of results for all tests of the report, its page, and one with hostile names."""

from __future__ import annotations

from functools import cache

import pytest

from fedtoll.report.digest import Digest
from fedtoll.report.page import render
from tests.report.html import Page
from tests.server.fake import adult_race

HOSTILE = {
    "White": "</script><script>alert(1)</script>",
    "Black": "<img src=x onerror=alert(2)>",
    "Asian-Pac-Islander": "x" * 120,
    "Amer-Indian-Eskimo": "=cmd|'/c calc'!{{ 7 * 7 }}\\input{x} & 100% $a_b$",
    "Other": "[red] '\"&amp;]]><!--<script>",
}


@pytest.fixture(scope="session")
def results():
    return adult_race()


@pytest.fixture(scope="session")
def made():
    """What makes the digest of other fake results, once for those who ask for the same."""
    return cache(lambda **asked: Digest(adult_race(**asked)))


@pytest.fixture(scope="session")
def digest(results):
    return Digest(results)


@pytest.fixture(scope="session")
def text(digest):
    return render(digest)


@pytest.fixture(scope="session")
def page(text):
    return Page(text)


@pytest.fixture(scope="session")
def clipped():
    """Eight seeds and clip-only runs: comparisons can be tested, and tolls split."""
    return adult_race(clip_only=True, seeds=tuple(range(8)))


@pytest.fixture(scope="session")
def eight(clipped):
    """The digest of the eight seeds."""
    return Digest(clipped)


@pytest.fixture(scope="session")
def hostile():
    fake = adult_race(
        names=HOSTILE,
        strategies=("fedavg", "</script><b>evil</b>", "javascript:alert(3)[/bold]"),
        clip_only=True,
        seeds=tuple(range(6)),
    )
    fake.resolved["scenario"]["title"] = "<script>alert(4)</script>"
    fake.resolved["command"] = "</code><script>alert(5)</script>"
    return fake


@pytest.fixture(scope="session")
def disguised(hostile):
    """The digest of the hostile names."""
    return Digest(hostile)


@pytest.fixture(scope="session")
def evil(disguised):
    return render(disguised)


@pytest.fixture(scope="session")
def disguise(evil):
    return Page(evil)


@pytest.fixture(scope="session")
def digits():
    """Results of ten classes, whose groups are the classes: there are no positives and no rates of them."""
    from dataclasses import replace

    fake = adult_race(
        names={g: str(i) for i, g in enumerate(HOSTILE)}, strategies=("fedavg",), clip_only=True
    )
    undefined = ("tpr", "fpr", "selection_rate", "balanced_accuracy", "auroc", "positives")
    groups = fake.groups.assign(**dict.fromkeys(undefined, float("nan")))
    score = fake.predictions["score"]
    predictions = fake.predictions.drop(columns="score").assign(score_0=1 - score, score_1=score, score_2=0.0)
    scenario = fake.resolved["scenario"]
    named = {**scenario, "data": {**scenario["data"], "groups": ["digit"]}}
    return replace(
        fake, groups=groups, predictions=predictions, resolved={**fake.resolved, "scenario": named}
    )
