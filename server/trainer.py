"""Train runs in this process, one after another, reusing what they share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fedtoll.scenarios.federation import Federation
from fedtoll.scenarios.run import Run

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedtoll.clients.train import Clients
    from fedtoll.server.app import Look
    from fedtoll.server.tables import Tables


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
        return federate(grid, run, look, self.clients.federation(run))

    def final_model(self, run: Run) -> tuple[NDArray[Any], ...]:
        """Train one run with all its clients in this process, and return its model after the last round.

        The same model as that of :meth:`train`, without the measures of every round, which take time.
        """
        from fedtoll.server.app import fit
        from fedtoll.server.grid import LocalGrid

        last: dict[str, tuple[NDArray[Any], ...]] = {}
        grid = LocalGrid(run, self.clients.train)
        fit(grid, run, lambda round, model: last.update(model=model), self.clients.federation(run))
        return last["model"]


def simulate(run: Run, look: Look | None = None, federation: Federation | None = None) -> Tables:
    """Train one run with all its clients in this process, as :meth:`Trainer.train` does."""
    return Trainer(federation).train(run, look)
