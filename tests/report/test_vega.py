"""Vega's process: it works in the background, draws what it is given and reads no address."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fedtoll.report import folder, vega
from fedtoll.scenarios.errors import RunError
from fedtoll.server.store import Store
from fedtoll.server.trainer import simulate
from tests.server.federation import FEDAVG, TOML, planned

SPEC = {
    "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
    "data": {"values": [{"x": 1, "name": "a < b"}]},
    "mark": "bar",
    "encoding": {"x": {"field": "x", "type": "quantitative"}, "y": {"field": "name", "type": "nominal"}},
}


def test_a_chart_is_drawn_as_svg_and_png():
    svg, png = vega.draw(SPEC).result()
    assert svg.startswith("<svg")
    assert "a &lt; b" in svg
    assert png.startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_script_is_bundled_with_vega_once():
    bundled = vega.bundle("window.mark = vega.version")
    assert "window.mark" in bundled.result()
    assert len(bundled.result()) > 500_000
    assert vega.bundle("window.mark = vega.version") is bundled


def test_this_process_works_meanwhile():
    vega.draw(SPEC).result()
    drawing = vega.draw(SPEC)
    turns = 0
    while not drawing.done():
        time.sleep(0)
        turns += 1
    assert turns > 20


def test_what_cannot_be_drawn_is_an_error_and_the_next_is_drawn():
    with pytest.raises(ValueError, match=r"\S"):
        vega.draw({"mark": {"type": "nonsense"}}).result()
    assert vega.draw(SPEC).result()[1]


def test_no_address_is_read():
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/rows.json"
        drawing = vega.draw(SPEC | {"data": {"url": url}})
        drawing.exception()
        with pytest.raises(TimeoutError):
            server.accept()


@pytest.mark.slow
def test_a_process_that_dies_fails_all_that_wait_and_is_restarted():
    vega.draw(SPEC).result()
    died = vega._process()
    os.kill(died._child.pid, signal.SIGSTOP)
    drawings = [vega.draw(SPEC) for _ in range(3)]
    died._child.kill()
    for drawing in drawings:
        with pytest.raises(RunError, match="died"):
            drawing.result(timeout=10)
    assert died._child.returncode == -signal.SIGKILL  # reaped: no zombie
    assert died._pipe.closed
    assert vega._process() is not died
    assert vega.draw(SPEC).result()[1]


@pytest.mark.slow
def test_a_process_that_died_when_idle_is_restarted():
    vega.draw(SPEC).result()
    died, threads = vega._process(), threading.active_count()
    died._child.kill()
    died._child.wait()
    assert vega.draw(SPEC).result()[1]
    assert vega._process() is not died
    for _ in range(100):
        if died._pipe.closed and threading.active_count() == threads:
            break
        time.sleep(0.05)
    assert died._pipe.closed
    assert threading.active_count() == threads  # its thread ended
    restarted = vega._process()
    assert vega.draw(SPEC).result()[1]
    assert vega._process() is restarted  # the end of the first one removed only itself
    with pytest.raises(RunError, match="died"):
        died.submit("draw", SPEC).result(timeout=1)


def test_two_threads_start_one_process(monkeypatch):
    monkeypatch.setattr(vega, "_PROCESSES", {})
    ready = threading.Barrier(8)

    def process(_: int) -> Any:
        ready.wait()
        return vega._process()

    with ThreadPoolExecutor(8) as pool:
        processes = list(pool.map(process, range(8)))
    processes[0]._kill()
    assert len(set(map(id, processes))) == 1


def _out_of_processes(*args: Any, **kwargs: Any) -> Any:
    raise OSError(11, "Resource temporarily unavailable")


def _exits_at_once(command: list[str], **kwargs: Any) -> Any:
    process = _POPEN(["false"], **kwargs)
    process.wait()
    return process


_POPEN = subprocess.Popen


@pytest.mark.parametrize("popen", [_out_of_processes, _exits_at_once])
def test_a_process_that_cannot_be_started_is_reported_in_one_line(monkeypatch, popen):
    monkeypatch.setattr(vega, "_PROCESSES", {})
    monkeypatch.setattr(subprocess, "Popen", popen)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(RunError, match=r"cannot start the process .*: (Resource|Broken|Connection)[a-z ]+$"):
        vega.draw(SPEC)
    assert vega._PROCESSES == {}
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_it_is_warmed_once(monkeypatch):
    monkeypatch.setattr(vega, "_PROCESSES", {})
    tasks: list[str] = []
    submit = vega._Process.submit

    def recorded(self: vega._Process, task: str, content: Any) -> Any:
        tasks.append(task)
        return submit(self, task, content)

    monkeypatch.setattr(vega._Process, "submit", recorded)
    folder.warm_up()
    folder.warm_up()
    vega._process()._kill()
    assert sorted(tasks) == ["bundle", "draw"]


@pytest.mark.slow
def test_an_interrupt_when_idle_leaves_it_alive():
    program = """if True:
        import os, signal
        from fedtoll.report import vega
        vega.draw({}).exception()
        child = vega._process()._child.pid
        try:
            os.killpg(0, signal.SIGINT)
            signal.pause()
        except KeyboardInterrupt:
            vega.draw({"mark": "point"}).result()
        print(vega._process()._child.pid == child)
    """
    command = [sys.executable, "-c", program]
    run = subprocess.run(
        command, capture_output=True, text=True, check=True, start_new_session=True, timeout=60
    )
    assert run.stdout == "True\n"


@pytest.mark.slow
def test_an_interrupt_of_a_report_ends_both_in_one_line(tmp_path):
    plan = planned(FEDAVG)
    store = Store(tmp_path)
    store.open(plan, TOML, "fedtoll run sex.toml")
    for run in plan.runs:
        store.write(run, simulate(run))
    command = [sys.executable, "-m", "fedtoll.cli", "report", str(tmp_path)]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    children_file = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while process.poll() is None and not (children := children_file.read_text().split()):
        time.sleep(0.02)
    time.sleep(0.3)
    assert process.poll() is None
    interrupted = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert time.monotonic() - interrupted < 5  # it does not finish the report first
    assert process.returncode == 130
    assert err == "fedtoll: interrupted; the same command resumes\n"
    assert children
    assert not any(_lives(int(child)) for child in children)


@pytest.mark.slow
def test_it_ends_with_its_parent_however_that_ends():
    program = (
        "import os; from fedtoll.report import vega; vega.draw({}).exception(); "
        "print(vega._process()._child.pid, flush=True); os._exit(0)"
    )
    child = int(subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout)
    for _ in range(100):
        if not _lives(child):
            return
        time.sleep(0.1)
    raise AssertionError("it outlived its parent")


def _lives(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
