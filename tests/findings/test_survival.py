"""Does a finding survive tuning, and leaving the sensitive attributes out? From planted verdicts."""

from __future__ import annotations

import dataclasses

import pytest

from fedtoll.findings.contrasts import outcomes
from fedtoll.findings.survival import ANSWERS, same_runs, survival, twin
from fedtoll.findings.verdicts import Outcome
from fedtoll.scenarios.claims import BASE, Claim, Setting
from fedtoll.scenarios.read import findings, read
from tests.findings.planted import study

TUNED = Setting(name="tuned", title="tuned", tuned=True)
BLIND = Setting(name="blind", title="blind", set=('data.exclude=["sex"]',))
SETTINGS = (Setting(name="federated", title="two", set=('partition={kind="iid", clients=2}',)), BLIND, TUNED)
BLANK = {field.name: "" for field in dataclasses.fields(Outcome)} | {"low": 0.0, "sides": ()}


def planted(*rows: tuple[str, str, str]) -> list[Outcome]:
    """Return outcomes from (claim, setting, verdict)."""
    return [
        Outcome(**BLANK | {"claim": claim, "says": f"Says {claim}", "setting": setting, "verdict": verdict})  # type: ignore[arg-type]
        for claim, setting, verdict in rows
    ]


@pytest.mark.parametrize(
    ("verdicts", "answer", "why"),
    [
        (
            [("reproduced", "reproduced")],
            "yes",
            "of 1 tested both ways, 1 held without it and 1 of these with it",
        ),
        (
            [("reproduced", "reproduced"), ("reproduced", "not reproduced")],
            "undecided (not shown with it)",
            "of 2 tested both ways, 2 held without it and 1 of these with it; not shown with it: c1",
        ),
        ([("reproduced", "contradicted")], "no", "; contradicted with it: c0"),
        (
            [("reproduced", "undecided"), ("reproduced", "reproduced")],
            "undecided",
            "2 held without it and 1 of these",
        ),
        ([("reproduced", "undecided"), ("reproduced", "contradicted")], "no", "; contradicted with it: c1"),
        (
            [("contradicted", "contradicted")],
            "nothing to survive",
            "of 1 tested both ways, none held without it",
        ),
        (
            [("undecided", "reproduced")],
            "undecided",
            "of 1 tested both ways, 1 undecided without it",
        ),
        (
            [("contradicted", "reproduced"), ("reproduced", "reproduced")],
            "yes",
            "; c0 did not hold without it but does with it",
        ),
    ],
)
def test_the_answer_is_about_claims_that_held_without_the_change(verdicts, answer, why):
    rows = [
        (f"c{i}", setting, verdict)
        for i, both in enumerate(verdicts)
        for setting, verdict in zip(("base", "tuned"), both, strict=True)
    ]
    tuning, blind = survival(SETTINGS, planted(*rows))
    assert (tuning.answer, blind.answer) == (answer, "not asked")
    assert why in tuning.why
    assert tuning.held == sum(before == "reproduced" for before, _ in verdicts)
    assert (tuning.kept == tuning.held > 0) == (answer == "yes")
    assert answer in ANSWERS


def test_a_claim_checked_in_only_one_of_the_two_does_not_count():
    rows = planted(
        ("a", "base", "reproduced"), ("b", "blind", "contradicted"), ("a", "federated", "contradicted")
    )
    assert [s.answer for s in survival(SETTINGS, rows)] == ["not asked", "not asked"]


def test_every_variant_of_a_built_in_finding_has_its_twin():
    found = {}
    for name in findings():
        scenario = read(name)
        for s in scenario.setting:
            if s.tuned or any(override.startswith("data.exclude=") for override in s.set):
                found[name, s.name] = twin(s, scenario.setting)
    assert None not in found.values()
    assert found["imbalance-makes-it", "women-5-tuned"] == "women-5"
    assert found["imbalance-and-privacy", "men-99-blind"] == "men-99"
    assert found["poor-become-poorer", "tuned"] == "base"


def test_a_tuned_setting_differs_from_its_twin_by_tuning_alone():
    few = Setting(name="few", title="few", set=("split.validation=0.1",))
    assert twin(Setting(name="t", title="t", set=few.set, tuned=True), [few]) == "few"
    assert twin(Setting(name="t", title="t", set=few.set, tuned=True), []) is None
    for name in findings():
        scenario = read(name)
        for s in scenario.setting:
            if s.tuned:
                own = next((o for o in scenario.setting if o.name == twin(s, scenario.setting)), None)
                assert set(s.set) == set(own.set if own else ())
                assert scenario.split.validation > 0


def test_a_setting_that_chose_the_same_constants_is_no_second_piece_of_evidence():
    settings = [Setting(name="tuned", title="tuned", tuned=True)]
    before, after = (
        dataclasses.replace(o, runs="1234")
        for o in planted(("c0", BASE, "reproduced"), ("c0", "tuned", "reproduced"))
    )
    assert same_runs(before, after)
    tuning, _ = survival(settings, [before, after])
    assert tuning.answer == "undecided"
    assert tuning.why == "tuning chose the same constants, so the runs are the same"
    others = planted(("c1", BASE, "reproduced"), ("c1", "tuned", "reproduced"))
    tuning, _ = survival(settings, [before, after, *others])
    assert (tuning.answer, tuning.kept, tuning.held) == ("yes", 1, 1)
    assert tuning.why.endswith("; for 1 more, tuning chose the same constants, so the runs are the same")
    assert not same_runs(before, dataclasses.replace(after, runs="5678"))


def test_equal_shares_of_seeds_do_not_make_two_settings_the_same_runs():
    """Ten of ten collapsed seeds in both settings are evidence of both, unless the runs are the same."""
    claim = Claim(
        name="c", says="c", kind="threshold", of="value", measure="collapsed", epsilon=1.0, at_least=0.5,
        settings=(BASE, "blind", "again"),
    )  # fmt: skip
    studies = {
        name: study({1.0: {"g": 0.1}}, salt=salt, collapsed=1.0) for name, salt in ((BASE, 0), ("blind", 1))
    }
    base, blind, again = outcomes([claim], {**studies, "again": studies[BASE]})
    assert base.mean == blind.mean == 1.0
    assert not same_runs(base, blind)
    assert same_runs(base, again)
    _, survived = survival(SETTINGS, [base, blind])
    assert (survived.answer, survived.kept, survived.held) == ("yes", 1, 1)
