"""Engines compute local training: one file per engine, with one interface.

Torch and Opacus are imported only when an engine is chosen or created.
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
    training: Training, model: Model, inputs: int, classes: int, *, separate: bool = False
) -> tuple[Name, Device]:
    """Return the engine and the device that will train a model.

    Parameters
    ----------
    training, model, inputs, classes
        Sections of the scenario, and its numbers of features and classes.
    separate
        Whether each client trains in its own process.

    Raises
    ------
    ScenarioError
        If the scenario demands an engine or a device that cannot train the model.
    """
    import torch

    from fedtoll.clients.engines.cohort import refusal
    from fedtoll.clients.model import build

    module = build(model, inputs, classes)
    if ":" in model.kind:
        from fedtoll.clients.engines import opacus

        if reason := opacus.refusal(build(model, inputs, classes), inputs):
            raise ScenarioError(f"model.kind = {model.kind!r}: DP-SGD cannot train it: {reason}")
    reason = "clients train in separate processes" if separate else refusal(module)
    if training.engine == "cohort" and reason:
        raise ScenarioError(f"training.engine = 'cohort': cannot train here: {reason}; use 'opacus'")
    name: Name = "opacus" if reason or training.engine == "opacus" else "cohort"
    cuda = torch.cuda.is_available()
    if training.device == "cuda" and not (cuda and name == "cohort"):
        reason = "no GPU found" if not cuda else "the opacus engine runs on the processor"
        raise ScenarioError(f"training.device = 'cuda': {reason}; use 'cpu'")
    device: Device = "cuda" if name == "cohort" and cuda and training.device != "cpu" else "cpu"
    return name, device


def make_engine(name: Name, device: Device = "cpu") -> Engine:
    """Return a new engine. It caches what the runs of one seed share, so reuse it between runs."""
    if name == "opacus":
        from fedtoll.clients.engines.opacus import OpacusEngine

        return OpacusEngine()
    from fedtoll.clients.engines.cohort import CohortEngine

    return CohortEngine(device)
