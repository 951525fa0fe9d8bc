"""One line a claim: in which settings it held, and in which it did not. From planted verdicts."""

from __future__ import annotations

import dataclasses

import pytest

from fedtoll.findings.summary import FELL, claims, did_not_hold, fallen, leads
from fedtoll.findings.verdicts import Outcome
from tests.findings.test_survival import planted


def told(*rows: tuple[str, str, str], published: str = "") -> list[tuple[str, Outcome]]:
    return [("f", dataclasses.replace(o, published=published)) for o in planted(*rows)]


@pytest.mark.parametrize(
    ("verdicts", "standing", "where"),
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
def test_a_claim_stands_where_its_worst_verdict_puts_it(verdicts, standing, where):
    rows = [("a", f"s{i}", verdict) for i, verdict in enumerate(verdicts)]
    (one,) = claims(told(*rows))
    assert (one.standing, one.where) == (standing, where)
    assert one.worst.verdict == min(
        verdicts, key=["contradicted", "not reproduced", "undecided", "reproduced"].index
    )
    assert fallen([one]) == [one] * (standing in FELL)


def test_a_curve_over_settings_is_asked_over_them_and_in_none_alone():
    ((finding, o),) = told(("a", "base", "contradicted"))
    curve = dataclasses.replace(o, region="a − b rises over base, half, tenth")
    (one,) = claims([(finding, curve)])
    assert one.where == "contradicted over base, half, tenth"
    budgets = dataclasses.replace(o, region="a rises over ∞, 2, 1")
    assert claims([(finding, budgets)])[0].where == "contradicted in base"


def test_published_claims_come_first_and_each_once():
    ours = told(("ours", "base", "contradicted"), ("fine", "base", "reproduced"))
    theirs = told(
        ("theirs", "base", "not reproduced"),
        ("theirs", "blind", "reproduced"),
        ("lost", "base", "contradicted"),
        published=".5",
    )
    assert leads(claims([*ours, *theirs])) == [
        "Of 2 published claims, 1 held in some settings and 1 was contradicted in one setting or more.",
        "Of 2 claims of ours, 1 held wherever decided and 1 was contradicted in one setting or more.",
    ]
    assert did_not_hold([*ours, *theirs]).splitlines()[2:] == [
        "Published claims that did not hold here:",
        "- Says lost (f): contradicted in base",
        "- Says theirs (f): not reproduced in base; reproduced in blind",
        "Claims of ours that did not hold here:",
        "- Says ours (f): contradicted in base",
    ]


def test_nothing_fell_or_nothing_was_decided():
    fine, open_ = told(("a", "base", "reproduced")), told(("b", "base", "undecided"))
    assert did_not_hold([*fine, *open_]) == "Every claim that could be decided held."
    assert did_not_hold(open_) == "No claim could be decided."
