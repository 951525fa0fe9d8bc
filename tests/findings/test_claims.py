"""Claims as files state them: mistakes are one line, and the built-in findings are complete."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest
from pydantic import ValidationError

from fedtoll.findings import prepare, resolve_names
from fedtoll.findings.prepare import why_undecidable
from fedtoll.scenarios.claims import BASE, Term
from fedtoll.scenarios.compare import most
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.measures import MEASURES, VALUED
from fedtoll.scenarios.read import findings, library, read, validate

TEXT = findings()["fairfed-one-group"].read_text(encoding="utf-8")


def changed(**change):
    table = tomllib.loads(TEXT)
    for place, value in change.items():
        *path, last = place.split("__")
        inner: Any = table
        for part in path:
            inner = inner[int(part) if part.isdigit() else part]
        key: Any = int(last) if isinstance(inner, list) else last
        if value is None:
            del inner[key]
        else:
            inner[key] = value
    return table


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"claim__0__kind": "oder"}, "claim[0].kind = 'oder': unknown; did you mean 'order'?"),
        ({"claim__0__b": None}, "b: kind = 'order' needs it"),
        ({"claim__0__at_least": 1.0}, "at_least, at_most: kind = 'order' takes neither"),
        ({"claim__2__at_most": None}, "at_least, at_most: kind = 'ratio' needs at least one of them"),
        ({"claim__0__shape": "rises"}, "shape: only with kind = 'shape'"),
        ({"claim__0__settings": ["mixd"]}, "no setting 'mixd'; did you mean 'mixed'?"),
        ({"claim__0__a": {"setting": "mixd"}}, "no setting 'mixd'; did you mean 'mixed'?"),
        ({"claim__1__name": "minority-loses-weight"}, "'minority-loses-weight' appears twice"),
        ({"claim__0__sayss": "x"}, "claim[0].sayss: unknown key; did you mean 'says'?"),
        ({"claim__0__a": {"group": ["x"]}}, "claim[0].a.group: unknown key; did you mean 'groups'?"),
        ({"claim__0__of": "toll", "claim__0__measure": "collapsed"}, "'collapsed' has no toll"),
        (
            {"claim__0__of": "spread", "claim__0__a__groups": ["Black"]},
            "groups: a 'spread' needs at least two groups",
        ),
        ({"claim__0__of": "value", "claim__0__measure": "collapsed"}, "for one group or for everybody"),
        ({"source": None}, "claim, source: give both or neither"),
        ({"source__where": None}, "source.where: missing"),
        ({"setting__0__name": "base"}, "reserved for the scenario itself"),
        ({"tune": None}, "setting: tuned needs [tune]"),
        ({"tune": {"learning_rates": [1.0]}}, "nothing to choose from"),
        ({"tune": {"learning_rates": [1.0, 1.0]}}, "learning_rates: the same value twice"),
        ({"tune": {"rates": [1.0]}}, "tune.rates: unknown key"),
    ],
)
def test_mistakes_are_one_line(change, expected):
    with pytest.raises(ScenarioError) as caught:
        validate(changed(**change), "x.toml")
    assert "\n" not in str(caught.value)
    assert expected in str(caught.value)


def flagged(key, bound):
    return {"name": "x", "says": "x", "kind": "threshold", "of": "value", "measure": "collapsed", key: bound}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"claim__0__epsilon": 3}, "epsilon = 3.0: not in privacy.epsilons of base: inf, 2.0"),
        ({"claim__0__a__strategy": "fairfd"}, "strategy = 'fairfd': not in setting 'base'"),
        ({"claim__0__a__groups": ["Blak"]}, "no group 'Blak'; did you mean 'Black'?"),
        ({"claim__0__of": "toll"}, "a toll needs a finite ε"),
        ({"seeds": "0:5"}, "too few seeds: 5, at least 10 are needed"),
        ({"seeds": "0:9"}, "too few seeds: 9, at least 10 are needed"),
        (
            {"claim__0": flagged("at_least", 0.9)},
            "'x': at_least = 0.9: even 10 seeds that agree cannot show it",
        ),
        ({"claim__0": flagged("at_most", 0.1)}, "'x': at_most = 0.1: even 10 seeds that agree"),
        ({"claim": None, "source": None}, "not a finding: it has no [[claim]]"),
        ({"setting__0__set": ["training.round=3"]}, "training.round: unknown key"),
    ],
)
def test_claims_are_checked_before_anything_is_trained(change, expected, tmp_path):
    import json

    file = tmp_path / "mine.json"
    file.write_text(json.dumps(changed(**change)))
    with pytest.raises(ScenarioError) as caught:
        prepare(str(file))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("mine.json: ")
    assert expected in str(caught.value)


def test_names_are_looked_up():
    assert resolve_names([]) == list(findings())
    with pytest.raises(ScenarioError, match="did you mean 'rare-class'"):
        resolve_names(["rare-clas"])
    assert resolve_names(["rare-class", "rare-class"]) == ["rare-class"]


def test_measures_are_those_of_the_toll_and_three_more():
    for measure in (*MEASURES, *VALUED):
        assert Term(measure=measure).measure == measure
    with pytest.raises(ValidationError, match="unknown; did you mean 'selection_rate'"):
        Term(measure="selection_rat")


@pytest.mark.parametrize("name", sorted(findings()))
def test_a_built_in_finding_is_whole(name):
    assert name not in library()
    scenario = read(name)
    assert scenario.name == name
    assert len(scenario.seeds) >= 10
    cases = [(c, s) for c in scenario.claim for s in c.settings]
    assert 1 < len(cases) * max(c.parts for c in scenario.claim) <= most(len(scenario.seeds))
    read_in = {t.setting for c, s in cases for t in c.terms(s)}
    assert read_in >= {s.name for s in scenario.setting}  # no setting is run for nothing
    twin = {"federated", "central", "mixed", "federated-men-99"}
    assert read_in & twin, "asked of one curator and of a federation"
    for claim in scenario.claim:
        assert claim.published or claim.reason, claim.name  # the source's figure, or why it is ours
        if claim.at_least is not None or claim.at_most is not None or claim.margin is not None:
            assert claim.reason or BASE not in claim.settings, claim.name


@pytest.mark.parametrize(("seeds", "refused"), [(11, True), (12, False)])
def test_a_family_of_curves_that_the_seeds_cannot_decide_is_refused(seeds, refused):
    scenario = read("exact-fairness-is-trivial")
    assert sum(len(c.settings) for c in scenario.claim) * 4 == 80  # curves of four steps, in a family of 20
    assert (2 / 2**seeds * 80 > 0.05) == refused
    reason = why_undecidable(scenario.claim, seeds)
    assert bool(reason) == refused
    if refused:
        assert reason.startswith("family too large: 20 verdicts, one of them with 4 parts, need p ≤ .05 / 80")
        assert "\n" not in reason


def test_claims_say_no_more_than_is_tested():
    claims = {name: {c.name: c for c in read(name).claim} for name in findings()}
    for claim in claims["private-reductions"].values():  # of no paper
        assert not claim.published or claim.published.startswith("an earlier project's ")
        assert not claim.published or claim.published.endswith("(unpublished)")
    about = claims["poor-become-poorer"]["about-three-times"]
    assert (about.at_least, about.at_most) == (2.0, 5.0)  # three times, and not any more than twice
    more = claims["imbalance-and-privacy"]["more-imbalance-more-gap"]
    assert (more.published, "do not rise" in more.reason) == ("", True)
    for by_name in claims.values():
        for claim in by_name.values():
            for side in (claim.a, claim.b or claim.a):
                if len(side.groups) > 1 and (side.of or claim.of) == "toll":
                    assert "average" in claim.says, claim.name


@pytest.mark.slow
def test_the_public_part_belongs_to_all_settings(tmp_path):
    """Else a tuned setting would train on fewer records than the one that it is compared with."""
    file = tmp_path / "mine.json"
    for overrides, split_, expected in (
        (["split.validation=0.2"], {}, "setting 'tuned': set: split.validation belongs in [split]"),
        (["split={validation=0.2}"], {}, "setting 'tuned': set: split.validation belongs in [split]"),
        (
            [],
            {"validation": 0.0},
            "tune: needs split.validation, the share of records that is declared public",
        ),
    ):
        table = changed()
        table["split"] |= split_
        next(s for s in table["setting"] if s["name"] == "tuned")["set"] = overrides
        file.write_text(json.dumps(table))
        with pytest.raises(ScenarioError) as caught:
            prepare(str(file))
        assert str(caught.value).startswith(f"mine.json: {expected}")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("setting", ["tuned", "mixed"])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("split.validation", "0.2"),
        ("split.folds", "4"),
        ("split.kind", '"canonical"'),
        ("data.groups", '["race", "sex"]'),
        ("data.floor", "1000"),
        ("data.source", '"credit"'),
    ],
)
def test_all_settings_of_a_tuned_finding_share_the_public_records(tmp_path, setting, key, value):
    """Neither the tuned one nor any that it may be compared with."""
    file = tmp_path / "mine.json"
    table = changed()
    variant = next(s for s in table["setting"] if s["name"] == setting)
    variant["set"] = ['partition={kind="iid", clients=13}', f"{key}={value}"]
    if key == "data.source":
        variant["set"].append('data.groups=["sex"]')
    file.write_text(json.dumps(table))
    section = key.split(".")[0]
    if key == "data.source":
        key = "data.(?:source|groups)"  # the first that is reported
    message = f"mine.json: setting {setting!r}: set: {key} belongs in \\[{section}\\]"
    with pytest.raises(ScenarioError, match=message) as caught:
        prepare(str(file))
    assert "\n" not in str(caught.value)


def test_without_tuning_settings_may_split_as_they_like(tmp_path):
    table = changed()
    for claim in table["claim"]:
        claim["settings"] = [s for s in claim.get("settings", [BASE]) if s != "tuned"]
    table["setting"] = [s for s in table["setting"] if s["name"] != "tuned"]
    next(s for s in table["setting"] if s["name"] == "mixed")["set"] += ["split.validation=0.0"]
    del table["tune"]
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(table))
    assert prepare(str(file)).plans["mixed"].scenario.split.validation == 0


@pytest.mark.parametrize("where", ["", *(s["name"] for s in tomllib.loads(TEXT)["setting"])])
def test_a_finding_rejects_skips(here, tmp_path, where):
    """Every skip must be shown, and neither tuning nor a verdict shows any."""
    table = changed()
    if where:
        next(s for s in table["setting"] if s["name"] == where).setdefault("set", []).append(
            'training.on_failure="skip"'
        )
    else:
        table["training"]["on_failure"] = "skip"
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(table))
    code, out, err = here("findings", file, "--quick")
    assert (code, out) == (2, "")
    assert (f"setting {where!r}: " if where else "mine.json: ") + "training.on_failure = 'skip'" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "results").exists()
