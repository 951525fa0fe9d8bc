"""The loss of a candidate on the validation part, which is declared public."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from fedtoll.scenarios.errors import RunError
from fedtoll.scenarios.measures import EVERYBODY
from fedtoll.scenarios.run import Run
from fedtoll.server.trainer import Failed, Trainer
from fedtoll.sweep.failures import named

Losses = dict[str, float]
"""The mean log-loss in nats on the validation part, by group and for everybody."""


def validation_losses(trainer: Trainer, texts: Sequence[str]) -> list[Losses | Exception]:
    """Train runs, given as JSON, and return the losses of their final models on the validation part.

    If a run diverged, its loss of everybody is NaN. If it failed otherwise, its error takes the place of its
    losses.
    """
    import torch

    torch.set_num_threads(1)
    runs = [Run.from_json(text) for text in texts]
    return [_losses(trainer, run, model) for run, model in zip(runs, trainer.final_models(runs), strict=True)]


def _losses(trainer: Trainer, run: Run, parameters: tuple[NDArray[Any], ...] | Failed) -> Losses | Exception:
    """Return the losses of one run's final model, or of a run that raised."""
    import torch

    from fedtoll.clients import losses, model

    if isinstance(parameters, RunError) and parameters.__cause__ is None:  # it diverged
        return {EVERYBODY: math.nan}
    if isinstance(parameters, Failed):
        return named(run, parameters)
    records = trainer.clients.federation(run).records(run.seed)
    features = torch.from_numpy(records.table.features[records.validation]).to(model.DTYPES[run.precision])
    module = model.build(run.model, features.shape[1], run.classes, run.precision)
    model.put(module, parameters)
    module.eval()
    with torch.no_grad():
        labels = torch.from_numpy(records.table.label[records.validation])
        nats = losses.per_example(module(features), labels).double().numpy()
    codes = records.groups.codes[records.validation]
    present = [(code, name) for code, name in enumerate(records.groups.names) if (codes == code).any()]
    by_group = {name: float(nats[codes == code].mean()) for code, name in present}
    return {**by_group, EVERYBODY: float(nats.mean())}
