"""Who sees what: the trust model of a scenario, and what goes with it.

==========================  ============================================  =================================
``privacy.trust``           the adversary sees                            noise is added by
==========================  ============================================  =================================
``local`` (default)         every message of every client                 every client, for itself
``secure-aggregation``      the sum of all clients' messages per round    every client, its share of one noise
``central``                 the model after every round                   the server, once for the sum
==========================  ============================================  =================================
"""

from __future__ import annotations

from typing import Any, Literal

from fedtoll.scenarios import client_unit

Trust = Literal["local", "secure-aggregation", "central"]

_ONE_STEP = {
    "secure-aggregation": "after its first step a client's gradients depend on its own noisy state, "
    "which the other clients' noise does not hide",
    "central": "without noise between steps, one record can change all later gradients of its client",
}
_ABORT = {
    "secure-aggregation": "the noise lacks the share of a client that does not reply",
    "central": "the noise is calibrated to the weights of all clients",
}


def check(scenario: Any) -> None:
    """Raise ``ValueError`` in one line if a scenario's trust model does not go with its other sections."""
    trust, training, tune = scenario.privacy.trust, scenario.training, scenario.tune
    by_record = scenario.privacy.unit == "record"
    client_unit.check(scenario)
    if scenario.privacy.colluding and trust != "secure-aggregation":
        raise ValueError(
            f"privacy.colluding = {scenario.privacy.colluding}: needs privacy.trust = 'secure-aggregation'"
        )
    if trust == "local":
        return
    given = f"with privacy.trust = {trust!r}"
    if training.local_steps is None and by_record:
        raise ValueError(
            f"training.local_epochs = {training.local_epochs:g}: use local_steps = 1 {given}: "
            f"{_ONE_STEP[trust]}"
        )
    for key, steps in (
        ("training.local_steps", (training.local_steps,)),
        ("tune.local_steps", tune.local_steps if tune else ()),
    ):
        if any(step != 1 for step in steps) and by_record:
            raise ValueError(f"{key} = {max(steps)}: must be 1 {given}: {_ONE_STEP[trust]}")
    if training.on_failure != "abort":
        raise ValueError(f"training.on_failure = 'skip': must be 'abort' {given}: {_ABORT[trust]}")
    if (copies := scenario.partition.copies) > 1:
        raise ValueError(f"partition.copies = {copies}: must be 1 {given}: a record counts once in the sum")
    if scenario.partition.kind == "declared":
        raise ValueError(
            f"partition.kind = 'declared': not {given}: it is simulated, and SuperNodes with records "
            "of their own would send them almost without noise"
        )
    if tune is not None and tune.charge != "none":
        raise ValueError(f"tune.charge = {tune.charge!r}: must be 'none' {given}")
    if (kind := scenario.participation.kind) != "all" and by_record:
        raise ValueError(
            f"participation.kind = {kind!r}: must be 'all' {given}: weights and shares of the noise "
            "are those of all clients"
        )
    if scenario.privacy.epsilon_factor:
        raise ValueError(
            f"privacy.epsilon_factor: not {given}: a sum has one noise, the same for all clients"
        )
