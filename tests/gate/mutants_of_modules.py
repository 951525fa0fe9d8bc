"""Modules whose records Opacus does not clip as a whole, accepted."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import torch

from fedtoll.clients.engines import opacus
from tests.gate.mutants import mutant

OPACUS = ("opacus",)
"""The engine of modules that are no stack of linear layers."""


def _not_counted() -> Any:
    return patch.object(opacus, "_check_counts", lambda parameters, records: None)


@mutant("a piece of a record is clipped as if it were a record", OPACUS)
def pieces_are_records() -> list[Any]:
    return [patch.object(opacus, "refusal", lambda module, inputs: ""), _not_counted()]


@mutant("modules are compared by their outputs alone, which pieces of records do not change", OPACUS)
def only_outputs_are_compared() -> list[Any]:
    def refusal(module: torch.nn.Module, inputs: int) -> str:
        x = torch.randn(6, inputs, dtype=next(module.parameters()).dtype)
        with torch.no_grad():
            alone = torch.cat([module(x[i : i + 1]) for i in range(6)])
            return "" if torch.allclose(module(x), alone, atol=1e-5) else "it mixes records"

    return [patch.object(opacus, "refusal", refusal), _not_counted()]


@mutant("what a module does in training is not compared if it is random there", OPACUS)
def random_modules_are_not_compared() -> list[Any]:
    def refusal(module: torch.nn.Module, inputs: int) -> str:
        module.train()
        x = torch.randn(6, inputs, dtype=next(module.parameters()).dtype)
        with torch.no_grad():
            random = not torch.equal(module(x), module(x))
        return "" if random else original(module, inputs)

    original = opacus.refusal
    return [patch.object(opacus, "refusal", refusal)]
