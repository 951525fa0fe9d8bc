"""Two Ray nodes on this machine, each with its own ports, folders and environment."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

START_SECONDS = 120.0

SLOW_MACHINE = {"RAY_raylet_start_wait_time_s": "120"}
"""How long a node waits for its own raylet, which takes longer than Ray expects while other tests run."""

BLIND = """
import os, sys

hidden = tuple(os.environ["FEDTOLL_TEST_HIDDEN"].split(os.pathsep))

def hide(event, arguments):
    if event == "open" and isinstance(arguments[0], str) and arguments[0].startswith(hidden):
        raise FileNotFoundError(2, "no such file on this node", arguments[0])

sys.addaudithook(hide)
"""
"""Makes the folders of the command unreadable for a node, as they are on another machine."""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def descendants(pid: int) -> list[psutil.Process]:
    """Return all descendants of a process that are alive."""
    try:
        found = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return [process for process in found if process.is_running() and process.status() != "zombie"]


def command_of(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


class Machine:
    """One node: `ray start --block`, and everything that it starts."""

    def __init__(self, folder: Path, *options: str, **environment: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "ray.log"
        ports = {
            f"--{name}-port": str(free_port())
            for name in ("node-manager", "object-manager", "dashboard-agent-listen", "runtime-env-agent")
        }
        command = [
            *(str(Path(sys.executable).with_name("ray")), "start", "--block", "--disable-usage-stats"),
            *("--node-ip-address", "127.0.0.1", "--object-store-memory", str(100 * 2**20)),
            *("--min-worker-port", "0", "--max-worker-port", "0"),
            *(word for pair in ports.items() for word in pair),
            *options,
        ]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, **SLOW_MACHINE, "RAY_USAGE_STATS_ENABLED": "0", **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + START_SECONDS
        while "Ray runtime started" not in self.log.read_text(errors="replace"):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"no node: {self.log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.1)

    def processes(self, name: str = "") -> list[int]:
        """Return the ids of the node's processes, of those with a command only."""
        return [p.pid for p in descendants(self.process.pid) if name in command_of(p)]

    def workers(self) -> list[int]:
        """Return the ids of the processes that do jobs."""
        return self.processes("ray::_Actor")

    def send(self, signum: int) -> None:
        """Send a signal to all processes of the node."""
        for pid in [*self.processes(), self.process.pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, signum)

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        self.process.wait()


@contextmanager
def head(folder: Path, cores: int = 1) -> Iterator[tuple[str, Machine]]:
    """Start the head node of a cluster; yield its address too. Its processes end with the block."""
    port = free_port()
    short = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))  # a socket's path has 107 bytes at most
    options = ("--head", "--port", str(port), "--num-cpus", str(cores), "--temp-dir", str(short))
    more = ("--include-dashboard", "false", "--ray-client-server-port", str(free_port()))
    machine = Machine(folder, *options, *more)
    try:
        yield f"127.0.0.1:{port}", machine
    finally:
        machine.kill()
        shutil.rmtree(short, ignore_errors=True)


@contextmanager
def second(folder: Path, address: str, hidden: Path, cores: int = 1, **environment: str) -> Iterator[Machine]:
    """Start another node, which can read neither ``hidden`` nor the cache of this machine."""
    blind = folder / "blind"
    blind.mkdir(parents=True)
    (blind / "sitecustomize.py").write_text(BLIND)
    out_of_sight = os.pathsep.join([str(hidden), str(Path.home() / ".cache/fedtoll")])
    own = {
        "FEDTOLL_DATA": str(folder / "cache"),
        "FEDTOLL_TEST_HIDDEN": out_of_sight,
        "PYTHONPATH": os.pathsep.join([str(blind), *sys.path]),
        **environment,
    }
    machine = Machine(folder, "--address", address, "--num-cpus", str(cores), **own)
    try:
        yield machine
    finally:
        machine.send(signal.SIGCONT)
        machine.kill()
