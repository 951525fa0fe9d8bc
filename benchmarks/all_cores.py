"""(e) fedtoll on all cores: a piece of the sweep, or all of it, by the executor in a fresh process.

The command ``python -m benchmarks.all_cores RUNS ROUNDS`` is timed from outside: imports, the plan of the
whole sweep, worker processes, training, and the results on disk.
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
    """Train the first ``runs`` runs of the sweep, seed by seed, in a fresh process.

    Parameters
    ----------
    runs, rounds
        Number of runs, and number of rounds of each.
    calibrate
        Start without any calibrated noise, like the first command on a machine.

    Returns
    -------
    dict
        ``total`` seconds, of which ``plan`` and ``train`` (the rest is imports), and the numbers of ``runs``
        and ``workers``.
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
    """Create a cache with the records but no calibrated noise."""
    from fedtoll.scenarios import data
    from fedtoll.scenarios.data.archive import cache_file

    file = cache_file(data.builtin("adult"))
    (folder / file.name).symlink_to(file.resolve())


def main(runs: int, rounds: int) -> None:
    """Plan the sweep, train a piece of it on all cores, and print the seconds of both."""
    from benchmarks import work
    from fedtoll.server.store import Store
    from fedtoll.sweep.executor import execute

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
