"""Preview a scenario: its runs, its noise and its expected time."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from fedtoll.privacy.breakdown import Spending, events_of, spending
from fedtoll.privacy.ledger import ALL_CLIENTS, CLIENT_UPDATE, Ledger, all_owed
from fedtoll.privacy.selection import charge_of
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.numbers import write_number
from fedtoll.scenarios.run import ClientPlan, Run
from fedtoll.scenarios.scenario import Scenario
from fedtoll.server.plan import Plan
from fedtoll.server.plan import plan as plan_runs
from fedtoll.server.trainer import Trainer
from fedtoll.sweep.candidates import Candidate, budgeted
from fedtoll.sweep.tune import candidate_runs
from fedtoll.sweep.workers import cores, one_thread

_STARTUP = 8.0
"""Seconds that worker processes need to start and import, on a machine of 2020 or later."""


def preview(plan: Plan, workers: int | None, *, as_json: bool = False) -> str:
    """Return the runs, σ and ε of every client and the expected time, as text or JSON.

    The time is extrapolated from a few rounds of each strategy and mechanism, trained here.
    """
    processes = min(workers or cores(), len(plan.runs))
    tune = plan.scenario.tune
    counted = candidate_runs(plan, tune) if tune is not None else []
    content = {
        "scenario": plan.scenario.name,
        "runs": len(plan.runs),
        **({"candidates": sum(seeds for _, seeds in counted), "tuned": len(plan.runs)} if counted else {}),
        **({"probe": len(plan.probe)} if plan.probe else {}),
        "strategies": [s.label for s in plan.scenario.strategies],
        "epsilons": [write_number(e) for e in plan.scenario.privacy.epsilons],
        "seeds": list(plan.scenario.seeds),
        "engine": plan.runs[0].engine,
        "device": plan.runs[0].device,
        "noise": _noise(plan),
        "expected_seconds": round(_expected(plan, counted, processes)),
        "processes": processes,
    }
    if as_json:
        return json.dumps(content, ensure_ascii=False, indent=1)
    return _text(content, _noise_note(plan))


def _noise_note(plan: Plan) -> str:
    """Return whose σ, q and steps the preview shows, if the candidates of ``[tune]`` differ in them."""
    tune = plan.scenario.tune
    if tune is None:
        return ""
    if not (tune.sampling_rates or tune.batch_sizes or tune.local_steps or tune.rounds or tune.personal):
        return ""
    whose = "the scenario's own constants" if tune.distribution is None else "the first candidate"
    return f"σ, q and steps of {whose}; those that [tune] chooses can have others."


def _noise(plan: Plan) -> list[dict[str, Any]]:
    """Return σ, q, T and the ε they spend, one row per strategy, ε and client.

    Where a hidden sample of clients trains, all are charged alike: one row per group and public size.
    """
    rows = []
    seen = set()
    for run in budgeted(plan):
        key = (run.strategy.name, run.epsilon)
        if key in seen or run.mechanism != "dp-sgd":
            continue
        seen.add(key)
        attendance, ledger = run.attendance, Ledger.of(run)
        alike = {(c.group, c.size, 0 if run.hides_clients else c.id): i for i, c in enumerate(run.clients)}
        for index in alike.values():
            client = run.clients[index]
            rate, steps = run.trained(client)
            ledger.charge(all_owed(run, index, attendance))
            rows.append(
                {
                    "strategy": run.strategy.name,
                    "epsilon": run.epsilon,
                    "client": ALL_CLIENTS if run.hides_clients else client.id,
                    "group": client.group,
                    "public_size": client.size,
                    "sampling_rate": rate,
                    "steps": (steps + run.own_steps(client)) * run.rounds_of(client),
                    "noise_multiplier": client.noise_multiplier,
                    "epsilon_spent": ledger.epsilon(client.id),
                }
            )
    return rows


def _expected(plan: Plan, counted: Sequence[tuple[Candidate, int]], processes: int) -> float:
    """Return the expected seconds of all runs, and of all candidates of ``[tune]``.

    The cost of a round depends on the strategy, the mechanism and the batches, hardly on ε, the seed or the
    learning rate. So one run of each of these is timed, and counted for all that share them. Runs with the
    constants that will be chosen are expected to cost as much as the mean candidate.
    """
    one_thread()
    trainer = Trainer(plan.federation)
    weights = [(run, 1.0) for run in plan.all_runs]
    cells = Counter((candidate.strategy, candidate.epsilon) for candidate, _ in counted)
    for candidate, seeds in counted:
        share = len(plan.scenario.seeds) / cells[candidate.strategy, candidate.epsilon]
        weights.append((candidate.runs[0], seeds + share))
    runs = {_cost_key(run): run for run, _ in reversed(weights)}  # the first of each, mostly with one seed
    # The first run pays for imports, records and a seed's draws, which the runs of a sweep share.
    _seconds(trainer, max(runs.values(), key=lambda run: run.mechanism == "dp-sgd"), 3)
    costs = {}
    for key, run in runs.items():
        short, long = (_seconds(trainer, run, rounds) for rounds in (1, 3))
        per_round = max(0.0, (long - short) / 2)
        costs[key] = max(0.0, short - per_round), per_round
    total = 0.0
    for run, count in weights:
        start, per_round = costs[_cost_key(run)]
        total += count * (start + per_round * run.rounds)
    return total / processes + (_STARTUP if processes > 1 else 0.0)


def _cost_key(run: Run) -> tuple[str, str, frozenset[tuple[float, int]]]:
    steps = frozenset((c.sampling_rate, c.steps + run.own_steps(c)) for c in run.clients)
    return run.strategy.name, run.mechanism, steps


def _seconds(trainer: Trainer, run: Run, rounds: int) -> float:
    """Return the seconds that the first ``rounds`` rounds of a run take, with its set-up."""
    start = time.perf_counter()
    trainer.train(run.changed(rounds=rounds))
    return time.perf_counter() - start


def _text(content: dict[str, Any], noise_note: str) -> str:
    counts = [len(content[name]) for name in ("strategies", "epsilons", "seeds")]
    strategies = "strategy" if counts[0] == 1 else "strategies"
    seeds = "seed" if counts[2] == 1 else "seeds"
    lines = [
        f"{content['scenario']}: {content['runs']} runs = "
        f"{counts[0]} {strategies} x {counts[1]} ε x {counts[2]} {seeds}",
        f"strategies  {', '.join(content['strategies'])}",
        f"ε           {', '.join(str(e) for e in content['epsilons'])}",
        f"seeds       {', '.join(str(s) for s in content['seeds'])}",
        *(
            [f"[tune]      {content['candidates']} runs of candidates, then {content['tuned']} with the best"]
            if "candidates" in content
            else []
        ),
        *([f"probe       {content['probe']} runs with other learning rates"] if "probe" in content else []),
        f"engine      {content['engine']} on {content['device']}",
        "",
    ]
    if content["noise"]:
        head = ("strategy", "ε", "client", "group", "n", "q", "steps", "σ", "ε spent")
        rows = [
            (
                str(r["strategy"]),
                f"{r['epsilon']:g}",
                str(r["client"]),
                str(r["group"]),
                f"{r['public_size']:,}",
                f"{r['sampling_rate']:.4g}",
                str(r["steps"]),
                f"{r['noise_multiplier']:.4f}",
                f"{r['epsilon_spent']:.4f}",
            )
            for r in content["noise"]
        ]
        widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
        lines += [
            "  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip()
            for row in [head, *rows]
        ]
        lines += [noise_note, ""] if noise_note else [""]
    processes = "1 process" if content["processes"] == 1 else f"{content['processes']} processes"
    lines.append(f"expected time: {_duration(content['expected_seconds'])} on {processes}")
    return "\n".join(lines)


def _duration(seconds: int) -> str:
    return f"{seconds} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def scenario_spending(
    scenario: Scenario,
    file: str,
    sigma: float | None = None,
    warn: Callable[[str, str], None] = lambda file, warning: None,
) -> list[Spending]:
    """Return what the clients of every strategy and finite ε would spend, one entry per distinct client.

    Parameters
    ----------
    scenario, file
        The scenario, and its name in error messages.
    sigma
        Noise multiplier of every client's training, in place of the calibrated one.
    warn
        Called with the file and the warning of the plan, which may be empty.

    Returns
    -------
    list
        As returned by :func:`spending`, with ``strategy``, ``clients`` (ids), ``groups``, ``public_sizes``
        and, where the server sees sums, ``trust`` and ``colluding``; ``unit``, if that is the client, and
        ``joint``, if its rounds have statistics: the noise multipliers of the parts of one release.

    Raises
    ------
    ScenarioError
        If the scenario has no finite ε.
    """
    finite = tuple(e for e in scenario.privacy.epsilons if isinstance(e, float) and math.isfinite(e))
    if not finite:
        raise ScenarioError(f"{file}: privacy.epsilons: no finite ε to account for; give one with --epsilon")
    privacy = scenario.privacy.changed(epsilons=finite)
    plan = plan_runs(scenario.changed(privacy=privacy, seeds=scenario.seeds[:1]), file)
    warn(file, plan.warning)
    entries = []
    for run in budgeted(plan):
        distinct: dict[tuple[Any, ...], list[ClientPlan]] = {}
        for client, joined in zip(run.clients, _joined(run), strict=True):
            planned = client.sampling_rate, client.steps, client.noise_multiplier, client.epsilon_factor
            key = (*planned, run.rounds_of(client), charge_of(run, client), joined)
            distinct.setdefault(key, []).append(client)
        entries += [_client_spending(run, clients, sigma, key[-1]) for key, clients in distinct.items()]
    return entries


def _joined(run: Run) -> list[int | None]:
    """Return in how many of its rounds every client releases statistics, where a client is the unit."""
    if run.unit == "record" or not run.statistics or run.hides_clients:
        return [None] * len(run.clients)
    found: list[int | None] = run.attendance.present_TK[:: run.statistics[0].every].sum(axis=0).tolist()
    return found


def _joint(run: Run, client: ClientPlan, sigma: float | None) -> dict[str, float]:
    """Return the noise multipliers of what one release of a round consists of, by name."""
    update = {CLIENT_UPDATE: client.noise_multiplier if sigma is None else sigma}
    return {**update, **{s.name: s.noise_multiplier for s in run.statistics}}


def _client_spending(
    run: Run, clients: Sequence[ClientPlan], sigma: float | None, joined: int | None
) -> Spending:
    events, charge = events_of(run, clients[0], sigma, joined), charge_of(run, clients[0], sigma)
    return {
        "strategy": run.strategy.name,
        "clients": [c.id for c in clients],
        "groups": sorted({c.group for c in clients if c.group}),
        "public_sizes": [c.size for c in clients],
        **({} if run.trust == "local" else {"trust": run.trust, "colluding": run.colluding}),
        **({} if run.unit == "record" else {"unit": run.unit}),
        **({"joint": _joint(run, clients[0], sigma)} if run.unit == "client" and run.statistics else {}),
        **spending(events, *run.guarantee, run.target_of(clients[0]), charge),
    }
