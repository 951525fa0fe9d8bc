"""The parts of the gate: systems that differ in what matters, each with its checks and its mutants.

A new mechanism, privacy unit or trust model that the systems here cannot show brings a part of its own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from string import ascii_uppercase
from types import ModuleType
from typing import Any

from tests.gate import (
    calibration,
    choice,
    client_statistics,
    clients,
    clipping,
    differing,
    floating_point,
    ledger,
    many_ledger,
    many_noise,
    many_records,
    modules,
    mutants,
    mutants_of_accounting,
    mutants_of_calibration,
    mutants_of_client_statistics,
    mutants_of_clients,
    mutants_of_clipping,
    mutants_of_differing,
    mutants_of_floating_point,
    mutants_of_many,
    mutants_of_modules,
    mutants_of_own_files,
    mutants_of_own_models,
    mutants_of_sums,
    mutants_of_the_choice,
    mutants_outside_engines,
    noise,
    own_files,
    personal,
    replay,
    rounds,
    sampler,
    sizes,
    sums,
)
from tests.gate.mutants import BOTH, MUTANTS, Mutant
from tests.gate.system import CHECKS


@dataclass(frozen=True)
class Part:
    """One system of the gate.

    Parameters
    ----------
    title, text
        What it is called, and what it is.
    checks, mutants
        The modules with its checks, and with the mutants that only these notice.
    quickest
        Its checks, quickest first, without the prefix.
    prefix
        With which the names of its checks begin.
    label
        The label of its i-th check, from 0.
    heading
        The sentence above the table of its mutants.
    with_first
        Whether its mutants face the checks of the first part, too.
    engines
        On which engines its checks run.
    """

    title: str
    text: str
    checks: tuple[ModuleType, ...]
    mutants: tuple[ModuleType, ...]
    quickest: tuple[str, ...]
    prefix: str = ""
    label: Callable[[int], str] = str
    heading: str = ""
    with_first: bool = False
    engines: tuple[str, ...] = BOTH

    def owns(self, check: str) -> bool:
        """Return whether a check belongs to this part."""
        return CHECKS[check].__module__ in {module.__name__ for module in self.checks}

    def names(self) -> list[str]:
        """Return its checks, in order."""
        return [name for name in CHECKS if self.owns(name)]


FIRST = Part(
    "The first system",
    "seven clients by a column of the table, with one q and one T; PLD and RDP; a lost reply\nends the run.",
    (replay, noise, ledger, choice, floating_point, rounds, sampler, sizes),
    (
        *(mutants, mutants_outside_engines, mutants_of_the_choice, mutants_of_accounting),
        mutants_of_floating_point,
    ),
    (
        *("retry", "lost reply", "replay of training", "non-finite record", "one ledger", "wire tap"),
        *("one answer a round", "no records", "public sizes", "replay of statistics"),
        *("number of candidates", "choice of constants"),
        *("freshness of training's noise", "noise of training", "sampler", "noise of statistics"),
        "floating point",
    ),
    label=lambda i: str(i + 1),
)

MANY = Part(
    "The second system",
    "64 clients whose group is public, two copies of each record, one B, so that q and T\n"
    "differ (10 to 20 steps); 40 rounds, of which late ones are observed; three folds; PRV; lost replies\n"
    "are skipped; a table with missing values.",
    (many_noise, many_records, many_ledger),
    (mutants_of_many,),
    (
        *("sizes and records", "sampler", "freshness", "replay of statistics", "replay of training"),
        *("noise of training", "noise of statistics", "ledger", "PRV"),
    ),
    prefix="many clients: ",
    label=lambda i: ascii_uppercase[i],
    heading="What only the second system shows, with the checks of both:",
    with_first=True,
)

OWN_FILES = Part(
    "Own files",
    "three SuperNodes, each with a file of its own records whose number differs from the declared\n"
    "one, with and without secret noise and a limit of ε.",
    (own_files,),
    (mutants_of_own_files,),
    ("errors", "limit", "plans", "secrets", "sizes", "replay", "noise"),
    prefix="own files: ",
    label=lambda i: f"o{i + 1}",
    engines=("opacus",),
    heading="Nodes with a file of their own, with the checks of this part:",
)

MODULES = Part(
    "Modules of a user's",
    "the clients of the first system with modules that only Opacus trains: one over pieces of a\n"
    "record, and three that clip something else than records or mix them.",
    (modules,),
    (mutants_of_modules,),
    ("whole records",),
    prefix=modules.PREFIX,
    label=lambda i: f"m{i + 1}",
    engines=("opacus",),
    heading="Modules that clip something else than records, with the check of this part:",
)

DIFFERING = Part(
    "Clients that differ",
    "five clients whose sex is public, with shares of ε of their own, or that take part in\n"
    "some of seven rounds, one of which nobody joins.",
    (differing,),
    (mutants_of_differing,),
    ("personal budgets", "participation"),
    label=lambda i: f"d{i + 1}",
    heading="Personal budgets and participation, with the checks of this part:",
)

SUMS = Part(
    "Sums",
    "the clients of the first system, under secure aggregation with and without colluding clients and\n"
    "under a trusted server; weights by size and equal ones, one q and one B, mixed and public groups.",
    (sums,),
    (mutants_of_sums,),
    ("what is shown", "the sum", "replay", "noise of training", "ledger", "noise of statistics"),
    prefix=sums.PREFIX,
    label=lambda i: f"s{i + 1}",
    heading="Where the server sees sums only, with the checks of this part:",
)

CLIPPING = Part(
    "Client-side mechanisms",
    "the clients of the first system with each mechanism of `[client]`, whose counts and gradient are\n"
    "one release, with momentum, and a start that is trained on public records.",
    (clipping,),
    (mutants_of_clipping,),
    ("public start", "retry", "counts", "replay", "noise", "ledger"),
    prefix=clipping.PREFIX,
    label=lambda i: f"g{i + 1}",
    heading="What a client does to its gradients, with the checks of this part:",
)

CLIENTS = Part(
    "Clients as the unit",
    "the clients of the first system, of whom one holds no records, each protected as a whole:\n"
    "a hidden sample of them under a trusted server, a visible one under secure aggregation with a\n"
    "colluding client and capped weights, and an adaptive clip.",
    (clients,),
    (mutants_of_clients,),
    ("who takes part", "one client", "the sum", "ledger", "the bits are paid for", "noise"),
    prefix=clients.PREFIX,
    label=lambda i: f"u{i + 1}",
    heading="Where a client is the unit of privacy, with the checks of this part:",
)

CLIENT_STATISTICS = Part(
    "Statistics of clients as the unit",
    "the clients of the first system, each protected as a whole, with\n"
    "statistics in every second round of a hidden sample with an adaptive clip, and in every round of a\n"
    "visible one under secure aggregation with a colluding client.",
    (client_statistics,),
    (mutants_of_client_statistics,),
    ("messages", "what is refused", "the sum", "replay", "ledger", "noise"),
    prefix=client_statistics.PREFIX,
    label=lambda i: f"v{i + 1}",
    heading="Where such clients release statistics, with the checks of this part:",
)

OWN_MODELS = Part(
    "Own models",
    "the clients of the first system, each with a model of its own: MR-MTL, FedPer, Ditto and a\n"
    "plugged-in class.",
    (personal,),
    (mutants_of_own_models,),
    ("what is shown", "retry", "batches", "noise", "replay", "scores", "ledger"),
    prefix=personal.PREFIX,
    label=lambda i: f"p{i + 1}",
    heading="Where clients keep models of their own, with the checks of this part:",
)

CALIBRATION = Part(
    "Calibration",
    "the clients of the first system, and clients of public groups, with a last release by group.",
    (calibration,),
    (mutants_of_calibration,),
    ("once", "replay", "offsets", "noise", "ledger"),
    prefix=calibration.PREFIX,
    label=lambda i: f"c{i + 1}",
    heading="A last release that corrects offsets, with the checks of this part:",
)

PARTS = (
    FIRST,
    MANY,
    OWN_FILES,
    MODULES,
    DIFFERING,
    SUMS,
    CLIENTS,
    CLIENT_STATISTICS,
    CLIPPING,
    OWN_MODELS,
    CALIBRATION,
)

QUICKEST = tuple(part.prefix + name for part in PARTS for name in part.quickest)
"""All checks, quickest first within each part."""


def part_of(check: str) -> Part:
    """Return the part to which a check belongs."""
    return next(part for part in PARTS if part.owns(check))


def part_of_mutant(mutant: Mutant) -> Part:
    """Return the part whose checks a mutant faces."""
    module = mutant.patches.__module__
    return next(part for part in PARTS if module in {found.__name__ for found in part.mutants})


def faced(mutant: Mutant) -> list[str]:
    """Return the checks that a mutant faces."""
    part = part_of_mutant(mutant)
    return [*(FIRST.names() if part.with_first else []), *part.names()]


def runs_on(check: str, engine: str) -> bool:
    """Return whether a check is for an engine."""
    return engine in part_of(check).engines


def _place(function: Callable[..., Any]) -> tuple[int, int]:
    modules = [m.__name__ for part in PARTS for m in (*part.checks, *part.mutants)]
    return modules.index(function.__module__), inspect.unwrap(function).__code__.co_firstlineno


def _sort(registered: dict[str, Any], place: Callable[[Any], tuple[int, int]]) -> None:
    """Sort what was registered in the order of the parts, whatever was imported first."""
    items = sorted(registered.items(), key=lambda item: place(item[1]))
    registered.clear()
    registered.update(items)


_sort(CHECKS, _place)
_sort(MUTANTS, lambda mutant: _place(mutant.patches))
