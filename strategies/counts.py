"""Released counts of every client, added up over rounds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedtoll.strategies.base import Report, State, Weights


def add_counts(state: State, reports: Sequence[Report], counts: Weights) -> State:
    """Return every client's number of releases and the sum of its counts, with this round's added.

    A client's records do not change, so the mean of its released counts has less noise with every release. It
    stays known while the client is missing.

    Parameters
    ----------
    state
        What an earlier call returned, among other things; or empty.
    reports
        The reports of the clients that are present.
    counts
        Their released counts, of shape (K, ...).

    Examples
    --------
    >>> reports = [Report(k, 10, "", update=()) for k in (4, 1)]
    >>> state = add_counts({}, reports, np.array([[3.0], [9.0]]))
    >>> state = add_counts(state, reports[:1], np.array([[5.0]]))
    >>> state["counts.clients"], state["releases"], state["counts"].ravel()
    (array([1, 4]), array([1, 2]), array([9., 8.]))
    """
    releases = {
        int(c): int(r)
        for c, r in zip(state.get("counts.clients", ()), state.get("releases", ()), strict=True)
    }
    sums = dict(zip(releases, state.get("counts", ()), strict=True))
    for report, released in zip(reports, counts, strict=True):
        releases[report.client] = releases.get(report.client, 0) + 1
        sums[report.client] = sums.get(report.client, 0.0) + released
    clients = sorted(releases)
    return {
        "counts.clients": np.array(clients, dtype=np.int64),
        "releases": np.array([releases[c] for c in clients], dtype=np.int64),
        "counts": np.stack([sums[c] for c in clients]),
    }
