"""The folder of a federation: what each machine gets, and that its certificate is for its hosts."""

from __future__ import annotations

import ipaddress
import subprocess
import tomllib

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key
from typer.testing import CliRunner

from fedtoll.cli import app
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.read import read
from fedtoll.sweep.submit import Connection
from tests.server.federation import TOML


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("deploy")
    (folder / "sex.toml").write_text(TOML)
    hosts = ["--host", "superlink.example", "--host", "10.0.0.7"]
    command = ["federation", "init", str(folder / "fed"), str(folder / "sex.toml"), "--split", *hosts]
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    assert done.exit_code == 0
    return folder / "fed"


def test_every_machine_gets_its_own_and_nothing_of_others(made):
    nodes = sorted((made / "nodes").iterdir())
    assert [node.name for node in nodes] == ["node-0", "node-1", "node-2"]
    files = {"ca.pem", "node.key", "records.parquet", "scenario.toml", "supernode.sh"}
    assert all({file.name for file in node.iterdir()} == files for node in nodes)
    for name in ("node.key", "records.parquet"):
        assert len({(node / name).read_bytes() for node in nodes}) == 3
    server = {
        str(file.relative_to(made / "server")) for file in (made / "server").rglob("*") if file.is_file()
    }
    assert not [file for file in server if "records" in file or file.startswith("node")]
    for private in (*made.rglob("*.key"),):
        assert private.stat().st_mode & 0o077 == 0


def test_the_keys_are_pairs_that_flower_reads(made):
    for k in range(3):
        private = load_ssh_private_key((made / f"nodes/node-{k}/node.key").read_bytes(), None)
        public = load_ssh_public_key((made / f"server/keys/node-{k}.pub").read_bytes())
        assert private.public_key() == public


def test_the_certificate_is_for_the_hosts_and_signed_by_the_other(made):
    root = x509.load_pem_x509_certificate((made / "server/ca.pem").read_bytes())
    server = x509.load_pem_x509_certificate((made / "server/server.pem").read_bytes())
    server.verify_directly_issued_by(root)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["superlink.example", "localhost"]
    assert ipaddress.ip_address("10.0.0.7") in names.get_values_for_type(x509.IPAddress)
    assert all(
        (node / "ca.pem").read_bytes() == (made / "server/ca.pem").read_bytes()
        for node in (made / "nodes").iterdir()
    )


def test_the_scripts_are_shell_and_switch_telemetry_off(made):
    scripts = list(made.rglob("*.sh"))
    assert len(scripts) == 6
    for script in scripts:
        subprocess.run(["sh", "-n", script], check=True)
        assert "FLWR_TELEMETRY_ENABLED=0" in script.read_text()
    assert "--superlink superlink.example:9092" in (made / "nodes/node-0/supernode.sh").read_text()


def test_the_scenario_of_the_server_is_valid_and_declares_the_public_sizes(made):
    scenario = read(str(made / "server/scenario.toml"))
    assert [h.group for h in scenario.partition.holders] == ["Male", "Male", "Female"]
    assert scenario.data.file == str((made / "server/held-out.parquet").resolve())
    config = tomllib.loads((made / "server/app/pyproject.toml").read_text())
    assert config["tool"]["flwr"]["app"]["components"]["clientapp"] == "fedtoll.clients.app:app"


def test_without_split_nodes_keep_their_noise_secret_and_limit_epsilon(made, tmp_path):
    command = ["federation", "init", str(tmp_path / "own"), str(made / "server/scenario.toml")]
    command += ["--set", "privacy.epsilons=[1.0, 3.0]"]
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    assert done.exit_code == 0
    script = (tmp_path / "own/nodes/node-2/supernode.sh").read_text()
    assert 'partition-id=2 partition="records.parquet" noise="secret" epsilon=3.0' in script
    assert not list((tmp_path / "own").rglob("*.parquet"))


def test_a_node_limits_epsilon_to_its_clients_share(made, tmp_path):
    command = ["federation", "init", str(tmp_path / "own"), str(made / "server/scenario.toml")]
    command += ["--set", "privacy.epsilons=[1.0, 3.0]", "--set", "privacy.epsilon_factor={Female=0.5}"]
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    assert done.exit_code == 0
    limits = [(tmp_path / f"own/nodes/node-{k}/supernode.sh").read_text() for k in (0, 2)]
    assert "epsilon=3.0" in limits[0]
    assert "epsilon=1.5" in limits[1]


def test_a_client_checks_its_file(made):
    file, scenario = str(made / "nodes/node-2/records.parquet"), str(made / "server/scenario.toml")
    good = CliRunner().invoke(app, ["federation", "check", file, "--client", "2", "--scenario", scenario])
    assert good.exit_code == 0
    assert "as client 2 declares them" in good.output
    bad = CliRunner().invoke(app, ["federation", "check", file, "--client", "0", "--scenario", scenario])
    assert isinstance(bad.exception, ScenarioError)
    assert "is of group 'Female', but client 0 declares 'Male'" in str(bad.exception)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ((None, None, True), "needs --superlink HOST:PORT"),
        (("host", None, True), "must be HOST:PORT"),
        (("host:0", None, True), "must be HOST:PORT"),
        (("host:1", None, False), "give exactly one"),
    ],
)
def test_a_connection_that_cannot_be(options, reason):
    with pytest.raises(ScenarioError, match=reason):
        Connection.of(*options)
