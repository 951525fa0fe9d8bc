"""A Grid that checks every reply: complete, well formed, finite, and with the ledger that was charged."""

from __future__ import annotations

import itertools
import math
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.app.message_type import MessageType
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.serverapp import Grid
from numpy.typing import NDArray

from fedtoll import __version__
from fedtoll.clients import state as client_state
from fedtoll.clients import train as clients
from fedtoll.clients import wire
from fedtoll.clients.failures import CLIENT_FAILED, REASONS
from fedtoll.clients.updates import BIT
from fedtoll.privacy.ledger import COLUMNS, Ledger, Release, first_missing, first_uncharged, hidden, owed
from fedtoll.scenarios.client_unit import bit_share
from fedtoll.scenarios.errors import DivergedError, NotFiniteError, RunError, one_line
from fedtoll.scenarios.run import NUMERICS, Run
from fedtoll.server.grid import SynchronousGrid, wait_for_nodes
from fedtoll.server.personal import OwnModels, taken

RECORDS = {"arrays", "metrics", client_state.LEDGER}
"""The records of a reply. Record names are observable too, so a reply holds exactly these."""

_FAILED = REASONS[CLIENT_FAILED]
_FAULTS = REASONS | {
    ErrorCode.MESSAGE_UNAVAILABLE: "its message expired",
    ErrorCode.REPLY_MESSAGE_UNAVAILABLE: "its reply never came",
    ErrorCode.NODE_UNAVAILABLE: "its node is unavailable",
}
"""What error replies mean. Their text is ignored: a client's own code may put values of records into it."""

LONGEST_REASON = 200
"""The maximum number of characters stored of the reason for a skipped reply."""


class Strict(SynchronousGrid):
    """Wraps any Grid: replies are complete, well formed, finite and sorted by client, or the run ends.

    With ``on_failure = "skip"``, a reply that is missing, failed, malformed or not finite is left out of its
    round and recorded in ``skipped``. Faults that no failing client explains still end the run: a ledger with
    more than was charged, a second reply, a reply from an unknown node, or a mistake of the strategy.

    The server's ledger lives here, because every instruction passes through. Each is charged from public
    constants before it is sent, whether or not a reply arrives, and the ledger in each reply must be equal.
    """

    def __init__(self, grid: Grid, run: Run) -> None:
        self._grid = grid
        self._plan = run
        self._clients = {c.id: c for c in run.clients}
        self.attendance = run.attendance
        self._places = {c.id: place for place, c in enumerate(run.clients)}
        self.client_of: dict[int, int] = {}
        self.node_of: dict[int, int] = {}
        self.ledger = Ledger.of(run)
        self._last = 0
        self._skips = run.on_failure == "skip"
        self.skipped: dict[int, dict[int, str]] = {
            c.id: {} for c in run.clients
        }  # reason by client and round
        self._accepted: dict[int, tuple[dict[str, list[Any]], int]] = {}
        self.parameters: dict[int, list[NDArray[np.floating]]] = {}  # of the last replies, by client
        self.own: OwnModels = {}
        self.set_run(grid.run)

    def charge_hidden(self, round: int) -> None:
        """Charge a round to all clients alike if nobody sees who takes part; a trusted server calls this."""
        self.ledger.charge(hidden(self._plan, round))

    def get_node_ids(self) -> Iterable[int]:
        """Return the nodes of the clients that take part in the next round, in the order of the clients."""
        round = min(self.attendance.next(self._last + 1), self._plan.rounds)
        return [self.node_of[c] for c in sorted(self._due(round))]

    def roll_call(self, timeout: float = 120.0) -> None:
        """Ask every node which client it is, because error replies do not say, and compare versions.

        Raises
        ------
        RunError
            If a client is missing, appears twice, or runs another version or other arithmetic.
        """
        expected = len(self._plan.clients)
        nodes = wait_for_nodes(self._grid, expected, timeout)
        calls = [Message(RecordDict(), node, MessageType.QUERY) for node in nodes]
        found: dict[int, int] = {}
        for reply in self._grid.send_and_receive(calls, timeout=timeout):
            node = reply.metadata.src_node_id
            if reply.has_error():
                raise RunError(f"roll call: node {node}: {_FAULTS.get(reply.error.code, _FAILED)}")
            try:
                index, version, numerics = _called(reply.content)
            except (KeyError, ValueError, TypeError):
                raise RunError(f"roll call: node {node} does not run fedtoll") from None
            if index in found:
                raise RunError(f"roll call: two nodes are client {index}")
            shown = one_line(version)
            if numerics != NUMERICS:
                raise RunError(f"roll call: client {index} runs fedtoll {shown} with other arithmetic")
            if version != __version__:
                raise RunError(f"roll call: client {index} runs fedtoll {shown}, the server {__version__}")
            found[index] = node
        for index, plan in enumerate(self._plan.clients):
            if index not in found:
                raise RunError(f"roll call: {self._label(plan.id)} did not answer")
        self.node_of = {self._plan.clients[i].id: found[i] for i in range(expected)}
        self.client_of = {node: client for client, node in self.node_of.items()}

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Charge, send, receive, check and sort; return the replies that are not skipped.

        Raises
        ------
        RunError
            In one line with the round and client: a reply is missing, failed, malformed or not finite, or its
            ledger differs. If such replies are skipped: a ledger has more than was charged, or no reply of
            the round is left.
        """
        sent = list(messages)
        if not sent:
            return []
        addressed = self._addressed(sent)
        round = self._next_round(sent)
        for client in addressed:
            turn = self.attendance.turn(self._places[client], round)
            self.ledger.charge(owed(self._plan, self._clients[client], round, turn))
        replies: dict[int, list[Message]] = {client: [] for client in addressed}
        faults: dict[int, type[RunError]] = {}
        for reply in self._grid.send_and_receive(list(addressed.values()), timeout=timeout):
            if (replied := self._replied(round, reply, addressed)) is not None:
                replies[replied].append(reply)
        for client, message in addressed.items():
            where = f"round {round}, {self._label(client)}"
            if len(replies[client]) > 1:
                raise RunError(f"{where}: {len(replies[client])} replies")
            fault = self._fault(client, round, message, next(iter(replies[client]), None))
            if fault and not self._skips:
                raise type(fault)(f"{where}: {fault}")
            if fault:
                faults[client] = type(fault)
                self.skipped[client][round] = shortened(str(fault))
                self.parameters.pop(client, None)
                replies[client] = []
        if not any(replies.values()):
            others = (client for client, kind in faults.items() if kind is not DivergedError)
            shown = next(others, next(iter(faults)))
            line = f"every reply was skipped; {self._label(shown)}: {self.skipped[shown][round]}"
            raise faults[shown](f"round {round}: {line}")
        return [reply for received in replies.values() for reply in received]

    def _replied(self, round: int, reply: Message, addressed: Mapping[int, Message]) -> int | None:
        """Return the client of a reply, or ``None`` if it says only that some reply never comes.

        The SuperLink sends an error for a reply that never came; it names the message, not the node. For
        messages to nodes that have left it names neither, so these replies are missing.
        """
        if reply.has_error():
            replied_to = reply.metadata.reply_to_message_id
            for client, message in addressed.items():
                if replied_to == message.metadata.message_id:
                    return client
            if reply.metadata.src_node_id == reply.metadata.dst_node_id == SUPERLINK_NODE_ID:
                return None
        node = reply.metadata.src_node_id
        if node in self.client_of:
            return self.client_of[node]
        raise RunError(f"round {round}: received a reply from node {node}, which is not a client")

    def _fault(self, client: int, round: int, message: Message, reply: Message | None) -> RunError | None:
        """Return what is wrong with a client's reply, in one line, or ``None``."""
        if reply is None:
            return RunError("the reply is missing")
        if reply.has_error():
            return RunError(_FAULTS.get(reply.error.code, _FAILED))
        if self._skips:
            self._check_nothing_uncharged(client, round, reply.content)
        try:
            self._check(client, message, reply)
        except KeyError as error:
            return RunError(f"the reply is malformed: it has no {error}")
        except NotFiniteError as error:
            return DivergedError(f"the reply is malformed: {error}")
        except (ValueError, TypeError, AttributeError, EOFError, OverflowError, MemoryError) as error:
            return RunError(f"the reply is malformed: {one_line(str(error))}")
        if not self._skips:
            return None
        due = self.attendance.rounds(self._places[client], round)
        if unknown := never_released(self._plan, due, self.skipped[client]):
            return RunError(f"its {unknown} is not known: it was skipped whenever it was due")
        return None

    def _check_nothing_uncharged(self, client: int, round: int, content: RecordDict) -> None:
        """Raise if a client reports a release that was not charged, even if the run skips faults.

        The server's ledger would then be too small, whether or not the reply is skipped.
        """
        if client_state.LEDGER not in content:
            return  # reported as a malformed reply
        where = f"round {round}, {self._label(client)}"
        try:
            if dict(content[client_state.LEDGER]) == self.ledger.columns(client):
                return
            reported, charged = self._new(client, content)
        except (KeyError, ValueError, TypeError):
            raise RunError(f"{where}: its ledger cannot be read") from None
        if uncharged := first_uncharged(reported, charged):
            release = shortened(one_line(str(uncharged)))
            raise RunError(f"{where}: its ledger holds {release}, which the server did not charge")

    def _next_round(self, sent: Sequence[Message]) -> int:
        """Return the round of these messages, the next in which anybody takes part: no draw may repeat."""
        due = self.attendance.next(self._last + 1)
        for message in sent:
            if (round := _round(message)) != due or round > self._plan.rounds:
                raise RunError(
                    f"round {due} of {self._plan.rounds}: the strategy calls it round {round}, "
                    "and a round's batches and noise must not be used twice"
                )
        self._last = due
        return due

    def _due(self, round: int) -> list[int]:
        """Return the clients that take part in a round, in the plan's order."""
        return [self._plan.clients[place].id for place in self.attendance.clients(round)]

    def _addressed(self, sent: Sequence[Message]) -> dict[int, Message]:
        """Return the messages by client in the plan's order; each that takes part must get one, no other."""
        addressed: dict[int, Message] = {}
        round = _round(sent[0])
        due = self._due(min(max(1, round), self._plan.rounds))
        for message in sent:
            kind, node = message.metadata.message_type, message.metadata.dst_node_id
            if node not in self.client_of:
                raise RunError(f"the strategy sends to node {node}, which is not a client")
            client = self.client_of[node]
            where = f"round {round}, {self._label(client)}"
            if kind != MessageType.TRAIN:
                raise RunError(f"{where}: a {kind!r} message would return numbers without noise")
            if client in addressed:
                raise RunError(f"{where}: the strategy sends it two messages")
            addressed[client] = message
        if absent := addressed.keys() - set(due):
            where = f"round {round}, {self._label(min(absent))}"
            raise RunError(f"{where}: the strategy addresses it, but it does not take part in this round")
        always = self._plan.participation is None
        must = "every client must train in every round" if always else "it takes part in this round"
        for client in due:
            if client not in addressed:
                where = f"round {round}, {self._label(client)}"
                raise RunError(f"{where}: the strategy leaves it out, but {must}")
        return {client: addressed[client] for client in due}

    def _label(self, client: int) -> str:
        group = self._clients[client].group
        return f"client {client} ({group})" if group else f"client {client}"

    def _check(self, client: int, message: Message, reply: Message) -> None:
        """Raise unless a reply has exactly the required content."""
        content = reply.content
        sent = clients.only(ArrayRecord, message.content)
        if (own := taken(self._plan, sent, content)) is not None:
            self.own[client] = own
        arrays = clients.only(ArrayRecord, content)
        metrics = clients.only(MetricRecord, content)
        ledger = clients.only(ConfigRecord, content)
        if content.get(client_state.LEDGER) is not ledger:
            raise ValueError(f"it has no {client_state.LEDGER!r}")
        _check_names(content)
        if list(sent.keys()) != list(arrays.keys()):
            raise ValueError(f"parameters {list(arrays.keys())} instead of {list(sent.keys())}")
        precision = np.dtype(self._plan.precision)
        self.parameters[client] = []
        for name, array in arrays.items():
            shape = tuple(sent[name].shape)
            try:
                values = wire.decoded(array, shape, precision)
            except ValueError as error:
                raise ValueError(f"parameter {name}: {error}") from None
            if not np.isfinite(values).all():
                raise NotFiniteError(f"parameter {name} is not finite")
            self.parameters[client].append(values)
        public, cells = self._metrics(client, _round(message))
        if set(metrics) != {*public, *cells}:
            raise ValueError(f"metrics {sorted(metrics)} instead of {sorted({*public, *cells})}")
        for name, value in metrics.items():
            numbers = value if isinstance(value, list) else [value]
            if not all(isinstance(x, int | float) and math.isfinite(x) for x in numbers):
                raise NotFiniteError(f"metric {name} is not finite")
            if name in public and value != public[name]:
                raise ValueError(f"{name} is {value}, not {public[name]} as the plan says")
            if name in cells and np.shape(value) != cells[name]:
                raise ValueError(f"{name} is of shape {np.shape(value)}, not {cells[name]} as the plan says")
        if extra := set(ledger) - set(COLUMNS):
            raise ValueError(f"its ledger has the column {min(extra)!r}")
        if dict(ledger) != self.ledger.columns(client):
            reported, charged = self._new(client, content)
            if not self._skips:
                raise ValueError(f"its ledger holds {_difference(reported, charged)}")
            if missing := first_missing(reported, charged, self.skipped[client]):
                raise ValueError(f"its ledger lacks {missing}")
            total = len(self.ledger.releases_of(client))
            self._accepted[client] = ({c: list(ledger[c]) for c in COLUMNS}, total)  # type: ignore[arg-type]

    def _new(self, client: int, content: RecordDict) -> tuple[Sequence[Release], Sequence[Release]]:
        """Return what a client reports and what it was charged, without what it had reported before.

        A ledger lacks the skipped rounds for the rest of the run. To compare all of it in every round would
        take a time that grows with the square of the rounds. The last accepted ledger ended with the last
        release charged by then, so what follows in one follows in the other.
        """
        ledger: Any = content[client_state.LEDGER]
        before, total = self._accepted.get(client, ({}, 0))
        length = len(before.get("round", ()))
        if any(ledger[c][:length] != before[c] for c in before):
            length = total = 0
        rest = ConfigRecord({c: values[length:] for c, values in ledger.items()})
        reported = client_state.releases_in(RecordDict({client_state.LEDGER: rest}), client)
        return reported, self.ledger.releases_of(client)[total:]

    def _metrics(self, client: int, round: int) -> tuple[dict[str, float], dict[str, tuple[int, ...]]]:
        """Return the metrics that a reply must have: the public values, and the shapes of the statistics."""
        plan, turn = self._clients[client], self.attendance.turn(self._places[client], round)
        public: dict[str, float] = {"num-examples": plan.size}
        cells: dict[str, tuple[int, ...]] = {clients.BOUND: ()} if self._plan.scales_gradients else {}
        for _, s in self._plan.due(round, turn):
            public[f"{s.name}.sd"] = s.added_noise * s.sensitivity(plan.size)
            shape = self._plan.released(plan, s)
            cells[s.name] = (math.prod(shape),) if shape else ()
        if self._plan.adaptive_clip is not None and self._plan.clip is not None:
            public[f"{BIT}.sd"], cells[BIT] = bit_share(self._plan), ()
        return public, cells


def _called(content: RecordDict) -> tuple[int, str, int]:
    """Return the client, version and numerics in a reply to the roll call.

    Raises
    ------
    ValueError
        If the reply has any other content.
    """
    if set(content) != {"roll-call"} or set(answer := content.config_records["roll-call"]) != {
        *("partition-id", "fedtoll", "numerics"),
    }:
        raise ValueError("not a roll call")
    index, version, numerics = answer["partition-id"], answer["fedtoll"], answer["numerics"]
    if type(index) is not int or not isinstance(version, str) or type(numerics) is not int:
        raise ValueError("not a roll call")
    return index, version, numerics


def _check_names(content: RecordDict) -> None:
    if set(content) != RECORDS:
        raise ValueError(f"records {sorted(content)} instead of {sorted(RECORDS)}")


def _difference(reported: Sequence[Release], charged: Sequence[Release]) -> str:
    for a, b in itertools.zip_longest(reported, charged):
        if a != b:
            return f"{a}, the server's {b}"
    return "nothing else"


def _round(message: Message) -> int:
    return int(clients.only(ConfigRecord, message.content)["server-round"])  # type: ignore[arg-type]


def shortened(reason: str) -> str:
    """Return a one-line reason, cut to ``LONGEST_REASON`` characters.

    Examples
    --------
    >>> shortened("the reply is missing"), len(shortened("x" * 1000))
    ('the reply is missing', 200)
    """
    return reason if len(reason) <= LONGEST_REASON else f"{reason[: LONGEST_REASON - 1]}…"


def never_released(run: Run, rounds: Sequence[int], skipped: Container[int]) -> str:
    """Return the name of a statistic that a client has never released, or an empty string.

    ``rounds`` are those in which it took part, with this one, and ``skipped`` those of skipped replies.
    Between releases strategies see the last one. If a client's replies were skipped whenever the statistic
    was due, there is no last one, and no value is substituted.
    """
    for statistic in run.statistics:
        if not statistic.due(len(rounds)) and all(t in skipped for t in rounds[:: statistic.every]):
            return statistic.name
    return ""
