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
from fedtoll.server.workers import spread
from tests.server.jobs import {{job}}
print(sorted(spread({{job}}, "abcd", 2)))
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


@pytest.mark.parametrize("arguments", [["plain.py"], ["-"], ["-i"]], ids=["script", "pipe", "interactive"])
def test_workers_do_not_run_the_callers_script_again(tmp_path, arguments):
    text = JOBS.format(job="loaded")
    (tmp_path / "plain.py").write_text(text)
    done = door(arguments, text, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "top\n[(0, False), (1, False), (2, False), (3, False)]\n"


def test_the_script_is_itself_again_after_its_workers_started(tmp_path):
    (tmp_path / "plain.py").write_text(JOBS.format(job="loaded") + "print(__file__, __spec__)\n")
    done = door(["plain.py"], "", tmp_path)
    assert done.stdout.endswith(f"{tmp_path / 'plain.py'} None\n"), done.stderr
    done = door(["-m", "plain"], "", tmp_path)
    assert "ModuleSpec(name='plain'" in done.stdout, done.stderr
