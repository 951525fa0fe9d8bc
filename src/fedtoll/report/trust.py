"""What the page says about the trust model of a scenario: who sees what, and who adds the noise."""

from __future__ import annotations

from typing import Any

from fedtoll.formatting import count


def phrase(privacy: dict[str, Any]) -> str:
    """Return under which trust model a figure holds, for a sentence; empty under ``local``."""
    words = {"secure-aggregation": " with secure aggregation", "central": " with a trusted server"}
    unit = " that protects whole clients" if privacy.get("unit") == "client" else ""
    return words.get(str(privacy.get("trust")), "") + unit


def adversary(privacy: dict[str, Any], *, hidden: bool = False) -> str:
    """Return what the adversary sees, by the section ``[privacy]`` of the scenario.

    ``hidden``: whether it does not know which clients take part.
    """
    trust, colluding = privacy.get("trust", "local"), int(privacy.get("colluding", 0))
    who = "knows which clients take part. No amplification by client sampling is claimed."
    if hidden:
        who = "does not know which clients take part, so that sampling them amplifies."
    if trust == "secure-aggregation":
        others = (
            f" Up to {count(colluding)} clients may tell it their own messages and noise."
            if colluding
            else ""
        )
        return (
            f"Sees the sum of all clients’ messages in every round, never a single message, and {who}{others}"
            " The server follows the protocol, and no client drops out within a round."
        )
    if trust == "central":
        return (
            f"Sees the model after every round, and {who} The server is trusted: it sees every client’s "
            "message without noise."
        )
    return f"Sees every message of every client in every round, and {who}"


def noise(privacy: dict[str, Any]) -> str:
    """Return who adds the noise, after "clips each record's gradient ... , and"."""
    trust = privacy.get("trust", "local")
    if trust == "local":
        return "adds Gaussian noise to their sum."
    by = (
        "Each client adds its share of one Gaussian noise"
        if trust == "secure-aggregation"
        else "The server adds Gaussian noise once"
    )
    return (
        f"sends their weighted sum. {by} to the sum over all clients; σ is in units of its sensitivity, the "
        "largest p·C/B of any client, where p is a client’s public weight. A strategy is shown the sum only."
    )


def terms(privacy: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the term of the card that names the trust model; none for the default."""
    trust = privacy.get("trust", "local")
    if trust == "local":
        return []
    meaning = {
        "secure-aggregation": "secure aggregation: the server sees sums only.",
        "central": "central: the server is trusted, as if all records were in one place.",
    }
    return [("Trust", f"privacy.trust = {trust}, {meaning.get(trust, 'unknown.')}")]


def not_covered(privacy: dict[str, Any]) -> list[str]:
    """Return what no ε of these runs covers because of their trust model."""
    trust = privacy.get("trust", "local")
    if trust == "secure-aggregation":
        return [
            "Secure aggregation itself. It is simulated: single messages, which have little noise, reach the "
            "server’s process and are added up there. A deployment needs the protocol, and noise on the "
            "whole numbers that it adds up."
        ]
    if trust == "central":
        return ["What the server learns: it sees what every client sends, without noise."]
    return []
