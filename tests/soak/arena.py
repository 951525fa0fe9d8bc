"""One trial: a sweep, accidents while it runs, the same command again, and what must hold at the end."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

MARK = "FEDTOLL_TEST_SOAK"
"""Set in the environment of every command, so that what it leaves behind is found."""

PATIENCE = 1200.0
ENDS = {0, 1, 3, 130, 143, 129, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGHUP, 128 + signal.SIGKILL}
COMMANDS = 12

Accident = Callable[["Sweep"], bool]
"""Something that may happen while a command runs; returns whether it could happen."""


@dataclass
class Tally:
    """What happened, and what went wrong."""

    accidents: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    trials: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    wrong: list[str] = field(default_factory=list)


@dataclass
class Sweep:
    """One command that runs, and its folder."""

    process: subprocess.Popen[str]
    out: Path

    def running(self) -> bool:
        return self.process.poll() is None

    def workers(self) -> list[int]:
        """Return the processes that train, below the command."""
        with suppress(psutil.Error):
            children = psutil.Process(self.process.pid).children(recursive=True)
            return [c.pid for c in children if "spawn_main" in _command(c)]
        return []


def _command(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def start(
    arguments: list[str], folder: Path, mark: str, environment: Mapping[str, str] = os.environ
) -> Sweep:
    """Start a command; its output goes to files in the folder, so that it can never block."""
    log = folder / "err.log"
    with log.open("w") as err, (folder / "out.log").open("w") as out:
        process = subprocess.Popen(
            arguments,
            cwd=folder,
            env={**environment, MARK: mark, "COLUMNS": "200"},
            stdout=out,
            stderr=err,
            text=True,
        )
    return Sweep(process, Path())


def fedtoll(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "fedtoll.cli", "run", *arguments]


def stored(out: Path) -> dict[str, int]:
    """Return the runs of a folder, with the time when each was stored."""
    return {p.name: p.stat().st_mtime_ns for p in out.glob("runs/[0-9a-f]*") if (p / "run.json").exists()}


def tables(out: Path) -> dict[str, bytes]:
    """Return the content of all tables of all runs, by place."""
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.glob("runs/*/*.parquet"))}


def files(out: Path) -> set[str]:
    return {str(p.relative_to(out)) for p in out.rglob("*")}


def marked(mark: str = "") -> list[int]:
    """Return the processes that a command of this mark, or of any, started and that are alive."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            variables = (folder / "environ").read_text(errors="replace").split("\0")
            if any(v == f"{MARK}={mark}" or (not mark and v.startswith(f"{MARK}=")) for v in variables):
                found.append(int(folder.name))
    return [pid for pid in found if psutil.pid_exists(pid) and _alive(pid)]


def _alive(pid: int) -> bool:
    with suppress(psutil.Error):
        return bool(psutil.Process(pid).status() != "zombie")
    return False


def until(happened: Callable[[], object], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


@dataclass
class Trial:
    """One sweep that is disturbed, resumed, and compared.

    Parameters
    ----------
    name
        A name for messages and the mark of its processes.
    arguments
        The command, whose results go to ``out``.
    accidents
        What may happen, by name.
    clean
        The folder of the same sweep without accidents.
    idle
        Whether what trains elsewhere (nodes) is idle again.
    mend
        Called before each command, to start again what an accident ended.
    pause
        The longest time between two accidents, in seconds.
    """

    name: str
    arguments: list[str]
    folder: Path
    out: Path
    accidents: Mapping[str, Accident]
    clean: Path
    idle: Callable[[], bool] = lambda: True
    mend: Callable[[], None] = lambda: None
    pause: float = 12.0
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)

    def go(self, rng: random.Random, tally: Tally) -> None:
        """Run the command until it succeeds, with accidents in the first ones; note what is wrong."""
        tally.trials[self.name.split("-")[0]] += 1
        planned, before = rng.randint(1, 4), dict[str, int]()
        for number in range(COMMANDS):
            self.mend()
            sweep = start(self.arguments, self.folder, self.name, self.environment)
            sweep.out = self.out
            planned -= self._disturb(sweep, planned, rng, tally)
            code = self._finish(sweep, tally)
            tally.ends[f"exit code {code}"] += 1
            text = (self.folder / "err.log").read_text(errors="replace")
            self._hold(code in ENDS, f"command {number} ended with {code}: {text[-500:]}", tally)
            self._hold("Traceback" not in text, f"command {number}: a traceback: {text[-3000:]}", tally)
            self._hold(until(lambda: not marked(self.name), 60), f"orphans {marked(self.name)}", tally)
            self._hold(until(self.idle, 60), "nodes still work", tally)
            after = stored(self.out)
            lost = {run for run, at in before.items() if after.get(run) != at}
            self._hold(not lost, f"runs were lost or trained again: {lost}", tally)
            before = after
            if code == 0 and planned <= 0:
                break
        else:
            tally.wrong.append(f"{self.name}: not finished after {COMMANDS} commands")
            return
        self._compare(tally)

    def _disturb(self, sweep: Sweep, planned: int, rng: random.Random, tally: Tally) -> int:
        """Let accidents happen while the command runs; return how many did."""
        done = 0
        while done < planned and sweep.running():
            if until(lambda: not sweep.running(), rng.uniform(0.5, self.pause)):
                return done + 1  # it was faster: one chance less, or a trial could last for ever
            name = rng.choice(sorted(self.accidents))
            if self.accidents[name](sweep):
                tally.accidents[name] += 1
                done += 1
        return done

    def _finish(self, sweep: Sweep, tally: Tally) -> int:
        if not until(lambda: not sweep.running(), PATIENCE):
            tally.wrong.append(f"{self.name}: hangs for {PATIENCE:g} s")
            sweep.process.kill()
        return sweep.process.wait()

    def _compare(self, tally: Tally) -> None:
        found, expected = tables(self.out), tables(self.clean)
        tally.runs += len(stored(self.out))
        other = [place for place, content in found.items() if expected.get(place) != content]
        self._hold(not other, f"other bytes: {other}", tally)
        differing = files(self.out) ^ files(self.clean)
        self._hold(not differing, f"missing or left over: {differing}", tally)

    def _hold(self, holds: bool, message: str, tally: Tally) -> None:
        if not holds:
            tally.wrong.append(f"{self.name}: {message}")
            print(tally.wrong[-1], flush=True)  # noqa: T201


def send(signum: int) -> Accident:
    """Return the accident that the command gets a signal."""

    def accident(sweep: Sweep) -> bool:
        sweep.process.send_signal(signum)
        return True

    return accident


def kill_one(found: Callable[[Sweep], list[int]], rng: random.Random) -> Accident:
    """Return the accident that one of some processes is killed."""

    def accident(sweep: Sweep) -> bool:
        with suppress(ProcessLookupError, IndexError):
            os.kill(rng.choice(found(sweep)), signal.SIGKILL)
            return True
        return False

    return accident
