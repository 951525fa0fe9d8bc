"""Submit runs to a SuperLink that runs already, whose SuperNodes are the clients."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from fedtoll.scenarios.errors import RunError, ScenarioError
from fedtoll.sweep import superlink

PATIENCE = 20.0
"""Seconds within which a SuperLink must accept a connection."""


@dataclass(frozen=True)
class Connection:
    """A SuperLink.

    Parameters
    ----------
    address
        ``HOST:PORT``.
    root_certificates
        The file with the certificate that its own is checked with; ``None`` if nothing is encrypted.
    """

    address: str
    root_certificates: Path | None

    @staticmethod
    def of(address: str | None, root_certificates: Path | None, insecure: bool) -> Connection:
        """Check the options ``--superlink``, ``--root-certificates`` and ``--insecure``.

        Raises
        ------
        ScenarioError
            In one line that names the option.
        """
        if address is None:
            raise ScenarioError(
                "--grid superlink: needs --superlink HOST:PORT, and a SuperLink that runs there"
            )
        host, colon, port = address.rpartition(":")
        if not (colon and host and port.isdecimal() and 0 < int(port) < 2**16):
            raise ScenarioError(f"--superlink {address!r}: must be HOST:PORT, e.g. 127.0.0.1:9092")
        if (root_certificates is None) != insecure:
            raise ScenarioError("--root-certificates, --insecure: give exactly one of them")
        if root_certificates is not None and not root_certificates.is_file():
            raise ScenarioError(f"--root-certificates {root_certificates}: no such file")
        return Connection(address, root_certificates)

    def toml(self) -> str:
        """Return the keys of a connection in Flower's configuration."""
        if self.root_certificates is None:
            return f"address = {json.dumps(self.address)}\ninsecure = true\n"
        file = str(self.root_certificates.resolve())
        return f"address = {json.dumps(self.address)}\nroot-certificates = {json.dumps(file)}\n"

    @contextmanager
    def open(self, home: Path) -> Iterator[Callable[..., str]]:
        """Connect; yield what runs ``flwr`` against this SuperLink.

        A run that is under way when this is left by an exception is stopped there.

        Raises
        ------
        RunError
            In one line, if nothing accepts a connection.
        """
        _reach(self.address)
        environment = superlink.prepare(home, self.toml())
        started: list[str] = []

        def flwr(*arguments: str) -> str:
            output = superlink.call(home, environment, *arguments)
            if arguments[0] == "run":
                with suppress(ValueError, KeyError):
                    started[:] = [str(json.loads(output)["run-id"])]
            return output

        try:
            yield flwr
        except BaseException:
            for run_id in started:  # the last one; one that is over cannot be stopped
                with suppress(RunError):
                    flwr("stop", run_id, "own")
            raise


def _reach(address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE).close()
    except OSError as error:
        raise RunError(f"no SuperLink at {address}: {error.strerror or error}") from None
