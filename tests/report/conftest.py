"""Fake results and their pages for all tests of the report, some with hostile names."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
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
def fake_digest():
    """Return a function that builds the digest of other fake results, and caches it by its arguments."""
    return cache(lambda **options: Digest(adult_race(**options)))


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
    """Results with eight seeds, enough for tests, and clip-only runs, which split the tolls."""
    return adult_race(clip_only=True, seeds=tuple(range(8)))


@pytest.fixture(scope="session")
def eight(clipped):
    """The digest of ``clipped``."""
    return Digest(clipped)


@pytest.fixture(scope="session")
def alike(clipped):
    """The digest of ``clipped`` with equal tolls for all groups, but for noise."""
    groups = clipped.groups.copy()
    private = groups["mechanism"] == "dp-sgd"
    keys = ["strategy", "seed", "group", "round"]
    free = groups[groups["mechanism"] == "none"].set_index(keys)["log_loss"]
    own = free.reindex(pd.MultiIndex.from_frame(groups.loc[private, keys])).to_numpy()
    noise = np.random.default_rng(0).normal(0, 0.01, private.sum())
    groups.loc[private, "log_loss"] = own + 0.05 + noise
    return Digest(replace(clipped, groups=groups))


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
    """The digest of ``hostile``."""
    return Digest(hostile)


@pytest.fixture(scope="session")
def evil(disguised):
    return render(disguised)


@pytest.fixture(scope="session")
def disguise(evil):
    return Page(evil)


@pytest.fixture(scope="session")
def digits():
    """Results with several classes, which are also the groups: no class is the positive one."""
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
