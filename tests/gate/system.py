"""What a check receives, and how it talks to clients: runs planned from a scenario, messages over a Grid."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.app.message_type import MessageType
from numpy.typing import NDArray

from fedtoll.clients import model, noise
from fedtoll.clients import train as clients
from fedtoll.clients.engines import sampling
from fedtoll.scenarios import data, federation
from fedtoll.scenarios.data.table import Table
from fedtoll.scenarios.errors import FedtollError
from fedtoll.scenarios.read import validate
from fedtoll.scenarios.run import Run
from fedtoll.scenarios.scenario import Scenario
from fedtoll.server.grid import LocalGrid
from fedtoll.server.plan import plan
from tests.gate import tables
from tests.shared import records

CLIP, RATE, STEP, Z = 0.3, 0.25, 0.7, 30.0
"""C (deliberately not 1), q, the learning rate η, and the noise multiplier of the statistics."""

EPSILON, DELTA = 8.0, 1e-5
LOSS_CLIP = 4.0
EVERYTHING: dict[str, Any] = {"name": "tests.server.asks:Everything", "clip": LOSS_CLIP}
FEDAVG: dict[str, Any] = {"name": "fedavg"}

MODELS: dict[str, dict[str, Any]] = {
    "logistic": {"kind": "logistic"},
    "mlp": {"kind": "mlp", "hidden": [8]},
    "plug-in": {"kind": "tests.gate.models:tanh"},
    "gated": {"kind": "tests.gate.models:Gated"},
}


@dataclass(frozen=True)
class System:
    """One configuration of training, on which every check is run.

    Parameters
    ----------
    engine, model, classes
        ``cohort`` or ``opacus``; one of :data:`MODELS`; 2 or 3.
    seed
        Seed of the draws. It must be even: :mod:`tests.gate.tables` knows the training records of even seeds.
    full
        Whether to draw as much as the slow suite can afford.
    precision
        Precision of a check's main part. Parts that depend on it run at both, see :func:`precisions`.
    """

    engine: str
    model: str = "mlp"
    classes: int = 2
    seed: int = 0
    full: bool = False
    precision: str = "float64"

    def __str__(self) -> str:
        return f"{self.engine}-{self.model}-{self.classes}"


ROUNDING = {"float64": 1e-8, "float32": 1e-4}
"""Tolerance by precision, within which two updates or statistics count as equal."""


def precisions(system: System) -> list[System]:
    """Return the system at float64, where rounding hides nothing, and at float32, the users' default."""
    return [replace(system, precision=p) for p in ROUNDING]


class ClientError(AssertionError):
    """A client replied with an error: an alarm, but one raised by fedtoll itself."""


class RefusalError(AssertionError):
    """fedtoll refused a reply and ended the run: an alarm, but one raised by fedtoll itself."""


Check = Callable[[System], None]

CHECKS: dict[str, Check] = {}
"""All checks by name."""


def check(name: str) -> Callable[[Check], Check]:
    """Register a check. It starts without planned runs, and fails if fedtoll refuses."""

    def register(body: Check) -> Check:
        @functools.wraps(body)
        def checked(system: System) -> None:
            for planned in PLANNED:
                planned.cache_clear()  # by another check, perhaps under a mutant
            try:
                with (
                    patch.object(data, "SOURCES", tables.sources()),
                    patch.object(federation, "load_table", _loaded),
                ):
                    body(system)
            except FedtollError as error:
                raise RefusalError(f"fedtoll refuses: {error}") from error

        CHECKS[name] = checked
        return checked

    return register


_tables: dict[tuple[str, Any], Table] = {}


def _loaded(source: data.Source) -> Table:
    """Load every table once: the clients of each question are new, and would read their file again.

    A mutant breaks the encoding of tables; its tables are its own.
    """
    key = source.checksum, data.encode
    if key not in _tables:
        _tables[key] = data.load_table(source)
    return _tables[key]


PLANNED: list[Any] = []
"""The functions that plan runs and remember them."""


@functools.lru_cache(maxsize=64)
def runs(
    system: System,
    moved: str = "",
    *,
    asks: bool = True,
    rounds: int = 5,
    steps: int = 1,
    every: int = 1,
    rate: float = RATE,
    step: float = STEP,
    groups: tuple[str, ...] = ("sex",),
    exclude: tuple[str, ...] = (),
) -> tuple[Run, Run]:
    """Plan a run with DP-SGD and one that only clips, from a scenario and a raw table."""
    training = {"rounds": rounds, "local_steps": steps, "sampling_rate": rate, "learning_rate": step}
    section = tables.section(system.classes, moved, groups, exclude)
    stated = scenario(system, section, training, every, EVERYTHING if asks else FEDAVG)
    private, clipped = plan(stated, "gate.toml").runs
    return private, clipped


PLANNED.append(runs)


def scenario(
    system: System, section: dict[str, Any], training: dict[str, Any], every: int, strategy: dict[str, Any]
) -> Scenario:
    """Return the scenario of a section ``[data]``, some keys of ``[training]`` and a strategy."""
    table = {
        "name": "gate",
        "title": "The gate",
        "seeds": [system.seed],
        "data": section,
        "split": {"folds": 2},
        "partition": {"kind": "column", "column": "site"},
        "model": MODELS[system.model],
        "training": {
            **training,
            "clip": CLIP,
            "engine": system.engine,
            "device": "cpu",
            "precision": system.precision,
        },
        "privacy": {"epsilons": [EPSILON, "clip-only"], "delta": DELTA},
        "statistics": {"noise_multiplier": Z, "every": every},
        "strategies": [strategy],
    }
    return validate(table, "gate.toml")


def neighbours(system: System, moved: str, **options: Any) -> tuple[Run, Run]:
    """Return the runs with and without one record, after checking that their public parts are equal."""
    full, without = runs(system, **options)[0], runs(system, moved, **options)[0]
    assert full.clients == without.clients, "the plan of neighbours differs"
    assert tuple(c.size for c in full.clients) == tables.SIZES, "public sizes are not ⌊count / 2⌋"
    return full, without


@dataclass(frozen=True)
class Answer:
    """A client's reply: the change of its weights as one vector, its metrics, and the whole content."""

    client: int
    update: NDArray[np.float64]
    metrics: dict[str, Any]
    content: RecordDict = field(repr=False)

    def statistic(self, name: str) -> NDArray[np.float64]:
        return np.atleast_1d(np.asarray(self.metrics[name], dtype=np.float64))


Parameters = Sequence[NDArray[np.floating]]


def start(run: Run, seed: int = 1, scale: float = 0.3) -> list[NDArray[np.floating]]:
    """Return weights to broadcast, drawn so that no gradient is small."""
    features = records(run).table.features.shape[1]
    rng = np.random.default_rng(seed)
    initial = model.initial(run.model, features, run.classes, run.precision, seed=1)
    return [(a + scale * rng.normal(size=a.shape)).astype(a.dtype) for a in initial]


def send(
    grid: LocalGrid,
    run: Run,
    parameters: Parameters,
    round: int = 1,
    clients_: Sequence[int] | None = None,
    **instructions: Any,
) -> list[Message]:
    """Send a server's messages to all clients of a Grid, or some, and return their replies."""
    arrays = ArrayRecord(list(parameters))
    config: dict[str, Any] = {"run": run.to_json(), "server-round": round, **instructions}
    messages = [
        Message(
            RecordDict({"arrays": arrays, "config": ConfigRecord(dict(config))}),
            client + 1,
            MessageType.TRAIN,
        )
        for client in (range(len(run.clients)) if clients_ is None else clients_)
    ]
    return grid.send_and_receive(messages)


def ask(
    run: Run,
    parameters: Parameters,
    round: int = 1,
    clients_: Sequence[int] | None = None,
    grid: LocalGrid | None = None,
    **instructions: Any,
) -> list[Answer]:
    """Ask all clients of a run, or some, for a round. Without a Grid, the clients are new."""
    chosen = range(len(run.clients)) if clients_ is None else clients_
    replies = send(grid or LocalGrid(run), run, parameters, round, chosen, **instructions)
    before = flat(parameters)
    answers = []
    for client, reply in zip(chosen, replies, strict=True):
        if reply.has_error():
            raise ClientError(f"client {client} fails: {reply.error.reason}")
        after = flat(clients.only(ArrayRecord, reply.content).to_numpy_ndarrays())
        assert np.isfinite(after).all(), f"the weights of client {client} are not finite"
        metrics: dict[str, Any] = {}
        for record in reply.content.metric_records.values():
            metrics |= record
        answers.append(Answer(client, after - before, metrics, reply.content))
    return answers


def flat(arrays: Parameters) -> NDArray[np.float64]:
    return np.concatenate([np.asarray(a, dtype=np.float64).ravel() for a in arrays])


Masks = Callable[[np.random.Generator, int, float], NDArray[np.int64]]


@contextmanager
def masks(chosen: Masks) -> Iterator[None]:
    """Draw every batch with this function of the random stream, the number of records and the rate."""
    with patch.object(sampling, "poisson", chosen):
        yield


def exactly() -> Any:
    """Leave out the rounding of releases, so that the noise of two releases cancels."""
    return patch.object(noise, "grid_step", lambda sd: 0.0)


def everybody(rng: np.random.Generator, records: int, rate: float) -> NDArray[np.int64]:
    """Return the batch of all records."""
    return np.arange(records)


def nobody(rng: np.random.Generator, records: int, rate: float) -> NDArray[np.int64]:
    """Return the empty batch."""
    return np.arange(0)


def with_plans(run: Run, **update: Any) -> Run:
    """Return the run with other constants for all clients."""
    return run.model_copy(update={"clients": tuple(c.model_copy(update=update) for c in run.clients)})
