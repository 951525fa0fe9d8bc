"""Models that a setting trains besides its runs, one for each run of its first strategy."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd

from fedtoll.scenarios.fields import Section
from fedtoll.scenarios.run import Run
from fedtoll.server.plan import Plan
from fedtoll.server.trainer import Trainer
from fedtoll.sweep import cache

Work = Callable[[Trainer, tuple[str, str]], pd.DataFrame]
"""Trains the model of one run; the run and the section are given as JSON. Returns measures by group."""


def table_of_groups(
    planned: Plan,
    section: Section,
    folder: Path,
    work: Work,
    *,
    executor: str = "processes",
    workers: int | None = None,
) -> pd.DataFrame:
    """Return the table of groups of all models; those stored in the folder are not trained again.

    Parameters
    ----------
    planned
        The setting; every ε and seed of its first strategy gets one model.
    section
        What the setting says about the models.
    folder
        The folder with the table of each model.
    work
        Trains one model; a module-level function.
    executor, workers
        How the models are distributed; they never change a result.

    Raises
    ------
    RunError
        If a model cannot be trained, or the folder cannot be written.
    """
    first = planned.runs[0].strategy.name
    runs = [run for run in planned.runs if run.strategy.name == first]
    files = {run.hash: file_of(folder, run, section) for run in runs}
    tables = cache.complete(
        {files[run.hash]: (run.to_json(), section.model_dump_json()) for run in runs},
        partial(work, Trainer(planned.federation)),
        load=pd.read_parquet,
        save=lambda file, table: table.to_parquet(file, index=False),
        executor=executor,
        workers=workers,
    )
    keyed = [
        # A row's mechanism says with or without noise here: claims look up a finite ε under "dp-sgd".
        tables[files[run.hash]].assign(
            mechanism=run.mechanism, epsilon=run.epsilon, seed=run.seed, round=run.rounds
        )
        for run in runs
    ]
    return pd.concat(keyed, ignore_index=True)


def file_of(folder: Path, run: Run, section: Section) -> Path:
    """Return the file of one model, whose name depends on the run and on what the section says."""
    key = hashlib.sha256(json.dumps([run.hash, section.model_dump()]).encode()).hexdigest()[:16]
    return folder / f"{key}.parquet"
