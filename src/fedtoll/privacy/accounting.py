"""Privacy accounting and noise calibration for compositions of subsampled Gaussian mechanisms.

Every function takes public constants only: sampling rates, noise multipliers and counts. The privacy unit is
one record of one client, neighbouring data sets differ by adding or removing it, and sampling is Poisson.

Three accountants, all upper bounds; approximations such as GDP are rejected:

- ``pld``, the default: privacy loss distributions, composed numerically in both directions and rounded up
  (:mod:`fedtoll.privacy.loss_distribution`). It is exact to about 1e-4.
- ``rdp``: Rényi DP, whose divergences are computed by Opacus (Mironov 2017, Mironov, Talwar and Zhang 2019;
  conversion of Balle et al. 2020, theorem 21). It is a tenth higher, but linear in the number of releases,
  and the price of a choice of constants needs its curves (:mod:`fedtoll.privacy.selection`).
- ``prv``: privacy-loss random variables, composed by Opacus (Gopi, Lee and Wutschitz 2021). It is an
  independent implementation of the same idea, in one direction only: the loss of removing a record,
  log(with/without) over outputs with it. It is not proved that removal is the worse direction for a
  *composed* sampled Gaussian.

tests/peers/test_pld.py compares all three with an oracle of both directions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fedtoll.privacy import calibration_cache, loss_distribution, opacus_prv, opacus_rdp
from fedtoll.scenarios.client_unit import joint_multiplier
from fedtoll.scenarios.errors import ScenarioError

ORDERS: tuple[float, ...] = (
    *(1 + x / 10 for x in range(1, 100)),
    *range(11, 64),
    *(64, 72, 80, 96, 112, 128, 160, 192, 256, 320, 384, 448, 512, 640, 768, 896, 1024),
)
"""Rényi orders. Opacus's defaults end at 63, with which no ε below .103 can be reached at δ = 1e-5."""

LIMITS = (0.2, 1e6)
"""Smallest and largest noise multiplier that calibration considers."""

ACCOUNTANTS = ("pld", "rdp", "prv")

DEFAULT = "pld"

MANY = 10**7
"""With more releases, the grid of ``pld`` may be too coarse to be tight."""

_NO_BOUND = {"gdp": "Gaussian DP", "clt": "the central limit theorem", "ma": "the old moments accountant"}
_VERSION = 3  # part of the key of cached calibrations; raise it when this arithmetic changes


def check_accountant(name: str) -> None:
    """Raise ``ScenarioError`` unless an accountant is known and returns an upper bound."""
    if name in ACCOUNTANTS:
        return
    if name in _NO_BOUND:
        reason = f"{_NO_BOUND[name]} is an approximation, not an upper bound"
        raise ScenarioError(f"accountant {name!r}: {reason}; use 'pld', 'rdp' or 'prv'")
    raise ScenarioError(f"accountant {name!r}: must be 'pld', 'rdp' or 'prv'")


@dataclass(frozen=True)
class Event:
    """``count`` releases of one Gaussian mechanism on Poisson samples.

    Parameters
    ----------
    noise_multiplier
        σ: the standard deviation of the noise divided by the L2 sensitivity.
    sampling_rate
        q: the probability with which each record is sampled; 1 for a release over all records.
    count
        Number of releases.
    """

    noise_multiplier: float
    sampling_rate: float = 1.0
    count: int = 1


@lru_cache(maxsize=65536)
def _curve(noise_multiplier: float, sampling_rate: float, orders: tuple[float, ...]) -> NDArray[np.float64]:
    """Return the RDP of one release at each order."""
    curve = opacus_rdp.load().compute_rdp(
        q=sampling_rate, noise_multiplier=noise_multiplier, steps=1, orders=list(orders)
    )
    # Where the series overflows the order gives no bound, and must not win the minimum over orders.
    return np.where(np.isfinite(curve), curve, np.inf)


@lru_cache(maxsize=16)
def _conversion(delta: float, orders: tuple[float, ...]) -> NDArray[np.float64]:
    """Return the terms that convert RDP at each order to ε at δ (Balle et al. 2020, theorem 21)."""
    alpha = np.array(orders)
    return np.asarray(np.log1p(-1 / alpha) - (math.log(delta) + np.log(alpha)) / (alpha - 1))


def epsilon(events: Sequence[Event], delta: float, accountant: str = DEFAULT) -> float:
    """Return an upper bound of the ε of a composition: its output is (ε, δ)-differentially private.

    Parameters
    ----------
    events
        All releases of one client, over all rounds, training and statistics together.
    delta
        The δ of (ε, δ)-differential privacy.
    accountant
        ``pld``, ``rdp`` or ``prv``.

    Notes
    -----
    ==============================================  ========================================
    Edge case                                       ε
    ==============================================  ========================================
    no events, or all with q = 0 or ``count`` = 0   0
    any event with σ = 0 (and q, ``count`` > 0)     ∞
    ``pld`` where all events have q = 1             the exact one (Balle and Wang 2018)
    ``pld`` with more than ``MANY`` releases        the smaller of PLD's and RDP's
    ``pld`` where a loss may exceed 600 (σ < .04)   RDP's
    ``pld`` where rounding errors may reach δ/4     RDP's (δ = 1e-9: with 3·10⁵ releases)
    ``prv`` where RDP gives more than 100           RDP's
    ``prv`` where PRV fails or is too inaccurate    RDP's
    ==============================================  ========================================

    Raises
    ------
    ScenarioError
        If the accountant is not one of these.

    Examples
    --------
    >>> [round(epsilon([Event(1.0, 0.02, 1000)], 1e-5, name), 2) for name in ("pld", "prv", "rdp")]
    [3.9, 3.91, 4.32]
    >>> epsilon([], 1e-5)
    0.0
    >>> epsilon([Event(0.0)], 1e-5)
    inf
    """
    check_accountant(accountant)
    merged = kinds(events)
    if not merged:
        return 0.0
    if any(noise == 0 for noise, _, _ in merged):
        return math.inf
    return _compose(merged, delta, accountant)


def record_epsilon(
    clients: Sequence[Sequence[Event]], copies: int, delta: float, accountant: str = DEFAULT
) -> float:
    """Return an upper bound of the ε of any record when ``copies`` of the clients hold each record.

    Parameters
    ----------
    clients
        All releases of each client.
    copies
        Number of clients that hold a record; their releases compose.
    delta, accountant
        As in :func:`epsilon`.

    Returns
    -------
    float
        For one copy, the largest ε of a client. For several copies and clients with equal releases, the ε
        of one client's releases repeated ``copies`` times. Otherwise the ε of RDP, whatever the accountant,
        from the sum of the ``copies`` largest curves at each order. (The largest ε of a client's own
        releases repeated ``copies`` times is not a bound, since the clients' best orders may differ.)

    Examples
    --------
    >>> a, b = [Event(2.0, 0.02, 1000)], [Event(5.0)]
    >>> record_epsilon([a, b], 1, 1e-5) == max(epsilon(a, 1e-5), epsilon(b, 1e-5))
    True
    >>> math.isclose(record_epsilon([a, b], 2, 1e-5), epsilon(a + b, 1e-5, "rdp"))
    True
    """
    check_accountant(accountant)
    distinct = {kinds(events) for events in clients}
    if copies == 1 or len(distinct) <= 1 or any(noise == 0 for merged in distinct for noise, _, _ in merged):
        return max((epsilon([*events] * copies, delta, accountant) for events in clients), default=0.0)
    curve_KA = np.array([_rdp(kinds(events), ORDERS) for events in clients])
    largest_A = np.sort(curve_KA, axis=0)[-copies:].sum(axis=0)
    return converted(largest_A, delta)


def rdp_curve(events: Sequence[Event]) -> NDArray[np.float64]:
    """Return the RDP of a composition at each of ``ORDERS``; infinite where an order gives no bound."""
    return _rdp(kinds(events), ORDERS)


def converted(curve: NDArray[np.float64], delta: float) -> float:
    """Return the ε at δ of a mechanism, from its RDP at each of ``ORDERS``."""
    return max(0.0, float(np.min(curve + _conversion(delta, ORDERS))))


def kinds(events: Sequence[Event]) -> tuple[tuple[float, float, int], ...]:
    """Return the distinct (σ, q, count) of events, sorted, without those that release nothing."""
    merged: dict[tuple[float, float], int] = {}
    for event in events:
        key = (event.noise_multiplier, event.sampling_rate)
        if not 0 <= event.sampling_rate <= 1:
            raise ValueError(f"sampling rate {event.sampling_rate}: must be from 0 to 1")
        merged[key] = merged.get(key, 0) + event.count
    return tuple(sorted((*key, n) for key, n in merged.items() if n > 0 and key[1] > 0))


def _rdp(events: tuple[tuple[float, float, int], ...], orders: tuple[float, ...]) -> NDArray[np.float64]:
    """Return the RDP of a composition at each order."""
    return sum((count * _curve(noise, rate, orders) for noise, rate, count in events), np.zeros(len(orders)))


@lru_cache(maxsize=65536)
def _compose(events: tuple[tuple[float, float, int], ...], delta: float, accountant: str) -> float:
    """Return the ε of distinct (σ, q, count), cached because many clients have the same."""
    if accountant == "pld":
        pld = loss_distribution.epsilon(events, delta)
        if pld < math.inf and sum(count for *_, count in events) <= MANY:
            return pld
        return min(pld, converted(_rdp(events, ORDERS), delta))
    rdp = converted(_rdp(events, ORDERS), delta)
    if accountant == "rdp" or rdp > 100:  # above 100 PRV takes minutes, and no ε is meaningful
        return rdp
    return min(rdp, opacus_prv.epsilon(events, delta))


def calibrate(
    target: float,
    *,
    sampling_rate: float,
    count: int,
    delta: float,
    accountant: str = DEFAULT,
    others: Sequence[Event] = (),
    joined: Event | None = None,
) -> float:
    """Return the smallest noise multiplier of DP-SGD whose *total* ε is at most ``target``.

    Parameters
    ----------
    target
        The ε of one client over all rounds.
    sampling_rate, count
        q and the number of DP-SGD steps over all rounds.
    delta, accountant
        As in :func:`epsilon`.
    others
        The client's other releases (statistics), paid from ``target`` too.
    joined
        What is released from the same samples as ``joined.count`` of the ``count`` steps, at their sampling
        rate: step and this are one release with the noise multiplier (σ⁻² + z⁻²)^(−1/2).

    Returns
    -------
    float
        σ with ``epsilon([Event(σ, sampling_rate, count), *others], delta, accountant) <= target``, rounded
        up to five significant digits so that every machine returns the same. At least ``LIMITS[0]``.

    Raises
    ------
    ScenarioError
        If the statistics alone exceed ``target``, or no σ up to ``LIMITS[1]`` reaches it.

    Examples
    --------
    >>> round(calibrate(3.9, sampling_rate=0.02, count=1000, delta=1e-5), 2)
    1.0
    """
    check_accountant(accountant)
    key = [
        *(_VERSION, ORDERS, target, sampling_rate, count, delta, accountant),
        *([e.noise_multiplier, e.sampling_rate, e.count] for e in others),
        *([] if joined is None else ["joined", joined.noise_multiplier, joined.count]),
    ]

    def events(sigma: float) -> list[Event]:
        if joined is None:
            return [Event(sigma, sampling_rate, count), *others]
        both = Event(joint_multiplier(sigma, joined.noise_multiplier), sampling_rate, joined.count)
        return [Event(sigma, sampling_rate, count - joined.count), both, *others]

    def spent(sigma: float) -> float:
        return epsilon(events(sigma), delta, accountant)

    cached = calibration_cache.recall(key)
    if cached is not None and LIMITS[0] <= cached <= LIMITS[1] and spent(cached) <= target:
        return cached
    fixed = others if joined is None else (*others, joined)
    if accountant == "rdp":
        sigma = _round_up(_rdp_root(events, target, fixed, delta))
    else:
        start = min(max(0.5, sampling_rate * math.sqrt(count) / target), LIMITS[1] / 2)
        if accountant == "prv":  # it is expensive: start at the σ of RDP, which is an upper bound
            with suppress(ScenarioError):
                start = _rdp_root(events, target, fixed, delta)
        sigma = _round_up(_root(spent, target, fixed, delta, accountant, start))
    while spent(sigma) > target:
        sigma = _round_up(sigma * (1 + 2e-5))
    calibration_cache.remember(key, sigma)
    return sigma


def _rdp_root(
    events: Callable[[float], Sequence[Event]], target: float, others: Sequence[Event], delta: float
) -> float:
    """Return the σ at which the ε of RDP crosses ``target``, evaluating few orders: all of them are slow.

    At the crossing a single order attains the minimum. It is searched for among every eighth order, then
    among its neighbours, and confirmed with all orders; if that fails, all orders are searched.
    """

    def at(sigma: float, orders: tuple[float, ...]) -> NDArray[np.float64]:
        return _rdp(kinds(events(sigma)), orders) + _conversion(delta, orders)

    def root(orders: tuple[float, ...], start: float) -> float:
        return _root(lambda sigma: float(np.min(at(sigma, orders))), target, others, delta, "rdp", start)

    def follow(orders: tuple[float, ...], sigma: float) -> tuple[float, int]:
        """Lower σ along the best order until that order stays the best; start with ε within the target."""
        best, seen = int(np.argmin(at(sigma, orders))), set[int]()
        while best not in seen:
            seen.add(best)
            sigma = root((orders[best],), sigma)
            best = int(np.argmin(at(sigma, orders)))
        return sigma, ORDERS.index(orders[best])

    if not kinds(events(1.0)):
        return LIMITS[0]
    coarse, sigma = (*ORDERS[::8], ORDERS[-1]), 1.0
    while np.min(at(sigma, coarse)) > target:
        if (sigma := 2 * sigma) > LIMITS[1]:
            return root(ORDERS, 1.0)
    sigma, best = follow(coarse, sigma)
    near = ORDERS[max(0, best - 8) : best + 9]
    sigma, _ = follow(near, sigma)
    if ORDERS[int(np.argmin(at(_round_up(sigma), ORDERS)))] in near:
        return sigma
    return root(ORDERS, sigma)


def _root(
    spent: Callable[[float], float],
    target: float,
    others: Sequence[Event],
    delta: float,
    accountant: str,
    start: float,
) -> float:
    """Return the σ at which ``spent`` crosses ``target``: a bracket by doubling, then Brent's method."""
    low = high = start
    while spent(high) > target:
        low, high = high, 2 * high
        if high > LIMITS[1]:
            alone = epsilon(others, delta, accountant)
            reason = f": the statistics alone spend {alone:.3g}" if alone > target else ""
            raise ScenarioError(
                f"privacy.epsilons: ε = {target:g} cannot be reached at δ = {delta:g}{reason}"
            )
    factor = 1.1 if accountant == "prv" else 1.5
    while low >= LIMITS[0] and spent(low) <= target:
        low, high = low / factor, low
    if low < LIMITS[0]:
        low = LIMITS[0]
        if spent(low) <= target:
            return low
    from scipy.optimize import brentq

    crossing = brentq(
        lambda x: math.log(min(max(spent(math.exp(x)), 1e-300), 1e300) / target),
        math.log(low),
        math.log(high),
        xtol=1e-6 if accountant == "prv" else 1e-9,
    )
    return math.exp(float(crossing))


def _round_up(value: float) -> float:
    """Round up to five significant digits."""
    digits = 4 - math.floor(math.log10(value))
    return float(round(math.ceil(value * 10**digits * (1 - 1e-12)) / 10**digits, digits))
