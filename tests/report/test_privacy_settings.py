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


def rows(number):
    def change(resolved):
        resolved["data"]["rows"] = number

    return change


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
    "precision": (scenario("training", precision="float64"), "gradients in float64", "gradients in float32"),
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
    "a seed of the noise": (
        scenario("privacy", noise_seed=7),
        "depends on its seed and on privacy.noise_seed = 7, its sampling masks on the seed alone",
        "depends on its seed, its sampling masks",
    ),
    "personal budgets": (
        scenario("privacy", epsilon_factor={"Female": 0.5, "client 3": 0.2}),
        "Personal budgets: Each client spends at most its own share of ε, and its noise is calibrated for "
        "that: 0.5 for Female and 0.2 for client 3, 1 for all others",
        None,
    ),
    "one budget for all": (
        scenario("privacy", epsilon_factor={"*": 0.5}),
        "calibrated for that: 0.5 for all.",
        None,
    ),
    "a floor": (scenario("data", floor=350), "Those with fewer than 350 records are merged", None),
    "own records": (
        scenario("data", file="mine.csv"),
        "contains the row, group, label and score of every held-out record, exact measures",
        "the whole folder may be shared",
    ),
    "more records": (rows(4_884_200), "48.84 on average. That is too many", "0.4884 on average. That is"),
    "few records": (rows(4_000), "0.04 on average.\n", "That is too many"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_setting_changes_the_card(results, case):
    change, new, old = CHANGES[case]
    before, after = card_text(results), card_text(results, change)
    assert new in after
    if old is not None:
        assert old in before
        assert old not in after
    assert new not in before


def test_a_single_run_is_not_to_be_released_with_runs_of_other_folders(results):
    def one(resolved):
        resolved["runs"] = resolved["runs"][:1]

    assert "never release paired runs together" in card_text(results, one)


def test_the_card_says_that_own_records_without_predictions_are_not_in_the_folder(results):
    text = card_text(results, scenario("data", file="mine.csv"), predictions=results.predictions[:0])
    assert "The folder contains exact measures of every group" in text
    bare = card_text(results, scenario("data", file="mine.csv"), ledger=results.ledger[:0])
    assert "No run here is private" in bare
    assert "“fedtoll export” writes a copy that can be shared" in bare


def test_sampling_rates_that_were_chosen_do_not_depend_on_sizes(results):
    def change(resolved):
        scenario("training", sampling_rate=None, batch_size=64)(resolved)
        chose(sampling_rate=(0.1, 0.2, 0.2))(resolved)

    words = (
        "Given the chosen constants, sampling rate q, number of steps T and noise multiplier σ follow from"
    )
    assert words in card_text(results, change)


@pytest.mark.slow
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
