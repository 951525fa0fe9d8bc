"""Broken prices of a choice of constants. Client and server are broken alike, so that neither refuses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest.mock import patch

from fedtoll.privacy import ledger, selection
from fedtoll.privacy.ledger import CHOICE, Ledger
from fedtoll.scenarios.choice import Poisson, TruncatedNegativeBinomial
from tests.gate.mutants import mutant
from tests.gate.mutants_outside_engines import no_memory, recorded


def _priced(**changes: Any) -> list[Any]:
    """Patch functions of :mod:`fedtoll.privacy.selection`, and remember no price."""
    remembered = ("epsilon", "choice_curve", "_base_budget")
    fresh = {name: getattr(selection, name).__wrapped__ for name in remembered}
    return [patch.object(selection, name, new) for name, new in (fresh | changes).items()] + no_memory()


@mutant("the choice of constants is not charged")
def choice_not_charged() -> list[Any]:
    return recorded(lambda rows: [r for r in rows if r.what != CHOICE])


@mutant("the choice is in the ledger, but its price is left out of ε")
def choice_listed_but_free() -> list[Any]:
    original = selection.epsilon.__wrapped__

    def epsilon(
        charge: Any, delta: float, steps: Any = None, statistics: Any = None, choices: int = 1
    ) -> Any:
        return original(charge, delta, steps, statistics, 0)

    return _priced(epsilon=epsilon)


@mutant("the choice costs as much as the trainings of one candidate")
def choice_costs_one_candidate() -> list[Any]:
    return _priced(selection_rdp=lambda rdp, orders, distribution: rdp)


@mutant("the choice is charged as if only the winner had been a candidate")
def only_the_winner_is_charged() -> list[Any]:
    original = selection.charge_of

    def charge_of(*args: Any) -> Any:
        charge = original(*args)
        return charge and replace(charge, candidates=charge.candidates[:1])

    return [*_priced(), patch.object(selection, "charge_of", charge_of)]


@mutant("a candidate is trained with several seeds but charged for one")
def trainings_charged_once() -> list[Any]:
    original = selection.Charge

    def charge(distribution: Any, trainings: int, candidates: Any) -> Any:
        return original(distribution, 1, candidates)

    return _priced(Charge=charge)


@mutant("the price of the choice is forgotten after the first round")
def choice_forgotten_after_a_round() -> list[Any]:
    original = Ledger.charge

    def charge(self: Ledger, releases: Any) -> None:
        for release in releases:
            original(self, [release])
            if release.round > 1:
                self._charges = {}
                for counts in self._counts.values():
                    for kind in [kind for kind in counts if kind[0] == CHOICE]:
                        del counts[kind]

    return [patch.object(ledger.Ledger, "charge", charge)]


@mutant("the number of candidates is fixed at its mean")
def number_of_candidates_fixed() -> list[Any]:
    return [
        patch.object(kind, "draw", lambda self, rng: round(self.expected))
        for kind in (TruncatedNegativeBinomial, Poisson)
    ]


@mutant("the choice among no candidates is drawn again, but priced as Poisson")
def no_candidates_drawn_again() -> list[Any]:
    original = Poisson.draw

    def draw(self: Poisson, rng: Any) -> int:
        while (number := original(self, rng)) == 0:
            pass
        return number

    return [patch.object(Poisson, "draw", draw)]
