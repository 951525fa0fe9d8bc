"""The loss of a candidate on the validation part, which is declared public."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedtoll.scenarios.errors import DivergedError
from fedtoll.scenarios.federation import Records
from fedtoll.scenarios.measures import EVERYBODY
from fedtoll.scenarios.run import Run
from fedtoll.server.trainer import Failed, Final, Trainer
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
    return [_losses(trainer, run, final) for run, final in zip(runs, trainer.final_models(runs), strict=True)]


def _losses(trainer: Trainer, run: Run, final: Final | Failed) -> Losses | Exception:
    """Return the losses of one run's final model, or of a run that raised."""
    if isinstance(final, DivergedError):
        return {EVERYBODY: math.nan}
    if isinstance(final, Failed):
        return named(run, final)
    federation = trainer.clients.federation(run)
    records = federation.records(run.seed)
    nats = np.empty(len(records.validation))
    if run.personal is None:
        nats[:] = _nats(run, records, records.validation, final.model, final.offsets)
    else:  # each record by the own model of the client that it would be dealt to
        owners = federation.owners(records.validation, run.seed)
        for place, client in enumerate(run.clients):
            mine = owners == place
            nats[mine] = _nats(run, records, records.validation[mine], final.own[client.id])
    codes = records.groups.codes[records.validation]
    present = [(code, name) for code, name in enumerate(records.groups.names) if (codes == code).any()]
    by_group = {name: float(nats[codes == code].mean()) for code, name in present}
    return {**by_group, EVERYBODY: float(nats.mean())}


def _nats(
    run: Run,
    records: Records,
    rows: NDArray[np.int64],
    parameters: Sequence[NDArray[Any]],
    offset_G: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Return the log-loss of a model on each of some rows, with an offset of each group's logits."""
    import torch

    from fedtoll.clients import losses, model

    features = torch.from_numpy(records.table.features[rows]).to(model.DTYPES[run.precision])
    module = model.build(run.model, features.shape[1], run.classes, run.precision)
    model.put(module, parameters)
    module.eval()
    with torch.no_grad():
        labels = torch.from_numpy(records.table.label[rows])
        logits = module(features)
        if offset_G is not None:
            logits = logits.double() + torch.from_numpy(offset_G[records.groups.codes[rows]]).unsqueeze(1)
        nats: NDArray[np.float64] = losses.per_example(logits, labels).double().numpy()
        return nats
