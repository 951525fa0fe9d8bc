"""What the constants have to do with the toll: the recipe, the best constants, and convergence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedtoll.formatting import general, listed, number
from fedtoll.report.digest import Digest
from fedtoll.scenarios.measures import EVERYBODY
from fedtoll.scenarios.schedule import CONSTANT
from fedtoll.scenarios.tune import ALTERNATIVES, SECTIONS

OFF = 0.005
"""Log-loss in nats: smaller differences of everybody's loss are not worth a warning."""

_LISTS = {
    "learning_rate": "learning_rates",
    "clip": "clips",
    "sampling_rate": "sampling_rates",
    "batch_size": "batch_sizes",
    "local_steps": "local_steps",
    "rounds": "rounds",
}
"""Constants whose lists have edges, by their key in ``[training]``."""

_ENDS = {
    "sampling_rate": 1.0,
    "batch_size": 1,
    "local_steps": 1,
    "rounds": 1,
    "client.momentum": 0.0,
    "personal.strength": 0.0,
    "personal.steps": 1,
}
"""Values beyond which there is nothing to try."""


def sentences(digest: Digest) -> list[str]:
    """Return what a reader must know about the constants, before believing any difference.

    In a tuned scenario: the toll of the recipe, next to the price at best constants, and why they differ. In
    any other: that nothing was tuned, and what a probe of the learning rate found. In both, how far the
    reference at ε = ∞ is from a converged model, if that is more than :data:`OFF`.
    """
    if math.isinf(digest.epsilon):
        return []
    own = _recipe(digest) if digest.tuned else _probe(digest)
    return [*own, *_convergence(digest), *_edges(digest)]


def describe(constants: Mapping[str, Any]) -> str:
    """Return constants in words.

    Examples
    --------
    >>> describe({"learning_rate": 0.5, "average": True})
    'learning rate 0.5, average true'
    """
    return ", ".join(f"{constant_words(name)} {value_text(value)}" for name, value in constants.items())


def constant_words(name: str) -> str:
    """Return the name of a constant in words.

    Examples
    --------
    >>> constant_words("client.statistic_share")
    'client statistic share'
    """
    return name.replace("_", " ").replace(".", " ")


def value_text(value: Any) -> str:
    """Return a constant's value as text."""
    if isinstance(value, bool):
        return str(value).lower()
    return general(float(value), 6) if isinstance(value, int | float) else str(value)


def chosen(digest: Digest, strategy: str, epsilon: float) -> dict[str, Any]:
    """Return the constants that a strategy chose at an ε; empty if nothing was tuned."""
    for row in digest.results.resolved.get("tuning", []):
        at = row["mechanism"] != "clip-only" and float(row["epsilon"]) == epsilon
        if row["chosen"] and row["strategy"] == strategy and at:
            return dict(row["constants"])
    return {}


def _recipe(digest: Digest) -> list[str]:
    """Compare the toll of the recipe with the price at best constants, under the leader."""
    free, tight = (chosen(digest, digest.leader, e) for e in (math.inf, digest.epsilon))
    scenario = digest.results.resolved.get("scenario", {})
    names = list(dict.fromkeys([*free, *tight]))
    stated = _stated(scenario, names)
    recipe = digest.recipe
    if recipe is None:
        return ["The runs of the scenario’s own recipe are missing."]
    price, toll = (_everybody(d, digest.leader, digest.epsilon) for d in (digest, recipe))
    gaps = [_gap(d, digest.leader, digest.epsilon) for d in (digest, recipe)]
    shown = ["" if math.isnan(gap) else f" and a gap of {number(gap)}" for gap in gaps]
    text = (
        f"The scenario’s own recipe ({describe(stated) or 'its constants'} at every ε) would show a toll of "
        f"{number(toll)} for everybody{shown[1]}; at best constants it is a price of "
        f"{number(price)}{shown[0]}."
    )
    if not free or not tight:
        return [text]
    best_at = f"{describe(free)} at ε = ∞ and {describe(tight)} at ε = {digest.epsilon_text}"
    why = f"{digest.leader} does best with {best_at}"
    charged = (scenario.get("tune") or {}).get("charge", "none") != "none"
    causes = ["the noise of the tuned runs also pays for the choice of constants"] if charged else []
    if any(stated.get(key, value) != value for best in (free, tight) for key, value in best.items()):
        causes.append(why)
    if causes:
        return [text, f"They differ because {' and because '.join(causes)}."]
    if stated.keys() >= {*names}:
        return [text, f"The recipe is the best one tried: {why}."]
    return [text, f"Of what was tried, {why}."]  # the recipe's own values are not known here


def _stated(scenario: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return the recipe's values of the constants that were tuned, as its sections state them."""
    known = {"server_schedule": CONSTANT, "client.momentum": 0.0, **scenario.get("training", {})}
    for section in SECTIONS:
        known |= {f"{section}.{key}": value for key, value in (scenario.get(section) or {}).items()}
    known = {key: value for key, value in known.items() if value is not None}
    found = {}
    for name in names:
        key = name if name in known else ALTERNATIVES.get(name, name)
        if key in known:
            found[key] = known[key]
    return found


def _probe(digest: Digest) -> list[str]:
    """Say that nothing was tuned, and whether another learning rate is better."""
    start = "This recipe was not tuned, so its tolls are what these constants cost"
    probes = digest.probe
    if not probes:
        return [f"{start}."]
    rate = digest.results.resolved.get("scenario", {}).get("training", {}).get("learning_rate", math.nan)
    tried = listed(general(r) for r in probes)
    budgets = [(digest.epsilon, digest.epsilon_text), (math.inf, "∞")]
    better = []
    for epsilon, text in budgets:
        pairs = {r: _paired_loss(digest, probe, epsilon) for r, probe in probes.items()}
        found = {r: pair for r, pair in pairs.items() if pair is not None}
        if not found:
            continue
        best, (here, there) = min(found.items(), key=lambda item: item[1][1])
        if here - there > OFF:
            better.append(
                f"{general(best)} lowers everybody’s log-loss at ε = {text} from {number(here)} "
                f"to {number(there)}"
            )
    seeds = min(p.seeds for p in probes.values())
    over = f"{seeds} seed{'' if seeds == 1 else 's'}"
    if better:
        return [
            f"{start}: in place of the learning rate {general(rate)}, {listed(better)} ({over}). "
            "Add [tune] for the price at best constants."
        ]
    return [f"{start}; learning rates of {tried} are no better ({over})."]


def _paired_loss(digest: Digest, probe: Digest, epsilon: float) -> tuple[float, float] | None:
    """Return everybody's final log-loss with the recipe and with the probe, over the probe's seeds."""
    losses = []
    for d in (digest, probe):
        groups = d.results.groups
        kind = "none" if epsilon == math.inf else "dp-sgd"
        own = groups[
            (groups["strategy"] == digest.leader)
            & (groups["mechanism"] == kind)
            & (groups["epsilon"] == epsilon)
            & (groups["group"] == EVERYBODY)
        ]
        last = own[own["round"] == own["round"].max()]
        losses.append(last.set_index("seed")["log_loss"])
    common = losses[0].index.intersection(losses[1].index)
    if common.empty:
        return None
    return float(losses[0][common].mean()), float(losses[1][common].mean())


def _convergence(digest: Digest) -> list[str]:
    """Say how far the leader at ε = ∞ is from a converged central model, if it is far."""
    reference = digest.results.resolved.get("converged")
    if not reference:
        return []
    best = dict(zip(reference["seeds"], reference["log_loss"], strict=True))
    groups = digest.results.groups
    own = groups[
        (groups["strategy"] == digest.leader)
        & (groups["mechanism"] == "none")
        & (groups["group"] == EVERYBODY)
        & groups["seed"].isin(best)
    ]
    own = own[own["round"] == own["round"].max()].set_index("seed")["log_loss"]
    if own.empty:
        return []
    beyond = float(np.mean([own[seed] - best[seed] for seed in own.index]))
    if not beyond > OFF:
        return []
    return [
        f"At ε = ∞ the log-loss is {number(beyond)} above that of the best central logistic regression: "
        "training has not converged, or converges elsewhere, and the cost of privacy may be understated."
    ]


def _edges(digest: Digest) -> list[str]:
    """Name the leader's choices on the edge of their list, and the other strategies that have one."""
    if not digest.tuned:
        return []
    own = [
        f"{constant_words(key)} {value_text(value)} at ε = {text}"
        for epsilon, text in ((math.inf, "∞"), (digest.epsilon, digest.epsilon_text))
        for key, value in _on_edge(digest, digest.leader, epsilon).items()
    ]
    others = [
        strategy
        for strategy in digest.strategies
        if strategy != digest.leader
        and any(_on_edge(digest, strategy, epsilon) for epsilon in (math.inf, digest.epsilon))
    ]
    if own:
        verb = "lies" if len(own) == 1 else "lie"
        also = f", and so {'does a choice' if len(others) == 1 else 'do choices'} of {listed(others)}"
        return [f"Widen the grid: {listed(own)} {verb} on its edge{also if others else ''}."]
    if others:
        what = "a choice" if len(others) == 1 else "choices"
        return [
            f"Widen the grid: {what} of {listed(others)} {'lies' if len(others) == 1 else 'lie'} on its edge."
        ]
    return []


def _on_edge(digest: Digest, strategy: str, epsilon: float) -> dict[str, Any]:
    """Return the constants that a strategy chose at an ε from the edge of their list."""
    section = digest.results.resolved.get("scenario", {}).get("tune") or {}
    found = {}
    for key, value in chosen(digest, strategy, epsilon).items():
        values = _tried(section, key)
        if len(values) > 1 and value in (min(values), max(values)) and value != _ENDS.get(key):
            found[key] = value
    return found


def _tried(section: Mapping[str, Any], key: str) -> Sequence[Any]:
    """Return the list of a constant that has edges, else an empty one: ``last`` ends at all of the model."""
    table, dot, name = key.partition(".")
    values: Sequence[Any] = section.get(_LISTS.get(key, ""), [])
    if dot and key != "personal.last":
        values = section.get(table, {}).get(name, [])
    return values if all(type(value) in {int, float} for value in values) else []


def _everybody(digest: Digest, strategy: str, epsilon: float) -> float:
    rows = digest.loss[
        (digest.loss["strategy"] == strategy)
        & (digest.loss["mechanism"] == "dp-sgd")
        & (digest.loss["epsilon"] == epsilon)
        & (digest.loss["group"] == EVERYBODY)
    ]
    return float(rows["toll"].iloc[0]) if len(rows) else math.nan


def _gap(digest: Digest, strategy: str, epsilon: float) -> float:
    gaps = digest.gaps
    rows = gaps[
        (gaps["strategy"] == strategy) & (gaps["mechanism"] == "dp-sgd") & (gaps["epsilon"] == epsilon)
    ]
    return float(rows["gap"].iloc[0]) if len(rows) else math.nan
