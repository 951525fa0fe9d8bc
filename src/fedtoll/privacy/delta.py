"""δ against the number of records: how many of them a mechanism may expose outright.

A mechanism that publishes every record with probability δ, and nothing else, is (0, δ)-private. Of n records
it exposes n·δ on average, whatever ε says. So δ must be well below 1/n.
"""

from __future__ import annotations

import math

from fedtoll.scenarios.budgets import mechanism_of
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.scenario import Scenario

MOST_EXPOSED = 1.0
"""From this n·δ on, a guarantee says nothing: it is rejected."""

WORRYING = 0.1
"""From this n·δ on, there is a warning."""


def largest_delta(records: int) -> float:
    """Return the largest power of ten at which there is no warning.

    Examples
    --------
    >>> largest_delta(48_842), largest_delta(1_000)
    (1e-06, 1e-05)
    """
    power = math.ceil(math.log10(WORRYING / records)) - 1
    return float(f"1e{power}")


def delta_warning(delta: float, records: int) -> str:
    """Return a warning in one line if δ is large for this many records, else an empty string.

    Parameters
    ----------
    delta
        δ of the guarantee.
    records
        The number n of records of the whole federation, not of one client.

    Raises
    ------
    ScenarioError
        If n·δ is 1 or more.

    Examples
    --------
    >>> delta_warning(1e-6, 48_842)
    ''
    >>> delta_warning(1e-5, 48_842)
    'privacy.delta = 1e-05: times 48,842 records that is 0.49, and it should be below 0.1; give 1e-06 or less'
    """
    exposed = delta * records
    if exposed < WORRYING:
        return ""
    product = f"privacy.delta = {delta:g}: times {records:,} records that is {exposed:.2g}"
    advice = f"give {largest_delta(records):g} or less"
    if exposed >= MOST_EXPOSED:
        raise ScenarioError(f"{product}, and it must be below 1; {advice}")
    return f"{product}, and it should be below 0.1; {advice}"


def delta_of(scenario: Scenario, records: int) -> str:
    """Return a warning if a scenario's δ is large for its records.

    Parameters
    ----------
    scenario
        The scenario; without a finite ε, its δ says nothing.
    records
        The number of records, held-out ones included: over the folds, clients hold them all. 0 if not known.
    """
    private = any(mechanism_of(epsilon) == "dp-sgd" for epsilon in scenario.privacy.epsilons)
    return delta_warning(scenario.privacy.delta, records) if private else ""
