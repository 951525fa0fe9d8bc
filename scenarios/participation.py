"""Which clients take part in which round: a schedule that is drawn from public facts before the run.

Everybody knows the schedule, so nothing is gained by not knowing who takes part: a client's noise is
calibrated for the rounds in which the schedule has it, without amplification by client sampling.

``poisson`` is the exception. It is drawn from the run's own seed, as the noise is, and hidden from everybody
but a trusted server, so it amplifies (:mod:`fedtoll.scenarios.client_unit`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from fedtoll.scenarios.by_client import Named, by_client
from fedtoll.scenarios.fields import Rate, Section, Seed, only_with, without_default
from fedtoll.scenarios.streams import Purpose, stream

KEY = "participation.availability"


class Participation(Section):
    """Who takes part in a round.

    - ``all``: every client in every round
    - ``fraction``: a share of the clients, the same number in every round, drawn without replacement
    - ``availability``: each client with a probability of its own, by group or client; 1 for those not named
    - ``poisson``: each client with the same probability ``rate``, drawn in secret from the run's seed

    ``seed`` draws the other schedules, which are the same in every run of the scenario.
    """

    kind: Literal["all", "fraction", "availability", "poisson"] = "all"
    fraction: Rate | None = None
    availability: dict[str, Rate] = Field(default_factory=dict)
    rate: Rate | None = None
    seed: Seed = 0

    @model_serializer(mode="wrap")
    def _write(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out a later key that has its default, so that older runs keep their JSON and hash."""
        return without_default(handler(self), rate=None)

    @model_validator(mode="after")
    def _check(self) -> Participation:
        for key, given, kind in (
            ("fraction", self.fraction is not None, "fraction"),
            ("availability", bool(self.availability), "availability"),
            ("rate", self.rate is not None, "poisson"),
        ):
            only_with(key, given, self.kind == kind, f"kind = {kind!r}")
        if self.seed and self.kind == "poisson":
            raise ValueError("seed: not with kind = 'poisson', which is secret: the run's own seed draws it")
        if self.seed and self.kind == "all":
            raise ValueError("seed: needs kind = 'fraction' or 'availability'; nothing is drawn")
        return self


@dataclass(frozen=True, eq=False)
class Attendance:
    """Who takes part in which round.

    Parameters
    ----------
    present_TK
        Whether each client (by its position in the plan) takes part in each round.
    turns_TK
        In how many rounds up to this one each client takes part.
    """

    present_TK: NDArray[np.bool_]
    turns_TK: NDArray[np.int64]

    @staticmethod
    def draw(
        rule: Participation | None, clients: Sequence[Named], rounds: int, secret: int = 0
    ) -> Attendance:
        """Draw the schedule of all clients, in the order of the plan.

        A round has its own stream, so that a run with fewer rounds has the beginning of the same schedule.
        ``secret`` is the seed of the run, which draws a schedule that only a trusted server knows.

        Raises
        ------
        ScenarioError
            If an availability names no client, or does not say which client it belongs to.

        Examples
        --------
        >>> from fedtoll.scenarios.partition import Client
        >>> four = [Client(k, "a", 9) for k in range(4)]
        >>> Attendance.draw(Participation(kind="fraction", fraction=0.5), four, 3).present_TK.sum(1)
        array([2, 2, 2])
        """
        chances = chances_of(rule, clients)
        present = np.ones((rounds, len(clients)), dtype=np.bool_)
        if rule is not None and rule.kind != "all":
            purpose = Purpose.CLIENTS if rule.kind == "poisson" else Purpose.PARTICIPATION
            for t in range(rounds):
                rng = stream(secret if rule.kind == "poisson" else rule.seed, purpose, t + 1)
                if rule.kind in {"availability", "poisson"}:
                    present[t] = rng.random(len(clients)) < chances
                else:
                    chosen = rng.choice(len(clients), round(chances[0] * len(clients)), replace=False)
                    present[t] = np.isin(np.arange(len(clients)), chosen)
        return Attendance(present, np.cumsum(present, axis=0, dtype=np.int64))

    def clients(self, round: int) -> list[int]:
        """Return the positions of the clients that take part in a round, ascending."""
        found: list[int] = np.flatnonzero(self.present_TK[round - 1]).tolist()
        return found

    def turn(self, client: int, round: int) -> int:
        """Return the how-manieth of its rounds this is for the client at a position; 0 if it is none."""
        return int(self.turns_TK[round - 1, client]) if self.present_TK[round - 1, client] else 0

    def rounds(self, client: int, until: int | None = None) -> list[int]:
        """Return the rounds in which the client at a position takes part, at most ``until``."""
        found: list[int] = (np.flatnonzero(self.present_TK[:until, client]) + 1).tolist()
        return found

    def counts(self) -> list[int]:
        """Return in how many rounds each client takes part."""
        found: list[int] = self.turns_TK[-1].tolist()
        return found

    def next(self, round: int) -> int:
        """Return the first round from ``round`` in which somebody takes part, or the one after the last."""
        later = np.flatnonzero(self.present_TK[round - 1 :].any(axis=1))
        return round + int(later[0]) if len(later) else len(self.present_TK) + 1


def chances_of(rule: Participation | None, clients: Sequence[Named]) -> NDArray[np.float64]:
    """Return the share of the rounds in which each client is expected to take part.

    With ``fraction``, it is that of the whole number of clients, at least one.
    """
    if rule is None or rule.kind == "all":
        return np.ones(len(clients))
    if rule.kind == "availability":
        return np.array(by_client(KEY, rule.availability, clients))
    if rule.rate is not None:
        return np.full(len(clients), rule.rate)
    number = max(1, round((rule.fraction or 1.0) * len(clients)))
    return np.full(len(clients), number / len(clients))
