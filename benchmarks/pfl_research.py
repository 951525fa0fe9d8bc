"""(c) pfl-research without privacy: a peer known for speed, in its own environment."""

from __future__ import annotations

import json
import os
import subprocess
import venv
from importlib.metadata import version
from pathlib import Path

from benchmarks import measure
from fedtoll.scenarios.run import Run

ENVIRONMENT = Path(__file__).parent / ".venv" / "pfl"
PFL = "0.6.0"


class PflResearch:
    """Whole runs of pfl-research on one core, each in a fresh process, including its start.

    Raises
    ------
    RuntimeError
        If pfl cannot be installed, with the reason.
    """

    def __init__(self, run: Run, records: Path) -> None:
        self.run = run
        self.rounds: list[float] = []
        self.accuracy = 0.0
        self._records = records
        self._python = _installed()

    def whole(self) -> float:
        """Return the seconds of one whole run, including the start of its process."""
        settings = (self.run.rounds, 64, self.run.learning_rate)
        command = [self._python, Path(__file__).parent / "pfl_app" / "train.py", self._records, *settings]
        said = ""

        def train() -> None:
            nonlocal said
            with measure.one_core():
                said = _output([str(word) for word in command])

        took = measure.seconds(train)
        answer = json.loads(said.splitlines()[-1])
        self.rounds += answer["rounds"]
        self.accuracy = answer["accuracy"]
        return took


def _installed() -> Path:
    """Return the Python of pfl's environment, created on first use with the same torch version."""
    python = ENVIRONMENT / ("Scripts" if os.name == "nt" else "bin") / "python"
    marker = ENVIRONMENT / f".pfl-{PFL}"
    if not marker.exists():
        venv.create(ENVIRONMENT, with_pip=True, clear=True)
        torch = version("torch").partition("+")[0]
        _output([str(python), "-m", "pip", "install", "--quiet", f"pfl=={PFL}", f"torch=={torch}"])
        marker.touch()
    return python


def _output(command: list[str]) -> str:
    environment = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        words = (done.stderr.strip() or done.stdout.strip() or "no reason given").splitlines()
        raise RuntimeError(f"{Path(command[0]).name} {command[1]}: {words[-1][:300]}")
    return done.stdout
