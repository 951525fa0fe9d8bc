"""From ε to noise and back: composition of subsampled Gaussian releases.

Everything here takes public constants only: sampling rates, noise
multipliers and counts. The privacy unit is one record of one client,
neighbours differ by adding or removing it, and sampling is Poisson.

Two accountants: ``rdp`` (Rényi DP; Mironov 2017, Mironov, Talwar and Zhang
2019; conversion of Balle et al. 2020, theorem 21) and ``prv`` (numerical
composition of privacy-loss random variables; Gopi, Lee and Wutschitz 2021),
both computed by Opacus. Both are bounds; approximations such as GDP are
refused. RDP is linear in the number of releases, so one curve a (q, σ) serves
every client and every round. PRV is never reported above RDP, for both hold.

Opacus composes PRV in one direction alone: the loss of a record's removal, log(with/without) over outputs
with it. RDP bounds both (Mironov, Talwar and Zhang 2019). That the removal is the worse one of a *composed*
sampled Gaussian is not proved; tests/peers/test_pld.py compares with an oracle of both directions.
"""

from __future__ import annotations

import importlib.util
import math
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedtoll.privacy import calibration_cache
from fedtoll.scenarios.errors import ScenarioError

ORDERS: tuple[float, ...] = (
    *(1 + x / 10 for x in range(1, 100)),
    *range(11, 64),
    *(64, 72, 80, 96, 112, 128, 160, 192, 256, 320, 384, 448, 512, 640, 768, 896, 1024),
)
"""Rényi orders; Opacus's own end at 63, under which no ε below .103 can be reached at δ = 1e-5."""

LIMITS = (0.2, 1e6)
"""Noise multipliers that calibration searches."""

ACCOUNTANTS = ("rdp", "prv")

FINEST = 2**21
"""Points of the grid on which PRV composes, at most: some seconds, and 100 MB."""

_RDP = "opacus.accountants.analysis.rdp"
_NO_BOUND = {"gdp": "Gaussian DP", "clt": "the central limit", "ma": "the old moments accountant"}
_VERSION = 1  # raised when this arithmetic changes: part of every cached calibration's key


def check_accountant(name: str) -> None:
    """Refuse what is no bound, or unknown, in one line.

    Raises
    ------
    ScenarioError
        With why, and what to use.
    """
    if name in ACCOUNTANTS:
        return
    if name in _NO_BOUND:
        why = f"{_NO_BOUND[name]} is an approximation here and no bound"
        raise ScenarioError(f"accountant {name!r}: {why}; use 'rdp' or 'prv'")
    raise ScenarioError(f"accountant {name!r}: must be 'rdp' or 'prv'")


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


@lru_cache(maxsize=65536)
def _curve(noise_multiplier: float, sampling_rate: float, orders: tuple[float, ...]) -> NDArray[np.float64]:
    """Return the RDP of one release at these orders."""
    curve = _opacus_rdp().compute_rdp(
        q=sampling_rate, noise_multiplier=noise_multiplier, steps=1, orders=list(orders)
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
def _conversion(delta: float, orders: tuple[float, ...]) -> NDArray[np.float64]:
    """Return what turns the RDP at each order into ε at this δ (Balle et al. 2020, theorem 21)."""
    alpha = np.array(orders)
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

    Raises
    ------
    ScenarioError
        For another accountant.

    Examples
    --------
    >>> round(epsilon([Event(1.0, 0.02, 1000)], 1e-5), 3)
    4.324
    >>> epsilon([], 1e-5)
    0.0
    >>> epsilon([Event(0.0)], 1e-5)
    inf
    """
    check_accountant(accountant)
    merged = _merged(events)
    if not merged:
        return 0.0
    if any(noise == 0 for noise, _, _ in merged):
        return math.inf
    return _compose(merged, delta, accountant)


def of_a_record(
    clients: Sequence[Sequence[Event]], copies: int, delta: float, accountant: str = "rdp"
) -> float:
    """Return an ε that no record exceeds, each of which any ``copies`` of the clients hold.

    Parameters
    ----------
    clients
        All releases of each client.
    copies
        How many clients hold a record; its ledgers add.
    delta, accountant
        As in :func:`epsilon`.

    Returns
    -------
    float
        For one copy the largest client's ε; for several and clients that all release the same, the ε of
        that many times what one releases. Else RDP's, whatever the accountant: at every order the
        ``copies`` largest curves are added. (The largest ε of a client's own releases taken ``copies``
        times is no bound: two clients' best orders may differ.)

    Examples
    --------
    >>> many, loud = [Event(2.0, 0.02, 1000)], [Event(5.0)]
    >>> of_a_record([many, loud], 1, 1e-5) == max(epsilon(many, 1e-5), epsilon(loud, 1e-5))
    True
    >>> math.isclose(of_a_record([many, loud], 2, 1e-5), epsilon(many + loud, 1e-5))
    True
    """
    check_accountant(accountant)
    kinds = {_merged(events) for events in clients}
    if copies == 1 or len(kinds) <= 1 or any(noise == 0 for kind in kinds for noise, _, _ in kind):
        return max((epsilon([*events] * copies, delta, accountant) for events in clients), default=0.0)
    curve_KA = np.array([_rdp(_merged(events), ORDERS) for events in clients])
    most_A = np.sort(curve_KA, axis=0)[-copies:].sum(axis=0)
    return max(0.0, float(np.min(most_A + _conversion(delta, ORDERS))))


def _merged(events: Sequence[Event]) -> tuple[tuple[float, float, int], ...]:
    """Return distinct (σ, q, count), in order; without what releases nothing."""
    merged: dict[tuple[float, float], int] = {}
    for event in events:
        key = (event.noise_multiplier, event.sampling_rate)
        merged[key] = merged.get(key, 0) + event.count
    return tuple(sorted((*key, n) for key, n in merged.items() if n > 0 and key[1] > 0))


def _rdp(events: tuple[tuple[float, float, int], ...], orders: tuple[float, ...]) -> NDArray[np.float64]:
    """Return the RDP of a composition at these orders."""
    return sum((count * _curve(noise, rate, orders) for noise, rate, count in events), np.zeros(len(orders)))


@lru_cache(maxsize=65536)
def _compose(events: tuple[tuple[float, float, int], ...], delta: float, accountant: str) -> float:
    """Return ε of distinct (σ, q, count): equal clients share one computation a round."""
    rdp = max(0.0, float(np.min(_rdp(events, ORDERS) + _conversion(delta, ORDERS))))
    if accountant == "rdp" or rdp > 100:  # beyond that PRV takes minutes, and no number matters
        return rdp
    return min(rdp, _prv(events, delta))


def _prv(events: tuple[tuple[float, float, int], ...], delta: float) -> float:
    """Return PRV's upper bound; infinity where its arithmetic gives up and RDP's has to do.

    The grid is as fine as an error of .01 in ε asks for. Where that is finer than ``FINEST`` the error
    allowed is more; it is part of the bound.
    """
    from opacus.accountants import PRVAccountant
    from opacus.accountants.analysis.prv import PoissonSubsampledGaussianPRV
    from opacus.accountants.analysis.prv.domain import compute_safe_domain_size

    accountant = PRVAccountant()
    accountant.history = list(events)
    fine, slack = 0.01, delta / 1000
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        prvs = [PoissonSubsampledGaussianPRV(rate, noise) for noise, rate, _ in events]
        counts = [count for _, _, count in events]
        try:
            half = compute_safe_domain_size(prvs, counts, fine, slack)
            points = 2 * half * math.sqrt(sum(counts) * math.log(12 / slack) / 2) / fine
            error = fine * max(1.0, points / FINEST)
            if not error < 1:  # its guarantee is for small errors
                return math.inf
            bound = float(accountant.get_epsilon(delta=delta, eps_error=error))
        except (RuntimeError, ValueError, OverflowError):
            return math.inf
    return bound if bound >= 0 else math.inf  # not a number is no bound


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
    check_accountant(accountant)
    key = [
        *(_VERSION, ORDERS, target, sampling_rate, count, delta, accountant),
        *([e.noise_multiplier, e.sampling_rate, e.count] for e in beside),
    ]

    def events(sigma: float) -> list[Event]:
        return [Event(sigma, sampling_rate, count), *beside]

    def spends(sigma: float) -> float:
        return epsilon(events(sigma), delta, accountant)

    cached = calibration_cache.recall(key)
    if cached is not None and LIMITS[0] <= cached <= LIMITS[1] and spends(cached) <= target:
        return cached
    if accountant == "rdp":
        sigma = _round_up(_rdp_root(events, target, beside, delta))
    else:  # a dear function: begin where the cheap one, which lies above it, ends
        start = 1.0
        with suppress(ScenarioError):
            start = calibrate(target, sampling_rate=sampling_rate, count=count, delta=delta, beside=beside)
        sigma = _round_up(_root(spends, target, beside, delta, accountant, start))
    while spends(sigma) > target:
        sigma = _round_up(sigma * (1 + 2e-5))
    calibration_cache.remember(key, sigma)
    return sigma


def _rdp_root(
    events: Callable[[float], Sequence[Event]], target: float, beside: Sequence[Event], delta: float
) -> float:
    """Return where RDP's ε crosses ``target``, from few of its orders: a curve of all is dear.

    There ε is that of one order, the best one, which is sought among every eighth, then among those around
    it. All together confirm it, or are asked instead.
    """

    def at(sigma: float, orders: tuple[float, ...]) -> NDArray[np.float64]:
        return _rdp(_merged(events(sigma)), orders) + _conversion(delta, orders)

    def root(orders: tuple[float, ...], start: float) -> float:
        return _root(lambda sigma: float(np.min(at(sigma, orders))), target, beside, delta, "rdp", start)

    def follow(orders: tuple[float, ...], sigma: float) -> tuple[float, int]:
        """Go down from where ε is within the target, along the best order, until it stays the best."""
        best, seen = int(np.argmin(at(sigma, orders))), set[int]()
        while best not in seen:
            seen.add(best)
            sigma = root((orders[best],), sigma)
            best = int(np.argmin(at(sigma, orders)))
        return sigma, ORDERS.index(orders[best])

    if not _merged(events(1.0)):
        return LIMITS[0]
    every, sigma = (*ORDERS[::8], ORDERS[-1]), 1.0
    while np.min(at(sigma, every)) > target:
        if (sigma := 2 * sigma) > LIMITS[1]:
            return root(ORDERS, 1.0)
    sigma, best = follow(every, sigma)
    around = ORDERS[max(0, best - 8) : best + 9]
    sigma, _ = follow(around, sigma)
    if ORDERS[int(np.argmin(at(_round_up(sigma), ORDERS)))] in around:
        return sigma
    return root(ORDERS, sigma)


def _root(
    spends: Callable[[float], float],
    target: float,
    beside: Sequence[Event],
    delta: float,
    accountant: str,
    start: float,
) -> float:
    """Return where ``spends`` crosses ``target``: a bracket by doubling, then Brent's method."""
    low = high = start
    while spends(high) > target:
        low, high = high, 2 * high
        if high > LIMITS[1]:
            alone = epsilon(beside, delta, accountant)
            because = f": the statistics alone spend {alone:.3g}" if alone > target else ""
            raise ScenarioError(
                f"privacy.epsilons: ε = {target:g} cannot be reached at δ = {delta:g}{because}"
            )
    shorter = 1.5 if accountant == "rdp" else 1.1
    while low >= LIMITS[0] and spends(low) <= target:
        low, high = low / shorter, low
    if low < LIMITS[0]:
        low = LIMITS[0]
        if spends(low) <= target:
            return low
    from scipy.optimize import brentq

    crossing = brentq(
        lambda x: math.log(min(max(spends(math.exp(x)), 1e-300), 1e300) / target),
        math.log(low),
        math.log(high),
        xtol=1e-9 if accountant == "rdp" else 1e-6,
    )
    return math.exp(float(crossing))


def _round_up(value: float) -> float:
    """Round up to five significant digits."""
    digits = 4 - math.floor(math.log10(value))
    return float(round(math.ceil(value * 10**digits * (1 - 1e-12)) / 10**digits, digits))
