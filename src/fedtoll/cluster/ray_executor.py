"""Do jobs with Ray: on a cluster, or on a Ray that is started here for them.

A process of its own talks to Ray, and sends results through a pipe. So nothing that Ray does to a process
that loses its cluster, such as ending it or waiting forever, can happen to the command.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import re
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

from fedtoll.cluster.crew import TICK, Crew
from fedtoll.cluster.parcel import Parcel, pack
from fedtoll.scenarios.errors import FedtollError, RunError, ScenarioError, one_line
from fedtoll.scenarios.spawning import start

CONNECT_SECONDS, START_SECONDS, PATIENCE = 20.0, 120.0, 120.0
"""Seconds to reach a cluster, to start a Ray here, and between two signs of life afterwards."""

END_SECONDS = 10.0
"""Seconds that the process may take to leave a cluster or end a Ray."""

_ADDRESS = re.compile(r"auto|(\[[0-9a-fA-F:]+\]|[^\s:/\[\]]+):(\d{1,5})")

_log = logging.getLogger("fedtoll")


def check_address(address: str, option: str) -> str:
    """Return the address of a cluster, or an empty string if there is none.

    Raises
    ------
    ScenarioError
        If it is not ``HOST:PORT`` or ``auto``, the cluster that this machine belongs to.
    """
    if address in {"", "local"}:
        return ""
    if not _ADDRESS.fullmatch(address):
        raise ScenarioError(f"{option} = {address!r}: must be HOST:PORT, the address of the head node")
    return address


def distribute(
    work: Callable[[Any], Any],
    jobs: Sequence[Any],
    workers: int | None = None,
    *,
    address: str = "",
    begin: Callable[[], object],
    share: Callable[[Any], Any],
    lost: Callable[[str], Any],
    timeout: float,
    deaths: int,
) -> Iterator[tuple[int, Any]]:
    """Do ``work`` on every job; yield each position and result as it finishes, in any order.

    Parameters
    ----------
    work, jobs, share, lost
        As in :func:`fedtoll.sweep.workers.spread`.
    workers
        The number of jobs at once, by default one per core of the cluster.
    address
        ``HOST:PORT`` of the head node, or ``auto``; without, a Ray is started on this machine.
    begin
        Called once in each worker process.
    timeout
        Seconds after which a job is stopped, and tried once more, on another node if there is one.
    deaths
        The number of workers that may die on a job, or be stopped, before it is given up.

    Raises
    ------
    RunError
        In one line: if Ray cannot be reached or its head node is lost, if no node can be used, or if nodes
        have other versions than this machine.
    """
    place = f"Ray at {address}" if address else "Ray on this machine"
    parcel = pack(jobs) if address else Parcel()
    pipe, other = multiprocessing.Pipe()
    with tempfile.NamedTemporaryFile(prefix="fedtoll-ray-") as log:
        process = multiprocessing.get_context("spawn").Process(
            target=_drive,
            args=(other, log.name, place, address, workers),
            kwargs={
                "crew": (work, list(jobs), [share(job) for job in jobs], begin, parcel, timeout, deaths),
            },
            daemon=True,
        )
        start(process)
        other.close()
        try:
            patience = CONNECT_SECONDS if address else START_SECONDS
            while True:
                if not pipe.poll(patience):
                    process.kill()  # it waits for Ray, and would not hear anything else
                    raise RunError(f"{place}: no answer within {patience:g} s")
                try:
                    kind, *content = pipe.recv()
                except (EOFError, OSError):
                    raise RunError(f"{place}: the connection was lost{_last(Path(log.name))}") from None
                if kind == "end":
                    return
                if kind == "error":
                    raise RunError(f"{place}: {content[0]}")
                if kind == "bug":
                    error = RunError(f"{place}: {content[0]}")
                    error.add_note(content[1])
                    raise error
                if kind == "note":
                    _log.warning("fedtoll: %s: %s", place, content[0])
                elif kind == "lost":
                    yield content[0], lost(content[1])
                elif kind == "done":
                    yield content[0], content[1]
                patience = PATIENCE
        finally:
            pipe.close()
            process.join(0 if sys.exc_info()[0] else END_SECONDS)
            for end in (process.terminate, process.kill):
                if process.is_alive():
                    end()
                    process.join(END_SECONDS)


def _last(log: Path) -> str:
    """Return the last line that Ray wrote, after a colon; empty if there is none."""
    with suppress(OSError):
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
        for line in reversed(lines):
            if line.strip():
                return f": {one_line(line)[:300]}"
    return ""


def _drive(
    pipe: Connection, log: str, place: str, address: str, workers: int | None, crew: tuple[Any, ...]
) -> None:
    """Connect to Ray, do the jobs and send what happens, in a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt at the terminal is for the command
    command = multiprocessing.parent_process()

    def exit_with_command() -> None:
        if command is not None:
            command.join()
        for process in psutil.Process().children(recursive=True):  # a Ray that was started here
            with suppress(psutil.Error):
                process.kill()
        os._exit(1)

    threading.Thread(target=exit_with_command, daemon=True).start()
    handle = os.open(log, os.O_WRONLY | os.O_APPEND)
    for standard in (1, 2):
        os.dup2(handle, standard)
    try:
        try:
            _connect(address, workers)
            pipe.send(("pulse",))
            Crew(pipe.send, *crew, workers=workers, cluster=bool(address), head=_head()).run()
            pipe.send(("end",))
        except FedtollError as error:
            pipe.send(("error", str(error)))
        except Exception as error:
            pipe.send(("bug", one_line(f"{type(error).__name__}: {error}")[:300], traceback.format_exc()))
    except OSError:  # the command closed its end
        pass
    finally:
        leave = threading.Thread(target=_leave, daemon=True)
        leave.start()
        leave.join(END_SECONDS - TICK)
        os._exit(0)


def _connect(address: str, workers: int | None) -> None:
    """Connect this process to a cluster, or start a Ray.

    Raises
    ------
    RunError
        If there is none at the address, or it has another version.
    """
    import ray

    os.environ.pop("RAY_ADDRESS", None)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if not address:
        options |= {"include_dashboard": False}
        if workers is not None:
            options["num_cpus"] = workers
    elif address != "auto" and (reason := unreachable(address)):
        raise RunError(reason)
    try:
        ray.init(address=address or "local", **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = one_line(str(error).replace("\n", " "))
        raise RunError(reason) from None


def unreachable(address: str) -> str:
    """Return why nothing listens at ``HOST:PORT``; empty if something does."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, OverflowError) as error:
        return f"cannot be reached ({getattr(error, 'strerror', None) or error})"
    return ""


def _head() -> Callable[[], str]:
    """Return a function that says why the head node cannot be reached, or an empty string."""
    import ray

    address = ray.get_runtime_context().gcs_address

    def reason() -> str:
        if not unreachable(address):
            return ""
        time.sleep(TICK)
        return unreachable(address)

    return reason


def _leave() -> None:
    import ray

    with suppress(Exception):
        ray.shutdown()
