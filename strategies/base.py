"""The interface of an aggregation strategy.

A strategy is a small frozen dataclass: its fields are its parameters, its
memory comes in and goes out as ``state`` (a dict of plain arrays and
numbers), and it computes with numpy only. Most strategies write
:meth:`Strategy.weigh` and nothing else::

    @dataclass(frozen=True)
    class Largest(Strategy):
        '''All weight to the client with the most records.'''

        def weigh(self, reports, state):
            sizes = np.array([r.size for r in reports])
            return (sizes == sizes.max()) / (sizes == sizes.max()).sum(), state

What a strategy sees is private already or public: no held-out record, no
un-noised number about a client's records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedtoll.scenarios.statistics import Estimate, Statistic

Arrays = tuple[NDArray[np.floating], ...]
"""Parameters of a model, or an update of them: one array for each tensor."""

Instructions = Mapping[str, float | Sequence[float]]
"""What clients are told beside the parameters."""

State = dict[str, Any]
"""A strategy's memory: plain arrays and numbers, keyed by name."""

Weights = NDArray[np.float64]
"""One number for each client of the cohort, in the order of its reports."""


@dataclass(frozen=True)
class Member:
    """What is public about one client of the cohort.

    Parameters
    ----------
    client
        Its number.
    size
        Its public size n_k, in records.
    group
        The group that the plan declares for it.
    """

    client: int
    size: int
    group: str


@dataclass(frozen=True)
class Report:
    """What one client sent in one round, as a strategy may see it.

    Parameters
    ----------
    client, size, group
        As in :class:`Member`.
    update
        Δ_k = w_k − w^t, the change of every parameter.
    statistics
        The declared statistics by name: value and standard deviation of the noise.
    epsilon
        ε that this client has spent so far, this round included.
    noise_variance
        Variance v_k of the DP-SGD noise in each coordinate of ``update``
        (plain local SGD: T · (η σ C / B)²); 0 where nothing is noised.
    learning_rate
        η of the client's local SGD, a public constant of the plan.
    """

    client: int
    size: int
    group: str
    update: Arrays
    statistics: Mapping[str, Estimate] = field(default_factory=dict)
    epsilon: float = 0.0
    noise_variance: float = 0.0
    learning_rate: float = 1.0


@dataclass(frozen=True)
class Strategy:
    """Base of all strategies; by itself it is abstract, for :meth:`weigh` must be written."""

    @property
    def requests(self) -> tuple[Statistic, ...]:
        """The private statistics that this strategy asks of every client in every round."""
        return ()

    def init(self, cohort: Sequence[Member]) -> State:
        """Return the memory before the first round."""
        return {}

    def instructions(self, round: int, state: State) -> Instructions:
        """Return what clients are told beside the parameters.

        They understand ``proximal_mu`` (μ of FedProx; the term is added after the noise) and
        ``group_weights`` (one weight ≥ 0 for each group of the scenario, in its order: every record's
        loss is multiplied by its group's weight, inside the clip).
        """
        return {}

    def weigh(self, reports: Sequence[Report], state: State) -> tuple[Weights, State]:
        """Return one weight for each report, on the simplex, and the new memory."""
        raise NotImplementedError(f"{type(self).__name__} must define weigh(reports, state)")

    def combine(
        self, params: Arrays, reports: Sequence[Report], weights: Weights, state: State
    ) -> tuple[Arrays, State, Weights]:
        """Build the next model, by default w + Σ_k p_k Δ_k.

        Returns
        -------
        tuple
            The next parameters, the new memory, and the coefficient a_k with
            which each update entered (for the record; here the weights).
        """
        combined = tuple(
            (
                p + sum(w * r.update[i].astype(np.float64) for w, r in zip(weights, reports, strict=True))
            ).astype(p.dtype)
            for i, p in enumerate(params)
        )
        return combined, state, weights

    def output(self, params: Arrays, state: State) -> Arrays:
        """Return the model to evaluate and to keep, by default the current one."""
        return params


def remember(state: State, reports: Sequence[Member | Report], **values: Weights) -> State:
    """Return the memory with one number for each client under each name, whatever the reports' order.

    Examples
    --------
    >>> cohort = [Member(7, 30, "a"), Member(2, 10, "b")]
    >>> remember({}, cohort, share=np.array([0.75, 0.25]))
    {'client': array([2, 7]), 'share': array([0.25, 0.75])}
    """
    clients = np.array([r.client for r in reports], dtype=np.int64)
    order = np.argsort(clients)
    return {**state, "client": clients[order], **{name: v[order] for name, v in values.items()}}


def recall(state: State, reports: Sequence[Member | Report], name: str) -> Weights:
    """Return what :func:`remember` kept under a name, in the order of these reports.

    Examples
    --------
    >>> cohort = [Member(7, 30, "a"), Member(2, 10, "b")]
    >>> recall(remember({}, cohort, share=np.array([0.75, 0.25])), cohort[::-1], "share")
    array([0.25, 0.75])
    """
    place = {int(client): i for i, client in enumerate(state["client"])}
    return np.asarray(state[name])[[place[r.client] for r in reports]]


def sizes(members: Sequence[Member | Report]) -> Weights:
    """Return p⁰_k = n_k / n over the public sizes.

    Examples
    --------
    >>> sizes([Member(0, 30, "a"), Member(1, 10, "b")])
    array([0.75, 0.25])
    """
    n: Weights = np.array([m.size for m in members], dtype=np.float64)
    return np.asarray(n / n.sum())
