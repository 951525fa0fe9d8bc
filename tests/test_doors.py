"""A plain script, a pipe, an interactive session and a notebook: each trains, with the same bytes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

JOBS = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
print("top", flush=True)
from fedtoll.sweep.workers import spread
from tests.server.jobs import {{job}}
print(sorted(spread({{job}}, "abcd", 2)))
"""

QUICK = """
import fedtoll

scenario = {
    "name": "doors",
    "title": "Doors",
    "seeds": "0:2",
    "data": {
        "source": "synthetic",
        "groups": ["group"],
        "synthetic": {"groups": {"a": {"size": 300}, "b": {"size": 200}}},
    },
    "training": {"rounds": 1, "sampling_rate": 0.1, "local_steps": 1, "learning_rate": 0.5, "clip": 1.0},
    "privacy": {"epsilons": ["inf", 2]},
    "strategies": [{"name": "fedavg"}],
}
results = fedtoll.run(scenario, out=OUT, executor=EXECUTOR, workers=2, probe=False)
print("rows:", len(results.groups))
"""


def door(arguments, text, folder):
    return subprocess.run(
        [sys.executable, *arguments],
        input=text,
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "NO_COLOR": "1"},
        timeout=300,
    )


def program(folder, executor="processes"):
    return QUICK.replace("OUT", repr(str(folder))).replace("EXECUTOR", repr(executor))


def tables(folder):
    found = {p.relative_to(folder): p.read_bytes() for p in sorted(Path(folder).rglob("*.parquet"))}
    assert found
    return found


@pytest.mark.parametrize("arguments", [["plain.py"], ["-"], ["-i"]], ids=["script", "pipe", "interactive"])
def test_workers_do_not_run_the_callers_script_again(tmp_path, arguments):
    text = JOBS.format(job="loaded")
    (tmp_path / "plain.py").write_text(text)
    done = door(arguments, text, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "top\n[(0, False), (1, False), (2, False), (3, False)]\n"


@pytest.mark.slow
def test_the_script_is_itself_again_after_its_workers_started(tmp_path):
    (tmp_path / "plain.py").write_text(JOBS.format(job="loaded") + "print(__file__, __spec__)\n")
    done = door(["plain.py"], "", tmp_path)
    assert done.stdout.endswith(f"{tmp_path / 'plain.py'} None\n"), done.stderr
    done = door(["-m", "plain"], "", tmp_path)
    assert "ModuleSpec(name='plain'" in done.stdout, done.stderr


@pytest.fixture(scope="module")
def by_script(tmp_path_factory):
    """The tables that a plain script makes, without a main guard."""
    folder = tmp_path_factory.mktemp("script")
    (folder / "plain.py").write_text(program(folder / "results"))
    done = door(["plain.py"], "", folder)
    assert (done.returncode, done.stdout) == (0, "rows: 24\n"), done.stderr
    return tables(folder / "results")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "executor"),
    [
        (["-"], "processes"),
        (["-i"], "processes"),
        (["-c"], "processes"),
        pytest.param(["-"], "ray", marks=pytest.mark.thorough),
    ],
    ids=["pipe", "interactive", "-c", "ray from a pipe"],
)
def test_every_door_gives_the_bytes_of_a_plain_script(tmp_path, by_script, arguments, executor):
    text = program(tmp_path / "results", executor)
    more = [text] if arguments == ["-c"] else []
    done = door([*arguments, *more], text, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "rows: 24\n" in done.stdout
    assert tables(tmp_path / "results") == by_script


@pytest.mark.slow
def test_a_notebook_gives_the_bytes_of_a_plain_script(tmp_path, by_script):
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient")
    cells = [nbformat.v4.new_code_cell(program(tmp_path / "results"))]
    notebook = nbformat.v4.new_notebook(cells=cells)
    client.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = "".join(o.get("text", "") for o in notebook.cells[0].outputs if o.get("name") == "stdout")
    assert printed == "rows: 24\n"
    assert tables(tmp_path / "results") == by_script
