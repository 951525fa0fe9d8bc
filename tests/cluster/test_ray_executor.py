"""The Ray executor without a cluster: options, dead addresses, runs that end or block their process."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from fedtoll.cluster import ray_executor
from fedtoll.scenarios.errors import RunError, ScenarioError
from fedtoll.sweep import executor
from fedtoll.sweep.executor import outcomes, ray_address
from tests.cluster.machines import free_port
from tests.server import jobs
from tests.server.federation import TOML


@pytest.fixture(autouse=True)
def _processes_find_the_jobs(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2])


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--address", "a:1"), "--address a:1: --executor processes has no cluster; needs --executor ray"),
        (
            ("--executor", "ray", "--grid", "flower", "--address", "a:1"),
            "--address a:1: --grid flower has no cluster; needs --executor ray",
        ),
        (
            ("--executor", "ray", "--address", "ray://a:1"),
            "--address = 'ray://a:1': must be HOST:PORT, the address of the head node",
        ),
        (
            ("--executor", "ray", "--address", "a"),
            "--address = 'a': must be HOST:PORT, the address of the head node",
        ),
    ],
)
def test_an_address_that_cannot_be_used_is_one_line(here, tmp_path, options, line):
    (tmp_path / "sex.toml").write_text(TOML)
    assert here("run", "sex.toml", *options) == (2, "", f"fedtoll: {line}\n")


@pytest.mark.parametrize("address", ["10.0.0.1:6379", "head:6379", "[::1]:6379", "auto"])
def test_addresses_of_clusters(address):
    assert ray_executor.check_address(address, "--address") == address
    assert ray_executor.check_address("local", "--address") == ""


def test_the_option_wins_over_the_variable_for_as_long_as_the_command_runs(monkeypatch):
    import os

    monkeypatch.setenv("RAY_ADDRESS", "there:1")
    with ray_address("here:2"):
        assert os.environ["RAY_ADDRESS"] == "here:2"
    with ray_address(None):
        assert os.environ["RAY_ADDRESS"] == "there:1"
    monkeypatch.setenv("RAY_ADDRESS", "ray://there:1")
    with pytest.raises(ScenarioError, match="RAY_ADDRESS = 'ray://there:1'"):
        outcomes(jobs.process, ["a"], executor="ray")


@pytest.mark.slow
def test_a_dead_address_is_one_line_soon(monkeypatch):
    address = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    began = time.monotonic()
    with pytest.raises(RunError, match=rf"^Ray at {address}: cannot be reached \(Connection refused\)$"):
        list(outcomes(jobs.process, ["a"], executor="ray"))
    assert time.monotonic() - began < 20


@pytest.mark.slow
def test_a_server_that_is_no_ray_is_one_line_within_20_s(monkeypatch):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        began = time.monotonic()
        with pytest.raises(RunError, match=rf"^Ray at {address}: [^\n]*$"):
            list(outcomes(jobs.process, ["a"], executor="ray"))
        assert time.monotonic() - began < 22


@pytest.mark.slow
def test_jobs_that_end_or_block_their_process_are_given_up_and_the_others_done(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(executor, "DEATHS", 1)  # a second try would take as long again
    found = dict(outcomes(jobs.die_or_hang, ["a", "b", "c", "d"], executor="ray", workers=1, timeout=8))
    assert (found[0], found[2]) == (("a", "", ""), ("c", "", ""))
    assert found[1][0] is found[3][0] is None
    assert found[1][1].startswith("its worker process on node ")
    assert found[1][1].endswith(" died")
    assert found[3][1].startswith("not finished after 8 s on node ")


@pytest.mark.slow
def test_without_an_address_a_ray_is_started_whatever_runs_here(monkeypatch):
    import ray

    called: dict[str, object] = {}
    monkeypatch.setenv("RAY_ADDRESS", "there:1")  # what Ray itself would use
    monkeypatch.setattr(ray, "init", lambda **options: called.update(options))
    ray_executor._connect("", 2)
    assert called["address"] == "local"
    assert called["num_cpus"] == 2
