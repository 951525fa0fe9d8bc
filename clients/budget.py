"""From ε to noise and back: composition of subsampled Gaussian releases.

Everything here takes public constants only: sampling rates, noise
multipliers and counts. The privacy unit is one record of one client,
neighbours differ by adding or removing it, and sampling is Poisson.

Two accountants: ``rdp`` (Rényi DP; Mironov 2017, Mironov, Talwar and Zhang
2019; conversion of Balle et al. 2020, theorem 21) and ``prv`` (numerical
composition of privacy-loss random variables; Gopi, Lee and Wutschitz 2021),
both computed by Opacus. Both are bounds; approximations such as GDP are
refused. RDP is linear in the number of releases, so one curve a (q, σ) serves
every client and every round.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedtoll.scenarios.data.archive import cache_folder
from fedtoll.scenarios.errors import ScenarioError

ORDERS: tuple[float, ...] = (
    *(1 + x / 10 for x in range(1, 100)),
    *range(11, 64),
    *(64, 72, 80, 96, 112, 128, 160, 192, 256, 320, 384, 448, 512, 640, 768, 896, 1024),
)
"""Rényi orders; Opacus's own end at 63, under which no ε below .103 can be reached at δ = 1e-5."""

LIMITS = (0.2, 1e6)
"""Noise multipliers that calibration searches."""

_RDP = "opacus.accountants.analysis.rdp"
_VERSION = 1  # raised when this arithmetic changes: part of every cached calibration's key


@dataclass(frozen=True)
class Event:
    """``count`` releases of one Gaussian mechanism on a Poisson sample.

    Parameters
    ----------
    noise_multiplier
        Standard deviation of the noise in units of the L2 sensitivity.
    sampling_rate
        Probability q with which each record enters; 1 for a release over all records.
    count
        How many times.
    """

    noise_multiplier: float
    sampling_rate: float = 1.0
    count: int = 1


@lru_cache(maxsize=4096)
def _curve(noise_multiplier: float, sampling_rate: float) -> NDArray[np.float64]:
    """Return the RDP of one release at every order."""
    curve = _opacus_rdp().compute_rdp(
        q=sampling_rate, noise_multiplier=noise_multiplier, steps=1, orders=list(ORDERS)
    )
    # An order at which the series overflows bounds nothing; it must not win the minimum either.
    return np.where(np.isfinite(curve), curve, np.inf)


@lru_cache(maxsize=1)
def _opacus_rdp() -> Any:
    """Return Opacus's module of Rényi curves by itself: the whole package takes seconds to import."""
    if (loaded := sys.modules.get(_RDP)) is not None:
        return loaded
    package = importlib.util.find_spec("opacus")
    if package is None or package.origin is None:
        raise ImportError("opacus is not installed")
    file = Path(package.origin).parent.joinpath("accountants", "analysis", "rdp.py")
    spec = importlib.util.spec_from_file_location("fedtoll_opacus_rdp", file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@lru_cache(maxsize=16)
def _conversion(delta: float) -> NDArray[np.float64]:
    """Return what turns the RDP at each order into ε at this δ (Balle et al. 2020, theorem 21)."""
    alpha = np.array(ORDERS)
    return np.asarray(np.log1p(-1 / alpha) - (math.log(delta) + np.log(alpha)) / (alpha - 1))


def epsilon(events: Sequence[Event], delta: float, accountant: str = "rdp") -> float:
    """Return the ε that the composition of these events spends at this δ.

    Parameters
    ----------
    events
        All releases of one client, of all rounds and kinds.
    delta
        The δ of (ε, δ)-differential privacy.
    accountant
        ``rdp`` or ``prv``.

    Returns
    -------
    float
        0 for no events, infinity as soon as one is not noised.

    Examples
    --------
    >>> round(epsilon([Event(1.0, 0.02, 1000)], 1e-5), 3)
    4.324
    >>> epsilon([], 1e-5)
    0.0
    >>> epsilon([Event(0.0)], 1e-5)
    inf
    """
    merged: dict[tuple[float, float], int] = {}
    for event in events:
        key = (event.noise_multiplier, event.sampling_rate)
        merged[key] = merged.get(key, 0) + event.count
    merged = {key: count for key, count in merged.items() if count > 0 and key[1] > 0}
    if not merged:
        return 0.0
    if any(noise == 0 for noise, _ in merged):
        return math.inf
    return _compose(tuple(sorted((*key, count) for key, count in merged.items())), delta, accountant)


@lru_cache(maxsize=65536)
def _compose(events: tuple[tuple[float, float, int], ...], delta: float, accountant: str) -> float:
    """Return ε of distinct (σ, q, count): equal clients share one computation a round."""
    total = sum(count * _curve(noise, rate) for noise, rate, count in events)
    rdp = max(0.0, float(np.min(total + _conversion(delta))))
    if accountant == "rdp" or rdp > 100:  # beyond that PRV takes minutes, and no number matters
        return rdp
    if accountant == "prv":
        return _prv(events, delta)
    raise ValueError(f"accountant {accountant!r}: must be 'rdp' or 'prv'")


def _prv(events: tuple[tuple[float, float, int], ...], delta: float) -> float:
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = list(events)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(accountant.get_epsilon(delta=delta))


def calibrate(
    target: float,
    *,
    sampling_rate: float,
    count: int,
    delta: float,
    accountant: str = "rdp",
    beside: Sequence[Event] = (),
) -> float:
    """Return the least noise multiplier of DP-SGD at which the *total* stays within ``target``.

    Parameters
    ----------
    target
        The ε of one client over all rounds.
    sampling_rate, count
        q, and the number of DP-SGD steps over all rounds.
    delta, accountant
        As in :func:`epsilon`.
    beside
        What the same client releases beside its training (statistics): it is paid from ``target`` too.

    Returns
    -------
    float
        σ, rounded up to five significant digits, so that the same σ follows on every machine.

    Raises
    ------
    ScenarioError
        When the statistics alone exceed ``target``, or no noise multiplier reaches it.

    Examples
    --------
    >>> round(calibrate(4.324, sampling_rate=0.02, count=1000, delta=1e-5), 2)
    1.0
    """
    key = json.dumps(
        [_VERSION, ORDERS, target, sampling_rate, count, delta, accountant]
        + [[e.noise_multiplier, e.sampling_rate, e.count] for e in beside]
    )
    file = cache_folder() / "budget" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"

    def spends(sigma: float) -> float:
        return epsilon([Event(sigma, sampling_rate, count), *beside], delta, accountant)

    try:
        cached = float(json.loads(file.read_text())["noise_multiplier"])
        if LIMITS[0] <= cached <= LIMITS[1] and spends(cached) <= target:
            return cached
    except (OSError, ValueError, KeyError, TypeError):
        pass
    sigma = _round_up(_root(spends, target, beside, delta, accountant))
    while spends(sigma) > target:
        sigma = _round_up(sigma * (1 + 2e-5))
    _remember(file, key, sigma)
    return sigma


def _root(
    spends: Callable[[float], float], target: float, beside: Sequence[Event], delta: float, accountant: str
) -> float:
    """Return where ``spends`` crosses ``target``: a bracket by doubling, then Brent's method."""
    low = high = 1.0
    while spends(high) > target:
        low, high = high, 2 * high
        if high > LIMITS[1]:
            alone = epsilon(beside, delta, accountant)
            because = f": the statistics alone spend {alone:.3g}" if alone > target else ""
            raise ScenarioError(
                f"privacy.epsilons: ε = {target:g} cannot be reached at δ = {delta:g}{because}"
            )
    while low >= LIMITS[0] and spends(low) <= target:
        low, high = low / 1.5, low
    if low < LIMITS[0]:
        low = LIMITS[0]
        if spends(low) <= target:
            return low
    from scipy.optimize import brentq

    crossing = brentq(
        lambda x: math.log(max(spends(math.exp(x)), 1e-300) / target),
        math.log(low),
        math.log(high),
        xtol=1e-9,
    )
    return math.exp(float(crossing))


def _round_up(value: float) -> float:
    """Round up to five significant digits."""
    digits = 4 - math.floor(math.log10(value))
    return float(round(math.ceil(value * 10**digits * (1 - 1e-12)) / 10**digits, digits))


def _remember(file: os.PathLike[str], key: str, sigma: float) -> None:
    """Write one calibration beside and rename it; a cache that cannot be written costs time only."""
    try:
        folder = os.path.dirname(file)  # noqa: PTH120
        os.makedirs(folder, exist_ok=True)  # noqa: PTH103
        with tempfile.NamedTemporaryFile("w", dir=folder, delete=False) as beside:
            json.dump({"noise_multiplier": sigma, "key": json.loads(key)}, beside)
        os.replace(beside.name, file)  # noqa: PTH105
    except OSError:
        return
