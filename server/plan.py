"""Plan the runs of a scenario: resolve names, fill in defaults, calibrate the noise.

All that the plan fixes about a client (size, q, B, T, σ) is public, and nothing recomputes it from records.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from fedtoll.clients import engines
from fedtoll.clients.clipping import registry as clipping
from fedtoll.clients.model import digest as model_digest
from fedtoll.clients.model import located
from fedtoll.clients.personal_models import registry as personal_models
from fedtoll.privacy.constants import charged, constants
from fedtoll.privacy.delta import delta_of
from fedtoll.scenarios import data as sources
from fedtoll.scenarios.budgets import mechanism_of
from fedtoll.scenarios.choice import Choice, Distribution
from fedtoll.scenarios.compare import check_classes
from fedtoll.scenarios.declared import check_groups
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.federation import Federation
from fedtoll.scenarios.fields import CLIP_ONLY
from fedtoll.scenarios.foreign import ForeignCodeError, no_code
from fedtoll.scenarios.read import read
from fedtoll.scenarios.run import Run, StrategyPlan
from fedtoll.scenarios.scenario import Privacy, Scenario, StrategySpec, Training
from fedtoll.scenarios.streams import noise_seed
from fedtoll.server import calibration, client_sums, personal, sums
from fedtoll.strategies import registry
from fedtoll.strategies.base import Strategy


@dataclass(frozen=True)
class Plan:
    """A scenario, its records, and its runs ordered by strategy, ε and seed.

    Parameters
    ----------
    scenario, runs, federation
        The scenario, its runs and its records.
    separate
        Whether each client trains in its own process.
    recipe
        The runs with the constants of ``[training]``, if those of ``runs`` were chosen by ``[tune]``.
    probe
        A few runs with other learning rates, if the scenario has no ``[tune]``.
    facts
        What ``resolved.json`` records besides: ``tuning`` (what ``[tune]`` tried, one row per candidate) and
        ``converged`` (the loss of a converged central model).
    """

    scenario: Scenario
    runs: tuple[Run, ...]
    federation: Federation
    separate: bool = False
    recipe: tuple[Run, ...] = ()
    probe: tuple[Run, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def warning(self) -> str:
        """A warning in one line if δ is large for the number of records, else an empty string."""
        return delta_of(self.scenario, self.federation.size)

    @property
    def all_runs(self) -> tuple[Run, ...]:
        """All runs to train, each once."""
        return tuple({run.hash: run for run in (*self.runs, *self.recipe, *self.probe)}.values())


@dataclass(frozen=True)
class Candidates:
    """A grid from which a random number of candidates is drawn, uniformly and with replacement.

    Parameters
    ----------
    distribution
        Of the number of candidates.
    trainings
        The number of trainings of each candidate, one per seed.
    grid
        ``[training]`` and the strategy of every candidate.
    """

    distribution: Distribution
    trainings: int
    grid: tuple[tuple[Training, StrategySpec], ...]


def check(scenario: Scenario, file: str, unchecked: list[str] | None = None) -> sources.Source | None:
    """Check all names in a scenario against the declared ones, without reading records or using the network.

    Parameters
    ----------
    scenario, file
        The scenario, and its name in error messages.
    unchecked
        A list to which what is not fedtoll's or Flower's is added (data, strategies, models, mechanisms), and
        then is neither imported nor checked. By default it is.

    Returns
    -------
    Source or None
        The declaration of the scenario's data; ``None`` if it was not checked.

    Raises
    ------
    ScenarioError
        In one line that begins with ``file``.
    """
    try:
        source = None
        with _skips_code(f"data {scenario.data.source}", unchecked):
            source = sources.source_of(scenario.data)
            check_groups(scenario, source)
        own = None
        with _skips_code(f"personal model {scenario.personal and scenario.personal.kind}", unchecked):
            lists = scenario.tune.personal if scenario.tune else {}
            own = personal_models.check_section(scenario.personal, lists)
        for spec in scenario.strategies:
            with _skips_code(f"strategy {spec.name}", unchecked):
                sums.check(scenario.privacy, (resolved := strategy_plan(spec)), requests(resolved))
                personal.check(own, resolved, requests(resolved))
                _check_lists(scenario, spec)
        with _skips_code(f"model {scenario.model.kind}", unchecked):
            model_digest(scenario.model)
        with _skips_code(f"mechanism {scenario.client.mechanism}", unchecked):
            clipping.check_section(scenario.client, scenario.tune.client if scenario.tune else {})
        if source is not None:
            check_classes(scenario.compare, len(source.classes))
            calibration.check(scenario, len(source.classes))
            delta_of(scenario, source.rows)
    except ScenarioError as error:
        raise ScenarioError(f"{file}: {error}") from None
    return source


@contextmanager
def _skips_code(what: str, unchecked: list[str] | None) -> Iterator[None]:
    """With a list, refuse code that is not fedtoll's in the block, and note in the list what needs it."""
    if unchecked is None:
        yield
        return
    try:
        with no_code():
            yield
    except ForeignCodeError:
        unchecked.append(what)


def _check_lists(scenario: Scenario, spec: StrategySpec) -> None:
    """Check all values of a strategy's parameters in ``[tune]``."""
    lists = scenario.tune.parameters(spec.label, spec.name) if scenario.tune else {}
    for values in itertools.product(*lists.values()) if lists else ():
        parameters = {**spec.parameters, **dict(zip(lists, values, strict=True))}
        try:
            requests(strategy_plan(StrategySpec(name=spec.name, **parameters)))
        except ForeignCodeError:
            raise
        except ScenarioError as error:
            raise ScenarioError(f"tune.{error}") from None


def plan(
    scenario: Scenario,
    file: str,
    *,
    separate: bool = False,
    like: Federation | None = None,
    choice: Candidates | None = None,
) -> Plan:
    """Plan all runs of a scenario: load its table (fetching it once) and calibrate the noise.

    Parameters
    ----------
    scenario, file
        The scenario, and its name in error messages.
    separate
        Whether each client trains in its own process, as under ``flwr run``. Then ``engine = "auto"`` is
        Opacus, and ``"cohort"`` is an error: a client that trains alone is rounded differently.
    like
        The federation of another plan, whose table is shared if the records are the same.
    choice
        The grid from which the scenario's constants are chosen, if private runs pay for the choice. Every
        strategy and ε must choose on its own.
    """
    source = check(scenario, file)
    try:
        federation = Federation.resolve(
            scenario.data, scenario.split, scenario.partition, source=source, like=like
        )
        personal.check_federation(scenario, federation)
        calibration.check(scenario, len(federation.table.classes))
        delta_of(scenario, federation.size)
        runs = tuple(
            run
            for spec in scenario.strategies
            for epsilon in scenario.privacy.epsilons
            for run in _runs(scenario, federation, spec, epsilon, separate, choice)
        )
        return Plan(scenario, runs, federation, separate)
    except ScenarioError as error:
        raise ScenarioError(f"{file}: {error}") from None


def strategy_plan(spec: StrategySpec) -> StrategyPlan:
    """Resolve a strategy of a scenario and check its parameters."""
    path, digest = registry.resolve(spec.name)
    cls = registry.load(path)
    revision = 1
    if issubclass(cls, Strategy):
        parameters: dict[str, Any] = registry.check(cls, spec.parameters)
        revision = registry.revision(registry.build(path, parameters))
        parameters = registry.stored(cls, parameters)
    else:
        from fedtoll.server.adapter import check_flower

        parameters = check_flower(cls, spec.parameters)
    return StrategyPlan(name=spec.label, path=path, parameters=parameters, digest=digest, revision=revision)


def requests(plan: StrategyPlan) -> tuple[tuple[str, dict[str, float]], ...]:
    """Return the name and parameters of each statistic that a resolved strategy requests."""
    if not issubclass(registry.load(plan.path), Strategy):
        return ()
    strategy = registry.build(plan.path, plan.parameters)
    try:
        requested = registry.requested_statistics(strategy)
    except ScenarioError as error:
        raise ScenarioError(f"strategies: {plan.name}: {error}") from None
    return tuple((s.name, dict(vars(s))) for s in requested)


def unsuited(plan: StrategyPlan, classes: int) -> str:
    """Return why a resolved strategy cannot run with so many classes, or "" if it can."""
    if not issubclass(registry.load(plan.path), Strategy):
        return ""
    return str(registry.asked(registry.build(plan.path, plan.parameters), "unsuited", classes))


def _runs(
    scenario: Scenario,
    federation: Federation,
    spec: StrategySpec,
    epsilon: float | str,
    separate: bool,
    choice: Candidates | None,
) -> list[Run]:
    """Return the runs of one strategy and ε, one per seed."""
    resolved = strategy_plan(spec)
    own = personal_models.planned(scenario.personal)
    scenario = scenario.model_copy(update={"personal": own})
    if reason := unsuited(resolved, len(federation.table.classes)):
        raise ScenarioError(f"strategies: {resolved.name}: {reason}")
    mechanism, privacy, training = mechanism_of(epsilon), scenario.privacy, scenario.training
    private = mechanism == "dp-sgd"
    total = float(epsilon) if private else math.inf
    table, groups = federation.table, federation.groups
    settings = (scenario, federation.layout.clients, requests(resolved), total)
    chosen: Choice | None = None
    if choice is not None and private:
        grid = [(tried, requests(strategy_plan(other))) for tried, other in choice.grid]
        statistics, planned, chosen = charged(*settings, choice.distribution, choice.trainings, grid)
    else:
        statistics, planned = constants(*settings)
    local = clipping.planned(scenario.client, mechanism, len(groups.names))
    statistics, planned = client_sums.planned(scenario, resolved, statistics, planned)
    model, digest = located(scenario.model), model_digest(scenario.model)
    inputs, classes = table.features.shape[1], len(table.classes)
    engine, device = engines.choose(training, scenario.model, inputs, classes, separate=separate)
    return [
        Run(
            data=scenario.data,
            checksum=federation.source.checksum,
            split=scenario.split,
            partition=scenario.partition,
            model=model,
            model_digest=digest,
            classes=classes,
            groups=groups.names,
            rounds=training.rounds,
            learning_rate=training.learning_rate,
            clip=None if mechanism == "none" else training.clip,
            engine=engine,
            device=device,
            precision=training.precision,
            mechanism=mechanism,
            epsilon=total,
            delta=privacy.delta if private else None,
            accountant=privacy.accountant if private else None,
            strategy=resolved,
            statistics=statistics,
            smoothing=scenario.statistics.smoothing if statistics else 0.0,
            shrinkage=bool(statistics) and private and scenario.statistics.shrinkage,
            average=training.average,
            server_schedule=training.server_schedule,
            start=training.start,
            pull=training.pull,
            on_failure=training.on_failure,
            clients=clipping.with_noise(planned, local),
            seed=seed,
            noise_seed=noise_seed(privacy.noise_seed, seed) if private else 0,
            choice=chosen,
            predictions=scenario.keeps_predictions,
            timeout=training.timeout,
            trust=privacy.trust,
            colluding=privacy.colluding if private else 0,
            participation=None if scenario.participation.kind == "all" else scenario.participation,
            client_mechanism=local,
            unit=privacy.unit,
            adaptive_clip=privacy.adaptive_clip,
            personal=own,
            calibration=calibration.planned(scenario, private),
        )
        for seed in scenario.seeds
    ]


def from_config(config: Mapping[str, Any]) -> Plan:
    """Return the plan of the single run that a Flower run configuration describes.

    Parameters
    ----------
    config
        ``scenario`` (a built-in name or an absolute path), ``strategy`` (its label or name in the scenario,
        or any other strategy's name), ``epsilon`` and ``seed``.

    Raises
    ------
    ScenarioError
        In one line, if a value is not valid.
    """
    name = str(config["scenario"])
    scenario = read(name)
    wanted = str(config["strategy"])
    specs = [s for s in scenario.strategies if wanted in {s.label, s.name}] or [StrategySpec(name=wanted)]
    text = str(config["epsilon"])
    try:
        epsilon = text if text == CLIP_ONLY else float(text)
        privacy = Privacy(**{**scenario.privacy.model_dump(), "epsilons": (epsilon,)})
    except ValueError:
        expected = f"must be a number above 0, 'inf' or {CLIP_ONLY!r}"
        raise ScenarioError(f"run configuration: epsilon = {text!r}: {expected}") from None
    seed = int(config["seed"]) if str(config["seed"]).isdecimal() else -1
    if not 0 <= seed < 2**32:
        raise ScenarioError(f"run configuration: seed = {config['seed']!r}: must be from 0 to {2**32 - 1}")
    narrowed = {"strategies": (specs[0],), "seeds": (seed,), "privacy": privacy}
    return plan(scenario.model_copy(update=narrowed), name, separate=True)
