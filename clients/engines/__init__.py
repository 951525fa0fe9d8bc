"""How local training is computed: one file an engine, behind one interface.

Torch and Opacus are imported when an engine is chosen or made, not before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.scenario import Model, Training

if TYPE_CHECKING:
    from fedtoll.clients.engines.base import Engine

Name = Literal["cohort", "opacus"]
Device = Literal["cpu", "cuda"]


def choose(
    training: Training, model: Model, inputs: int, classes: int, *, apart: bool = False
) -> tuple[Name, Device]:
    """Return the engine and the device that will train a model.

    Parameters
    ----------
    training, model, inputs, classes
        What the scenario says, and the shape of its records.
    apart
        Whether each client trains in a process of its own.

    Raises
    ------
    ScenarioError
        When the scenario insists on an engine or a device that cannot.
    """
    import torch

    from fedtoll.clients.engines.cohort import refusal
    from fedtoll.clients.model import build

    module = build(model, inputs, classes)
    if ":" in model.kind:
        from fedtoll.clients.engines import opacus

        if why := opacus.refusal(module, inputs):
            raise ScenarioError(f"model.kind = {model.kind!r}: DP-SGD cannot train it: {why}")
    reason = "clients train apart" if apart else refusal(module)
    if training.engine == "cohort" and reason:
        raise ScenarioError(f"training.engine = 'cohort': cannot train here: {reason}; use 'opacus'")
    name: Name = "opacus" if reason or training.engine == "opacus" else "cohort"
    cuda = torch.cuda.is_available()
    if training.device == "cuda" and not (cuda and name == "cohort"):
        why = "no GPU is there" if not cuda else "the opacus engine runs on the processor"
        raise ScenarioError(f"training.device = 'cuda': {why}; use 'cpu'")
    device: Device = "cuda" if name == "cohort" and cuda and training.device != "cpu" else "cpu"
    return name, device


def make_engine(name: Name, device: Device = "cpu") -> Engine:
    """Return a new engine by name. An engine caches what runs of one seed share: keep it between runs."""
    if name == "opacus":
        from fedtoll.clients.engines.opacus import OpacusEngine

        return OpacusEngine()
    from fedtoll.clients.engines.cohort import CohortEngine

    return CohortEngine(device)
