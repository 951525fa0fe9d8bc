"""Means of groups over all clients, from released sums and counts of mixed clients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedtoll.strategies.base import Report, State, Weights
from fedtoll.strategies.counts import add_counts


def group_means(
    state: State, reports: Sequence[Report], counts_KG: Weights, sds_KG: Weights, sums_G: Weights
) -> tuple[State, Weights, Weights]:
    """Return the state with this round's counts, every group's share ρ_g of the records, and its mean.

    Counts are averaged over rounds, and the number of a group's records is at least 1 and at least the
    standard deviation of one round's count. The mean is over the records of the clients present. A group
    whose records are all missing has the mean of the others.

    Parameters
    ----------
    state
        What an earlier call returned, among other things; or empty.
    reports
        The reports of the clients that are present.
    counts_KG, sds_KG
        Their released counts and the standard deviation of the noise in these.
    sums_G
        The released sums of every group, over the clients present.
    """
    floor_G = np.maximum(np.sqrt((sds_KG**2).sum(axis=0)), 1.0)
    state = {**state, **add_counts(state, reports, counts_KG)}
    known_KG = state["counts"] / state["releases"][:, None]
    present_K = np.isin(state["counts.clients"], [r.client for r in reports])
    here_G = known_KG[present_K].sum(axis=0)
    all_G = np.maximum(known_KG.sum(axis=0), floor_G)
    share_G = all_G / all_G.sum()
    means_G = sums_G / np.maximum(here_G, floor_G)
    if not present_K.all():  # a group whose records are all missing has no mean of its own
        there_G = here_G > floor_G
        mean = means_G[there_G] @ share_G[there_G] / share_G[there_G].sum() if there_G.any() else 0.0
        means_G = np.where(there_G, means_G, mean)
    return state, share_G, means_G


def positive_rates(state: State, reports: Sequence[Report]) -> tuple[State, Weights, Weights]:
    """Return the state, the groups' shares, and how often each is predicted positive, between 0 and 1.

    The rate is the mean of the probabilities of the positive class, from the statistic ``group_score``.
    """
    answers = [r.statistics["group_score"] for r in reports]
    value_KGC = np.stack([np.asarray(a.value, dtype=float) for a in answers])
    sds_KG = np.sqrt((np.stack([np.asarray(a.sd, dtype=float) for a in answers]) ** 2).sum(axis=2))
    scores_G = value_KGC[:, :, 1].sum(axis=0)
    state, share_G, rate_G = group_means(state, reports, value_KGC.sum(axis=2), sds_KG, scores_G)
    return state, share_G, np.clip(rate_G, 0.0, 1.0)
