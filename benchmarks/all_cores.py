"""(e) ours on all cores: a piece of the sweep, or all of it, in a fresh process through the executor.

``python -m benchmarks.all_cores RUNS ROUNDS`` is what is timed from outside: imports, the plan of the whole
sweep, worker processes, training, and the results on disk.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import measure


def piece(runs: int, rounds: int, *, calibrate: bool = False) -> dict[str, Any]:
    """Train the sweep's first ``runs`` runs in its own order, seed by seed, in a fresh process.

    Parameters
    ----------
    runs, rounds
        How many, and how long each.
    calibrate
        Begin without any noise calibrated, as the first command on a machine does.

    Returns
    -------
    dict
        ``total`` seconds, and of these ``plan`` and ``train`` (the rest is imports), ``runs`` and
        ``workers``.
    """
    with tempfile.TemporaryDirectory(prefix="bench-cache-") as folder:
        environment = {}
        if calibrate:
            _records_only(Path(folder))
            environment["FEDTOLL_DATA"] = folder
        start = time.perf_counter()
        said = measure.child("benchmarks.all_cores", str(runs), str(rounds), environment=environment)
        return {"total": time.perf_counter() - start, "runs": runs, **json.loads(said)}


def _records_only(folder: Path) -> None:
    """Make a cache that holds the records and no calibration."""
    from fedtoll.scenarios import data
    from fedtoll.scenarios.data.archive import cache_file

    file = cache_file(data.builtin("adult"))
    (folder / file.name).symlink_to(file.resolve())


def main(runs: int, rounds: int) -> None:
    """Plan the sweep, train a piece of it on all cores, print how long both took."""
    from benchmarks import work
    from fedtoll.server.executor import execute
    from fedtoll.server.store import Store

    start = time.perf_counter()
    planned = work.sweep(rounds)
    planning = time.perf_counter() - start
    chosen = sorted(planned, key=lambda run: run.seed)[:runs]
    with tempfile.TemporaryDirectory(prefix="bench-sweep-") as folder:
        store = Store(Path(folder))
        start = time.perf_counter()
        failures = execute(chosen, store, executor="processes")
        training = time.perf_counter() - start
        if failures or not all(store.has(run) for run in chosen):
            raise RuntimeError(f"{len(failures)} of {runs} runs failed: {failures[:1]}")
    print(json.dumps({"plan": planning, "train": training, "workers": min(measure.cores(), runs)}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
