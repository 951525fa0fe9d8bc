"""The personal models that fedtoll has: MR-MTL, FedPer and Ditto."""

from __future__ import annotations

from dataclasses import dataclass

from fedtoll.clients.personal_models.base import Model, PersonalModel, joined


@dataclass(frozen=True)
class MRMTL(PersonalModel):
    """Mean-regularised multi-task learning (Liu, Hu, Wu and Smith 2022): the own model is sent.

    Each client goes on from its own model w, by DP-SGD on F(w) + (λ/2) ‖w − w̄‖², where w̄ is the server's.

    Parameters
    ----------
    strength
        λ.
    """

    strength: float

    @property
    def pull(self) -> float:
        """λ."""
        return self.strength

    def begin(self, sent: Model, kept: Model) -> Model:
        """Go on from the own model."""
        return kept


@dataclass(frozen=True)
class FedPer(PersonalModel):
    """Federated learning with personalisation layers (Arivazhagan et al. 2019): the head stays.

    Each client takes the body from the server, trains head and body together, and sends the body.

    Parameters
    ----------
    last
        The number of parameter arrays at the end of the model that make up the head.
    """

    last: int

    def begin(self, sent: Model, kept: Model) -> Model:
        """Join the server's body and the own head."""
        return joined(sent, kept, self.last)

    def send(self, trained: Model, sent: Model) -> Model:
        """Leave the head that the server has as it is."""
        return joined(trained, sent, self.last)


@dataclass(frozen=True)
class Ditto(PersonalModel):
    """Ditto (Li, Hu, Beirami and Smith 2021): an own model besides, pulled towards the server's.

    Each client trains the server's model w and sends it, as without a model of its own. It keeps v, which it
    then trains by DP-SGD on F(v) + (λ/2) ‖v − w‖², with w as it was received.

    Parameters
    ----------
    strength
        λ.
    steps
        The steps that train v in each round; by default as many as those that train w.
    """

    strength: float
    steps: int | None = None

    @property
    def own_steps(self) -> int | None:
        """The steps that train v."""
        return self.steps

    @property
    def own_pull(self) -> float:
        """λ."""
        return self.strength
