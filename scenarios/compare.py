"""A family of tests between strategies, declared before the results are seen.

Holm's correction is over the whole family. A two-sided test that permutes or
flips signs within S paired seeds has no p-value below 2 / 2^S, so S seeds support
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
"""The familywise level: the probability of one rejection or more in a family of true null hypotheses."""

FEW_SEEDS = 5
"""The most seeds with which a two-sided sign-flip test cannot reach .05."""

EXACT = 16
"""The most seeds S for which a test goes through all 2^S sign flips; with more, it draws :data:`DRAWS`."""

DRAWS = 100_000
"""How many sign flips a test draws at random if there are too many to go through."""

FEDAVG = ("fedavg", "fedtoll.strategies.fedavg:FedAvg")
"""The names under which a scenario can run fedtoll's own FedAvg: its entry point and its import path."""

Quantity = Literal[
    "toll gap", "utility", "disparity", "demographic parity difference", "equalised odds difference"
]
"""What a test compares: everybody's utility, or one of four differences between groups."""


class Compare(Section):
    """The family of comparisons that a scenario declares: strategies against one baseline.

    By default, ``baseline`` is fedtoll's FedAvg if the scenario runs it, else the first strategy;
    ``strategies``, by name or label, are all others; ``epsilons`` is the smallest finite ε; ``quantities``
    are the toll gap in ``measure`` and everybody's utility. Also available are the disparity in ``measure``
    and the demographic-parity and equalised-odds differences, which depend on no measure.
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
                raise ValueError(f"{key}: the same value twice")
        return self


def check_classes(section: Compare | None, classes: int) -> None:
    """Check that what is compared is defined for this number of classes.

    Raises
    ------
    ScenarioError
        If there are more than two classes, and a measure or quantity needs positives and negatives.
    """
    if section is None or classes == 2:
        return
    needed = f"needs two classes, and the label has {classes}"
    of_measure = [q for q in section.quantities if not q.endswith("difference")]
    if section.measure in {"tpr", "fpr", "auroc"} and of_measure:
        raise ScenarioError(f"compare.measure = {section.measure!r}: {needed}; use 'log_loss' or 'accuracy'")
    for quantity in section.quantities:
        if quantity.endswith("difference"):
            raise ScenarioError(f"compare.quantities = {quantity!r}: {needed}")


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
        The section, or ``None`` if the scenario has none; then the defaults apply.
    strategies
        The name of every strategy by its label; the section may use either.
    epsilons
        The scenario's budgets. Nothing is compared at infinity or ``"clip-only"``.

    Raises
    ------
    ScenarioError
        If the section names a strategy or an ε that the scenario does not have; suggests the nearest.

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
        raise ScenarioError(f"compare.strategies = {baseline!r}: this is the baseline itself")
    if len(set(chosen)) != len(chosen):
        raise ScenarioError("compare.strategies: the same strategy twice, by its name and by its label")
    stated = section.model_fields_set
    if "quantities" in stated and "toll gap" in section.quantities and float("inf") not in epsilons:
        raise ScenarioError("compare.quantities = 'toll gap': needs runs at ε = ∞ (privacy.epsilons)")
    finite = [float(e) for e in epsilons if not isinstance(e, str) and e < float("inf")]
    for epsilon in section.epsilons:
        if epsilon not in finite:
            known = ", ".join(f"{e:g}" for e in finite) or "none"
            raise ScenarioError(
                f"compare.epsilons = {epsilon:g}: not in privacy.epsilons, whose finite values are {known}"
            )
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


def _label(key: str, strategy: str, strategies: Mapping[str, str]) -> str:
    """Return the label of a strategy, given by its label or name."""
    if strategy in strategies:
        return strategy
    labels = [label for label, name in strategies.items() if name == strategy]
    if len(labels) == 1:
        return labels[0]
    if labels:
        raise ScenarioError(f"compare.{key} = {strategy!r}: could be {' and '.join(map(repr, labels))}")
    raise ScenarioError(
        f"compare.{key} = {strategy!r}: not a strategy of this scenario{nearest(strategy, strategies)}"
    )


def most(seeds: int) -> int:
    """Return the most comparisons that a family with this many paired seeds supports: floor(.05 / least p).

    Examples
    --------
    >>> [most(seeds) for seeds in (5, 6, 8, 10)]
    [0, 1, 6, 25]
    """
    least = 2 / 2**seeds if seeds <= EXACT else 1 / (DRAWS + 1)
    return int(LEVEL / least + 1e-9)


def unreachable(count: int, seeds: int) -> str:
    """Return why no test of a family can reject at .05, or an empty string if one can.

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
