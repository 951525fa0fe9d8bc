"""The terms of the privacy card on clients that differ: personal budgets, and who takes part when."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedtoll.formatting import general, listed
from fedtoll.report import unit


def terms(scenario: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the terms, each with its explanation; none if all clients spend all of ε in all rounds."""
    found = {
        "Personal budgets": _personal(scenario.get("privacy", {}).get("epsilon_factor", {})),
        "Participation": unit.participation(scenario)
        or _participation(scenario.get("participation", {}).get("kind", "all")),
    }
    return [(term, text) for term, text in found.items() if text]


def _personal(factors: dict[str, float]) -> str:
    """Return a sentence on the shares of ε that clients may spend; empty if all may spend it all."""
    if all(factor == 1 for factor in factors.values()):
        return ""
    shares = listed(f"{general(x)} for {name}" for name, x in factors.items() if name != "*")
    rest = f"{general(factors.get('*', 1.0))} for {'all others' if shares else 'all'}"
    return (
        "Each client spends at most its own share of ε, and its noise is calibrated for that: "
        f"{f'{shares}, ' if shares else ''}{rest}. ε is the most that any client may spend. The shares are "
        "public, so who asks for more privacy is not protected."
    )


def _participation(kind: str) -> str:
    """Return a sentence on clients that do not take part in every round; empty if all do."""
    if kind == "all":
        return ""
    return (
        "Clients take part in some rounds, by a schedule that is drawn before the run from a public seed and "
        "never from records. Each is charged for the rounds in which it is asked, and its noise is "
        "calibrated for their number. Everybody knows the schedule, so who is asked hides nothing and lowers "
        "no ε."
    )
