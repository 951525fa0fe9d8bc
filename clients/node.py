"""The client of a SuperNode: what its operator decides, whatever the server's plan says.

``flower-supernode --node-config`` gives the number of the client (``partition-id``) and, all optional:

- ``partition``: the file with the client's own records. The node then opens no other file of records and
  answers only runs whose plan declares its clients (``partition.kind = "declared"``).
- ``noise = "secret"``: batches and noise come from a secret that the node draws for every Flower run, instead
  of the plan's seed, which the server knows. It needs ``partition``: without a file, the seed also says who
  holds which records.
- ``epsilon``: the most that a run may spend by its plan, recomputed here. Other runs are rejected.
- ``delta``: the δ at which that ε is computed, whatever δ the plan states; 1e-5 by default.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Context

from fedtoll.clients.failures import RejectedError
from fedtoll.clients.train import Clients
from fedtoll.privacy.ledger import Ledger, all_owed
from fedtoll.scenarios import holder
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.federation import Records
from fedtoll.scenarios.run import Run

SECRET = "fedtoll.secret"
"""The name of the record in a node's state with its secret of a Flower run. It never leaves the node."""

DELTA = 1e-5
"""The δ of a node's limit, if its operator states none."""

SLACK = 1e-6
"""By how much, relative to the limit, rounding may let the ε of a plan exceed it."""


@dataclass(frozen=True)
class Decided:
    """What the operator of a node decides.

    Parameters
    ----------
    client
        The number of its client; 0 if nothing that follows depends on it.
    file
        The file with its own records; empty if the node resolves them from the plan.
    limit
        The most ε that a run may spend; infinity without a limit.
    delta
        The δ at which it is computed.
    secret
        128 secret bits for the seeds of this Flower run, or ``None`` for those of the plan.
    """

    client: int = 0
    file: str = ""
    limit: float = float("inf")
    delta: float = DELTA
    secret: int | None = None

    @staticmethod
    def of(context: Context) -> Decided:
        """Read the node's configuration, and draw the secret of this Flower run if it needs one.

        Raises
        ------
        ScenarioError
            If a value is not valid.
        """
        config: Mapping[str, Any] = context.node_config
        noise, limit = config.get("noise", "seeded"), config.get("epsilon", float("inf"))
        if noise not in {"seeded", "secret"}:
            raise ScenarioError(f"node-config: noise = {noise!r}: must be 'seeded' or 'secret'")
        if isinstance(limit, bool) or not isinstance(limit, int | float) or not limit > 0:
            raise ScenarioError(f"node-config: epsilon = {limit!r}: must be a number above 0")
        delta = config.get("delta", DELTA)
        if isinstance(delta, bool) or not isinstance(delta, float) or not 0 < delta < 1:
            raise ScenarioError(f"node-config: delta = {delta!r}: must be a number between 0 and 1")
        file = str(config.get("partition", ""))
        if noise == "secret" and not file:
            raise ScenarioError("node-config: noise = 'secret': needs partition, a file of own records")
        secret = _secret(context) if noise == "secret" else None
        client = int(config["partition-id"]) if file or limit < float("inf") else 0
        return Decided(client, file, float(limit), delta, secret)


def _secret(context: Context) -> int:
    """Return the secret of this Flower run, drawn once from the operating system."""
    if SECRET not in context.state:
        context.state[SECRET] = ConfigRecord({"bits": secrets.token_bytes(16)})
    bits: Any = context.state[SECRET]
    return int.from_bytes(bits["bits"], "big")


class Node(Clients):
    """The single client of a SuperNode.

    Parameters
    ----------
    decided
        What its operator decides.
    """

    def __init__(self, decided: Decided) -> None:
        super().__init__()
        self._decided = decided
        self._own: tuple[Run, Records] | None = None

    def read(self, text: str) -> Run:
        """Return the run of a message, with secret seeds if the operator wants them.

        Raises
        ------
        RejectedError
            If the run spends more than the operator allows, or trusts others with messages that have little
            noise or none.
        """
        run, mine = super().read(text), self._decided
        if run.trust != "local" and (mine.file or mine.limit < float("inf") or mine.secret is not None):
            raise RejectedError(
                f"privacy.trust = {run.trust!r}: this node sends only messages that are private"
            )
        if mine.limit < float("inf"):
            spent = _spends(run, mine.client, mine.delta)
            if not spent <= mine.limit * (1 + SLACK):
                what = f"ε = {spent:g} at δ = {mine.delta:g}"
                raise RejectedError(f"the run spends {what}, more than the {mine.limit:g} of this node")
        if mine.secret is None:
            return run
        return run.model_copy(update={"seed": mine.secret, "noise_seed": mine.secret})

    def records(self, run: Run) -> Records:
        """Return the records of this node's file; without a file, as every client resolves them.

        The file is read once. A change of it is noticed by a new process only.
        """
        mine = self._decided
        if not mine.file:
            if run.partition.kind == "declared":
                raise ScenarioError("partition.kind = 'declared': this node needs a file of its own records")
            return super().records(run)
        if self._own is None or not _alike(self._own[0], run):
            found = holder.read(run.data, run.partition, mine.client, Path(mine.file).absolute(), run.groups)
            self._own = run, found
        return self._own[1]


def _alike(one: Run, other: Run) -> bool:
    return (one.data, one.partition, one.groups) == (other.data, other.partition, other.groups)


def _spends(run: Run, client: int, delta: float) -> float:
    """Return the ε that a client spends by the plan of a run at δ, from public constants alone."""
    if run.mechanism != "dp-sgd":
        return float("inf")
    ledger = Ledger.of(run.model_copy(update={"delta": delta}))
    ledger.charge(all_owed(run, client, run.attendance))
    return ledger.epsilon(run.clients[client].id)
