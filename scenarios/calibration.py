"""A last private release by group, with which the server corrects each group's offset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from fedtoll.scenarios.fields import Positive, Section


class Calibration(Section):
    """After the last round, every client releases its residuals by group, and the server corrects offsets.

    Parameters
    ----------
    noise_multiplier
        z of the release, whose sensitivity is 1. It is charged to the same ε as everything else.
    prior
        The standard deviation of offsets that is expected before anything is known, in logits. Noisy
        offsets are shrunk accordingly.
    """

    noise_multiplier: Positive = 20.0
    prior: Positive = 0.5


class CalibrationPlan(Section):
    """The release of a run: z (0 without noise), and the prior."""

    noise_multiplier: float
    prior: float


@dataclass(frozen=True)
class GroupResidual:
    """The residual and the curvature of every group: ``value[g] = (Σ (y_i − p_i), Σ p_i (1 − p_i))``.

    y is the label, p the probability of the final model. They are the gradient and the second derivative of
    the log-likelihood of the group's records in an offset b_g of its logits, at b_g = 0.

    One record changes one group's pair by (y − p, p(1 − p)). For y = 1, the squared norm is
    (1 − p)² (1 + p²), which falls in p from 1 at p = 0; y = 0 mirrors it. So the L2 sensitivity is 1.
    """

    name: ClassVar[str] = "group_residual"

    def shape(self, groups: int) -> tuple[int, int]:
        """Return ``(groups, 2)``."""
        return (groups, 2)

    def sensitivity(self) -> float:
        """Return 1."""
        return 1.0


def check(scenario: Any) -> None:
    """Raise ``ValueError`` in one line if a calibration does not go with the scenario's other sections."""
    if scenario.calibration is None:
        return
    if scenario.personal is not None:
        raise ValueError(
            f"calibration: not with personal.kind = {scenario.personal.kind!r}: offsets are those of the "
            "server's model"
        )
    if (trust := scenario.privacy.trust) != "local":
        raise ValueError(
            f"privacy.trust = {trust!r}: must be 'local' with [calibration], which each client noises"
        )
    if (kind := scenario.participation.kind) != "all":
        raise ValueError(
            f"participation.kind = {kind!r}: must be 'all' with [calibration], for which all are asked"
        )
    if scenario.training.on_failure != "abort":
        raise ValueError(
            "training.on_failure = 'skip': must be 'abort' with [calibration]: an offset without a client "
            "is that of other records"
        )
    if scenario.tune is not None and scenario.tune.charge != "none":
        raise ValueError(f"tune.charge = {scenario.tune.charge!r}: must be 'none' with [calibration]")
