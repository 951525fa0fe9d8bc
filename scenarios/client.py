"""What clients do to their gradients before they leave: the section ``[client]``, and its place in a run."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import ConfigDict, Field, model_validator

from fedtoll.scenarios.errors import nearest
from fedtoll.scenarios.fields import Section

PLAIN = "dp-sgd"
"""Plain DP-SGD, the default: every gradient is clipped to ``training.clip``."""


class Client(Section):
    """How a client scales the gradients of a batch, and takes its steps.

    ``mechanism``: a name, ``file.py:Class`` or ``package.module:Class``; all other keys of the section are
    parameters of the mechanism. ``statistic_share``: the share of a step's privacy that goes to the counts
    that a mechanism releases with the gradient, s in z₁ = z / √s. ``momentum``: v ← β v + g̃, with v = 0 at
    the start of a round; it uses noised gradients, so it costs nothing.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    mechanism: str = PLAIN
    statistic_share: Annotated[float, Field(strict=True, gt=0, lt=1)] = 0.01
    momentum: Annotated[float, Field(strict=True, ge=0, lt=1)] = 0.0

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters of the mechanism that the scenario states."""
        return dict(self.model_extra or {})

    @model_validator(mode="after")
    def _check(self) -> Client:
        if self.mechanism == PLAIN and self.parameters:
            key = next(iter(self.parameters))
            raise ValueError(f"{key}: unknown key{nearest(key, type(self).model_fields)}")
        return self


class MechanismPlan(Section):
    """A resolved mechanism: the path of its class, its parameters, and a digest of source outside fedtoll.

    ``path`` is empty for plain DP-SGD, which a run states only if it has momentum. ``statistic_share`` is 0
    if no statistic is released.
    """

    name: str
    path: str = ""
    parameters: dict[str, Any] = Field(default_factory=dict)
    digest: str = ""
    statistic_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0

    def gradient_noise(self, noise_multiplier: float) -> float | None:
        """Return z / √(1 − s), the noise of the gradient in units of its bound, for the z that is charged.

        ``None`` if the gradient has all of it.
        """
        if not self.statistic_share:
            return None
        return noise_multiplier / math.sqrt(1.0 - self.statistic_share)


def check(scenario: Any) -> None:
    """Raise ``ValueError`` in one line if ``[client]`` or a public start does not go with other sections."""
    client, training, tune = scenario.client, scenario.training, scenario.tune
    if training.pull and training.start != "public":
        raise ValueError(f"training.pull = {training.pull:g}: needs training.start = 'public', to pull to")
    if training.start == "public" and not scenario.split.validation:
        raise ValueError("training.start = 'public': needs split.validation, the share of public records")
    trust = scenario.privacy.trust
    if scenario.personal is not None and (client.mechanism != PLAIN or client.momentum):
        raise ValueError(
            "client: not with [personal]: own models take steps besides, for which a mechanism has no state "
            "and momentum no start"
        )
    if client.mechanism != PLAIN and trust != "local":
        raise ValueError(
            f"client.mechanism = {client.mechanism!r}: not with privacy.trust = {trust!r}: the noise of the "
            "sum is calibrated to training.clip alone, and a mechanism's counts are each client's own"
        )
    if client.momentum:
        steps = {training.local_steps, *(tune.local_steps if tune else ())}
        if 1 in steps:
            raise ValueError(
                f"client.momentum = {client.momentum:g}: has no effect with one local step, because it "
                "starts at 0 in every round; use more steps, or the strategy fedavgm"
            )
