"""Train runs in this process, one after another, reusing what they share."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fedtoll.scenarios.errors import RunError, ScenarioError
from fedtoll.scenarios.federation import Federation
from fedtoll.scenarios.run import Run

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedtoll.clients.train import Clients
    from fedtoll.server.app import Look
    from fedtoll.server.tables import Tables


_log = logging.getLogger("fedtoll")


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
        from fedtoll.server.grid import LocalGrid

        grid = LocalGrid(run, self.clients.train)
        with self._explained(run):
            return federate(grid, run, look, self.clients.federation(run))

    def final_model(self, run: Run) -> tuple[NDArray[Any], ...]:
        """Train one run with all its clients in this process, and return its model after the last round.

        The same model as that of :meth:`train`, without the measures of every round, which take time.
        """
        from fedtoll.server.app import fit
        from fedtoll.server.grid import LocalGrid

        last: dict[str, tuple[NDArray[Any], ...]] = {}
        grid = LocalGrid(run, self.clients.train)
        with self._explained(run):
            fit(grid, run, lambda round, model: last.update(model=model), self.clients.federation(run))
        return last["model"]

    @contextmanager
    def _explained(self, run: Run) -> Iterator[None]:
        """Show the experimenter what clients raised, which no server is told: they are in this process.

        Raises
        ------
        RunError
            If the run fails because a client did: the same line with the client's own error, which is also
            its cause.
        """
        from fedtoll.clients.failures import MOST_FAILURES, REASONS

        if run.partition.kind == "declared":
            raise ScenarioError("partition.kind = 'declared': a client needs a SuperNode with its own file")
        failures = self.clients.failures
        failures.clear()
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
