"""Let accidents happen to real sweeps for so many minutes, and say what went wrong.

``python -m tests.soak MINUTES [--only processes ray supernodes] [--seed N]``, on Linux; full disks need root,
for they are small file systems of their own. Nothing may be lost, doubled, different or left over.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from tests.cluster.machines import Machine, head, second
from tests.cluster.test_nodes import NETS, SCENARIO, SLOW
from tests.server import own
from tests.server.test_supernodes import ENVIRONMENT, Federation, reachable
from tests.soak.arena import Accident, Sweep, Tally, Trial, fedtoll, kill_one, marked, send, start, until

DISK = "6m"
ROOM = 200_000
"""Bytes that a full disk still has at most."""

Make = Callable[[str, random.Random], Trial]


def _signals() -> dict[str, Accident]:
    return {
        "driver killed": send(signal.SIGKILL),
        "driver terminated": send(signal.SIGTERM),
        "driver interrupted": send(signal.SIGINT),
        "terminal closed": send(signal.SIGHUP),
    }


def _own_sweep(folder: Path) -> Path:
    """Write an own table, strategy and model, and return the folder of their sweep without accidents."""
    own.write(folder, own.patients(), toml=SCENARIO)
    (folder / "slow.py").write_text(SLOW)
    (folder / "pauses.py").write_text("SECONDS = 0.5\n")
    (folder / "nets.py").write_text(NETS)
    command = fedtoll("patients.toml", "--out", "clean", "--executor", "serial", "--no-probe")
    return _undisturbed(folder, command, _environment(folder))


def _undisturbed(folder: Path, arguments: list[str], environment: Mapping[str, str]) -> Path:
    sweep = start(arguments, folder, "clean", environment)
    if sweep.process.wait() != 0:
        raise RuntimeError((folder / "err.log").read_text())
    return folder / "clean"


def _environment(folder: Path) -> dict[str, str]:
    found = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
    found.pop("RAY_ADDRESS", None)
    return found


@contextmanager
def _disk(folder: Path) -> Iterator[bool]:
    """Mount a small file system, which a file can fill; say whether that was possible."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "fedtoll-soak", str(folder)]
    mounted = shutil.which("mount") is not None and subprocess.run(command, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def _fill(disk: Path, rng: random.Random) -> Accident:
    """Return the accident that a disk is full for some seconds."""

    def accident(sweep: Sweep) -> bool:
        balloon = disk / "balloon"
        usage = shutil.disk_usage(disk)
        with suppress(OSError):
            balloon.write_bytes(bytes(max(0, usage.free - rng.randrange(ROOM))))
        until(lambda: not sweep.running(), rng.uniform(1, 8))
        balloon.unlink(missing_ok=True)
        return True

    return accident


@contextmanager
def processes(folder: Path) -> Iterator[Make]:
    """Two workers on this machine: killed workers, drivers, a full disk."""
    clean = _own_sweep(folder)
    with _disk(folder / "disk") as small:

        def make(name: str, rng: random.Random) -> Trial:
            out = (folder / "disk" if small else folder) / name
            accidents = {**_signals(), "worker killed": kill_one(Sweep.workers, rng)}
            if small:
                for old in (folder / "disk").iterdir():
                    shutil.rmtree(old)
                accidents["disk full"] = _fill(folder / "disk", rng)
            options = ["--executor", "processes", "--workers", "2", "--no-probe", "--out", str(out)]
            command = fedtoll("patients.toml", *options)
            environment = _environment(folder)
            return Trial(name, command, folder, out, accidents, clean, environment=environment)

        yield make


@contextmanager
def ray(folder: Path) -> Iterator[Make]:
    """Two nodes: killed workers, a killed or frozen node, killed drivers. A killed node is started again."""
    clean = _own_sweep(folder)
    with head(folder / "head") as (address, first), ExitStack() as stack:
        others: list[Machine] = []

        def alive() -> bool:
            return bool(others) and others[-1].process.poll() is None

        def mend() -> None:
            if not alive():
                place = folder / f"node-{len(others)}"
                others.append(stack.enter_context(second(place, address, folder / "none")))

        mend()

        def workers(_: Sweep) -> list[int]:
            return [*first.workers(), *(others[-1].workers() if alive() else [])]

        def node_killed(_: Sweep) -> bool:
            if killed := alive():
                others[-1].kill()
            return killed

        def make(name: str, rng: random.Random) -> Trial:
            accidents = {
                **_signals(),
                "Ray worker killed": kill_one(workers, rng),
                "Ray node killed": node_killed,
            }
            options = ["--executor", "ray", "--address", address, "--no-probe", "--out", name]
            command = fedtoll("patients.toml", *options)
            return Trial(
                name,
                command,
                folder,
                folder / name,
                accidents,
                clean,
                idle=lambda: not workers(Sweep(first.process, folder)),  # type: ignore[arg-type]
                mend=mend,
                environment=_environment(folder),
            )

        yield make


@contextmanager
def supernodes(folder: Path) -> Iterator[Make]:
    """Five SuperNodes with TLS and own records: killed drivers, and nodes that are started again."""
    federation = Federation(folder)
    try:
        federation.start_all()
        script = str(folder / "fed/server/sweep.sh")
        clean = _undisturbed(folder, ["sh", script, "--out", str(folder / "clean")], ENVIRONMENT)
        gone: list[str] = []

        def mend() -> None:
            while gone:
                name = gone.pop()
                shutil.rmtree(folder / f"guard-{name}", ignore_errors=True)
                federation.start(name, folder / f"fed/nodes/{name}/supernode.sh")
            until(lambda: reachable(federation.port), 60)

        def make(name: str, rng: random.Random) -> Trial:
            def node_ends(_: Sweep) -> bool:
                gone.append(rng.choice([n for n in federation.guards if n.startswith("node")]))
                federation.end(gone[-1])
                return True

            command = ["sh", script, "--out", str(folder / name)]
            accidents = {**_signals(), "SuperNode ended": node_ends}
            return Trial(
                name,
                command,
                folder,
                folder / name,
                accidents,
                clean,
                mend=mend,
                pause=60.0,
                environment=ENVIRONMENT,
            )

        yield make
    finally:
        for name in list(federation.guards):
            federation.end(name)


ARENAS = {"processes": processes, "ray": ray, "supernodes": supernodes}


def main() -> int:
    """Run the trials; return 1 if anything went wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak")
    parser.add_argument("minutes", type=float)
    parser.add_argument("--only", nargs="+", choices=ARENAS, default=list(ARENAS))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng, tally = random.Random(options.seed), Tally()
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soak")))
        made: dict[str, Make] = {}
        for name in options.only:
            (place / name).mkdir()
            made[name] = stack.enter_context(ARENAS[name](place / name))
        began, number = time.monotonic(), 0
        while time.monotonic() - began < 60 * options.minutes:
            kind = options.only[number % len(options.only)]
            made[kind](f"{kind}-{number}", rng).go(rng, tally)
            number += 1
            print(f"{(time.monotonic() - began) / 60:.1f} min: {tally}", flush=True)  # noqa: T201
    print(f"processes left: {marked()}")  # noqa: T201
    print(f"{len(tally.wrong)} wrong of {number} trials, {tally.runs} runs: {tally}")  # noqa: T201
    return 1 if tally.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
