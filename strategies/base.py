"""The interface of an aggregation strategy.

A strategy is a small frozen dataclass. Its fields are its parameters. What it
remembers between rounds is passed in and returned as ``state``, a dict of
plain arrays, numbers and strings. It computes with numpy only. Most
strategies define ``Strategy.weigh`` and nothing else:

    @dataclass(frozen=True)
    class Largest(Strategy):
        '''Give all weight to the client with the most records.'''

        def weigh(self, reports, state):
            sizes = np.array([r.size for r in reports])
            return (sizes == sizes.max()) / (sizes == sizes.max()).sum(), state

A strategy sees only public values and privatised ones: no held-out records,
and no number about a client's records without noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fedtoll.scenarios.statistics import Estimate, Statistic

Arrays = tuple[NDArray[np.floating], ...]
"""A model's parameters, or an update to them: one array per tensor."""

Instructions = Mapping[str, float | Sequence[float]]
"""What the server sends to clients in addition to the parameters."""

State = dict[str, Any]
"""What a strategy remembers between rounds: plain arrays, numbers and strings by name, never nested."""

Weights = NDArray[np.float64]
"""One number per client of the cohort, in the order of the reports."""


@dataclass(frozen=True)
class Member:
    """The public facts about one client of the cohort.

    Parameters
    ----------
    client
        The client's number.
    size
        Public size n_k, in records.
    group
        The group that the plan declares for all of the client's records; ``""`` if the client's records
        are mixed.
    """

    client: int
    size: int
    group: str


@dataclass(frozen=True)
class Report(Member):
    """A member, and what it sent in one round, as visible to a strategy.

    Parameters
    ----------
    update
        Δ_k = w_k − w^t, the change of every parameter.
    statistics
        The requested statistics by name: the value and the standard deviation of its noise.
    epsilon
        ε that this client has spent so far, including this round.
    noise_variance
        Variance v_k of the DP-SGD noise in each coordinate of ``update``
        (plain local SGD: T · (η σ C / B)²); 0 without noise.
    learning_rate
        η of the client's local SGD, a public constant of the plan.
    """

    update: Arrays
    statistics: Mapping[str, Estimate] = field(default_factory=dict)
    epsilon: float = 0.0
    noise_variance: float = 0.0
    learning_rate: float = 1.0


@dataclass(frozen=True)
class Strategy:
    """Base class of all strategies. It is abstract: subclasses define ``weigh``."""

    _revision: ClassVar[int] = 1
    """Raised whenever fedtoll changes what this strategy computes; part of a run's hash above 1."""

    _later: ClassVar[tuple[str, ...]] = ()
    """Parameters added after a release. With their default, they leave a run's hash as it was."""

    @property
    def requests(self) -> tuple[Statistic, ...]:
        """The private statistics that every client computes for this strategy in every round."""
        return ()

    def unsuited(self, classes: int) -> str:
        """Return why the strategy cannot run in a scenario with so many classes; by default "": it can."""
        return ""

    def init(self, cohort: Sequence[Member]) -> State:
        """Return the state before the first round."""
        return {}

    def begin(self, round: int, members: Sequence[Member], state: State) -> State:
        """Return the state at the start of a round in which these members take part, before instructions.

        Without ``[participation]`` all members of ``init`` take part in every round. Rounds in which nobody
        does are left out, and the model stays as it is.
        """
        return state

    def instructions(self, round: int, state: State) -> Instructions:
        """Return what to send to the clients in addition to the parameters.

        Clients accept ``proximal_mu`` (μ of FedProx, whose term is added after the noise) and
        ``group_weights`` (one weight ≥ 0 for each group, in the scenario's order, or one for each group and
        label, group after group: a record's loss is multiplied by it before its gradient is clipped) and
        ``score_weights`` (one number c of any sign for each group: c p is added to a record's loss before its
        gradient is clipped, where p is the model's probability of class 1; with two classes only).
        """
        return {}

    def public_weights(self, cohort: Sequence[Member]) -> Weights:
        """Return one weight per client (each > 0, with sum 1) from public facts alone.

        Where the server sees sums only (``privacy.trust``), clients are weighted before they are added up.
        The strategy then sees a cohort of one member and one report, that of the sum. A strategy whose
        weights depend on what single clients report must not define this method.
        """
        raise NotImplementedError(f"{type(self).__name__} has no public weights")

    def weigh(self, reports: Sequence[Report], state: State) -> tuple[Weights, State]:
        """Return one weight per report (each ≥ 0, with sum 1) and the new state."""
        raise NotImplementedError(f"{type(self).__name__} must define weigh(reports, state)")

    def combine(
        self, params: Arrays, reports: Sequence[Report], weights: Weights, state: State
    ) -> tuple[Arrays, State, Weights]:
        """Build the next model, by default w + Σ_k p_k Δ_k.

        Returns
        -------
        tuple
            The next parameters, the new state, and the coefficient a_k of each
            update (recorded in the results; by default the weights).
        """
        combined = tuple(
            (
                p + sum(w * r.update[i].astype(np.float64) for w, r in zip(weights, reports, strict=True))
            ).astype(p.dtype)
            for i, p in enumerate(params)
        )
        return combined, state, weights

    def output(self, params: Arrays, state: State) -> Arrays:
        """Return the model to evaluate and to save, by default the current one."""
        return params


def weights_and_state(returned: Any) -> tuple[Weights, State]:
    """Check that ``weigh`` returned a pair of weights and state, and return it.

    Raises
    ------
    TypeError
        If it returned anything else; most often the state was forgotten.

    Examples
    --------
    >>> weights_and_state(np.array([0.5, 0.5]))
    Traceback (most recent call last):
    TypeError: weigh must return (weights, state), but returned ndarray
    """
    if not (isinstance(returned, tuple) and len(returned) == 2):
        what = type(returned).__name__ + (f" of {len(returned)}" if isinstance(returned, tuple) else "")
        raise TypeError(f"weigh must return (weights, state), but returned {what}")
    return returned


def remember(state: State, reports: Sequence[Member | Report], **values: Weights) -> State:
    """Return the state with one number per client stored under each name, sorted by client.

    The order of the reports does not matter. Clients that are not among them keep their stored number.

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
    for name, new in values.items():
        stored = dict(zip(state.get(f"{name}.clients", ()), state.get(name, ()), strict=True))
        stored |= zip((r.client for r in reports), new, strict=True)
        clients = sorted(stored)
        merged[f"{name}.clients"] = np.array(clients, dtype=np.int64)
        merged[name] = np.array([stored[client] for client in clients])
    return merged


def recall(state: State, reports: Sequence[Member | Report], name: str) -> Weights:
    """Return the numbers that ``remember`` stored under a name, in the order of these reports.

    Examples
    --------
    >>> cohort = [Member(7, 30, "a"), Member(2, 10, "b")]
    >>> recall(remember({}, cohort, share=np.array([0.75, 0.25])), cohort[::-1], "share")
    array([0.25, 0.75])
    """
    index = {int(client): i for i, client in enumerate(state[f"{name}.clients"])}
    return np.asarray(state[name])[[index[r.client] for r in reports]]


def sizes(members: Sequence[Member | Report]) -> Weights:
    """Return each client's share of the records, p⁰_k = n_k / n, from the public sizes.

    Examples
    --------
    >>> sizes([Member(0, 30, "a"), Member(1, 10, "b")])
    array([0.75, 0.25])
    """
    n: Weights = np.array([m.size for m in members], dtype=np.float64)
    return np.asarray(n / n.sum())
