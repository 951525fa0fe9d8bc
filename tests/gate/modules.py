"""Modules of a user's: what Opacus clips must be the gradient of one whole record.

Opacus takes every row of a layer's input for an example. A module that folds pieces of a record into the
batch, that has the batch in another dimension, or that mixes records, must not be trained.
"""

from __future__ import annotations

from dataclasses import replace

from fedtoll.scenarios.errors import ScenarioError
from tests.gate.replay import distance, pairs, touched
from tests.gate.system import CLIP, MODELS, System, check

PREFIX = "modules: "

SPLIT = ("Pieces", "TimeFirst", "Mixed")
WHOLE = ("Sequence",)

MODELS.update({name: {"kind": f"tests.gate.models:{name}"} for name in (*SPLIT, *WHOLE)})


@check(PREFIX + "whole records")
def whole_records(system: System) -> None:
    """One record moves its client's step by at most the clip, or a module that moves more is refused."""
    for name in (*SPLIT, *WHOLE):
        try:
            found = pairs(replace(system, model=name, classes=2))
        except ScenarioError:
            assert name in SPLIT, f"{name} is refused"
            continue
        largest = 0.0
        for moved, full, without, rounding in found:
            for a, b in zip(full, without, strict=True):
                if a.client in touched(moved):
                    largest = max(largest, distance(a, b) - rounding)
        assert largest <= CLIP, f"{name}: a record moves its client by {largest / CLIP:.3f} C"
        assert largest > CLIP / 2, f"{name}: nothing is tested"
