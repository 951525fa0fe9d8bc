"""The status of a claim over its settings, from planted verdicts."""

from __future__ import annotations

import dataclasses

import pytest

from fedtoll.findings.summary import NOT_HELD, by_claim, headlines, not_held, report_not_held
from fedtoll.findings.verdicts import Outcome
from tests.findings.test_survival import planted


def with_finding(*rows: tuple[str, str, str], published: str = "") -> list[tuple[str, Outcome]]:
    return [("f", dataclasses.replace(o, published=published)) for o in planted(*rows)]


@pytest.mark.parametrize(
    ("verdicts", "status", "where"),
    [
        (["reproduced", "reproduced"], "held", "reproduced in s0 and s1"),
        (["reproduced", "undecided"], "held", "undecided in s1; reproduced in s0"),
        (["reproduced", "not reproduced"], "held in part", "not reproduced in s1; reproduced in s0"),
        (["not reproduced", "undecided"], "not shown", "not reproduced in s0; undecided in s1"),
        (["reproduced", "contradicted"], "contradicted", "contradicted in s1; reproduced in s0"),
        (
            ["not reproduced", "contradicted", "contradicted"],
            "contradicted",
            "contradicted in s1 and s2; not reproduced in s0",
        ),
        (["undecided", "undecided"], "undecided", "undecided in s0 and s1"),
    ],
)
def test_the_status_of_a_claim_follows_its_verdicts(verdicts, status, where):
    rows = [("a", f"s{i}", verdict) for i, verdict in enumerate(verdicts)]
    (summary,) = by_claim(with_finding(*rows))
    assert (summary.status, summary.where) == (status, where)
    assert summary.worst.verdict == min(
        verdicts, key=["contradicted", "not reproduced", "undecided", "reproduced"].index
    )
    assert not_held([summary]) == [summary] * (status in NOT_HELD)


def test_a_curve_over_settings_belongs_to_no_single_setting():
    ((finding, o),) = with_finding(("a", "base", "contradicted"))
    curve = dataclasses.replace(o, region="a − b rises over base, half, tenth")
    (summary,) = by_claim([(finding, curve)])
    assert summary.where == "contradicted over base, half, tenth"
    budgets = dataclasses.replace(o, region="a rises over ∞, 2, 1")
    assert by_claim([(finding, budgets)])[0].where == "contradicted in base"


def test_published_claims_come_first_and_each_once():
    ours = with_finding(("ours", "base", "contradicted"), ("fine", "base", "reproduced"))
    published = with_finding(
        ("theirs", "base", "not reproduced"),
        ("theirs", "blind", "reproduced"),
        ("lost", "base", "contradicted"),
        published=".5",
    )
    assert headlines(by_claim([*ours, *published])) == [
        "Of 2 published claims, 1 held in some settings and 1 was contradicted in at least one setting.",
        "Of 2 claims of our own, 1 held wherever decided and 1 was contradicted in at least one setting.",
    ]
    assert report_not_held([*ours, *published]).splitlines()[2:] == [
        "Published claims that did not hold here:",
        "- Says lost (f): contradicted in base",
        "- Says theirs (f): not reproduced in base; reproduced in blind",
        "Our own claims that did not hold here:",
        "- Says ours (f): contradicted in base",
    ]


def test_nothing_fell_or_nothing_was_decided():
    fine, open_ = with_finding(("a", "base", "reproduced")), with_finding(("b", "base", "undecided"))
    assert report_not_held([*fine, *open_]) == "Every claim that could be decided held."
    assert report_not_held(open_) == "No claim could be decided."
