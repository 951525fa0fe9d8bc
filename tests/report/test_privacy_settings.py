"""Each sentence of the privacy card that should depend on the runs does depend on them."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest

from fedtoll.report import privacy


def card_text(results, change=lambda resolved: None, **frames):
    """Return the whole card as a string, after a change to what was planned or charged."""
    resolved = deepcopy(results.resolved)
    change(resolved)
    card = privacy.card(replace(results, resolved=resolved, **frames))
    return "\n".join([*(f"{t}: {w}" for t, w in card.promises), *card.not_covered])


def scenario(section, **values):
    def change(resolved):
        resolved["scenario"].setdefault(section, {}).update(values)

    return change


def no_groups(resolved):
    for client in resolved["clients"]:
        client["group"] = ""


def one_run(resolved):
    resolved["runs"] = resolved["runs"][:1]


def unpaired(resolved):
    resolved["runs"] = [{**run, "seed": i} for i, run in enumerate(resolved["runs"])]


def chose(**constants):
    """Two strategies of private runs chose among constants, and one of runs at ε = ∞ others."""

    def change(resolved):
        rows = [("dp-sgd", 0), ("dp-sgd", 1), ("none", 2)]
        resolved["tuning"] = [
            {
                "mechanism": kind,
                "chosen": True,
                "constants": {k: values[i] for k, values in constants.items()},
            }
            for kind, i in rows
        ]
        resolved["tuning"].append({"mechanism": "dp-sgd", "chosen": False, "constants": {"clip": 99.0}})

    return change


CHANGES = {
    "clips that were chosen": (
        chose(clip=(0.5, 1.5, 7.0)),
        "to norm 0.5 to 1.5 (chosen for each strategy and ε)",
        "to norm 3",
    ),
    "batch sizes that were chosen": (
        chose(batch_size=(20, 60, 60)),
        "Given the chosen constants, sampling rate q, number of steps T and noise multiplier σ depend on a "
        "client’s declared size",
        "follow from the scenario",
    ),
    "a choice that is not charged": (
        chose(learning_rate=(0.1, 0.5, 2.0)),
        "what it reveals is not counted in ε",
        "hyper-parameters",
    ),
    "clip": (scenario("training", clip=1.25), "to norm 1.25", "to norm 3"),
    "batch size": (
        scenario("training", sampling_rate=None, batch_size=64),
        "depend on a client’s declared size",
        "follow from the scenario",
    ),
    "precision": (scenario("training", precision="float64"), "(float64)", "(float32)"),
    "validation": (scenario("split", validation=0.1), "The 10% of the records", None),
    "validation of the canonical split": (
        scenario("split", kind="canonical", validation=0.1),
        "The 10% of the source’s own training records that the scenario declares public",
        None,
    ),
    "copies": (scenario("partition", copies=2), "Each record is held by 2 clients", "disjoint"),
    "skips": (
        scenario("training", on_failure="skip"),
        "a skip is a side channel, and skips in many rounds reveal more than a single abort",
        "an abort is a side channel",
    ),
    "groups are not public": (no_groups, "every client’s size, and", "size and group"),
    "one run": (one_run, "One record", "More than one run"),
    "no seed twice": (unpaired, "Each ε holds for a run released alone", "paired runs must never"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_setting_changes_the_card(results, case):
    change, new, old = CHANGES[case]
    before, after = card_text(results), card_text(results, change)
    assert new in after
    if old is not None:
        assert old in before
        assert old not in after
    if case not in {"one run", "no seed twice"}:
        assert new not in before


def test_sampling_rates_that_were_chosen_do_not_depend_on_sizes(results):
    def change(resolved):
        scenario("training", sampling_rate=None, batch_size=64)(resolved)
        chose(sampling_rate=(0.1, 0.2, 0.2))(resolved)

    words = (
        "Given the chosen constants, sampling rate q, number of steps T and noise multiplier σ follow from"
    )
    assert words in card_text(results, change)


def test_what_was_charged_changes_the_card(results):
    ledger = results.ledger
    before = card_text(results)
    assert "δ = 1e-05" in before
    assert "rdp accountant" in before
    after = card_text(results, ledger=ledger.assign(delta=1e-6, accountant="prv"))
    assert "δ = 1e-06" in after
    assert "prv accountant" in after
    assert "mean_loss" in before
    assert "No strategy asks" in card_text(results, ledger=ledger[ledger["release"] == "dp-sgd"])
    assert "Not private" in before
    private = results.groups[results.groups["mechanism"] == "dp-sgd"]
    assert "Not private" not in card_text(results, groups=private)
    assert "No run here is private" in card_text(results, ledger=ledger[:0])
    spent = ledger.assign(epsilon_spent=0.123)
    assert "0.123 of ε = 2" in card_text(results, ledger=spent)
