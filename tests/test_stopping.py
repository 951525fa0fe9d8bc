"""SIGTERM and SIGHUP end a command as an interrupt does: its children first."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fedtoll.scenarios.spawning import start
from fedtoll.stopping import Stopped, stops_raise
from tests.server.federation import TOML


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_raises_once(signum):
    outside = signal.signal(signum, signal.SIG_DFL)  # under nohup, SIGHUP is ignored
    before = signal.getsignal(signum)

    def receive() -> None:
        with stops_raise():
            try:
                os.kill(os.getpid(), signum)
                time.sleep(5)
            finally:
                os.kill(os.getpid(), signum)  # cleaning up goes on

    try:
        with pytest.raises(Stopped, match=f"^stopped by {signum.name}$") as caught:
            receive()
        assert caught.value.code == 128 + signum
        assert signal.getsignal(signum) is before
    finally:
        signal.signal(signum, outside)


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stops_raise():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_another_thread_sets_no_handler():
    def use() -> None:
        with stops_raise():
            found.append(signal.getsignal(signal.SIGTERM))

    found: list[object] = []
    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGTERM)]


class _Signal:
    """Sends this process a signal when it is pickled, which is in the middle of the start of a process."""

    def __init__(self, signum: int) -> None:
        self.signum = signum

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        os.kill(os.getpid(), self.signum)
        return str, ("sent",)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_waits_until_a_process_has_started(signum):
    before = signal.getsignal(signum)
    process = multiprocessing.get_context("spawn").Process(target=len, args=(_Signal(signum),))
    with pytest.raises((Stopped, KeyboardInterrupt)), stops_raise():
        start(process)
    assert signal.getsignal(signum) is before
    process.join(30)
    assert process.exitcode == 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_stopped_sweep_ends_its_workers_and_says_so(tmp_path):
    (tmp_path / "sex.toml").write_text(TOML.replace("rounds = 2", "rounds = 100000").replace("[0]", "[0, 1]"))
    process = subprocess.Popen(
        [sys.executable, "-m", "fedtoll.cli", "run", "sex.toml", "--workers", "2", "--no-probe"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + 120
    while len(pids := children.read_text().split()) < 3:  # two workers, and multiprocessing's tracker
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (143, "")
    assert err == "fedtoll: stopped by SIGTERM; the same command resumes\n"
    while alive := [pid for pid in pids if Path(f"/proc/{pid}").exists()]:  # the tracker ends last
        assert time.monotonic() < deadline, alive
        time.sleep(0.1)
    assert not list(tmp_path.rglob(".partial-*"))
