"""The loss of a candidate on the validation part, which is declared public."""

from __future__ import annotations

import math

from fedtoll.scenarios.errors import RunError
from fedtoll.scenarios.measures import EVERYBODY
from fedtoll.scenarios.run import Run
from fedtoll.server.trainer import Trainer
from fedtoll.sweep.failures import errors_name_run

Losses = dict[str, float]
"""The mean log-loss in nats on the validation part, by group and for everybody."""


def validation_losses(trainer: Trainer, text: str) -> Losses:
    """Train one run, given as JSON, and return the losses of its final model on the validation part.

    If the run diverged, the loss of everybody is NaN.
    """
    import torch

    from fedtoll.clients import losses, model

    torch.set_num_threads(1)
    run = Run.from_json(text)
    try:
        with errors_name_run(run):
            parameters = trainer.final_model(run)
    except RunError as error:
        if error.__cause__ is not None:  # an error in the code of a strategy or model, not divergence
            raise
        return {EVERYBODY: math.nan}
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
