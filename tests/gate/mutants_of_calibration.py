"""Broken calibrations. Client and server are broken alike, so that neither refuses."""

from __future__ import annotations

import itertools
from typing import Any
from unittest.mock import patch

import numpy as np

from fedtoll.clients import calibration as clients
from fedtoll.privacy import constants
from fedtoll.scenarios.streams import stream
from fedtoll.server import calibration as server
from fedtoll.server.evaluate import HeldOut
from tests.gate.mutants import mutant


def _released(change: Any) -> list[Any]:
    original = clients.release

    def release(exact: Any, run: Any, client: int) -> Any:
        value, sd = original(exact, run, client)
        return (change(exact, value, run, client), sd) if sd else (value, sd)

    return [patch.object(clients, "release", release)]


def _residuals(change: Any) -> list[Any]:
    original = clients.residuals

    def residuals(logits: Any, labels: Any, groups: Any, count: int) -> Any:
        return change(original(logits, labels, groups, count), labels, groups, count)

    return [patch.object(clients, "residuals", residuals)]


@mutant("the last release has nine tenths of its noise")
def residuals_with_less_noise() -> list[Any]:
    return _released(lambda exact, value, run, client: exact + 0.9 * (value - exact))


@mutant("residuals are noised, but the curvature next to them is exact")
def curvature_without_noise() -> list[Any]:
    def change(exact: Any, value: Any, run: Any, client: int) -> Any:
        return np.concatenate([value[..., :1], exact[..., 1:]], axis=-1)

    return _released(change)


@mutant("all clients add the same noise to their last release")
def residuals_with_shared_noise() -> list[Any]:
    return [patch.object(clients, "stream", lambda seed, purpose, *key: stream(seed, purpose, 0))]


@mutant("the curvature is a count of records, with the noise for a sensitivity of 1")
def curvature_is_a_count() -> list[Any]:
    def change(cells: Any, labels: Any, groups: Any, count: int) -> Any:
        return np.stack([cells[:, 0], np.bincount(groups, minlength=count)], axis=1)

    return _residuals(change)


@mutant("the mean residual is released instead of the sum, as if one record moved it by little")
def residuals_over_the_number_of_records() -> list[Any]:
    def change(cells: Any, labels: Any, groups: Any, count: int) -> Any:
        return 20.0 * cells / np.maximum(np.bincount(groups, minlength=count), 1)[:, None]

    return _residuals(change)


@mutant("neither client nor server charges the last release")
def residuals_not_charged() -> list[Any]:
    return [patch.object(owner, "owed_after", lambda *_: ()) for owner in (server, clients)]


@mutant("the noise of training is calibrated as if there were no last release")
def residuals_not_calibrated() -> list[Any]:
    return [patch.object(constants, "_after", lambda scenario: ())]


@mutant("a client answers the last message for as many models as it is asked about")
def residuals_for_two_models() -> list[Any]:
    return [patch.object(clients, "claim", lambda *_: None)]


@mutant("a repeated last message gets fresh noise, which is not charged")
def residuals_with_new_noise_at_a_retry() -> list[Any]:
    count = itertools.count()

    def again(seed: int, purpose: Any, *key: int) -> Any:
        return stream(seed, purpose, *key, next(count))

    return [patch.object(clients, "stream", again)]


@mutant("the offset of one group is added to the scores of the other")
def offsets_of_the_wrong_group() -> list[Any]:
    original = HeldOut.probabilities

    def probabilities(self: Any, model: Any, own: Any = None, offsets: Any = None) -> Any:
        return original(self, model, own, None if offsets is None else offsets[::-1])

    return [patch.object(HeldOut, "probabilities", probabilities)]


@mutant("offsets come from the releases of the first client alone, and the others are charged for nothing")
def offsets_of_one_client() -> list[Any]:
    original = server.offsets
    return [
        patch.object(server, "offsets", lambda run, released: original(run, released[:1] * len(released)))
    ]
