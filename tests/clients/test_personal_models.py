"""Plug-in personal models: the docs' example conforms and runs, and what makes results wrong is caught."""

from __future__ import annotations

import inspect
import json
import re
import shlex
import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedtoll.clients import train
from fedtoll.clients.engines import sampling
from fedtoll.clients.engines.base import Task
from fedtoll.clients.personal_models import registry
from fedtoll.clients.personal_models.base import PersonalModel, mixed
from fedtoll.clients.personal_models.conformance import PROPERTIES, assert_conforms, conform
from fedtoll.scenarios import plugins
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.personal import Personal
from fedtoll.scenarios.run import Run
from fedtoll.server.plan import plan
from fedtoll.server.trainer import Trainer, simulate
from tests.server.test_personal import one, scenario, trained

PAGE = (Path(__file__).parents[2] / "docs/scenario-file.md").read_text(encoding="utf-8")
EXAMPLE = next(b for b in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if b.startswith("# mine.py"))

OWN = """
from dataclasses import dataclass
from fedtoll.clients.personal_models.base import PersonalModel, mixed
from fedtoll.clients.personal_models.methods import MRMTL, Ditto, FedPer


@dataclass(frozen=True)
class Pulled(MRMTL):
    pass


@dataclass(frozen=True)
class Headed(FedPer):
    pass


@dataclass(frozen=True)
class Twofold(Ditto):
    pass


@dataclass(frozen=True)
class Mixture(PersonalModel):
    share: float = 0.5
    extra: int = 3

    @property
    def own_steps(self):
        return self.extra

    def score(self, kept, sent):
        return mixed(kept, sent, self.share)
"""


@pytest.fixture
def mine(tmp_path):
    (tmp_path / "mine.py").write_text(EXAMPLE)
    return tmp_path / "mine.py"


@pytest.fixture
def own(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path / "own.py"


def local_first(mine):
    path, digest = registry.REGISTRY.resolve(f"{mine}:LocalFirst")
    assert digest
    return registry.REGISTRY.instantiate(path, registry.REGISTRY.check(registry.REGISTRY.load(path), {}))


def test_the_example_of_the_page_is_short_and_conforms(mine):
    assert len([line for line in EXAMPLE.splitlines() if line.strip()]) <= 20
    assert_conforms(local_first(mine))
    assert_conforms(local_first(mine), seed=7)


@pytest.mark.parametrize("engine", ["cohort", "opacus"])
def test_the_example_runs_and_is_part_of_the_hash(mine, engine):
    section = {"kind": f"{mine}:LocalFirst", "first": 1}
    run = one(section, 3.0, training={"engine": engine})
    shared, own = trained(run)
    assert all(np.array_equal(model[:3], shared[0][:3]) for model in shared)  # the weights stay
    assert len({tuple(model[:3]) for model in own[-1].values()}) == 3
    assert run.has_own_code
    assert Run.from_json(run.to_json()) == run
    mine.write_text(EXAMPLE + "# changed\n")
    assert one(section, 3.0, training={"engine": engine}).hash != run.hash
    registry._built.cache_clear()
    assert run.personal is not None
    with pytest.raises(ScenarioError, match="not the source that the run was planned with"):
        registry.built(run.personal)


def test_the_hash_covers_the_file_and_not_its_folder(mine, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    copy = tmp_path / "elsewhere" / "mine.py"
    copy.write_text(EXAMPLE)
    here, there = (one({"kind": f"{file}:LocalFirst"}) for file in (mine, copy))
    assert here.hash == there.hash
    assert one({"kind": f"{mine}:LocalFirst", "first": 1}).hash != here.hash


@pytest.mark.parametrize("engine", ["cohort", "opacus"])
@pytest.mark.parametrize(
    ("name", "section"),
    [
        ("Pulled", {"kind": "mr-mtl", "strength": 0.3}),
        ("Headed", {"kind": "fedper", "last": 1}),
        ("Twofold", {"kind": "ditto", "strength": 0.3, "steps": 3}),
    ],
)
def test_a_class_that_does_what_a_built_in_one_does_gives_its_bytes(own, engine, name, section):
    runs = [
        one(kind, 3.0, training={"engine": engine})
        for kind in (section, {**section, "kind": f"{own}:{name}"})
    ]
    known, plugged = (Trainer().train(run) for run in runs)
    assert isinstance(known, dict)
    assert isinstance(plugged, dict)
    for table in ("groups", "predictions", "ledger"):
        assert known[table].equals(plugged[table])
    assert runs[0].hash != runs[1].hash


def test_own_steps_are_charged_and_calibrated(own):
    few, many = (one({"kind": f"{own}:Mixture", "extra": steps}, 3.0) for steps in (0, 8))
    assert [run.own_steps(run.clients[0]) for run in (few, many)] == [0, 8]
    assert many.clients[0].noise_multiplier > 1.2 * few.clients[0].noise_multiplier
    ledger = simulate(many)["ledger"]
    rows = dict(ledger[ledger["client"] == 0].groupby("release")["count"].sum())
    assert rows == {"dp-sgd": 6, "own model": 24}
    assert ledger["epsilon_spent"].max() == pytest.approx(3.0, abs=0.01)


def test_a_mixture_is_scored_and_its_own_part_is_kept(own):
    """With no share of the own model, clients are scored by the model that they received."""
    run = one({"kind": f"{own}:Mixture", "share": 0.0})
    shared, mine = trained(run)
    assert all(np.array_equal(model, shared[-2]) for model in mine[-1].values())
    _, whole = trained(one({"kind": f"{own}:Mixture", "share": 1.0}))
    _, half = trained(one({"kind": f"{own}:Mixture", "share": 0.5}))
    for client, model in half[-1].items():
        assert model == pytest.approx(0.5 * whole[-1][client] + 0.5 * shared[-2])


def test_a_package_can_install_one_under_a_name(own, monkeypatch):
    monkeypatch.syspath_prepend(str(own.parent))
    entries = [EntryPoint("mix", "own:Mixture", "fedtoll.personal_models")]
    known = plugins.installed
    monkeypatch.setattr(
        plugins, "installed", lambda group: [*known(group), *(e for e in entries if e.group == group)]
    )
    assert "mix" in registry.REGISTRY.names()
    named, imported = one({"kind": "mix"}), one({"kind": "own:Mixture"})
    assert named.personal is not None
    assert named.personal.label == "mix, share = 0.5, extra = 3"
    assert named.hash == imported.hash != one({"kind": "own:Mixture", "extra": 2}).hash
    entries.append(EntryPoint("mix", "own:Twofold", "fedtoll.personal_models"))
    with pytest.raises(ScenarioError, match="'mix' is the name of 2 personal models; write"):
        one({"kind": "mix"})


def test_who_sends_the_usual_goes_with_every_strategy(own):
    term = [{"name": "term"}]
    plan(scenario({"kind": f"{own}:Mixture"}, strategies=term), "own.toml")
    with pytest.raises(ScenarioError, match="not with strategy 'term': clients release their mean_loss"):
        plan(scenario({"kind": f"{own}:Pulled", "strength": 0.1}, strategies=term), "own.toml")


def test_constants_of_a_class_can_be_tuned(own):
    tune = {"personal": {"extra": [1, 2]}, "seeds": [9]}
    changes: dict[str, Any] = {"split": {"folds": 3, "validation": 0.2}}
    plan(scenario({"kind": f"{own}:Mixture"}, tune=tune, **changes), "own.toml")
    for lists, line in (
        ({"extra": [1, "two"]}, "own.toml: tune.personal: Mixture: extra = 'two': "),
        ({"extre": [1, 2]}, "own.toml: tune.personal: Mixture: unknown parameter 'extre'; .*'extra'"),
    ):
        with pytest.raises(ScenarioError, match=line):
            plan(
                scenario({"kind": f"{own}:Mixture"}, tune={**tune, "personal": lists}, **changes), "own.toml"
            )


BROKEN = """
from dataclasses import dataclass
from fedtoll.clients.personal_models.base import PersonalModel

@dataclass(frozen=True)
class Shorter(PersonalModel):
    def send(self, trained, sent): return trained[:1]

@dataclass(frozen=True)
class Raises(PersonalModel):
    def keep(self, trained, own, sent): raise RuntimeError("no\\nmodel")

@dataclass(frozen=True)
class Negative(PersonalModel):
    pull: float = -1.0

@dataclass(frozen=True)
class Half(PersonalModel):
    own_steps: float = 0.5

class NoDataclass(PersonalModel):
    a: float = 1.0
"""


@pytest.mark.parametrize(
    ("section", "line"),
    [
        ({"kind": "mine.py:Nothing"}, "has no PersonalModel 'Nothing'"),
        ({"kind": "none.py:Mine"}, "no such file"),
        ({"kind": "mine.py"}, "with the name of its class"),
        ({"kind": "dito"}, "personal.kind: 'dito' is unknown; .*'ditto'"),
        ({"kind": "mine.py:Shorter"}, "personal.kind: Shorter: send returned no model"),
        ({"kind": "mine.py:Raises"}, r"Raises: keep raises RuntimeError\('no"),
        (
            {"kind": "mine.py:Negative"},
            r"personal: Negative: pull = -1.0: must be a finite number of 0 or more",
        ),
        ({"kind": "mine.py:Half"}, "personal: Half: own_steps = 0.5: must be None or a count"),
        ({"kind": "mine.py:NoDataclass", "a": 2.0}, "write @dataclass"),
        ({"kind": "mine.py:Shorter", "b": 2.0}, "personal: Shorter: unknown parameter 'b'"),
    ],
)
def test_mistakes_are_one_line(section, line, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(BROKEN)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ScenarioError, match=line) as error:
        plan(scenario(section), "own.toml")
    assert str(error.value).startswith("own.toml: ")
    assert "\n" not in str(error.value)


SEEN: dict[str, Any] = {}


@dataclass(frozen=True)
class Good(PersonalModel):
    def begin(self, sent, kept):
        return mixed(sent, kept, 0.5)


class Remembers(Good):
    """Each client begins where the last one did."""

    def begin(self, sent, kept):
        last = SEEN.get("last", kept)
        SEEN["last"] = [x.copy() for x in kept]
        return last if len(last) == len(sent) else sent


class Counts(Good):
    """The share depends on how often it was asked, which the object counts."""

    def begin(self, sent, kept):
        object.__setattr__(self, "calls", getattr(self, "calls", 0) + 1)
        return super().begin(sent, kept)


class Random(Good):
    def score(self, kept, sent):
        return mixed(kept, sent, np.random.default_rng().random())


class Writes(Good):
    def send(self, trained, sent):
        trained[0][:] = 0
        return trained


class OtherShape(Good):
    def keep(self, trained, own, sent):
        return [x[:1] for x in trained]


class Overflows(Good):
    def score(self, kept, sent):
        return [x / 0 for x in kept]


class Negative(Good):
    own_pull = -0.1


class Peeks(Good):
    """Sends a record, which it finds in the frames of its callers."""

    def send(self, trained, sent):
        return [x + record() for x in trained]


class Memorises(Good):
    """Keeps a record, and so sends it later."""

    def keep(self, trained, own, sent):
        return [x + record() for x in trained]


class Confides(Good):
    """Is scored by a model with a record in it; the model leaves the client with its reply."""

    def score(self, kept, sent):
        return [x + record() for x in kept]


def record() -> float:
    """Return a number of the client's records: those of any task in the callers' frames."""
    frame: Any = sys._getframe()
    while frame := frame.f_back:
        for value in list(frame.f_locals.values()):
            if isinstance(value, Task):
                return float(value.features_ND.sum())
    return 0.0


class Indecisive(Good):
    """Declares fewer steps when runs are planned than later."""

    @property
    def own_steps(self):
        SEEN["asked"] = SEEN.get("asked", 0) + 1
        return 0 if SEEN["asked"] < SEEN.get("until", 3) else SEEN["asked"]


WRONG = {
    Remembers: "no other memory",
    Counts: "same inputs, same outputs",
    Random: "same inputs, same outputs",
    Writes: "models",
    OtherShape: "models",
    Overflows: "models",
    Negative: "steps and pulls declared",
    Indecisive: "steps and pulls declared",
    Peeks: "no record seen",
    Memorises: "no record seen",
    Confides: "no record seen",
}


GIVEN: list[Any] = []


@dataclass(frozen=True)
class Greedy(PersonalModel):
    """Looks at all that it is given, and sends all of it at once."""

    own_steps = 2

    def begin(self, sent, kept):
        return self.everything(sent, kept)

    def own_begin(self, sent, kept):
        return self.everything(kept, sent)

    def send(self, trained, sent):
        return self.everything(trained, sent)

    def keep(self, trained, own, sent):
        return self.everything(own, trained, sent)

    def everything(self, *models):
        GIVEN.append([x.copy() for model in models for x in model])
        assert all(x.base is None for model in models for x in model)  # no way to other memory
        return [3.0 * sum(arrays) for arrays in zip(*models, strict=True)]


@pytest.mark.parametrize("engine", ["cohort", "opacus"])
@pytest.mark.parametrize("epsilon", [2.0, "inf"])
def test_a_class_is_given_nothing_of_records_that_no_batch_has(engine, epsilon, monkeypatch):
    """So all that it can send comes from clipped and noised steps: the gate measures those."""
    run = one({"kind": f"{__name__}:Greedy"}, epsilon, training={"engine": engine})
    found = []
    for drawn, records in ((False, 1.0), (False, -50.0), (True, 1.0), (True, -50.0)):
        monkeypatch.setattr(sampling, "poisson", lambda rng, n, q, drawn=drawn: np.arange(n if drawn else 0))
        real = train._tensors
        monkeypatch.setattr(
            train, "_tensors", lambda *a, real=real, r=records: [(r * x, y, g) for x, y, g in real(*a)]
        )
        GIVEN.clear()
        trained(run)
        monkeypatch.setattr(train, "_tensors", real)
        found.append([np.concatenate([np.ravel(x) for x in each]) for each in GIVEN])
    assert len(found[0]) == 4 * 3 * 3  # methods, clients, rounds
    assert all(map(np.array_equal, found[0], found[1]))
    assert not all(map(np.array_equal, found[2], found[3]))  # what batches have does show


def test_steps_that_a_class_declares_later_are_not_run():
    """The engine takes the steps that the noise was calibrated for and the ledger charges."""
    SEEN.clear()
    SEEN["until"] = 1_000
    run = one({"kind": f"{__name__}:Indecisive"}, 3.0)
    SEEN["until"] = 0
    ledger = simulate(run)["ledger"]
    assert Indecisive().own_steps > 0
    assert run.personal is not None
    assert run.personal.own_steps == 0
    assert set(ledger["release"]) == {"dp-sgd"}


def test_the_unbroken_one_conforms():
    assert_conforms(Good())


@pytest.mark.parametrize("wrong", WRONG, ids=lambda cls: cls.__name__)
def test_what_makes_results_wrong_is_caught(wrong):
    SEEN.clear()
    failed = {v.property for v in conform(wrong()) if v.outcome == "failed"}
    assert WRONG[wrong] in failed
    with pytest.raises(AssertionError, match=rf"^{wrong.__name__}\(\) fails"):
        assert_conforms(wrong())


@pytest.mark.parametrize(
    ("name", "values"),
    [("mr-mtl", {"strength": 0.2}), ("fedper", {"last": 2}), ("ditto", {"strength": 0.2, "steps": None})],
)
def test_fedtolls_own_conform(name, values):
    path, digest = registry.REGISTRY.resolve(name)
    assert digest == ""
    method = registry.REGISTRY.instantiate(path, values)
    assert_conforms(method)
    stated = Personal(kind=name, **{k: v for k, v in values.items() if v is not None})
    found = registry.planned(stated)
    assert found is not None
    assert registry.built(found) == method
    assert found.model_dump() == stated.model_dump()


def test_the_page_shows_every_property_and_names_every_method(mine):
    shown = re.findall(r"^ok +(\S.*?)  +(\S.*)$", PAGE, re.MULTILINE)
    verdicts = conform(local_first(mine))
    assert shown == [(v.property, v.words) for v in verdicts if v.outcome == "passed"]
    assert [name for name, _ in shown] == list(PROPERTIES)
    for verdict in verdicts:
        assert verdict.words in PAGE
    kinds = inspect.isfunction, lambda value: isinstance(value, property)
    public = {k for k, v in vars(PersonalModel).items() if k[0] != "_" and any(kind(v) for kind in kinds)}
    section = PAGE[PAGE.index("### Write your own") : PAGE.index("\n## privacy")]
    assert public - {"usual"} == set(re.findall(r"^- `(\w+)", section, re.MULTILINE))


def test_a_new_personal_model_conforms_and_runs(here):
    code, out, err = here("new-personal-model", "my-model")
    assert (code, err) == (0, "")
    path, check, run = out.splitlines()
    assert path == "my_model.py"
    assert check == "fedtoll check-personal-model my_model.py:MyModel"
    code, out, err = here(*shlex.split(check)[1:])
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()] == ["ok"] * len(PROPERTIES) + ["shown"] * 3
    assert here("check", *shlex.split(run)[2:5])[0] == 0
    assert np.isfinite(simulate(one({"kind": "my_model.py:MyModel"}, 3.0))["groups"]["log_loss"]).all()
    code, _, err = here("check-personal-model", "my_model.py:MyModel", "--set", "share=2.0")
    assert (code, err.count("\n")) == (2, 1)
    assert "must be from 0 to 1" in err
    assert here("new-personal-model", "ditto")[0] == 2


def test_a_wrong_file_ends_the_check_with_1(here, tmp_path):
    wrong = EXAMPLE.replace("*trained[self.first :]]", "]")
    (tmp_path / "wrong.py").write_text(wrong)
    code, out, _ = here("check-personal-model", "wrong.py:LocalFirst", "--json")
    assert code == 1
    failed = [v["property"] for v in json.loads(out)["verdicts"] if v["outcome"] == "failed"]
    assert "models" in failed


def test_personal_models_are_listed_and_described(here):
    code, out, _ = here("list", "personal-models", "--json")
    assert code == 0
    assert set(json.loads(out)) >= set(registry.BUILT_IN)
    code, out, _ = here("describe", "ditto")
    assert code == 0
    assert "Parameters: strength, steps = None" in out


def test_code_of_somebody_else_is_not_imported(here, tmp_path):
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')\n")
    stated = ["--set", 'personal.kind="evil.py:Mine"']
    code, out, err = here("check", "adult-race", "--no-code", *stated)
    assert (code, err) == (0, "")
    assert out.splitlines()[1:] == ["not checked: personal model evil.py:Mine, which is not fedtoll's code"]
    assert here("check", "adult-race", *stated)[0] == 2
