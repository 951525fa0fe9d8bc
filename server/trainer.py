"""Train runs in this process, alone or in step, reusing what they share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from fedtoll.scenarios.errors import RunError, ScenarioError
from fedtoll.scenarios.federation import Federation
from fedtoll.scenarios.foreign import contained
from fedtoll.scenarios.run import Run

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fedtoll.clients.failures import Failure
    from fedtoll.clients.train import Clients, Round
    from fedtoll.server.app import Look
    from fedtoll.server.grid import LocalGrid
    from fedtoll.server.personal import OwnModels
    from fedtoll.server.tables import Tables


_log = logging.getLogger("fedtoll")

Result = TypeVar("Result")

Failed = Exception | SystemExit
"""What a run may raise, with the code of a strategy or model."""


@dataclass(frozen=True, eq=False)
class Final:
    """What is scored after the last round.

    The server's model, the own model of every client that keeps one, by id, and what a calibration adds to
    the logits of every group.
    """

    model: tuple[NDArray[Any], ...]
    own: OwnModels
    offsets: NDArray[np.float64] | None = None


class Trainer:
    """Trains runs in this process, and caches what they share: records, engines and the draws of a seed.

    A trainer that was sent to another process resolves the records again, from the first run that it trains.
    Torch and Flower are imported when the first run is trained.

    Parameters
    ----------
    federation
        The records. If not given, they are resolved from the first run.
    """

    def __init__(self, federation: Federation | None = None) -> None:
        self._federation = federation
        self._clients: Clients | None = None

    def __reduce__(self) -> tuple[type[Trainer], tuple[()]]:
        """Pickle without the records, which another process resolves from the run."""
        return Trainer, ()

    @property
    def clients(self) -> Clients:
        """The clients in this process."""
        if self._clients is None:
            from fedtoll.clients.train import Clients

            self._clients = Clients(self._federation)
        return self._clients

    def train(self, run: Run, look: Look | None = None) -> Tables:
        """Train one run with all its clients in this process.

        Parameters, tables and errors are those of :func:`fedtoll.server.app.federate`.
        """
        from fedtoll.server.app import federate

        return self._alone(run, lambda grid: federate(grid, run, look, self.clients.federation(run)))

    def train_together(self, runs: Sequence[Run]) -> list[Tables | Failed]:
        """Train several runs in step, which is faster if they share a seed.

        Returns
        -------
        list
            The tables of each run, the same as those of :meth:`train`, or what it raised.
        """
        from fedtoll.server.app import federate

        return self._together(runs, lambda run, grid: federate(grid, run, None, self.clients.federation(run)))

    def final_models(self, runs: Sequence[Run]) -> list[Final | Failed]:
        """Train several runs in step, and return their models after the last round, or what they raised.

        The models are those of :meth:`train`, without the measures of every round, which take time.
        """
        return self._together(runs, self._final_model)

    def _final_model(self, run: Run, grid: LocalGrid) -> Final:
        from fedtoll.server.app import TIMEOUT, fit
        from fedtoll.server.calibration import calibrate

        last: dict[str, tuple[NDArray[Any], ...]] = {}
        own: OwnModels = {}
        federation = self.clients.federation(run)
        strict, _ = fit(grid, run, lambda round, model: last.update(model=model), federation, own)
        if run.calibration is None:
            return Final(last["model"], own)
        offsets = calibrate(grid, strict, run, last["model"], run.timeout or TIMEOUT)
        return Final(last["model"], own, offsets.values)

    def _alone(self, run: Run, serve: Callable[[LocalGrid], Result]) -> Result:
        """Serve one run over a Grid of the clients in this process."""
        from fedtoll.server.grid import LocalGrid

        _refuse(run)
        self.clients.failures.clear()
        with _explained(run, self.clients.failures):
            return serve(LocalGrid(run, self.clients.train))

    def _together(
        self, runs: Sequence[Run], serve: Callable[[Run, LocalGrid], Result]
    ) -> list[Result | Failed]:
        """Serve several runs in step, each over a Grid of its own; a single run in this thread."""
        if len(runs) == 1:
            try:
                with contained():  # the code of a strategy or model may not be fedtoll's
                    return [self._alone(runs[0], partial(serve, runs[0]))]
            except (Exception, SystemExit) as error:
                return [error]
        from fedtoll.clients.train import Round
        from fedtoll.server.grid import LocalGrid
        from fedtoll.server.in_step import in_step

        def server(run: Run, ask: Callable[[Round], list[Any]]) -> Result:
            _refuse(run)
            failures: list[Failure] = []
            with _explained(run, failures):
                return serve(run, LocalGrid(run, lambda sent, contexts: ask(Round(sent, contexts, failures))))

        return list(in_step([partial(server, run) for run in runs], self.clients.train_together))


def _refuse(run: Run) -> None:
    """Raise ``ScenarioError`` if the records of the run's clients cannot be in this process."""
    if run.partition.kind == "declared":
        raise ScenarioError("partition.kind = 'declared': a client needs a SuperNode with its own file")


@contextmanager
def _explained(run: Run, failures: list[Failure]) -> Iterator[None]:
    """Show the experimenter what clients raised, which no server is told: they are in this process.

    Raises
    ------
    RunError
        If the run fails because a client did: the same line with the client's own error, which is also
        its cause.
    """
    from fedtoll.clients.failures import MOST_FAILURES, REASONS

    try:
        yield
    except RunError as error:
        if not failures or not any(reason in str(error) for reason in REASONS.values()):
            raise
        first = min(failures, key=lambda failure: (-failure.round, failure.client))
        raise RunError(f"{error}: {first.line}") from first.error
    if failures:
        first = failures[0]
        more = " or more" if len(failures) == MOST_FAILURES else ""
        where = f"round {first.round}, client {run.clients[first.client].id}: {first.line}"
        _log.warning("fedtoll: %s: %d%s replies failed, first %s", run.label, len(failures), more, where)


def simulate(run: Run, look: Look | None = None, federation: Federation | None = None) -> Tables:
    """Train one run with all its clients in this process, as :meth:`Trainer.train` does."""
    return Trainer(federation).train(run, look)
