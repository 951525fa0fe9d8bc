"""The guard of a server: it ends the server and its daemons when the command is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, daemons are not adopted")

SERVER = """
import os, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it has to be killed
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)  # a daemon is left, whose parent is gone
pathlib.Path(sys.argv[1], f"pid-{os.getpid()}").touch()
time.sleep(600)
"""

PARENT = """
import subprocess, sys, time
guard = subprocess.Popen([sys.executable, "-m", "fedtoll.guard", *sys.argv[1:]], stdin=subprocess.PIPE)
time.sleep(600)
"""


def living(pids: list[int]) -> list[int]:
    found = []
    for pid in pids:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            continue
        if stat.rpartition(")")[2].split()[0] != "Z":
            found.append(pid)
    return found


@pytest.mark.slow
def test_a_server_and_its_daemon_end_when_the_command_is_killed(tmp_path):
    home, pids = tmp_path / "home", tmp_path / "pids"
    home.mkdir()
    pids.mkdir()
    command = [sys.executable, "-c", PARENT, home, sys.executable, "-c", SERVER, pids]
    parent = subprocess.Popen(command, start_new_session=True)
    deadline = time.monotonic() + 60
    while len(list(pids.iterdir())) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    servers = [int(file.name.removeprefix("pid-")) for file in pids.iterdir()]
    assert living(servers) == servers
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    while (living(servers) or home.exists()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert living(servers) == []
    assert not home.exists()
