"""Write the folder of a federation: what its SuperLink needs, and one folder for each SuperNode."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedtoll import __version__
from fedtoll.deploy.certificates import write_certificates, write_key
from fedtoll.deploy.split import HELD_OUT, Divided
from fedtoll.scenarios import toml
from fedtoll.scenarios.atomic import write_folder
from fedtoll.scenarios.by_client import by_client
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.partition import Client
from fedtoll.scenarios.scenario import Scenario
from fedtoll.server.app_folder import write_app

if TYPE_CHECKING:
    import pyarrow as pa

RECORDS = "records.parquet"
"""The name of a client's file, if nothing else is said."""

_HEAD = """\
#!/bin/sh
# {comment}
set -eu
cd "$(dirname "$0")"
export FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1 FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1
export RAY_USAGE_STATS_ENABLED=0 OMP_NUM_THREADS=1 FLWR_HOME="$PWD/flwr"
"""

_SUPERLINK = """\
exec flower-superlink --host {bind} --port {port} \\
    --ssl-ca-certfile ca.pem --ssl-certfile server.pem --ssl-keyfile server.key \\
    --enable-supernode-auth --disable-runtime-dependency-installation
"""

_REGISTER = """\
mkdir -p flwr
cat > flwr/config.toml << END
[superlink]
default = "own"

[superlink.own]
address = "127.0.0.1:{port}"
root-certificates = "$PWD/ca.pem"
END
for key in keys/*.pub; do
    flwr supernode register "$key" own
done
"""

_SWEEP = """\
exec fedtoll run scenario.toml --grid superlink --superlink 127.0.0.1:{port} --root-certificates ca.pem "$@"
"""

_SUPERNODE = """\
fedtoll federation check {records} --client {client} --scenario scenario.toml
exec flower-supernode --superlink {address} --root-certificates ca.pem \\
    --auth-supernode-private-key node.key --port {runtime} \\
    --node-config {config}
"""


@dataclass(frozen=True)
class Place:
    """Where the SuperLink is.

    Parameters
    ----------
    hosts
        The names or addresses under which SuperNodes reach it; they use the first.
    port
        Its port.
    bind
        The address on which it listens.
    """

    hosts: Sequence[str]
    port: int
    bind: str = "0.0.0.0"

    @property
    def address(self) -> str:
        """``HOST:PORT``, as SuperNodes reach it."""
        host = self.hosts[0]
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"


def write(folder: Path, scenario: Scenario, place: Place, divided: Divided | None = None) -> list[str]:
    """Write the folder of a federation.

    Parameters
    ----------
    folder
        The new folder: ``server/`` stays with the SuperLink, and each ``nodes/node-K/`` goes to the machine
        of client K. No file is in two nodes' folders but what is public.
    scenario
        The scenario; its partition is declared.
    place
        Where the SuperLink is.
    divided
        The records, if they are split here for a demonstration. Then nodes use the plan's seeds, so that the
        results are those of a simulation. Without, a node draws batches and noise from a secret of its own,
        and rejects runs that spend more than its share of the largest ε of the scenario.

    Returns
    -------
    list
        The folders of the SuperNodes, relative to ``folder``.

    Raises
    ------
    ScenarioError
        If the folder exists, or cannot be written.
    """
    if folder.exists() or folder.is_symlink():
        raise ScenarioError(f"{folder}: exists already; choose another name")
    nodes = [f"nodes/node-{k}" for k in range(len(scenario.partition.holders))]

    def fill(root: Path) -> None:
        server = root / "server"
        (server / "keys").mkdir(parents=True)
        write_app(server / "app", __version__)
        public = write_certificates(server, place.hosts)
        if divided is not None:
            _write_table(divided.held_out, server / HELD_OUT)
        (server / "scenario.toml").write_text(_text(scenario), encoding="utf-8")
        _script(server / "superlink.sh", "Start the SuperLink.", _SUPERLINK, bind=place.bind, port=place.port)
        _script(server / "register.sh", "Register the SuperNodes, once.", _REGISTER, port=place.port)
        _script(server / "sweep.sh", "Train all runs, or resume.", _SWEEP, port=place.port)
        for client, name in enumerate(nodes):
            node = root / name
            node.mkdir(parents=True)
            write_key(node / "node.key", server / "keys" / f"node-{client}.pub")
            (node / "ca.pem").write_bytes(public)
            (node / "scenario.toml").write_text(_text(scenario), encoding="utf-8")
            if divided is not None:
                _write_table(divided.tables[client], node / RECORDS)
            _script(
                node / "supernode.sh",
                f"Start the SuperNode of client {client}, next to its records in {RECORDS}.",
                _SUPERNODE,
                records=RECORDS,
                client=client,
                address=shlex.quote(place.address),
                runtime=9094 + client,  # several nodes can share a machine
                config=shlex.quote(_config(scenario, client, secret=divided is None)),
            )

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        write_folder(folder, fill)
    except OSError as error:
        raise ScenarioError(f"{folder}: cannot be written: {error.strerror or error}") from None
    return nodes


def _config(scenario: Scenario, client: int, *, secret: bool) -> str:
    """Return the configuration of a node, as ``flower-supernode --node-config`` takes it."""
    values: dict[str, Any] = {"partition-id": client, "partition": RECORDS}
    if secret:
        values["noise"] = "secret"
        budgets = [math.inf if isinstance(e, str) else float(e) for e in scenario.privacy.epsilons]
        if max(budgets) < math.inf:
            clients = [Client(k, h.group, h.size) for k, h in enumerate(scenario.partition.holders)]
            shares = by_client("privacy.epsilon_factor", scenario.privacy.epsilon_factor, clients)
            values["epsilon"] = max(budgets) * shares[client]
            values["delta"] = scenario.privacy.delta
    return " ".join(f"{key}={json.dumps(value)}" for key, value in values.items())


def _text(scenario: Scenario) -> str:
    return toml.dumps(scenario.model_dump(mode="json", exclude_defaults=True))


def _script(file: Path, comment: str, body: str, **values: Any) -> None:
    file.write_text(_HEAD.format(comment=comment) + body.format(**values), encoding="utf-8")
    file.chmod(file.stat().st_mode | 0o111)


def _write_table(table: pa.Table, file: Path) -> None:
    import pyarrow.parquet as pq

    pq.write_table(table, file, compression="zstd")
