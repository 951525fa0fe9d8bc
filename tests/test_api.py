"""``fedtoll.run`` from Python: what it takes, and what its results show."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
import tomllib
from typing import Any

import numpy as np
import pandas as pd
import pytest

import fedtoll
from fedtoll import progress
from fedtoll.api import _executor
from fedtoll.scenarios import toml
from fedtoll.scenarios.errors import RunError, ScenarioError
from fedtoll.scenarios.keywords import apply
from fedtoll.scenarios.read import library, parse, read
from fedtoll.server.results import load
from fedtoll.strategies.base import Strategy
from fedtoll.strategies.given import described
from fedtoll.strategies.term import Term
from fedtoll.sweep import run as sweep

SCENARIO: dict[str, Any] = {
    "name": "tiny",
    "title": "Tiny",
    "seeds": "0:2",
    "data": {
        "source": "synthetic",
        "groups": ["group"],
        "synthetic": {"groups": {"<b>a</b>": {"size": 300}, "b": {"size": 200}}},
    },
    "training": {"rounds": 1, "sampling_rate": 0.1, "local_steps": 1, "learning_rate": 0.5, "clip": 1.0},
    "privacy": {"epsilons": ["inf", 2]},
    "strategies": [{"name": "fedavg"}],
}
HOW: dict[str, Any] = {"executor": "serial", "probe": False}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return fedtoll.run(SCENARIO, out=tmp_path_factory.mktemp("api") / "tiny", **HOW)


def hashes(results):
    return sorted(run["hash"] for run in results.resolved["runs"])


@pytest.mark.slow
def test_a_dictionary_a_path_and_a_name_are_the_same_scenario(tmp_path, monkeypatch, results):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "tiny.toml"
    file.write_text(toml.dumps(SCENARIO))
    by_path = fedtoll.run(file, **HOW)
    assert by_path.folder.resolve() == tmp_path / "results" / "tiny"
    assert hashes(by_path) == hashes(results)
    assert by_path.groups.equals(results.groups)
    stored = tomllib.loads((results.folder / "scenario.toml").read_text())
    assert stored == SCENARIO
    with pytest.raises(ScenarioError, match="'adult-race'"):
        fedtoll.run("adult-rase")


@pytest.mark.slow
def test_keywords_override_keys_and_sections(tmp_path, results):
    again = fedtoll.run(
        SCENARIO | {"privacy": {"epsilons": [7]}, "seeds": [5]},
        out=tmp_path / "x",
        epsilons=[np.inf, np.float64(2)],
        seeds=range(2),
        training={"learning_rate": 0.5},
        **HOW,
    )
    assert hashes(again) == hashes(results)
    assert again.resolved["command"] == (
        "fedtoll.run(scenario, epsilons=['inf', 2.0], training={'learning_rate': 0.5}, seeds=[0, 1])"
    )


def test_a_key_of_training_is_not_the_list_that_tune_tries():
    table = parse(library()["synthetic-shift"])
    apply(table, {"rounds": 3, "learning_rates": [0.1]})
    assert table["training"]["rounds"] == 3
    assert table["tune"] == {"learning_rates": [0.1]}


def test_a_key_may_be_stated_twice_with_the_same_value():
    table = parse(library()["synthetic-shift"])
    same = ["training.rounds=3", "training={clip=2.0, local_steps=1}"]
    apply(table, {"rounds": 3, "training": {"rounds": 3, "clip": 2.0}}, same)
    assert table["training"]["rounds"] == 3


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"epsilon": [1]}, "epsilon: no key of a scenario has this name; did you mean 'epsilons'?"),
        ({"kind": "mlp"}, "kind: a key of several sections (split, partition, model"),
        ({"rounds": 0}, "scenario: training.rounds = 0"),
        ({"strategies": "term"}, "must be a list"),
        ({"strategies": [3]}, "must be a name, a table with a name, a strategy or its class"),
        ({"learning_rates": [0.1]}, "learning_rates: no key of a scenario has this name"),
        ({"rounds": 2, "training": {"rounds": 3}}, "training.rounds: stated twice, as 2 and as 3; state it"),
        ({"rounds": 2, "overrides": ["training.rounds=3"]}, "training.rounds: stated twice, as 3 and as 2"),
        ({"overrides": "training.rounds=0"}, "overrides = 'training.rounds=0': must be a list of texts"),
        ({"overrides": [1]}, "overrides = [1]: must be a list of texts"),
        ({"tune": "no"}, "tune = 'no': must be True or False, or the section [tune]"),
        ({"tune": {"learning_rates": [0.1]}}, "scenario: tune: nothing to choose from"),
        ({"probe": {}}, "probe = {}: must be True or False"),
        ({"force": "no"}, "force = 'no': must be True or False"),
        ({"workers": 0}, "workers = 0: must be a whole number of 1 or more"),
        ({"workers": -3}, "workers = -3: must be"),
        ({"workers": "2"}, "workers = '2': must be"),
        ({"workers": 1.5}, "workers = 1.5: must be"),
        ({"workers": True}, "workers = True: must be"),
        ({"executor": 3}, "executor 3 is unknown"),
        ({"seeds": [1], "overrides": ["seeds=[2]"]}, "seeds: stated twice, as [2] and as [1]"),
        (
            {"data": {"synthetic": {"groups": {}}}, "overrides": ["data.synthetic.seed=2"]},
            "data.synthetic.seed: stated twice, as 2 and left out",
        ),
    ],
)
def test_mistakes_are_one_line(tmp_path, keys, words):
    with pytest.raises(ScenarioError) as caught:
        fedtoll.run(SCENARIO, out=tmp_path / "x", **keys)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_dictionary_is_the_section_tune(tmp_path, monkeypatch):
    planned = []

    def stop(scenario, file, tune):
        planned.append((scenario.tune, tune))
        raise ScenarioError("far enough")

    monkeypatch.setattr("fedtoll.api.sweep.plan_for", stop)
    with pytest.raises(ScenarioError, match="far enough"):
        fedtoll.run("synthetic-shift", tune={"learning_rates": [0.125, 0.5]}, out=tmp_path / "x")
    own = read("synthetic-shift").tune
    assert own is not None
    assert own.learning_rates != (0.125, 0.5)
    assert planned == [(own.model_copy(update={"learning_rates": (0.125, 0.5)}), True)]


def test_runs_that_are_missing_without_a_failure_are_an_error(tmp_path, monkeypatch):
    execute = sweep.execute

    def some(planned, store, **how):
        return execute(dataclasses.replace(planned, runs=planned.runs[:-1]), store, **how)

    monkeypatch.setattr("fedtoll.api.sweep.execute", some)
    with pytest.raises(RunError, match=r"1 of 4 runs are not stored, e.g. fedavg, ε = 2, seed 1"):
        fedtoll.run(SCENARIO, out=tmp_path / "x", **HOW)


def test_an_instance_is_the_strategy_that_a_file_names():
    assert described(Term(t=5.0)) == {"name": "term", "t": 5.0}
    assert described(Term) == described("term") == {"name": "term"}
    assert described({"name": "term", "t": 2.0}) == {"name": "term", "t": 2.0}


def test_an_instance_of_a_class_in_a_file_is_found_by_its_file(tmp_path):
    from fedtoll.strategies.registry import load

    file = tmp_path / "mine.py"
    file.write_text(
        "from dataclasses import dataclass\n"
        "from fedtoll.strategies.base import Strategy\n\n"
        "@dataclass(frozen=True)\n"
        "class Mine(Strategy):\n"
        "    a: float = 1.0\n"
    )
    assert described(load(f"{file}:Mine")(a=2.0)) == {"name": f"{file}:Mine", "a": 2.0}

    class Inner(Strategy):
        pass

    with pytest.raises(ScenarioError, match="define the class at the top"):
        described(Inner())


SESSION = """
from dataclasses import dataclass
import numpy as np
import fedtoll
from fedtoll.strategies.base import Strategy, sizes
from fedtoll.strategies.registry import resolve
{helper}
@dataclass(frozen=True)
class Mine(Strategy):
    a: float = 1.0

    def weigh(self, reports, state):
        p = power(sizes(reports), self.a)
        return p / p.sum(), state

path, digest = resolve("__main__:Mine")
print(path, digest)
"""


@pytest.mark.slow
def test_a_class_typed_into_a_session_is_another_one_if_what_it_uses_changes(tmp_path):
    found = {}
    for name, power in {"a": "n**a", "again": "n**a", "b": "n**(a + 1)"}.items():
        text = SESSION.format(helper=f"def power(n, a):\n    return {power}\n\n")
        done = subprocess.run(
            [sys.executable, "-"], input=text, cwd=tmp_path, capture_output=True, text=True, check=True
        )
        path, found[name] = done.stdout.split()
        assert path == "__main__:Mine"
    assert found["a"] == found["again"] != found["b"]


def test_a_class_of_the_calling_script_runs_in_this_process_only():
    assert _executor(None, ["fedavg"]) == "processes"
    assert _executor(None, ["fedavg", "__main__:Mine"]) == _executor("serial", ["__main__:Mine"]) == "serial"
    with pytest.raises(ScenarioError, match="Mine is defined in the calling script"):
        _executor("ray", ["__main__:Mine"])


def test_a_model_in_a_file_trains_from_any_folder_and_is_hashed_by_its_content(tmp_path, monkeypatch):
    (tmp_path / "nets.py").write_text(
        "from torch import nn\n\ndef small(i, o):\n    return nn.Sequential(nn.Linear(i, 2), nn.Linear(2, o))"
    )
    monkeypatch.chdir(tmp_path)
    one = fedtoll.run(SCENARIO, model={"kind": "nets.py:small"}, out="x", seeds=[0], epsilons=[2], **HOW)
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    other = fedtoll.run(SCENARIO, model={"kind": "../nets.py:small"}, out="x", seeds=[0], epsilons=[2], **HOW)
    assert hashes(one) == hashes(other)
    assert one.groups.equals(other.groups)


OWN = {
    "label": "paid",
    "positive": "yes",
    "negative": ["no"],
    "columns": {"age": {"low": 0, "high": 100}},
    "attributes": {"sex": {"values": ["f", "m"]}},
}


MINE = SCENARIO | {"data": {"groups": ["sex"], "own": OWN}}


def frame(seed=0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "age": rng.uniform(0, 100, 400),
            "sex": rng.choice(["f", "m"], 400),
            "paid": rng.choice(["no", "yes"], 400),
            "secret": rng.uniform(0, 1, 400),
        }
    )


@pytest.fixture(scope="module")
def of_a_frame(tmp_path_factory):
    return fedtoll.run(MINE, table=frame(), out=tmp_path_factory.mktemp("frame") / "mine", **HOW)


def test_a_frame_with_declared_columns(of_a_frame):
    place = of_a_frame.folder.parent
    assert set(of_a_frame.groups["group"]) == {"f", "m", "(all)"}
    assert list(pd.read_parquet(place / "mine-table.parquet")) == ["paid", "age", "sex"]
    assert not list((place / "mine").rglob("*table*"))
    stored = tomllib.loads((place / "mine/scenario.toml").read_text())
    assert stored["data"] == MINE["data"] | {"file": str(place.resolve() / "mine-table.parquet")}
    before = {file: file.stat().st_mtime_ns for file in place.glob("**/*.parquet")}
    again = fedtoll.run(MINE, table=frame(), out=place / "mine", **HOW)
    assert hashes(again) == hashes(of_a_frame)
    assert {file: file.stat().st_mtime_ns for file in place.glob("**/*.parquet")} == before


@pytest.mark.parametrize(
    ("scenario", "more", "words"),
    [
        (MINE, {"table": frame().drop(columns="age")}, "no column 'age'"),
        (SCENARIO, {}, "table: needs [data.own]"),
        (MINE, {"rounds": -1}, "training.rounds = -1"),
        (MINE, {"table": "x"}, "table: must be a pandas DataFrame, not str"),
        (MINE, {"table": frame().assign(age=[[1], "x"] * 200)}, "table: cannot be written as Parquet"),
        (MINE, {"data": {"file": "x.csv"}}, "data.file, table: both state the records"),
    ],
)
def test_a_refused_call_writes_no_table(tmp_path, of_a_frame, scenario, more, words):
    stored = of_a_frame.folder.with_name("mine-table.parquet")
    before = stored.read_bytes()
    call: dict[str, Any] = {"table": frame(1)} | HOW | more
    with pytest.raises(ScenarioError) as caught:
        fedtoll.run(scenario, out=tmp_path / "other", **call)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ScenarioError):
        fedtoll.run(scenario, out=of_a_frame.folder, **call)
    assert stored.read_bytes() == before


def test_records_that_a_folder_has_runs_on_are_not_replaced(of_a_frame):
    before = (stored := of_a_frame.folder.with_name("mine-table.parquet")).read_bytes()
    with pytest.raises(ScenarioError, match=r"holds other records than this table, and .*; name another"):
        fedtoll.run(MINE, table=frame(1), out=of_a_frame.folder, **HOW)
    assert stored.read_bytes() == before


def test_without_runs_only_a_file_of_other_records_is_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "results"
    place.mkdir()
    frame()[["paid", "age", "sex"]].to_parquet(place / "kept-table.parquet", compression="gzip")
    frame(1).to_parquet(place / "new-table.parquet")
    before = (place / "kept-table.parquet").read_bytes()
    for name in ("kept", "new"):
        fast: dict[str, Any] = {"epsilons": ["inf"], "seeds": [0]} | HOW
        found = fedtoll.run(MINE, table=frame(), overrides=[f'name="{name}"'], **fast)
        assert found.folder.resolve() == place / name
    assert (place / "kept-table.parquet").read_bytes() == before
    assert list(pd.read_parquet(place / "new-table.parquet")) == ["paid", "age", "sex"]
    assert sorted(file.name for file in place.iterdir()) == [
        *("kept", "kept-table.parquet", "new", "new-table.parquet")
    ]


def test_results_say_what_they_are_in_one_line(results):
    assert repr(results) == (f"<Results of tiny: 4 runs, 1 strategy, 2 ε, 2 seeds; {results.folder}>")
    assert "At ε = 2 under fedavg" in results.headline
    assert {"headline", "plot", "report", "toll", "groups"} <= set(dir(results))
    assert not [name for name in (*dir(results), *dir(results.plot)) if name.startswith("_")]


def test_the_recipe_and_the_probe_are_results_too(tmp_path, results):
    runs = results.resolved["runs"]
    probe = [{**run, "learning_rate": 0.25} for run in runs]
    whole = dataclasses.replace(results, resolved=results.resolved | {"recipe": runs, "probe": probe})
    for found, part in ((whole.recipe, "recipe"), (whole.probe[0.25], "probe")):
        assert type(found) is fedtoll.Results
        assert repr(found).startswith(f"<Results of tiny ({part}): ")
        assert "under fedavg" in found.headline
        with pytest.raises(ScenarioError, match="name another folder"):
            found.report()
    assert repr(whole).startswith("<Results of tiny: ")
    plain = load(results.folder)
    assert repr(plain) == repr(results)
    assert not list(results.folder.glob("*.html"))


def test_results_are_equal_only_to_themselves(results):
    again = fedtoll.load(results.folder)
    assert results == results
    assert results != again
    assert load(results.folder) != load(results.folder)
    assert len({results, again, load(results.folder)}) == 3


@pytest.mark.parametrize("measure", [None, ["tpr"], "tprr"])
def test_a_wrong_measure_is_not_blamed_on_the_folder(results, measure):
    calls = (results.toll, results.toll_gap, results.joint_intervals, results.plot.utility)
    for call in calls:
        with pytest.raises(ScenarioError) as caught:
            call(measure)
        assert repr(measure) in str(caught.value)
        assert "cannot be read" not in str(caught.value)


def test_compare_explains_brackets_only_where_it_prints_some(results, here):
    code, out, err = here("compare", results.folder, results.folder)
    assert (code, err) == (0, "")
    assert "Paired within 2 seeds: same records, groups, split and partition." in out
    assert "rackets" not in out


def test_a_notebook_shows_the_headline_and_its_chart(results):
    html = results._repr_html_()
    assert html.startswith("<p><strong>At ε = 2 under fedavg")
    assert 'src="data:image/svg+xml;base64,' in html
    assert "<b>" not in html
    assert "&lt;b&gt;a&lt;/b&gt;" in html


@pytest.mark.slow
def test_figures_and_the_report_are_written(tmp_path, results):
    figure = results.plot.toll()
    assert figure.save(tmp_path / "a.svg").read_text().startswith("<svg")
    assert figure.save(tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert figure.save(tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")
    assert results.plot.utility("accuracy").spec != results.plot.utility().spec
    for wrong, words in (
        (lambda: figure.save(tmp_path / "a.jpg"), "must end in"),
        (lambda: results.plot.utility("tprr"), "did you mean 'tpr'"),
        (lambda: results.plot.others(), r"plot.others\(\)"),
    ):
        with pytest.raises(ScenarioError, match=words):
            wrong()
    page = results.report(tmp_path)
    assert page == tmp_path / "report.html"
    assert "under fedavg" in page.read_text()


def test_the_package_lists_what_is_public():
    assert dir(fedtoll) == sorted(fedtoll.__all__)
    for name in fedtoll.__all__:
        assert getattr(fedtoll, name) is not None
    code = "import sys, fedtoll; dir(fedtoll); print('torch' in sys.modules, 'pandas' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"


def test_progress_is_a_line_now_and_then_where_nothing_can_be_redrawn(monkeypatch, capsys):
    monkeypatch.setattr(progress, "FIRST_LINE", 0.02)
    monkeypatch.setenv(progress.SWITCH, "on")
    with progress.progress("tiny", 4, 1, "runs") as shown:
        shown.advance("tiny, 3 replies skipped")
        for _ in range(200):
            if err := capsys.readouterr().err:
                break
            time.sleep(0.02)
    assert err.startswith("tiny, 3 replies skipped: 2 of 4 runs, 0 s, about ")
    monkeypatch.setenv(progress.SWITCH, "off")
    with progress.progress("tiny", 4, 1, "runs"):
        time.sleep(0.1)
    assert capsys.readouterr().err == ""


def test_a_dictionary_survives_the_toml_of_the_results_folder():
    table = parse(library()["adult-race"])
    assert tomllib.loads(toml.dumps(table)) == table
    assert tomllib.loads(toml.dumps({"a": [float("inf")]})) == {"a": [float("inf")]}
