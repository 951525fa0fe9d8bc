"""A central baseline that a setting adds to the scenario's strategies: another private mechanism."""

from __future__ import annotations

from typing import Literal

from fedtoll.scenarios.fields import Positive, Section

OBJECTIVE_PERTURBATION = "objective-perturbation"
"""The name of the baseline, which claims use in place of a strategy's label."""


class Baseline(Section):
    """Logistic regression with objective perturbation (Chaudhuri, Monteleoni and Sarwate 2011).

    It is trained for every ε and seed of the setting, on the same records as the strategies. At ε = ∞ it is
    the same model without noise. Needs a partition with one client and a binary label.

    Parameters
    ----------
    kind
        The mechanism.
    regularisation
        The weight λ of ½‖w‖² beside the summed loss, on features as encoded: scikit-learn's 1 / C.
    """

    kind: Literal["objective-perturbation"]
    regularisation: Positive = 1.0
