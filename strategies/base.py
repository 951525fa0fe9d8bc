"""The interface of an aggregation strategy.

A strategy is a small frozen dataclass: its fields are its parameters, its
memory comes in and goes out as ``state`` (a dict of plain arrays, numbers
and texts), and it computes with numpy only. Most strategies write
``Strategy.weigh`` and nothing else:

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
"""A strategy's memory: plain arrays, numbers and texts by name, and nothing nested."""

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
        The group that the plan declares for its records; ``""`` for a client of mixed records.
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
        As in ``Member``.
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
    """Base of all strategies; by itself it is abstract, for ``weigh`` must be written."""

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


def pair(answer: Any) -> tuple[Weights, State]:
    """Return what ``weigh`` returned, if it is weights and a memory.

    Raises
    ------
    TypeError
        It is something else: most often the memory was forgotten.

    Examples
    --------
    >>> pair(np.array([0.5, 0.5]))
    Traceback (most recent call last):
    TypeError: weigh must return (weights, state), and returned ndarray
    """
    if not (isinstance(answer, tuple) and len(answer) == 2):
        what = type(answer).__name__ + (f" of {len(answer)}" if isinstance(answer, tuple) else "")
        raise TypeError(f"weigh must return (weights, state), and returned {what}")
    return answer


def remember(state: State, reports: Sequence[Member | Report], **values: Weights) -> State:
    """Return the memory with one number for each client under each name, whatever the reports' order.

    A client that is not among the reports keeps the number that it had.

    Examples
    --------
    >>> cohort = [Member(7, 30, "a"), Member(2, 10, "b")]
    >>> state = remember({}, cohort, share=np.array([0.75, 0.25]))
    >>> state
    {'share.clients': array([2, 7]), 'share': array([0.25, 0.75])}
    >>> remember(state, cohort[:1], share=np.array([0.5]))
    {'share.clients': array([2, 7]), 'share': array([0.25, 0.5 ])}
    """
    merged = dict(state)
    for name, given in values.items():
        kept = dict(zip(state.get(f"{name}.clients", ()), state.get(name, ()), strict=True))
        kept |= zip((r.client for r in reports), given, strict=True)
        clients = sorted(kept)
        merged[f"{name}.clients"] = np.array(clients, dtype=np.int64)
        merged[name] = np.array([kept[client] for client in clients])
    return merged


def recall(state: State, reports: Sequence[Member | Report], name: str) -> Weights:
    """Return what ``remember`` kept under a name, in the order of these reports.

    Examples
    --------
    >>> cohort = [Member(7, 30, "a"), Member(2, 10, "b")]
    >>> recall(remember({}, cohort, share=np.array([0.75, 0.25])), cohort[::-1], "share")
    array([0.25, 0.75])
    """
    place = {int(client): i for i, client in enumerate(state[f"{name}.clients"])}
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
