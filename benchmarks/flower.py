"""(a) Flower + Ray + Opacus as their users write it: the app in ``flower_app/`` under ``flwr run``."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks import measure, work
from fedtoll.scenarios.run import Run

APP = Path(__file__).parent / "flower_app"
LOOK = 60.0
"""Seconds between two looks at whether a run failed: each is a command that takes a core for a second."""


@dataclass
class Flower:
    """A SuperLink with Flower's simulation on all cores, to time whole runs.

    Parameters
    ----------
    run
        The run whose rounds, clients and records are used.
    """

    run: Run
    start_up: float = 0.0
    accuracy: float = 0.0
    rounds: list[float] = field(default_factory=list)

    def __enter__(self) -> Flower:
        """Start the SuperLink; ``start_up`` has the seconds it took."""
        from fedtoll.sweep.superlink import superlink

        self._stack = ExitStack()
        self._home = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-flower-")))
        self._app = shutil.copytree(APP, self._home / "app", ignore=shutil.ignore_patterns("__pycache__"))
        self._records = work.export(self.run, self._home / "records.npz")
        start = time.perf_counter()
        self._flwr = self._stack.enter_context(superlink(self._home))
        self.start_up = time.perf_counter() - start
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the SuperLink and its processes."""
        self._stack.__exit__(kind, error, trace)

    def whole(self) -> float:
        """Return the seconds from ``flwr run`` until the app has written its result.

        Flower's own shutdown after that is awaited but not counted. Nothing polls Flower in between, because
        its command line would occupy a core.
        """
        result = self._home / "result.json"
        result.unlink(missing_ok=True)
        settings = {
            "records": str(self._records),
            "result": str(result),
            "clients": len(self.run.clients),
            "rounds": self.run.rounds,
            "learning-rate": self.run.learning_rate,
            "clip": self.run.clip,
        }
        federation = (
            f"num-supernodes={len(self.run.clients)} client-resources-num-cpus=1 "
            f"init-args-num-cpus={measure.cores()}"
        )
        start = time.perf_counter()
        started = self._ask(
            "run",
            str(self._app),
            "own",
            "--run-config",
            " ".join(f"{k}={json.dumps(v)}" for k, v in settings.items()),
            "--federation-config",
            federation,
        )
        run_id = str(started["run-id"])
        look = start + LOOK
        while not result.exists():
            if time.perf_counter() > look:
                if self._over(run_id) and not result.exists():
                    raise RuntimeError(f"flwr run ended without a result: {self._tail(run_id)}")
                look += LOOK
            time.sleep(0.05)
        took = time.perf_counter() - start
        said = json.loads(result.read_text())
        if said["trained"] != [len(self.run.clients)] * self.run.rounds:
            raise RuntimeError(f"flwr run lost clients: {said['trained']} trained; {self._tail(run_id)}")
        self.rounds += [b - a for a, b in zip(said["ends"], said["ends"][1:], strict=False)]
        self.accuracy = said["accuracy"]
        while not self._over(run_id):
            time.sleep(1)
        return took

    def _over(self, run_id: str) -> bool:
        (entry,) = self._ask("ls", "own", "--run-id", run_id)["runs"]
        return str(entry["status"]).startswith("finished")

    def _tail(self, run_id: str) -> str:
        return self._flwr("log", run_id, "own", "--show")[-1500:]

    def _ask(self, *arguments: str) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self._flwr(*arguments, "--format", "json"))
        return answer
