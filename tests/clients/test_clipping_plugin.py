"""Plug-in mechanisms: the docs' example conforms and runs, and leaking ones are caught by the kit."""

from __future__ import annotations

import inspect
import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from fedtoll.clients.clipping import registry
from fedtoll.clients.clipping.base import ClientMechanism, clipped
from fedtoll.clients.clipping.conformance import PROPERTIES, assert_conforms, conform
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.server.plan import plan
from fedtoll.server.trainer import simulate
from tests.server.federation import FEDAVG, scenario

PAGE = (Path(__file__).parents[2] / "docs/mechanisms.md").read_text(encoding="utf-8")
EXAMPLE = next(b for b in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if b.startswith("# mine.py"))


@pytest.fixture
def mine(tmp_path):
    (tmp_path / "mine.py").write_text(EXAMPLE)
    return tmp_path / "mine.py"


def ladder(mine):
    path, digest = registry.resolve(f"{mine}:Ladder")
    assert digest
    return registry.instantiate(path, registry.check(registry.load(path), {"steps": 4}))


def test_the_example_of_the_page_is_short_and_conforms(mine):
    assert len([line for line in EXAMPLE.splitlines() if line.strip()]) <= 40
    assert_conforms(ladder(mine))
    assert_conforms(ladder(mine), seed=7)


@pytest.mark.parametrize("engine", ["cohort", "opacus"])
def test_the_example_runs_and_is_part_of_the_hash(mine, engine):
    stated = {
        "client": {"mechanism": f"{mine}:Ladder", "steps": 2},
        "training": {"engine": engine, "rounds": 2},
        "privacy": {"epsilons": [2.0]},
    }
    (run,) = plan(scenario(FEDAVG, **stated), "x.toml").runs
    tables = simulate(run)
    assert np.isfinite(tables["clients"]["noise_variance"]).all()
    assert run.has_own_code
    mine.write_text(EXAMPLE + "# changed\n")
    (changed,) = plan(scenario(FEDAVG, **stated), "x.toml").runs
    assert changed.hash != run.hash
    registry._built.cache_clear()
    assert run.client_mechanism is not None
    with pytest.raises(ScenarioError, match="not the source that the run was planned with"):
        registry.built(run.client_mechanism)


SEEN: dict[str, float] = {}


@dataclass(frozen=True)
class Good(ClientMechanism):
    def cells(self, groups):
        return 1

    def init(self, public):
        return np.array([public.clip])

    def count(self, norms_N, groups_N, state, public):
        return (norms_N > public.clip).astype(float)[:, None]

    def update(self, noised_M, state, public):
        return np.array([public.clip * (1 + np.clip(noised_M[0] / public.batch_size, 0, 1))])

    def scale(self, norms_N, groups_N, state, public):
        return clipped(norms_N, state[0])

    def bound(self, state, public):
        return float(state[0])


class LargestNorm(Good):
    """Gradients are divided by the largest of the batch."""

    def scale(self, norms_N, groups_N, state, public):
        return np.full(len(norms_N), state[0] / max([1e-6, *norms_N]))


class AboveTheBound(Good):
    def bound(self, state, public):
        return public.clip


class Remembers(Good):
    """The clip follows from the true count, which a global variable keeps."""

    def count(self, norms_N, groups_N, state, public):
        SEEN["count"] = float((norms_N > public.clip).sum())
        return super().count(norms_N, groups_N, state, public)

    def update(self, noised_M, state, public):
        return super().update(np.array([SEEN["count"]]), state, public)


class Hides(Good):
    """The same in an attribute of the frozen object."""

    def scale(self, norms_N, groups_N, state, public):
        object.__setattr__(self, "size", len(norms_N))
        return super().scale(norms_N, groups_N, state, public)


class BoundOfTheBatch(Good):
    """Noise for the largest scaled gradient of the batch."""

    def scale(self, norms_N, groups_N, state, public):
        factors = super().scale(norms_N, groups_N, state, public)
        SEEN["bound"] = float((factors * norms_N).max(initial=1e-3))
        return factors

    def bound(self, state, public):
        return max(SEEN.get("bound", 0.0), 1e-3)


class CountsTwice(Good):
    def cells(self, groups):
        return 2

    def count(self, norms_N, groups_N, state, public):
        return np.ones((len(norms_N), 2))


class ByRank(Good):
    """What a record counts for depends on its rank in the batch."""

    def count(self, norms_N, groups_N, state, public):
        return (norms_N >= np.median(norms_N) if len(norms_N) else norms_N).astype(float)[:, None]


class Random(Good):
    def scale(self, norms_N, groups_N, state, public):
        return super().scale(norms_N, groups_N, state, public) * np.random.default_rng().random(len(norms_N))


class Overflows(Good):
    def update(self, noised_M, state, public):
        with np.errstate(all="ignore"):
            return np.exp(noised_M * 100)


class Writes(Good):
    def update(self, noised_M, state, public):
        noised_M[0] = 0
        return state


LEAKS = {
    LargestNorm: "records by themselves",
    AboveTheBound: "gradients bounded",
    Remembers: "neighbours",
    Hides: "same inputs, same outputs",
    BoundOfTheBatch: "neighbours",
    CountsTwice: "counts bounded",
    ByRank: "records by themselves",
    Random: "same inputs, same outputs",
    Overflows: "shapes and numbers",
    Writes: "shapes and numbers",
}


def test_the_unbroken_one_conforms():
    assert_conforms(Good())


@pytest.mark.parametrize("leak", LEAKS, ids=lambda cls: cls.__name__)
def test_what_leaks_is_caught(leak):
    SEEN.clear()
    failed = {v.property for v in conform(leak()) if v.outcome == "failed"}
    assert LEAKS[leak] in failed
    with pytest.raises(AssertionError, match=rf"^{leak.__name__}\(\) fails"):
        assert_conforms(leak())


@pytest.mark.parametrize("name", registry.BUILT_IN)
def test_fedtolls_own_conform(name):
    path, digest = registry.resolve(name)
    assert digest == ""
    assert_conforms(registry.instantiate(path, registry.check(registry.load(path), {})))
    assert f"| `{name}` |" in PAGE


def test_the_page_shows_every_property(mine):
    shown = re.findall(r"^ok +(\S.*?)  +(\S.*)$", PAGE, re.MULTILINE)
    assert shown == [(v.property, v.words) for v in conform(ladder(mine)) if v.outcome == "passed"]
    assert [name for name, _ in shown] == list(PROPERTIES)


def test_the_page_names_every_method():
    methods = [k for k, v in vars(ClientMechanism).items() if inspect.isfunction(v) and k[0] != "_"]
    assert set(methods) == set(re.findall(r"^\| `(\w+)\(", PAGE, re.MULTILINE))


@pytest.mark.slow
def test_a_new_mechanism_conforms_and_runs(here, tmp_path):
    code, out, err = here("new-mechanism", "my-clip")
    assert (code, err) == (0, "")
    path, check, run = out.splitlines()
    assert path == "my_clip.py"
    assert check == "fedtoll check-mechanism my_clip.py:MyClip"
    code, out, err = here(*shlex.split(check)[1:])
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()] == ["ok"] * len(PROPERTIES) + ["shown"] * 2
    assert here(*shlex.split(run)[1:], "--dry-run")[0] == 0
    code, _, err = here("check-mechanism", "my_clip.py:MyClip", "--set", "share=2.0")
    assert (code, err.count("\n")) == (2, 1)
    assert "must be from 0 to 1" in err
    assert here("new-mechanism", "dpsgd-f")[0] == 2


def test_a_leaking_file_ends_the_check_with_1(here, tmp_path):
    leak = "        return np.full(len(norms_N), state[0] / max([1e-6, *norms_N]))"
    (tmp_path / "leak.py").write_text(EXAMPLE.replace("        return clipped(norms_N, state[0])", leak))
    code, out, _ = here("check-mechanism", "leak.py:Ladder", "--json")
    assert code == 1
    failed = [v["property"] for v in json.loads(out)["verdicts"] if v["outcome"] == "failed"]
    assert "records by themselves" in failed


def test_mechanisms_are_listed_and_described(here):
    code, out, _ = here("list", "mechanisms", "--json")
    assert code == 0
    assert set(json.loads(out)) >= {"dp-sgd", *registry.BUILT_IN}
    code, out, _ = here("describe", "global-adapt")
    assert code == 0
    assert "Parameters: z = 50.0, rate = 0.1, threshold = 1.0" in out
