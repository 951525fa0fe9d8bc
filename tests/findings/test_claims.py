"""Claims as files state them: mistakes in one line, and the built-in findings whole."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from fedtoll.scenarios.claims import BASE, VALUED, MeasureName
from fedtoll.scenarios.compare import most
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.scenario import findings, library, read, validate
from fedtoll.server.findings import names, prepare
from fedtoll.server.toll import MEASURES

TEXT = findings()["fairfed-one-group"].read_text(encoding="utf-8")


def changed(**change):
    table = tomllib.loads(TEXT)
    for place, value in change.items():
        *path, last = place.split("__")
        inner: Any = table
        for part in path:
            inner = inner[int(part) if part.isdigit() else part]
        if value is None:
            del inner[last]
        else:
            inner[last] = value
    return table


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"claim__0__kind": "oder"}, "claim[0].kind = 'oder': unknown; did you mean 'order'?"),
        ({"claim__0__b": None}, "b: kind = 'order' needs it"),
        ({"claim__0__at_least": 1.0}, "at_least, at_most: kind = 'order' has none"),
        ({"claim__2__at_most": None}, "at_least, at_most: kind = 'ratio' needs one of them"),
        ({"claim__0__shape": "rises"}, "shape: belongs to kind = 'shape'"),
        ({"claim__0__settings": ["mixd"]}, "no setting 'mixd'; did you mean 'mixed'?"),
        ({"claim__0__a": {"setting": "mixd"}}, "no setting 'mixd'; did you mean 'mixed'?"),
        ({"claim__1__name": "minority-loses-weight"}, "'minority-loses-weight' stands twice"),
        ({"claim__0__sayss": "x"}, "claim[0].sayss: unknown key; did you mean 'says'?"),
        ({"claim__0__a": {"group": ["x"]}}, "claim[0].a.group: unknown key; did you mean 'groups'?"),
        ({"claim__0__of": "toll", "claim__0__measure": "collapsed"}, "'collapsed' has no toll"),
        ({"source": None}, "claim, source: one needs the other"),
        ({"source__where": None}, "source.where: missing"),
        ({"setting__0__name": "base"}, "is the scenario itself"),
        ({"setting__0__tuned": True}, "setting: tuned needs [tune]"),
        ({"tune": {"learning_rates": [1.0]}}, "nothing to choose from"),
        ({"tune": {"learning_rates": [1.0, 1.0]}}, "learning_rates: the same value twice"),
        ({"tune": {"rates": [1.0]}}, "tune.rates: unknown key"),
    ],
)
def test_mistakes_are_one_line(change, words):
    with pytest.raises(ScenarioError) as caught:
        validate(changed(**change), "x.toml")
    assert "\n" not in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"claim__0__epsilon": 3}, "epsilon = 3.0: not in privacy.epsilons of base: inf, 2.0"),
        ({"claim__0__a__strategy": "fairfd"}, "strategy = 'fairfd': not here"),
        ({"claim__0__a__groups": ["Blak"]}, "no group 'Blak'; did you mean 'Black'?"),
        ({"claim__0__of": "toll"}, "a toll needs a finite ε"),
        ({"seeds": "0:5"}, "too few seeds"),
        ({"claim": None, "source": None}, "no finding: it has no [[claim]]"),
        ({"setting__0__set": ["training.round=3"]}, "training.round: unknown key"),
    ],
)
def test_claims_are_checked_before_anything_is_trained(change, words, tmp_path):
    import json

    file = tmp_path / "mine.json"
    file.write_text(json.dumps(changed(**change)))
    with pytest.raises(ScenarioError) as caught:
        prepare(str(file))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("mine.json: ")
    assert words in str(caught.value)


def test_names_are_looked_up():
    assert names([]) == list(findings())
    with pytest.raises(ScenarioError, match="did you mean 'rare-class'"):
        names(["rare-clas"])
    assert names(["rare-class", "rare-class"]) == ["rare-class"]


def test_measures_are_those_of_the_toll():
    assert set(MeasureName.__args__) == {*MEASURES, *VALUED}  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", sorted(findings()))
def test_a_built_in_finding_is_whole(name):
    assert name not in library()
    scenario = read(name)
    assert scenario.name == name
    assert len(scenario.seeds) >= 10
    asked = [(c, s) for c in scenario.claim for s in c.settings]
    assert 1 < len(asked) <= most(len(scenario.seeds))
    read_in = {t.setting for c, s in asked for t in c.terms(s)}
    assert read_in >= {s.name for s in scenario.setting}  # no setting is run for nothing
    twin = {"federated", "central", "mixed", "federated-men-99"}
    assert read_in & twin, "asked of one curator and of a federation"
    for one in scenario.claim:
        assert one.published or one.reason, one.name  # the source's figure, or why it is ours
        if one.at_least is not None or one.at_most is not None or one.margin is not None:
            assert one.reason or BASE not in one.settings, one.name
