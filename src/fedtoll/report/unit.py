"""What the privacy card says where a client, with all its records, is the unit of privacy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedtoll.formatting import count, general


def is_client(scenario: Mapping[str, Any]) -> bool:
    """Return whether a client is the unit of privacy of a resolved scenario."""
    return bool(scenario.get("privacy", {}).get("unit", "record") == "client")


def is_hidden(scenario: Mapping[str, Any]) -> bool:
    """Return whether nobody but a trusted server knows who takes part."""
    return bool(scenario.get("participation", {}).get("kind", "all") == "poisson")


def terms(scenario: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the unit and the neighbours of the guarantee."""
    if not is_client(scenario):
        return [
            ("Unit", "One record of one client."),
            ("Neighbours", "Two data sets that differ by one record, added to or removed from one client."),
        ]
    return [
        ("Unit", "One client, with all its records."),
        (
            "Neighbours",
            "Two federations that differ by all records of one client. Its declared size is public in both; "
            "without its records it sends zeros.",
        ),
    ]


def composed(scenario: Mapping[str, Any]) -> str:
    """Return a sentence on whose ε the ε of a run is."""
    if is_hidden(scenario):
        return (
            "Every client is charged for every round alike, whether or not it takes part, so the ledger has "
            "one line a round for all of them (client −1)."
        )
    return "Each client is charged for the rounds in which it is asked; the ε of a run is the largest."


def mechanism(scenario: Mapping[str, Any], norm: str) -> str:
    """Return the sentences on the mechanism.

    Parameters
    ----------
    scenario
        The resolved scenario.
    norm
        The norm that updates are clipped to, after which the sentence goes on; empty if it is not known.
    """
    privacy = scenario.get("privacy", {})
    by = "the server adds Gaussian noise once"
    if privacy.get("trust") == "secure-aggregation":
        by = "each client adds its share of one Gaussian noise"
    cap = privacy.get("weight_cap")
    capped = f", at most {general(float(cap))} times their mean" if cap is not None else ""
    text = (
        f"Each client trains without noise and clips its whole update{norm}. Updates are added up with "
        f"public weights{capped}, divided by their expected sum in a round, and {by} to the sum; σ is in "
        "units of its sensitivity, the clip times the largest such weight. A strategy is shown the sum only."
    )
    if (quantile := privacy.get("adaptive_clip")) is not None:
        text += (
            f" The clip follows the {general(float(quantile))} quantile of the norms from there on. It needs "
            "one noised bit of each client, charged as a part of the same release."
        )
    return text


def statistics(scenario: Mapping[str, Any]) -> str:
    """Return the sentences on statistics that strategies ask for."""
    cap = scenario.get("statistics", {}).get("record_cap")
    most = "as many records as the largest public size" if cap is None else f"{general(float(cap))} records"
    return (
        f"What a client adds to such a sum is scaled down to the norm of {most} of one cell, whatever it "
        "holds; the noise is in units of that norm. The update and the statistics of a round come from the "
        "same clients and are charged as one release."
    )


def participation(scenario: Mapping[str, Any]) -> str:
    """Return a sentence on clients that are sampled in secret; empty otherwise."""
    if not is_hidden(scenario):
        return ""
    rate = float(scenario.get("participation", {}).get("rate") or 0.0)
    return (
        f"Each client takes part in a round with probability {general(rate)}, drawn in secret. Nobody but "
        "the trusted server knows who does, and the noise counts on it: sampling clients amplifies."
    )


def exposed(clients: int, delta: float) -> str:
    """Return a sentence on how many clients δ could expose outright."""
    return (
        "δ alone would allow a mechanism to publish each client with probability δ: of the "
        f"{count(clients)} clients here, {general(delta * clients)} on average."
    )


def not_covered(scenario: Mapping[str, Any]) -> list[str]:
    """Return what no ε of these runs covers because clients are the unit."""
    if not is_client(scenario):
        return []
    items = ["That a client exists, and its declared size: both are part of the plan."]
    if is_hidden(scenario):
        items.append(
            "Who took part. The tables of this folder show it, and the guarantee holds only against those "
            "who do not know."
        )
    return items
