"""Write the file of a new strategy: small, complete, and passing the conformance kit."""

from __future__ import annotations

from pathlib import Path

from fedtoll.scenarios import new_file
from fedtoll.strategies import registry

TEMPLATE = '''\
"""NAME: a strategy for fedtoll."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedtoll.scenarios.statistics import MeanLoss, Statistic
from fedtoll.strategies.base import Report, State, Strategy, Weights, sizes


@dataclass(frozen=True)
class CLASS(Strategy):
    """Weights clients partly by size and partly by loss: p_k = (1 − a) · n_k / n + a · F_k / Σ_j F_j.

    F_k is the mean loss of client k at the broadcast model. Noise can make it negative, so it is clamped
    to at least 0.01.

    Parameters
    ----------
    a
        The share of the weight given by loss, from 0 (FedAvg) to 1.
    """

    a: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.a <= 1:
            raise ValueError(f"a = {self.a}: must be between 0 and 1")

    @property
    def requests(self) -> tuple[Statistic, ...]:
        """What every client computes in every round: clipped, noised and charged to its ε."""
        return (MeanLoss(clip=1.0),)

    def weigh(self, reports: Sequence[Report], state: State) -> tuple[Weights, State]:
        """Return one weight per report (each ≥ 0, with sum 1) and the state for the next round."""
        loss = np.maximum([r.statistics["mean_loss"].value for r in reports], 0.01)
        return (1 - self.a) * sizes(reports) + self.a * loss / loss.sum(), state
'''


def write(name: str, folder: Path) -> tuple[Path, str]:
    """Write the file of a new strategy from the template.

    Parameters
    ----------
    name
        Lowercase letters and digits, with hyphens between words: ``my-strategy`` gives
        ``my_strategy.py`` with the class ``MyStrategy``.
    folder
        Where to write the file; created if it does not exist.

    Returns
    -------
    tuple
        The file and the name of its class.

    Raises
    ------
    ScenarioError
        If the name is invalid or taken, or the file exists or cannot be written. One line.
    """
    return new_file.write("strategy", name, folder, TEMPLATE, registry.names())
