"""Which strategies are compared, declared before the figures are seen: a family of tests.

Holm's correction holds over the whole family. A two-sided test that swaps or
flips within S paired seeds has no p-value below 2 / 2^S, so S seeds can bear
at most .05 · 2^S / 2 comparisons: none with five, one with six, 25 with ten.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, model_validator

from fedtoll.scenarios.errors import ScenarioError, nearest
from fedtoll.scenarios.fields import Positive, Section
from fedtoll.scenarios.measures import UtilityName

LEVEL = 0.05
"""The level of every test: the chance of one false claim in a family of true nulls."""

FEW_SEEDS = 5
"""With this many seeds or fewer, a two-sided sign-flip test cannot reach .05."""

EXACT = 16
"""Up to this many seeds tests go through all 2^S sign flips; beyond, through :data:`DRAWS` of them."""

DRAWS = 100_000

FEDAVG = ("fedavg", "fedtoll.strategies.fedavg:FedAvg")
"""The names under which a scenario can run fedtoll's own FedAvg: its entry point and its import path."""

Quantity = Literal["toll gap", "utility"]


class Compare(Section):
    """The family of comparisons that the scenario declares: every strategy against one baseline.

    Defaults: ``baseline`` is fedtoll's FedAvg where the scenario runs it, else the first strategy;
    ``strategies`` are all others, by name or label; ``epsilons`` is the tightest finite one.
    ``quantities``: the toll gap in ``measure``, and everybody's utility.
    """

    baseline: str = ""
    strategies: tuple[str, ...] = ()
    measure: UtilityName = "log_loss"
    epsilons: tuple[Positive, ...] = ()
    quantities: Annotated[tuple[Quantity, ...], Field(min_length=1)] = ("toll gap", "utility")

    @model_validator(mode="after")
    def _check(self) -> Compare:
        for key in ("strategies", "epsilons", "quantities"):
            values = getattr(self, key)
            if len(set(values)) != len(values):
                raise ValueError(f"{key}: the same one twice")
        return self


@dataclass(frozen=True)
class Comparison:
    """One test of a family: a strategy against the baseline, at one ε, in one quantity."""

    strategy: str
    baseline: str
    measure: str
    epsilon: float
    quantity: str


def family(
    declared: Compare | None, strategies: Mapping[str, str], epsilons: Sequence[float | str]
) -> tuple[Comparison, ...]:
    """Return the comparisons of a scenario, in the order ε, strategy, quantity.

    Parameters
    ----------
    declared
        The section, or ``None`` where the scenario has none: then the defaults make the family.
    strategies
        The name of every strategy by its label; the section may say either.
    epsilons
        The budgets of the scenario. Infinity and ``"clip-only"`` are no budget to compare at.

    Raises
    ------
    ScenarioError
        If the section names a strategy or an ε that the scenario has not, with the nearest.

    Examples
    --------
    >>> for c in family(None, {"fedavg": "fedavg", "term(t=5)": "term"}, [float("inf"), 8.0, 0.5]):
    ...     print(c.strategy, "against", c.baseline, "at", c.epsilon, "in", c.quantity)
    term(t=5) against fedavg at 0.5 in toll gap
    term(t=5) against fedavg at 0.5 in utility
    """
    section = declared or Compare()
    if section.baseline:
        baseline = _label("baseline", section.baseline, strategies)
    else:
        baseline = fedavg_label(strategies) or next(iter(strategies))
    if section.strategies:
        chosen = [_label("strategies", s, strategies) for s in section.strategies]
    else:
        chosen = [label for label in strategies if label != baseline]
    if baseline in chosen:
        raise ScenarioError(f"compare.strategies = {baseline!r}: is the baseline itself")
    if len(set(chosen)) != len(chosen):
        raise ScenarioError("compare.strategies: the same one twice, by its name and by its label")
    finite = [float(e) for e in epsilons if not isinstance(e, str) and e < float("inf")]
    for epsilon in section.epsilons:
        if epsilon not in finite:
            words = ", ".join(f"{e:g}" for e in finite) or "none"
            raise ScenarioError(f"compare.epsilons = {epsilon:g}: not in privacy.epsilons; finite: {words}")
    return tuple(
        Comparison(strategy, baseline, section.measure, epsilon, quantity)
        for epsilon in section.epsilons or sorted(finite)[:1]
        for strategy in chosen
        for quantity in section.quantities
    )


def fedavg_label(strategies: Mapping[str, str]) -> str | None:
    """Return the label of fedtoll's own FedAvg, or ``None`` if the scenario does not run it.

    The name decides, not the label: a user's class ``fedavg`` has the label ``fedavg`` too.

    Parameters
    ----------
    strategies
        The name of every strategy by its label.

    Examples
    --------
    >>> fedavg_label({"fedavg": "mine.py:fedavg", "FedAvg": "fedtoll.strategies.fedavg:FedAvg"})
    'FedAvg'
    """
    return next((label for label, name in strategies.items() if name in FEDAVG), None)


def _label(key: str, word: str, strategies: Mapping[str, str]) -> str:
    """Return the label of a strategy by its label or name."""
    if word in strategies:
        return word
    named = [label for label, name in strategies.items() if name == word]
    if len(named) == 1:
        return named[0]
    if named:
        labels = " and ".join(repr(label) for label in named)
        raise ScenarioError(f"compare.{key} = {word!r}: could be {labels}")
    raise ScenarioError(
        f"compare.{key} = {word!r}: not a strategy of this scenario{nearest(word, [*strategies])}"
    )


def most(seeds: int) -> int:
    """Return how many comparisons a family of so many paired seeds can bear: floor(.05 / least p).

    Examples
    --------
    >>> [most(seeds) for seeds in (5, 6, 8, 10)]
    [0, 1, 6, 25]
    """
    least = 2 / 2**seeds if seeds <= EXACT else 1 / (DRAWS + 1)
    return int(LEVEL / least + 1e-9)


def unreachable(count: int, seeds: int) -> str:
    """Say why no test of a family can reject at .05, or nothing where one can.

    Examples
    --------
    >>> unreachable(4, 10)
    ''
    >>> unreachable(4, 3)
    'too few seeds: with 3 no two-sided test can reach .05, 6 are the fewest'
    """
    if seeds <= FEW_SEEDS:
        fewest = FEW_SEEDS + 1
        return f"too few seeds: with {seeds} no two-sided test can reach .05, {fewest} are the fewest"
    if count > most(seeds):
        bears = f"{most(seeds)} comparison{'' if most(seeds) == 1 else 's'}"
        return f"family too large: {seeds} seeds can bear {bears}, these are {count}"
    return ""
