"""The interface of personal models: what a client trains, what it sends, and which model it keeps.

In every round a client has two models: the one that the server ``sent``, and the one that it ``kept``, which
before its first round is the server's. The engine

1. starts at :meth:`PersonalModel.begin`, takes the local steps of ``[training]``, with a pull towards the
   server's model if :attr:`PersonalModel.pull` is not 0, and sends :meth:`PersonalModel.send` of the result,
2. takes :attr:`PersonalModel.own_steps` further steps from :meth:`PersonalModel.own_begin`, with
   :attr:`PersonalModel.own_pull`, if there are any; the result never leaves the client for the server,
3. keeps :meth:`PersonalModel.keep`, and scores the client by :meth:`PersonalModel.score` of that.

Each step is one of DP-SGD on a Poisson batch of its own: gradients of records are clipped, noised and
charged, whichever model they train. A method of the class sees models only, all of which are the server's or
come from such steps. What it returns therefore costs no more than what it was given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Model = Sequence[NDArray[np.floating[Any]]]
"""A model: its parameter arrays, in the order of the module's."""


@dataclass(frozen=True)
class PersonalModel:
    """The base class: frozen dataclasses with parameters as fields. It trains as without a model of its own.

    Models that methods get cannot be written. What they return has the same number of arrays, of the same
    shapes. They must depend on their arguments alone: the model that a client keeps is its only memory.
    """

    @property
    def pull(self) -> float:
        """λ ≥ 0 of (λ/2) ‖w − sent‖², added to the loss of the steps that are sent; by default 0.

        The term depends on no record and is added after the noise. It is at most 1 / ``learning_rate``.
        """
        return 0.0

    @property
    def own_steps(self) -> int | None:
        """The steps that train only the client's own model; ``None`` if as many as the others, 0 by default.

        They are charged as the others are, so that all have more noise.
        """
        return 0

    @property
    def own_pull(self) -> float:
        """λ as in :attr:`pull`, for the own steps; by default 0."""
        return 0.0

    def begin(self, sent: Model, kept: Model) -> Model:
        """Return where the steps begin whose result is sent; by default at the server's model."""
        return sent

    def send(self, trained: Model, sent: Model) -> Model:
        """Return what is sent, by default all that was trained. An array of ``sent`` tells nothing."""
        return trained

    def own_begin(self, sent: Model, kept: Model) -> Model:
        """Return where the own steps begin; by default at the model that was kept."""
        return kept

    def keep(self, trained: Model, own: Model | None, sent: Model) -> Model:
        """Return the model to keep; by default the result of the own steps, or what was trained without any.

        ``own`` is ``None`` without own steps.
        """
        return trained if own is None else own

    def score(self, kept: Model, sent: Model) -> Model:
        """Return the model by which the client is scored after the round; by default the one it keeps."""
        return kept

    @property
    def usual(self) -> bool:
        """Whether clients send what they would without models of their own, so that any strategy will do."""
        mine, plain = type(self), PersonalModel
        return mine.begin is plain.begin and mine.pull is plain.pull and mine.send is plain.send


PLAIN = PersonalModel()
"""The base class itself."""


def joined(body: Model, head: Model, last: int) -> list[NDArray[np.floating[Any]]]:
    """Return a model whose ``last`` arrays are those of ``head``, and the others those of ``body``.

    Examples
    --------
    >>> a, b = [np.zeros(1), np.zeros(1)], [np.ones(1), np.ones(1)]
    >>> [array.tolist() for array in joined(a, b, 1)]
    [[0.0], [1.0]]
    """
    first = len(body) - last
    return [*body[:first], *head[first:]]


def mixed(a: Model, b: Model, share: float) -> list[NDArray[np.floating[Any]]]:
    """Return ``share`` · a + (1 − ``share``) · b, array by array.

    Examples
    --------
    >>> [array.tolist() for array in mixed([np.ones(2)], [np.zeros(2)], 0.25)]
    [[0.25, 0.25]]
    """
    return [share * x + (1.0 - share) * y for x, y in zip(a, b, strict=True)]
