"""SIGKILL ``fedtoll run`` at random moments, resume it every time, and check that nothing is lost.

The sweep has short runs, so that many kills hit the writing of results. After every kill the folder must
contain only complete runs, byte for byte those of an uninterrupted sweep, and all runs that were stored
before. When a resumed sweep ends by itself, its tables are compared, and a new sweep starts.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import measure

TABLES = ("groups", "clients", "rounds", "ledger", "predictions")


@dataclass
class Findings:
    """The effects of the kills.

    Parameters
    ----------
    kills, sweeps
        Number of kills, and number of sweeps that they hit.
    lost, duplicated, torn, different, failed
        Numbers of lost runs, of duplicate rows or runs, of runs with a missing file, of tables that differ
        from the uninterrupted sweep, and of resumes with a non-zero exit code. All must be 0.
    litter
        Number of files that resumed sweeps left next to the runs: only their lock files.
    present
        Number of complete runs after each kill, which shows that the kills cover the whole sweep.
    """

    kills: int = 0
    sweeps: int = 0
    lost: int = 0
    duplicated: int = 0
    torn: int = 0
    different: int = 0
    failed: int = 0
    litter: int = 0
    present: list[int] = field(default_factory=list)


def check(kills: int, folder: Path, seed: int = 0) -> dict[str, Any]:
    """Kill the command ``kills`` times, and return the findings.

    Parameters
    ----------
    kills
        Number of kills.
    folder
        An empty folder.
    seed
        Seed of the moments.
    """
    scenario = _scenario(folder / "small.json")
    start = time.perf_counter()
    if code := _start(scenario, folder / "whole").wait():
        raise RuntimeError(f"the uninterrupted sweep ended with {code}")
    whole = time.perf_counter() - start
    expected = _runs(folder / "whole")
    moments, found = random.Random(seed), Findings()
    while found.kills < kills:
        _one_sweep(scenario, folder / f"killed-{found.sweeps}", expected, kills, whole, moments, found)
        found.sweeps += 1
    return {**vars(found), "runs": len(expected), "seconds_uninterrupted": whole}


def _one_sweep(
    scenario: Path,
    out: Path,
    expected: dict[str, dict[str, bytes]],
    kills: int,
    whole: float,
    moments: random.Random,
    found: Findings,
) -> None:
    """Start, kill and resume one sweep until it ends by itself, and compare its tables."""
    before: set[str] = set()
    while True:
        child = _start(scenario, out)
        last = found.kills >= kills
        try:
            code = child.wait(None if last else moments.uniform(0, whole))
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)  # its own group, by its own id
            child.wait()
            found.kills += 1
            before = _inspect(out, expected, before, found)
            found.present.append(len(before))
            continue
        found.failed += code != 0
        break
    before = _inspect(out, expected, before, found)
    found.lost += len(expected.keys() - before)
    found.duplicated += _twice(out)
    found.different += _final(out) != _final(out.parent / "whole")
    found.litter += len(list((out / "runs").glob(".*")))
    shutil.rmtree(out)


def _inspect(out: Path, expected: dict[str, dict[str, bytes]], before: set[str], found: Findings) -> set[str]:
    """Compare the folder with the uninterrupted sweep, and return the stored runs."""
    there = _runs(out)
    found.lost += len(before - there.keys())
    found.duplicated += len(there.keys() - expected.keys())
    for name, files in there.items():
        if files.keys() != {f"{t}.parquet" for t in TABLES} | {"run.json"}:
            found.torn += 1
        elif files != expected.get(name):
            found.different += 1
    return set(there)


def _runs(out: Path) -> dict[str, dict[str, bytes]]:
    """Return the bytes of every file of every run in a folder."""
    return {
        run.name: {file.name: file.read_bytes() for file in run.iterdir()}
        for run in (out / "runs").glob("[!.]*")
    }


def _twice(out: Path) -> int:
    """Return the number of duplicate rows in the final tables."""
    from fedtoll.server.results import load

    groups = load(out).groups
    return int(groups.duplicated(["strategy", "mechanism", "epsilon", "seed", "round", "group"]).sum())


def _final(out: Path) -> dict[str, bytes]:
    """Return the bytes of the final tables, joined over all runs."""
    from fedtoll.server.results import load

    results = load(out)
    return {name: getattr(results, name).to_csv(index=False).encode() for name in TABLES}


def _scenario(file: Path) -> Path:
    """Write a sweep as JSON: 24 short runs with chosen constants, and 24 of the recipe."""
    from fedtoll.scenarios.read import read

    overrides = ["training.rounds=2", "training.local_steps=2", 'privacy.epsilons=["inf", 8]']
    small = read("adult-race", overrides, seeds="0:4")
    file.write_text(json.dumps({**small.model_dump(mode="json"), "name": "resume"}))
    return file


def _start(scenario: Path, out: Path) -> subprocess.Popen[bytes]:
    """Start the command in its own process group."""
    return subprocess.Popen(
        [sys.executable, "-m", "fedtoll.cli", "run", str(scenario), "--out", str(out)],
        cwd=measure.ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
