"""The headline: what it says follows from the numbers, and it claims no more than they do."""

from __future__ import annotations

import re
from copy import copy
from dataclasses import replace

import pytest

from fedtoll.formatting import group_label, p_value
from fedtoll.report import headline
from fedtoll.report.digest import Digest
from fedtoll.report.headline import lead, sentences
from tests.server.fake import INF, adult_race


def _rate(digest, row, column="tpr"):
    """Return what the headline says next to the nats, from the runs themselves."""
    runs = digest.results.groups
    runs = runs[(runs["strategy"] == "fedavg") & (runs["group"] == row.name) & (runs["round"] == 3)]
    free = runs.loc[runs["mechanism"] == "none", column].mean()
    tight = runs[(runs["mechanism"] == "dp-sgd") & (runs["epsilon"] == 0.5)]
    title = {"tpr": "true-positive rate falls", "fpr": "false-positive rate rises"}[column]
    seeds = int(tight["collapsed"].sum())
    flag = f"; collapsed in {seeds} of {len(tight)} seeds" if seeds else ""
    return f"; its {title} from {free:.2f} to {tight[column].mean():.2f}{flag}"


@pytest.mark.slow
def test_the_rate_is_that_of_the_rarer_class(results):
    # Swapping the classes turns the true-positive rate into one minus the false-positive rate.
    swapped = results.groups.assign(
        positives=results.groups["n"] - results.groups["positives"], fpr=1 - results.groups["tpr"], tpr=0.95
    )
    digest = Digest(replace(results, groups=swapped))
    assert digest.rate == "fpr"
    row = digest.tight.query("strategy == 'fedavg'").set_index("group").loc["Asian-Pac-Islander"]
    assert _rate(digest, row, "fpr") in headline(digest)
    assert "true-positive" not in headline(digest)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [0, 3, 5])
def test_it_says_in_how_many_seeds_the_group_that_pays_most_is_collapsed(digest, seeds):
    flagged = copy(digest)
    flagged.__dict__["tight"] = digest.tight.assign(collapsed=0.0)
    worst = flagged.tight["group"] == "Asian-Pac-Islander"
    flagged.tight.loc[worst, "collapsed"] = seeds / 5
    first = headline(flagged).split(". White")[0]
    assert first.endswith(f"; collapsed in {seeds} of 5 seeds") == (seeds > 0)
    assert ("collapsed" in headline(flagged)) == (seeds > 0)


def test_it_says_who_pays_how_much_and_how_sure(eight):
    digest = eight
    words = headline(digest)
    tight = digest.tight[digest.tight["strategy"] == "fedavg"].set_index("group")
    worst, best = tight.loc["Asian-Pac-Islander"], tight.loc["White"]
    assert words.startswith(
        f"At ε = 0.5 under fedavg, Asian-Pac-Islander (n = 1,515) pays most: {worst['toll']:.3f} nats of "
        f"log-loss (95% interval {worst['toll_low']:.3f} to {worst['toll_high']:.3f})"
        f"{_rate(digest, worst)}. White (n = 41,760) pays least: {best['toll']:.3f} "
        f"({best['toll_low']:.3f} to {best['toll_high']:.3f})"
        f"{_rate(digest, best)}."
    )
    assert "; its true-positive rate falls from " in words
    gaps = digest.gaps[digest.gaps["epsilon"] == 0.5].set_index("strategy")["gap"]
    assert f"the toll gap from {gaps['fedavg']:.3f} to {gaps['term(t=5)']:.3f}" in words
    tests = digest.comparisons
    own = tests.query("strategy == 'term(t=5)' and quantity == 'toll gap'").iloc[0]
    sure = "significant" if own["significant"] else "not significant"
    assert f"Over 8 seeds the change in the gap is {sure}: −{-own['difference']:.3f} (95% interval " in words
    assert words.endswith(f"p = {p_value(own['p_holm'])} after Holm over {len(tests)} comparisons).")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trust", "where"),
    [
        ("local", ""),
        ("secure-aggregation", " with secure aggregation"),
        ("central", " with a trusted server"),
    ],
)
def test_it_says_under_which_trust_model(eight, trust, where):
    results = copy(eight.results)
    scenario = results.resolved["scenario"]
    privacy = {**scenario["privacy"], "trust": trust}
    results.resolved = {**results.resolved, "scenario": {**scenario, "privacy": privacy}}
    assert headline(results).startswith(
        f"At ε = 0.5{where} under fedavg, Asian-Pac-Islander (n = 1,515) pays"
    )


@pytest.mark.parametrize(
    ("name", "leader"), [("fedavg", "fedavg"), ("mine.py:fedavg", "uniform")], ids=["ours", "a user's"]
)
def test_fedtolls_own_fedavg_leads_and_sets_the_price(name, leader):
    results = adult_race(strategies=("uniform", "fedavg"), epsilons=(INF, 0.5), seeds=(0, 1))
    results.resolved["scenario"]["strategies"][1]["name"] = name
    digest = Digest(results)
    assert digest.leader == leader
    assert digest.comparisons["baseline"].unique() == [leader]
    assert digest.loss["price"].notna().all() == (name == "fedavg")


@pytest.mark.slow
def test_significance_is_said_only_where_the_test_says_so(eight):
    digest = copy(eight)
    for significant, said in ((True, "the change in the gap is significant"), (False, "is not significant")):
        digest.__dict__["comparisons"] = digest.comparisons.assign(significant=significant, reason="")
        assert said in headline(digest)
    digest.__dict__["comparisons"] = digest.comparisons.assign(reason="family too large")
    assert headline(digest).endswith("8 seeds; no test: family too large.")
    digest.__dict__["comparisons"] = digest.comparisons.iloc[:0]
    assert headline(digest).endswith("not among the default comparisons.")
    scenario = eight.results.resolved["scenario"] | {"compare": {}}
    declared = Digest(replace(eight.results, resolved=eight.results.resolved | {"scenario": scenario}))
    declared.__dict__["comparisons"] = digest.comparisons
    assert headline(declared).endswith("not among the scenario’s declared comparisons.")


@pytest.mark.slow
def test_it_degrades_honestly(fake_digest, digest):
    one = headline(fake_digest(seeds=(0,)))
    assert one.endswith("One seed: no interval and no test.")
    assert "95%" not in one
    assert headline(digest).endswith("5 seeds: too few for a test.")
    assert "too few" not in headline(fake_digest(seeds=tuple(range(6)), epsilons=(INF, 0.5), rounds=1))
    assert (
        headline(fake_digest(epsilons=(INF,), seeds=(0, 1)))
        == "No run has a finite ε: there is no toll to compare."
    )
    assert headline(fake_digest(epsilons=(8.0,), seeds=(0, 1))).startswith("No toll can be stated at ε = 8")
    alone = headline(fake_digest(strategies=("uniform",), epsilons=(INF, 0.5), rounds=1))
    assert alone.startswith("At ε = 0.5 under uniform, Asian-Pac-Islander")
    assert "gap" not in alone


def test_it_names_no_group_with_too_few_records(results):
    words = headline(replace(results, groups=results.groups.assign(positives=1)))
    assert "everybody together pays" in words
    assert "No group has enough records for a claim of its own." in words
    assert "Asian" not in words


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fedavg", "term(t=5)"])
@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("below_majority", "does no better than predicting the majority"),
        ("collapsed", "is collapsed (predicts one class at .5, or not shown to rank better than chance)"),
    ],
)
def test_it_does_not_praise_a_useless_model(digest, strategy, flag, said):
    for seeds, part in ((5, f"{said}."), (3, f"{said} in 3 of 5 seeds."), (2, "")):
        flagged = copy(digest)
        tight = flagged.__dict__["tight"] = digest.tight.astype({flag: float})
        tight.loc[(tight["strategy"] == strategy) & (tight["group"] == "(all)"), flag] = seeds / 5
        words = headline(flagged)
        assert (f" But {strategy} {part}" in words) if part else ("But" not in words)


def without(results, strategy, seeds):
    """Return results where a strategy has only these seeds; two toll gaps are compared."""
    groups = results.groups
    scenario = results.resolved["scenario"] | {"compare": {"quantities": ["toll gap"]}}
    return replace(
        results,
        groups=groups[
            ((groups["strategy"] != strategy) | groups["seed"].isin(seeds)) & (groups["round"] == 3)
        ],
        resolved=results.resolved | {"scenario": scenario},
    )


@pytest.mark.slow
def test_seeds_are_those_of_the_two_that_it_compares(clipped):
    # A third strategy with one seed does not affect the test of the other two.
    assert "Over 8 seeds the change in the gap is" in headline(without(clipped, "uniform", [0]))


@pytest.mark.slow
def test_different_seeds_are_called_so(clipped):
    few = headline(without(clipped, "term(t=5)", [2, 5]))
    assert ", over different seeds (8 and 2)." in few
    assert few.endswith("2 seeds in common: too few for a test.")
    assert headline(without(clipped, "term(t=5)", [2])).endswith("One seed in common: no test.")
    many = headline(without(clipped, "term(t=5)", range(7)))
    assert ", over different seeds (8 and 7)." in many
    assert "Over 7 seeds in common the change in the gap is" in many
    apart = headline(without(without(clipped, "term(t=5)", range(2)), "fedavg", range(2, 8)))
    assert ", over different seeds (6 and 2)." in apart
    assert apart.endswith("No seed in common: no test.")


def test_groups_that_the_seeds_do_not_distinguish_are_called_so(alike, eight):
    own = alike.gaps.query("strategy == 'fedavg' and epsilon == 0.5").iloc[0]
    assert own["gap_low"] == 0
    said = (
        f" The seeds do not distinguish the groups: the toll gap is {own['gap']:.3f} "
        f"(95% interval 0.000 to {own['gap_high']:.3f})."
    )
    first, second, *_ = sentences(alike)
    assert " pays most: " in first
    assert second.endswith(said)
    assert lead(alike) == first + said
    assert eight.gaps.query("strategy == 'fedavg' and epsilon == 0.5")["gap_low"].item() > 0
    assert "distinguish" not in headline(eight)


def compared(digest, **columns):
    """Return the digest of the same results with other verdicts on the gap of term against fedavg."""
    other, tests = copy(digest), digest.comparisons.copy()
    own = (tests["strategy"] == "term(t=5)") & (tests["quantity"] == "toll gap")
    tests.loc[own, list(columns)] = list(columns.values())
    other.__dict__["comparisons"] = tests
    return headline(other)


def test_a_gap_is_narrowed_only_where_that_is_significant(eight):
    sure = compared(eight, significant=True, p_holm=0.01, reason="")
    assert "Of the 2 other strategies, term(t=5) narrows the gap most: it changes the toll gap" in sure
    unsure = compared(eight, significant=False, p_holm=0.3, reason="")
    assert "Of the 2 other strategies, term(t=5) has the smallest gap: it changes the toll gap" in unsure
    assert "is not significant: −" in unsure


def test_where_only_the_test_rejects_it_says_that_the_interval_includes_0(eight):
    words = compared(eight, significant=False, p_holm=0.016, low=-0.1, high=0.1, reason="")
    assert "the change in the gap is not significant, because its interval includes 0: −" in words
    assert "(95% interval −0.100 to 0.100; p = 0.016 after Holm" in words


def test_two_gaps_that_print_the_same_are_not_compared(eight):
    same = copy(eight)
    gaps = eight.gaps.copy()
    gaps.loc[gaps["mechanism"] == "dp-sgd", "gap"] = 0.0512
    gaps.loc[gaps["strategy"] == "term(t=5)", "gap"] = 0.0508
    same.__dict__["gaps"] = gaps
    words = headline(same)
    assert "changes the toll gap" not in words
    assert words.endswith("8 seeds.")


def test_levels_are_those_of_the_seeds_that_have_a_toll(clipped):
    """With three references, both levels of the rate are those of three seeds, and so is the log-loss."""
    groups = clipped.groups
    lost = (groups["mechanism"] == "none") & (groups["seed"] >= 3)
    part, three = (Digest(replace(clipped, groups=g)) for g in (groups[~lost], groups[groups["seed"] < 3]))
    a, b = (" ".join(sentences(d)) for d in (part, three))
    levels = re.compile(
        r"its true-positive rate [^.;]*0\.\d\d to 0\.\d\d|everybody’s log-loss from \S+ to \S+"
    )
    assert levels.findall(a) == levels.findall(b) != []


def test_nobody_pays_where_no_toll_is_above_zero(eight):
    digest = copy(eight)
    tight = digest.__dict__["tight"] = eight.tight.copy()
    ends = ["toll", "toll_low", "toll_high"]
    tight[ends] -= 2.0
    own = tight[(tight["strategy"] == "fedavg") & (tight["group"] != "(all)")].sort_values("toll")
    least, most = own.iloc[-1], own.iloc[0]
    words = headline(digest)
    assert words.startswith(
        f"At ε = 0.5 under fedavg, no group pays: Asian-Pac-Islander (n = 1,515) gains least, "
        f"{-least['toll']:.3f} nats of log-loss (95% interval {-least['toll_high']:.3f} to "
        f"{-least['toll_low']:.3f}); its true-positive rate "
    )
    assert f" White (n = 41,760) gains most: {-most['toll']:.3f} (" in words
    tight["too_few"] = True
    assert "everybody together gains 1." in headline(digest)
    tight.loc[tight["group"] == "White", "too_few"] = False
    assert "under fedavg, White (n = 41,760) gains 1." in headline(digest)


@pytest.mark.parametrize(
    ("group", "attribute", "label"),
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
def test_a_name_that_is_no_word_comes_with_its_attribute(group, attribute, label):
    assert group_label(group, attribute) == label
