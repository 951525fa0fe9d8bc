"""Run the app under ``flwr run``: a SuperLink of our own with Flower's simulation, as a child process.

``flwr run`` returns 0 even if the ServerApp crashed. So the status of the run is polled, and its stored
results are checked.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from fedtoll import __version__
from fedtoll.scenarios.budgets import budget_of
from fedtoll.scenarios.errors import RunError
from fedtoll.scenarios.numbers import write_number
from fedtoll.scenarios.run import Run
from fedtoll.server.app_folder import write_app
from fedtoll.server.plan import Plan
from fedtoll.server.store import Store

TIMEOUT = 1800.0
"""Seconds after which a run under Flower is stopped by default."""

STOP = 30.0
"""Seconds that ending a SuperLink with all its descendants may take."""

POLL, POLL_MOST, POLL_STORED = 10.0, 60.0, 3.0
"""Seconds between two looks at its status: at first, at most, and once its results are stored."""


def execute(
    plan: Plan,
    store: Store,
    *,
    timeout: float | None = None,
    finished: Callable[[Run], None] = lambda run: None,
    connect: Connect | None = None,
) -> list[str]:
    """Train all runs that are not stored yet under ``flwr run``, one after the other.

    Parameters
    ----------
    plan, store
        The runs, and where their results are written.
    timeout
        Seconds after which a run is stopped and has failed, by default ``TIMEOUT``.
    finished
        Called after each run is stored.
    connect
        Connects to a SuperLink that runs already, whose SuperNodes are the clients. By default one is
        started, which simulates the clients.

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
        with (connect or superlink)(home) as flwr:
            for run in todo:
                nodes = 0 if connect else len(run.clients)
                try:
                    line, log = _train(plan, run, store, home, flwr, timeout or TIMEOUT, nodes)
                except RunError as error:
                    own = home / "superlink.log"
                    line, log = str(error), own.read_text(errors="replace") if own.exists() else str(error)
                if line:
                    file = store.fail(run, log)
                    failures.append(f"{run.label}: {line} (log in {file})")
                else:
                    finished(run)
    return failures


Connect = Callable[[Path], AbstractContextManager[Callable[..., str]]]
"""Takes a working folder and gives a function that runs ``flwr`` with arguments and returns its output."""


@contextmanager
def superlink(home: Path) -> Iterator[Callable[..., str]]:
    """Start a SuperLink on a free port, and stop it at the end.

    Yields
    ------
    Callable
        Runs ``flwr`` with the given arguments against this SuperLink and returns its stdout.
    """
    port = _free_port()
    environment = prepare(home, f'address = "127.0.0.1:{port}"\ninsecure = true\n')
    log = (home / "superlink.log").open("w")
    child = subprocess.Popen(
        [
            *(sys.executable, "-m", "fedtoll.guard", str(home)),
            _command("flower-superlink", environment["PATH"]),
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
        stdin=subprocess.PIPE,  # the guard ends everything when it closes
        cwd=home,
        start_new_session=True,  # an interrupt reaches this process only, which stops the children
    )

    try:
        _wait_for(port, child, home / "superlink.log")
        yield partial(call, home, environment)
    finally:
        _stop(child)
        log.close()


def prepare(home: Path, connection: str) -> dict[str, str]:
    """Write the configuration of Flower's commands for one SuperLink, and return their environment."""
    state = home / "flwr"
    state.mkdir()
    (state / "config.toml").write_text(f'[superlink]\ndefault = "own"\n\n[superlink.own]\n{connection}')
    modules = [str(Path(p).resolve()) for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONPATH": os.pathsep.join(modules),  # relative paths would start at another folder
        "FLWR_HOME": str(state),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
    }


def call(home: Path, environment: Mapping[str, str], *arguments: str) -> str:
    """Run ``flwr`` with some arguments and return its output.

    Raises
    ------
    RunError
        In one line, if it fails or takes more than five minutes.
    """
    try:
        done = subprocess.run(
            [_command("flwr", environment["PATH"]), *arguments],
            env=environment,
            cwd=home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
        )
    except subprocess.TimeoutExpired:
        raise RunError(f"flwr {arguments[0]}: timed out after 300 s") from None
    if done.returncode:
        reason = " ".join((done.stderr or done.stdout).split())[-300:]
        raise RunError(f"flwr {arguments[0]} failed: {reason}")
    return done.stdout


def _train(
    plan: Plan, run: Run, store: Store, home: Path, flwr: Callable[..., str], timeout: float, nodes: int
) -> tuple[str, str]:
    """Train one run; return the reason for a failure in one line (else an empty string) and its log.

    ``nodes`` is the number of clients to simulate, 0 if they are SuperNodes.
    """
    app = write_app(home / "app", __version__)
    scenario = home / "scenario.json"
    scenario.write_text(_portable(plan))
    config = {
        "scenario": str(scenario),
        "strategy": run.strategy.name,
        "epsilon": str(write_number(budget_of(run.mechanism, run.epsilon))),
        "out": str(store.folder.resolve()),
    }
    settings = " ".join(f"{k}={json.dumps(v)}" for k, v in config.items()) + f" seed={run.seed}"
    simulated = (
        ["--federation-config", f"num-supernodes={nodes} client-resources-num-cpus=1"] if nodes else []
    )
    started = _json(flwr, "run", str(app), "own", "--run-config", settings, *simulated)
    run_id = str(started["run-id"])
    status, reason = _follow(run_id, flwr, lambda: store.has(run), timeout)
    if status == "finished:completed" and store.has(run):
        return "", ""
    if status == "finished:completed":
        reason = f"nothing is stored in {store.folder.resolve()}; its machine must see this folder"
    return f"under flwr run: {status}: {reason}", flwr("log", run_id, "own", "--show")


def _json(flwr: Callable[..., str], *arguments: str) -> dict[str, Any]:
    """Run a Flower command and return its JSON output."""
    output = flwr(*arguments, "--format", "json")
    try:
        content: dict[str, Any] = json.loads(output)
    except ValueError:
        raise RunError(f"flwr {arguments[0]}: returned no JSON: {' '.join(output.split())[-300:]}") from None
    if not content.get("success"):
        raise RunError(f"flwr {arguments[0]}: {content.get('error-message', content)}")
    return content


def _portable(plan: Plan) -> str:
    """Return the scenario with its overrides as JSON, with absolute paths to strategy files."""
    content = plan.scenario.model_dump(mode="json")
    for spec in content["strategies"]:
        file, colon, cls = spec["name"].rpartition(":")
        if colon and file.endswith(".py"):
            spec["name"] = f"{Path(file).expanduser().resolve()}:{cls}"
    return json.dumps(content)


def _follow(
    run_id: str, flwr: Callable[..., str], stored: Callable[[], bool], timeout: float
) -> tuple[str, str]:
    """Wait until a run ends; return its status and Flower's details.

    Starting Flower's command takes a core some seconds, which the run needs itself. So the status is polled
    ever more seldom, and again once the results are stored and the app has had time to end.
    """
    started = asked = now = time.monotonic()
    there = False
    while now < started + timeout:
        time.sleep(1)
        now = time.monotonic()
        if not there and stored():
            there, asked = True, now
        pause = POLL_STORED if there else min(max(POLL, asked - started), POLL_MOST)
        if now < min(asked + pause, started + timeout):
            continue
        asked = now
        (entry,) = _json(flwr, "ls", "own", "--run-id", run_id)["runs"]
        if entry["status"].startswith("finished"):
            details = " ".join(str(entry.get("status-details") or "no reason given").split())
            return str(entry["status"]), details.removeprefix("Simulation failed with exception: ")
    flwr("stop", run_id, "own")
    return "stopped", f"not finished after {timeout:g} s"


def _wait_for(port: int, child: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise RunError(
                f"the SuperLink exited at startup: {log.read_text(errors='replace').strip()[-300:]}"
            )
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise RunError("the SuperLink did not start within 60 s")


def _stop(guard: subprocess.Popen[bytes]) -> None:
    """End the SuperLink and its descendants: an interrupted simulation leaves processes and Ray behind."""
    assert guard.stdin is not None
    guard.stdin.close()
    try:
        guard.wait(STOP)
    except subprocess.TimeoutExpired:
        guard.kill()
        guard.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _command(name: str, path: str) -> str:
    """Return the path of one of Flower's commands."""
    found = shutil.which(name, path=path)
    if found is None:
        raise RunError(f"{name}: command not found next to {sys.executable} or on the PATH")
    return found
