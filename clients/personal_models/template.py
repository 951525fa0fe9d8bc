"""Write the file of a new personal model: small, complete, and passing the conformance kit."""

from __future__ import annotations

from pathlib import Path

from fedtoll.clients.personal_models.registry import REGISTRY
from fedtoll.scenarios import new_file

TEMPLATE = '''\
"""NAME: a personal model for fedtoll."""

from __future__ import annotations

from dataclasses import dataclass

from fedtoll.clients.personal_models.base import Model, PersonalModel, mixed


@dataclass(frozen=True)
class CLASS(PersonalModel):
    """A model of its own besides the server's, scored as a mixture of both.

    A client trains the server's model and sends it, as without a model of its own. It keeps another, which
    further steps train. The mixture that scores it has a share of the own model.

    Parameters
    ----------
    share
        The share of the own model, from 0 to 1.
    steps
        The steps that train the own model in each round. They are charged, too: more steps, more noise.
    """

    share: float = 0.5
    steps: int = 2

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"share = {self.share}: must be from 0 to 1")

    @property
    def own_steps(self) -> int:
        """How many steps train only the own model; the default, 0, would be none."""
        return self.steps

    def own_begin(self, sent: Model, kept: Model) -> Model:
        """Where these steps begin: at the model that the client kept."""
        return kept

    def keep(self, trained: Model, own: Model | None, sent: Model) -> Model:
        """Which model the client keeps: what the own steps made, or what was sent if there are none."""
        return trained if own is None else own

    def score(self, kept: Model, sent: Model) -> Model:
        """Which model scores the client. A method sees noised models alone, so it cannot spend more."""
        return mixed(kept, sent, self.share)
'''


def write(name: str, folder: Path) -> tuple[Path, str]:
    """Write the file of a new personal model, as :func:`fedtoll.scenarios.new_file.write` does.

    Parameters
    ----------
    name
        Lowercase letters and digits, with hyphens between words: ``my-model`` gives ``my_model.py`` with the
        class ``MyModel``.
    folder
        Where to write the file; created if it does not exist.

    Returns
    -------
    tuple
        The file and the name of its class.
    """
    return new_file.write("personal-model", name, folder, TEMPLATE, REGISTRY.names())
