"""Write the file of a new client-side mechanism: small, complete, and passing the conformance kit."""

from __future__ import annotations

from pathlib import Path

from fedtoll.clients.clipping import registry
from fedtoll.scenarios import new_file

TEMPLATE = '''\
"""NAME: a client-side mechanism for fedtoll."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedtoll.clients.clipping.base import ClientMechanism, Codes, Floats, Public, clipped


@dataclass(frozen=True)
class CLASS(ClientMechanism):
    """A clip that doubles where more than a share of the gradients exceed it, and halves elsewhere.

    Parameters
    ----------
    share
        The share of gradients above the clip, from 0 to 1.
    most
        The largest clip, in units of training.clip.
    """

    share: float = 0.5
    most: float = 4.0

    def __post_init__(self) -> None:
        if not (0 <= self.share <= 1 and self.most >= 1):
            raise ValueError(f"share = {self.share}, most = {self.most}: must be from 0 to 1, and 1 or more")

    def cells(self, groups: int) -> int:
        """How many numbers are released of every batch: noised, and charged with the gradient."""
        return 1

    def init(self, public: Public) -> Floats:
        """The state before the first step."""
        return np.array([public.clip])

    def count(self, norms_N: Floats, groups_N: Codes, state: Floats, public: Public) -> Floats:
        """What each record adds to these numbers: one row per record, with a norm of at most 1."""
        return np.asarray(norms_N > public.clip, dtype=np.float64)[:, None]

    def update(self, noised_M: Floats, state: Floats, public: Public) -> Floats:
        """The next state, from the noised sums; divide by the public batch size, never by a true count."""
        above = noised_M[0] / public.batch_size > self.share
        return np.clip(state * (2.0 if above else 0.5), public.clip, self.most * public.clip)

    def scale(self, norms_N: Floats, groups_N: Codes, state: Floats, public: Public) -> Floats:
        """The factor of each gradient, which depends on its own norm, its group and the state."""
        return clipped(norms_N, state[0])

    def bound(self, state: Floats, public: Public) -> float:
        """The largest norm of a scaled gradient: noise is in proportion to it."""
        return float(state[0])
'''


def write(name: str, folder: Path) -> tuple[Path, str]:
    """Write the file of a new mechanism from the template.

    Parameters
    ----------
    name
        Lowercase letters and digits, with hyphens between words: ``my-clip`` gives ``my_clip.py`` with the
        class ``MyClip``.
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
    return new_file.write("mechanism", name, folder, TEMPLATE, registry.names())
