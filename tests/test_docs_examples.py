"""The examples run as their READMEs print them."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
FOLDERS = sorted(path.parent.name for path in EXAMPLES.glob("*/README.md"))
SHRINK = ("--seeds", "0:2", "--set", "training.rounds=1", "--executor", "serial")


def commands(folder: str) -> Iterator[tuple[str, str]]:
    """Yield every command in the README's console blocks with the output printed below it."""
    readme = (EXAMPLES / folder / "README.md").read_text(encoding="utf-8")
    for block in re.findall(r"^```console\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL):
        for step in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = step.partition("\n")
            yield command, output


def assert_printed(actual: str, expected: str) -> None:
    """Compare outputs; an expected "..." matches the rest of a line, or any number of lines."""
    pattern = "".join(
        r"(?:.*\n)*?" if line == "..." else re.escape(line).replace(r"\.\.\.", ".*") + "\n"
        for line in expected.splitlines()
    )
    actual = "".join(f"{line.rstrip()}\n" for line in actual.splitlines())
    assert re.fullmatch(pattern, actual), f"the README prints\n{expected}\nand the command\n{actual}"


@pytest.fixture
def copy(tmp_path, request):
    """Copy one example into the test's folder, without results that a user may have left in it."""
    ignore = shutil.ignore_patterns("results", "__pycache__")
    shutil.copytree(EXAMPLES / request.param, tmp_path, dirs_exist_ok=True, ignore=ignore)
    return tmp_path


def test_the_list_of_examples_is_complete():
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| \[(.+?)\]\((.+?)/README.md\)", readme, re.MULTILINE) == [
        (name, name) for name in ("own-table", "own-strategy", "own-model")
    ]
    assert FOLDERS == ["own-model", "own-strategy", "own-table"]


def test_the_comparison_can_fail():
    assert_printed("a 1\nb\nc\n", "a ...\n...\nc\n")
    with pytest.raises(AssertionError, match="the README prints"):
        assert_printed("a 1\nb\nc\n", "a 2\n...\nc\n")


@pytest.mark.slow
@pytest.mark.parametrize(("copy", "folder"), zip(FOLDERS, FOLDERS, strict=True), indirect=["copy"])
def test_every_command_works_in_short(copy, folder, here, monkeypatch):
    """In this process; training is cut to one round and two seeds, and its numbers are not compared."""
    printed = list(commands(folder))
    assert sum("fedtoll run " in command for command, _ in printed) >= 1
    for command, output in printed:
        words = shlex.split(command)
        if words[0] == "PYTHONPATH=.":
            monkeypatch.syspath_prepend(copy)
            words = words[1:]
        if words[0] == "python":
            subprocess.run([sys.executable, *words[1:]], cwd=copy, check=True)
            continue
        assert words[0] == "fedtoll"
        trains = words[1] == "run" and "--dry-run" not in words
        code, out, err = here(*words[1:], *(SHRINK if trains else ()))
        assert code == 0, err
        if trains:
            report = output.splitlines()[-1].removeprefix("report: ")
            assert (copy / report).stat().st_size > 0
        else:
            assert_printed(out, output)


@pytest.mark.thorough
@pytest.mark.parametrize(("copy", "folder"), zip(FOLDERS, FOLDERS, strict=True), indirect=["copy"])
def test_training_prints_what_the_readme_prints(copy, folder):
    """As typed. The test above compares the output of all other commands."""
    environment = {
        **os.environ,
        "COLUMNS": "100",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    training = [(c, output) for c, output in commands(folder) if "fedtoll run " in c and "--dry-run" not in c]
    assert len(training) == 1
    for command, output in training:
        done = subprocess.run(
            ["bash", "-c", command], cwd=copy, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert_printed(done.stdout, output)


def test_the_table_is_what_its_script_writes(tmp_path):
    shutil.copy(EXAMPLES / "own-table" / "make_patients.py", tmp_path)
    subprocess.run([sys.executable, "make_patients.py"], cwd=tmp_path, check=True)
    assert (tmp_path / "patients.csv").read_bytes() == (EXAMPLES / "own-table/patients.csv").read_bytes()


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.delenv("FEDTOLL_PROGRESS")  # a user's notebook shows how far it is
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient")
    notebook = nbformat.read(EXAMPLES / "notebook" / "first-look.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "stored without outputs"
    client.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [[o for o in cell.outputs if o.output_type == "execute_result"] for cell in notebook.cells[1::2]]
    (first,) = shown[0]
    assert first.data["text/plain"].startswith(
        "<Results of synthetic-shift: 9 runs, 1 strategy, 3 ε, 3 seeds"
    )
    assert "At ε = 0.5 under fedavg" in first.data["text/html"]
    assert 'src="data:image/svg+xml' in first.data["text/html"]
    assert "LossPower(a=2)" in notebook.cells[3].outputs[-1].data["text/plain"]
    assert (tmp_path / "results/first-look/report.html").exists()
    updates = [o for o in notebook.cells[1].outputs if o.output_type == "display_data"]
    assert "9 of 9 runs" in updates[0].data["text/plain"]
