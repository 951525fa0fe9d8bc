"""The client as the unit of privacy: one client is protected with all its records.

==================  =====================================================  ==============================
``privacy.unit``    neighbours                                             what is clipped to C
==================  =====================================================  ==============================
``record``          one record of one client is added or removed           the gradient of every record
``client``          all records of one client are added or removed         the whole update of a client
==================  =====================================================  ==============================

Clients train without noise. Client k sends its update Δ_k, clipped to norm C_t. The round moves the model by

    D = Σ_{k in the round} c_k Δ_k + noise,   c_k = p_k / Σ_j p_j a_j

with public weights p_k and the public share a_j of the rounds in which client j is expected. The denominator
is fixed: to divide by the weights of those who came would double the sensitivity. A client without records
sends zeros, so one client moves D by at most C_t max_k c_k, and the noise has the standard deviation
z C_t max_k c_k. (McMahan et al. 2018, estimator f̃_f, whose denominator is q W; derived here for other a_j.)

``adaptive_clip`` = γ lets C_t follow the γ-quantile of the norms (Andrew et al. 2021): every client adds the
bit b_k = [‖Δ_k‖ ≤ C_t] − 1/2 to a second sum, whose sensitivity is 1/2, and

    C_{t+1} = C_t exp(−η (b̃ − γ)),   b̃ = 1/2 + (Σ_k b_k + noise) / Σ_j a_j.

Both sums come from one sample of clients, so a round is one Gaussian release of the pair. With noise
multipliers z_Δ and z_b its own is z = (z_Δ⁻² + z_b⁻²)^(−1/2), which is charged.

Statistics that a strategy requests (sums and counts by group) join the same release. Client k has the vector
S_k of all cells of a statistic, computed on all its records at the broadcast model, and sends

    V_k = S_k · min(1, M s / ‖S_k‖)

where s is the sensitivity to one record and M = ``statistics.record_cap``: whatever it holds, a client counts
as at most M records of one cell. All cells shrink by one factor, so the mean loss of a group within a client
stays what it is. A client without records sends zeros. So all records of one client together move Σ_k V_k by
at most M s, and the noise has the standard deviation z_s M s. M is public: by default the largest public
size, with which no client shrinks that holds no more records than it declares.

V_k, Δ_k and b_k of a round come from one sample of clients. Divided by their sensitivities and noise
multipliers they are one vector, which one client moves by at most (z_Δ⁻² + z_b⁻² + Σ_s z_s⁻²)^(1/2): one
Gaussian release, whose z is the inverse. To charge statistics as releases of their own would assume a second,
independent sample of clients, and understate ε. Strategies are shown the noised sum times the public factor
Σ_j n_j / Σ_j n_j a_j, an estimate of the total over all clients. (Derived here.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from fedtoll.scenarios.statistics import ADDITIVE

Unit = Literal["record", "client"]

BITS = 10.0
"""z_b / z: the noise of the bits. That of the updates grows by 0.5% to pay for them."""

PACE = 0.2
"""η of the adaptive clip (Andrew et al. 2021, section 3)."""

SHARE = 0.1
"""The share of ε that statistics would spend on their own, unless a scenario states their noise."""

TOLERANCE = 1e-9


def check(scenario: Any) -> None:
    """Raise ``ValueError`` in one line if the unit of privacy does not go with the other sections."""
    privacy, rule, statistics = scenario.privacy, scenario.participation, scenario.statistics
    if privacy.unit == "record":
        if (cap := statistics.record_cap) is not None:
            raise ValueError(f"statistics.record_cap = {cap:g}: needs privacy.unit = 'client'")
        for key in ("adaptive_clip", "weight_cap"):
            if (value := getattr(privacy, key)) is not None:
                raise ValueError(f"privacy.{key} = {value:g}: needs privacy.unit = 'client'")
        if rule.kind == "poisson":
            raise ValueError(
                "participation.kind = 'poisson': needs privacy.unit = 'client', privacy.trust = 'central'; "
                "elsewhere the adversary sees who takes part: use 'fraction'"
            )
        return
    if privacy.trust == "local":
        raise ValueError(
            "privacy.unit = 'client': needs privacy.trust = 'central' or 'secure-aggregation': under 'local' "
            "every client would hide its whole update in noise of its own"
        )
    if privacy.trust == "secure-aggregation" and rule.kind == "poisson":
        raise ValueError(
            "participation.kind = 'poisson': needs privacy.trust = 'central': under secure aggregation the "
            "server sees whom it asks, so sampling amplifies nothing; use 'fraction'"
        )
    if privacy.trust == "secure-aggregation" and rule.kind == "availability":
        raise ValueError(
            "participation.kind = 'availability': not with privacy.trust = 'secure-aggregation': shares of "
            "the noise need the same number of clients in every round; use 'fraction'"
        )
    if statistics.every > 1 and rule.kind == "availability":
        raise ValueError(
            f"statistics.every = {statistics.every}: must be 1 with participation.kind = 'availability' and "
            "privacy.unit = 'client': nobody may take part in the round in which they are due"
        )


def capped(weights: Sequence[float], cap: float | None) -> list[float]:
    """Return weights of which none is more than ``cap`` times the mean weight; their sum stays 1.

    What is cut off is divided among the others in proportion to their weights.

    Examples
    --------
    >>> capped([0.7, 0.2, 0.1], 1.5)
    [0.5, 0.3333333333333333, 0.16666666666666666]
    >>> capped([0.7, 0.2, 0.1], None)
    [0.7, 0.2, 0.1]
    """
    limit = 1.0 if cap is None else cap / len(weights)
    found, full = list(weights), 0
    while max(found) > limit * (1 + TOLERANCE):
        above = [w >= limit for w in found]
        full = sum(above)
        rest = math.fsum(w for w, at in zip(found, above, strict=True) if not at)
        share = (1 - full * limit) / rest if rest else 0.0
        found = [limit if at else w * share for w, at in zip(found, above, strict=True)]
    return found


def update_multiplier(z: float, adaptive: bool) -> float:
    """Return z_Δ, the noise multiplier of the updates: the charged z, less what the bits are charged for.

    Examples
    --------
    >>> round((update_multiplier(2.0, True) ** -2 + bit_multiplier(2.0) ** -2) ** -0.5, 12)
    2.0
    """
    return z / math.sqrt(1 - BITS**-2) if adaptive else z


def joint_multiplier(*multipliers: float) -> float:
    """Return z of one release of several sums over the same clients: (Σ z_i⁻²)^(−1/2); 0 if one is 0.

    Examples
    --------
    >>> joint_multiplier(3.0), round(joint_multiplier(3.0, 4.0), 9)
    (3.0, 2.4)
    """
    if len(multipliers) == 1 or min(multipliers) == 0:
        return min(multipliers)
    return 1 / math.hypot(*(1 / z for z in multipliers))


def statistic_bound(record: float, sizes: Sequence[int], cap: float | None) -> float:
    """Return the largest norm of a client's part of a statistic: that of ``cap`` records.

    Parameters
    ----------
    record
        The L2 sensitivity to one record.
    sizes, cap
        The public sizes of all clients, and M; the largest of them by default.

    Examples
    --------
    >>> statistic_bound(2.0, [10, 30], None), statistic_bound(2.0, [10, 30], 12.5)
    (60.0, 25.0)
    """
    return record * (max(sizes) if cap is None else cap)


def bit_multiplier(z: float) -> float:
    """Return z_b, the noise multiplier of the sum of bits."""
    return BITS * z


def coefficients(weights: Sequence[float], chances: Sequence[float]) -> list[float]:
    """Return c_k = p_k / Σ_j p_j a_j, the factor of every client's update in a round's sum.

    Examples
    --------
    >>> coefficients([0.75, 0.25], [0.5, 0.5])
    [1.5, 0.5]
    """
    expected = math.fsum(p * a for p, a in zip(weights, chances, strict=True))
    return [p / expected for p in weights]


def largest(coefficients: Sequence[float]) -> float:
    """Return max c_k, the sensitivity of a round's sum in units of the clip."""
    return max(coefficients)


def update_share(z: float, most: float, weight: float, honest: int) -> float:
    """Return the noise that a client adds to its clipped update, in units of the clip.

    It is z_Δ p_max / (p_k √m): the weighted shares of m honest clients add up to the noise of the sum.
    """
    return z * most / (weight * math.sqrt(honest))


def statistic_share(z: float, honest: int) -> float:
    """Return the noise that a client adds to its part of a statistic, in units of the bound: z_s / √m."""
    return z / math.sqrt(honest)


def check_run(run: Any) -> None:
    """Raise ``ValueError`` unless a run's clients and server add exactly the noise of the client unit."""
    clients, rule = run.clients, run.participation
    if run.trust == "local" or run.on_failure != "abort":
        raise ValueError("unit 'client': needs sums of updates, and every reply")
    weights = [c.weight or 0.0 for c in clients]
    if not math.isclose(math.fsum(weights), 1.0, rel_tol=TOLERANCE) or min(weights) <= 0:
        raise ValueError("clients.weight: not greater than 0 with a sum of 1")
    if len({c.noise_multiplier for c in clients}) > 1:
        raise ValueError("clients.noise_multiplier: a sum has one noise")
    shared = run.trust == "secure-aggregation"
    if run.colluding and not shared:
        raise ValueError(f"colluding = {run.colluding}: needs secure aggregation")
    if shared and rule is not None and rule.kind != "fraction":
        raise ValueError(f"participation {rule.kind!r}: not with secure aggregation")
    if shared and honest(run) < 1:
        raise ValueError(f"colluding = {run.colluding}: must be less than the number of clients of a round")
    z = update_multiplier(clients[0].noise_multiplier, run.adaptive_clip is not None)
    most = largest(weights)
    for client in clients:
        due = update_share(z, most, client.weight, honest(run)) if shared else 0.0
        found = client.noise_share
        if found is None or not math.isclose(found, due, rel_tol=TOLERANCE, abs_tol=0.0):
            raise ValueError(f"noise_share = {found}: must be {due:g}")
    for statistic in run.statistics:
        if statistic.name not in ADDITIVE or not (statistic.client_bound or 0.0) > 0:
            raise ValueError(f"statistic {statistic.name}: needs to be a sum over records, with a bound")
        due = statistic_share(statistic.noise_multiplier, honest(run)) if shared else 0.0
        found = statistic.noise_share
        if found is None or not math.isclose(found, due, rel_tol=TOLERANCE, abs_tol=0.0):
            raise ValueError(f"statistic {statistic.name}: noise_share = {found}: must be {due:g}")


def honest(run: Any) -> int:
    """Return how many clients of a round add shares of the noise that nobody subtracts."""
    return together(run.participation, len(run.clients)) - int(run.colluding)


def together(rule: Any, clients: int) -> int:
    """Return the number of clients that take part in every round, if it is the same in all."""
    return clients if rule is None or rule.kind == "all" else max(1, round(rule.fraction * clients))


def bit_share(run: Any) -> float:
    """Return the standard deviation of the noise that a client adds to its bit: z_b / 2 / √m, or 0."""
    if run.trust != "secure-aggregation":
        return 0.0
    return bit_multiplier(run.clients[0].noise_multiplier) / 2 / math.sqrt(honest(run))
