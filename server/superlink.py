"""The same app under ``flwr run``: our own SuperLink with Flower's simulation, as a child process.

Flower's command returns 0 even when the ServerApp crashed, so the status of
the run is polled, and what was to be written is looked for.
"""

from __future__ import annotations

import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fedtoll.scenarios.errors import RunError
from fedtoll.scenarios.run import Run
from fedtoll.server.plan import Plan
from fedtoll.server.results import Store

_APP = """\
[project]
name = "fedtoll-app"
version = "{version}"
license = {{ text = "Apache-2.0" }}
dependencies = []

[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[tool.flwr.app]
publisher = "fedtoll"
fab-include = ["*.py"]

[tool.flwr.app.components]
serverapp = "fedtoll.server.app:app"
clientapp = "fedtoll.clients.app:app"

[tool.flwr.app.config]
scenario = ""
strategy = ""
epsilon = "inf"
seed = 0
out = ""
"""

TIMEOUT = 1800.0
"""Seconds after which one run under Flower is given up."""


def execute(plan: Plan, store: Store, *, finished: Callable[[Run], None] = lambda run: None) -> list[str]:
    """Train every run that the store does not hold under ``flwr run``, one after the other.

    Returns
    -------
    list
        One line for each run that failed.
    """
    todo = [run for run in plan.runs if not store.has(run)]
    if not todo:
        return []
    failures = []
    with tempfile.TemporaryDirectory(prefix="fedtoll-flower-") as folder:
        home = Path(folder)
        with superlink(home) as flwr:
            for run in todo:
                line = _one(plan, run, store, home, flwr)
                if line:
                    store.fail(run, line)
                    failures.append(f"{run.label}: {line}")
                else:
                    finished(run)
    return failures


@contextmanager
def superlink(home: Path) -> Iterator[Callable[..., str]]:
    """Start a SuperLink of our own on a free port and stop it at the end.

    Yields
    ------
    Callable
        Runs ``flwr`` with arguments against it and returns its stdout.
    """
    port = _free_port()
    state = home / "flwr"
    state.mkdir()
    (state / "config.toml").write_text(
        f'[superlink]\ndefault = "own"\n\n[superlink.own]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    )
    folder = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{folder}{os.pathsep}{os.environ.get('PATH', '')}",
        "FLWR_HOME": str(state),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
    }
    log = (home / "superlink.log").open("w")
    child = subprocess.Popen(
        [
            str(folder / "flower-superlink"),
            "--insecure",
            "--simulation",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
        ],
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        cwd=home,
    )

    def flwr(*arguments: str) -> str:
        done = subprocess.run(
            [str(folder / "flwr"), *arguments],
            env=environment,
            cwd=home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
        )
        if done.returncode:
            raise RunError(f"flwr {arguments[0]} failed: {(done.stderr or done.stdout).strip()[-300:]}")
        return done.stdout

    try:
        _wait_for(port, child, home / "superlink.log")
        yield flwr
    finally:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(timeout=30)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        log.close()


def _one(plan: Plan, run: Run, store: Store, home: Path, flwr: Callable[..., str]) -> str:
    """Run one training; return an empty string, or one line that says why it failed."""
    from fedtoll import __version__

    app = home / "app"
    app.mkdir(exist_ok=True)
    (app / "pyproject.toml").write_text(_APP.format(version=__version__))
    (app / "marker.py").write_text('"""The app itself is the installed fedtoll."""\n')
    scenario = home / "scenario.json"
    scenario.write_text(_portable(plan))
    config = {
        "scenario": str(scenario),
        "strategy": run.strategy.name,
        "epsilon": "inf" if math.isinf(run.epsilon) else str(run.epsilon),
        "out": str(store.folder.resolve()),
    }
    settings = " ".join(f"{k}={json.dumps(v)}" for k, v in config.items()) + f" seed={run.seed}"
    federation = f"num-supernodes={len(run.clients)} client-resources-num-cpus=1"
    started = json.loads(
        flwr(
            "run",
            str(app),
            "own",
            "--run-config",
            settings,
            "--federation-config",
            federation,
            "--format",
            "json",
        )
    )
    if not started.get("success"):
        return f"flwr run: {started.get('error-message', started)}"
    run_id = str(started["run-id"])
    status = _follow(run_id, flwr)
    if status == "finished:completed" and store.has(run):
        return ""
    return f"under flwr run: {status}: {_reason(home)}"


def _portable(plan: Plan) -> str:
    """Return the scenario, overrides included, with the files of strategies as absolute paths."""
    content = plan.scenario.model_dump(mode="json")
    for spec in content["strategies"]:
        file, colon, cls = spec["name"].rpartition(":")
        if colon and file.endswith(".py"):
            spec["name"] = f"{Path(file).expanduser().resolve()}:{cls}"
    return json.dumps(content)


def _follow(run_id: str, flwr: Callable[..., str]) -> str:
    """Wait for a run's end and return its status."""
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        listed = json.loads(flwr("ls", "own", "--run-id", run_id, "--format", "json"))
        (entry,) = listed["runs"]
        if entry["status"].startswith("finished"):
            return str(entry["status"])
        time.sleep(1)
    flwr("stop", run_id, "own")
    return f"not finished after {TIMEOUT:g} s"


def _reason(home: Path) -> str:
    """Return the last error line of fedtoll's in the SuperLink's log."""
    text = (home / "superlink.log").read_text(errors="replace")
    found = re.findall(r"(?:RunError|ScenarioError): (.+)", text)
    return found[-1] if found else text.strip().splitlines()[-1] if text.strip() else "no reason given"


def _wait_for(port: int, child: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise RunError(f"the SuperLink ended at once: {log.read_text(errors='replace').strip()[-300:]}")
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise RunError("the SuperLink did not start within 60 s")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
