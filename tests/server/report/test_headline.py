"""The headline: made from the figures, and no surer than they are."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fedtoll.server.report import headline
from fedtoll.server.report.digest import Digest
from fedtoll.server.report.words import chance, named
from tests.server.fake import INF, adult_race


def test_it_says_who_pays_how_much_and_how_sure(clipped):
    digest = Digest(clipped)
    words = headline(digest)
    tight = digest.tight[digest.tight["strategy"] == "fedavg"].set_index("group")
    worst, best = tight.loc["Asian-Pac-Islander"], tight.loc["White"]
    assert words.startswith(
        f"At ε = 0.5 under fedavg Asian-Pac-Islander (n = 1,515) pays most: {worst['toll']:.3f} nats of "
        f"log-loss (95% interval {worst['toll_low']:.3f} to {worst['toll_high']:.3f}). White (n = 41,760) "
        f"pays least: {best['toll']:.3f} ({best['toll_low']:.3f} to {best['toll_high']:.3f})."
    )
    gaps = digest.gaps[digest.gaps["epsilon"] == 0.5].set_index("strategy")["gap"]
    assert f"the toll gap from {gaps['fedavg']:.3f} to {gaps['term(t=5)']:.3f}" in words
    tests = digest.comparisons
    own = tests.query("strategy == 'term(t=5)' and quantity == 'toll gap'").iloc[0]
    sure = "significant" if own["significant"] else "not significant"
    assert f"Over 8 seeds the change of the gap is {sure}: −{-own['difference']:.3f} (95% interval " in words
    assert words.endswith(f"p = {chance(own['p_holm'])} after Holm over {len(tests)} comparisons).")


def test_significance_is_said_only_where_the_test_says_so(clipped):
    digest = Digest(clipped)
    for significant, said in ((True, "the change of the gap is significant"), (False, "is not significant")):
        digest.__dict__["comparisons"] = digest.comparisons.assign(significant=significant, reason="")
        assert said in headline(digest)
    digest.__dict__["comparisons"] = digest.comparisons.assign(reason="family too large")
    assert headline(digest).endswith("8 seeds; no test: family too large.")
    digest.__dict__["comparisons"] = digest.comparisons.iloc[:0]
    assert headline(digest).endswith("not among the scenario’s declared comparisons.")


def test_it_degrades_honestly():
    one = headline(adult_race(seeds=(0,)))
    assert one.endswith("One seed: no interval and no test.")
    assert "95%" not in one
    assert headline(adult_race()).endswith("5 seeds: too few for a test.")
    assert "too few" not in headline(adult_race(seeds=tuple(range(6))))
    assert headline(adult_race(epsilons=(INF,))) == "No run has a finite ε: there is no toll to compare."
    assert headline(adult_race(epsilons=(8.0,))).startswith("No toll can be stated at ε = 8")
    alone = headline(adult_race(strategies=("uniform",)))
    assert alone.startswith("At ε = 0.5 under uniform Asian-Pac-Islander")
    assert "gap" not in alone


def test_it_names_no_group_with_too_few_records(results):
    words = headline(replace(results, groups=results.groups.assign(positives=1)))
    assert "everybody together pays" in words
    assert "No group has enough records for a claim of its own." in words
    assert "Asian" not in words


def test_it_does_not_praise_a_useless_model(results):
    groups = results.groups.copy()
    useless = (groups["strategy"] == "term(t=5)") & (groups["epsilon"] == 0.5)
    groups.loc[useless, "below_majority"] = True
    assert "But term(t=5) does no better than predicting the majority." in headline(
        replace(results, groups=groups)
    )


@pytest.mark.parametrize(
    ("group", "of", "said"),
    [
        ("8", "digit", "digit “8”"),
        ("Other", "race", "race “Other”"),
        ("F", "sex", "sex “F”"),
        ("25–34", "age", "age “25–34”"),
        ("Asian-Pac-Islander", "race", "Asian-Pac-Islander"),
        ("White/Female", "race/sex", "White/Female"),
        ("(all)", "race", "everybody"),
        ("", "group", "group “”"),
    ],
)
def test_a_name_that_is_no_word_is_introduced(group, of, said):
    assert named(group, of) == said
