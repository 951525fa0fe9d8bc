"""The terms of the privacy card on clients: budgets, models, participation, and how they scale gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedtoll.formatting import general, listed
from fedtoll.report import unit
from fedtoll.scenarios.client import PLAIN
from fedtoll.scenarios.personal import NAMES, Personal, title


def terms(scenario: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the terms, each with its explanation; none for what is as by default."""
    found = {
        "Personal budgets": _personal(scenario.get("privacy", {}).get("epsilon_factor", {})),
        "Personal models": _models(scenario),
        "Calibration": _calibration(scenario.get("calibration")),
        "Participation": unit.participation(scenario)
        or _participation(scenario.get("participation", {}).get("kind", "all")),
        "Client-side mechanism": _mechanism(scenario.get("client", {})),
        "Public start": _start(scenario.get("training", {})),
    }
    return [(term, text) for term, text in found.items() if text]


def _personal(factors: dict[str, float]) -> str:
    """Return a sentence on the shares of ε that clients may spend; empty if all may spend it all."""
    if all(factor == 1 for factor in factors.values()):
        return ""
    shares = listed(f"{general(x)} for {name}" for name, x in factors.items() if name != "*")
    rest = f"{general(factors.get('*', 1.0))} for {'all others' if shares else 'all'}"
    return (
        "Each client spends at most its own share of ε, and its noise is calibrated for that: "
        f"{f'{shares}, ' if shares else ''}{rest}. ε is the most that any client may spend. The shares are "
        "public, so who asks for more privacy is not protected."
    )


def phrase(scenario: Mapping[str, Any]) -> str:
    """Return that figures are those of personal or calibrated models, for a sentence; else empty."""
    label = _label(scenario)
    offsets = " with offsets calibrated by group" if scenario.get("calibration") else ""
    return (f" with personal models ({label})" if label else "") + offsets


def _label(scenario: Mapping[str, Any]) -> str:
    """Return the method and its constants; a folder of another version may have others than are known."""
    personal = scenario.get("personal")
    if not personal:
        return ""
    kind = str(personal.get("kind", "unknown"))
    if lists := (scenario.get("tune") or {}).get("personal"):
        keys = listed("λ" if key == "strength" else str(key) for key in lists)
        return f"{title(kind)}, {keys} chosen for each strategy and ε"
    try:
        return Personal.model_validate(dict(personal)).label
    except ValueError:
        return kind


def _models(scenario: Mapping[str, Any]) -> str:
    """Return a paragraph on the models that clients keep; empty if they keep none."""
    personal = scenario.get("personal")
    if not personal:
        return ""
    kind = personal.get("kind")
    which = "" if kind == "ditto" else ", if there are any,"
    extra = (
        f" The steps that train only a client’s own model{which} are charged too: the ledger calls them “own "
        "model”."
        if kind == "ditto" or kind not in NAMES
        else ""
    )
    return (
        f"{_label(scenario)}. Every client keeps a model of its own, and all figures of groups are those of "
        "own models: a held-out record is scored by the client that would have held it. Every gradient of a "
        "record is clipped, noised and charged, whichever model it trains. So the guarantee is the same as "
        "without personal models (ISRL-DP, not the weaker joint DP): it holds for all messages and for the "
        f"own models themselves, whoever sees them.{extra} Own models are sent for scoring; no strategy sees "
        "them."
    )


def _calibration(section: Mapping[str, Any] | None) -> str:
    """Return a sentence on the last release by group; empty without one."""
    if not section:
        return ""
    z = general(float(section.get("noise_multiplier", 0.0)))
    return (
        "After the last round every client releases, for each group, the sum of its residuals and that of "
        f"their variances, with noise multiplier {z}: one release, charged to the same ε as "
        "“group_residual”. The server corrects each group’s offset with it. Figures of the last round are "
        "those of corrected scores, which use a record’s group."
    )


def _participation(kind: str) -> str:
    """Return a sentence on clients that do not take part in every round; empty if all do."""
    if kind == "all":
        return ""
    return (
        "Clients take part in some rounds, by a schedule that is drawn before the run from a public seed and "
        "never from records. Each is charged for the rounds in which it is asked, and its noise is "
        "calibrated for their number. Everybody knows the schedule, so who is asked hides nothing and lowers "
        "no ε."
    )


def _mechanism(client: Mapping[str, Any]) -> str:
    """Return a sentence on how clients scale gradients; empty if they clip all of them to one norm."""
    name = client.get("mechanism", PLAIN)
    if name == PLAIN:
        return ""
    return (
        f"Clients scale gradients by {name} instead of clipping all of them to one norm. The noise is in "
        "proportion to the largest norm of a scaled gradient, which follows from the plan and, with some "
        "mechanisms, from noised counts of the same batch. Counts and gradient of a batch are one release: "
        "the noise that is charged is divided among them."
    )


def _start(training: Mapping[str, Any]) -> str:
    """Return a sentence on a model that is trained on public records; empty if there is none."""
    if training.get("start", "initial") == "initial":
        return ""
    pull = training.get("pull", 0.0)
    after = f", and after every round the model moves {general(pull)} of the way back to it" if pull else ""
    return (
        f"Training starts at a model of the records that the scenario declares public{after}. That costs no "
        "ε, and protects no public record."
    )
