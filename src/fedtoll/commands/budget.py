"""``fedtoll budget``: convert between ε and noise, for given steps or for the clients of a scenario."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Annotated, Any

import typer

from fedtoll.console import echo, warn
from fedtoll.options import Json, Set
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.numbers import write_numbers

NOTE = (
    "alone: ε if only this part were released; adds: ε of everything minus ε without this part.\n"
    "Releases compose as Rényi divergences or as distributions, so the parts do not add up in ε."
)


def budget(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME|FILE]", help="Built-in scenario or TOML file.")
    ] = None,
    epsilon: Annotated[float | None, typer.Option(help="Total ε of a client; prints the noise.")] = None,
    sigma: Annotated[float | None, typer.Option(help="Noise multiplier σ; prints the ε.")] = None,
    rate: Annotated[float | None, typer.Option(help="Sampling rate q (without a scenario).")] = None,
    steps: Annotated[
        int | None, typer.Option(help="DP-SGD steps over all rounds (without a scenario).")
    ] = None,
    statistic: Annotated[
        list[str] | None,
        typer.Option(
            metavar="Z:N",
            help="N releases of a statistic with noise multiplier Z (without a scenario). Repeatable.",
        ),
    ] = None,
    delta: Annotated[float | None, typer.Option(help="δ.", show_default="1e-5, or the scenario's")] = None,
    accountant: Annotated[
        str | None,
        typer.Option(
            metavar="pld|rdp|prv", help="How releases compose.", show_default="pld, or the scenario's"
        ),
    ] = None,
    override: Set = None,
    as_json: Json = False,
) -> None:
    """Convert between ε and noise, and itemise what is spent.

    Takes steps given as options, or a scenario with all of its clients.
    """
    from fedtoll.privacy import accounting as budgets

    if accountant is not None:
        budgets.check_accountant(accountant)
    for option, value in (("epsilon", epsilon), ("sigma", sigma)):
        if value is not None and not 0 < value < math.inf:
            raise ScenarioError(f"--{option} {value:g}: must be a finite number greater than 0")
    if delta is not None and not 0 < delta < 1:
        raise ScenarioError(f"--delta {delta:g}: must lie between 0 and 1")
    if name is None:
        if override:
            raise ScenarioError("--set: needs a scenario, and none was given")
        rows = [
            _from_options(
                epsilon, sigma, rate, steps, statistic or [], delta or 1e-5, accountant or budgets.DEFAULT
            )
        ]
    else:
        for option, value_given, key in (
            ("rate", rate, "training.sampling_rate"),
            ("steps", steps, "training.local_steps"),
            ("statistic", statistic, "statistics.noise_multiplier"),
        ):
            if value_given is not None and value_given != []:
                raise ScenarioError(f"--{option}: the scenario sets it; override it with --set {key}=...")
        rows = _from_scenario(name, override or [], epsilon, sigma, delta, accountant)
    rows = [{**row, **_whole_curve(row)} for row in rows]
    if as_json:
        echo(json.dumps(write_numbers(rows if name else rows[0]), ensure_ascii=False, indent=1))
    else:
        echo("\n\n".join(_text(row) for row in rows))
        if any(len(row["parts"]) > 1 for row in rows):
            echo(f"\n{NOTE}")


def _whole_curve(row: dict[str, Any]) -> dict[str, Any]:
    """Return what the releases of one row guarantee at every δ; ``None`` if they include a choice."""
    from fedtoll.privacy.accounting import Event
    from fedtoll.privacy.gaussian_dp import LEAST_DELTA, gaussian_dp, rho

    given = [(part["noise_multiplier"], part["sampling_rate"], part["releases"]) for part in row["parts"]]
    if any(noise is None for noise, _, _ in given):
        return {"gaussian_dp": None, "zero_concentrated_dp": None}
    events = [Event(*release) for release in given]
    found = gaussian_dp(events, min(LEAST_DELTA, row["delta"]))
    return {
        "gaussian_dp": found and asdict(found),
        "zero_concentrated_dp": {"rho": rho(events)},
    }


def _from_options(
    epsilon: float | None,
    sigma: float | None,
    rate: float | None,
    steps: int | None,
    statistic: list[str],
    delta: float,
    accountant: str,
) -> dict[str, Any]:
    """Return the account of the releases given as options."""
    from fedtoll.privacy import accounting as budgets
    from fedtoll.privacy.accounting import Event
    from fedtoll.privacy.breakdown import spending
    from fedtoll.privacy.ledger import DP_SGD

    if rate is None or steps is None or (epsilon is None) == (sigma is None):
        raise ScenarioError(
            "budget: name a scenario, or give --rate, --steps, and one of --epsilon and --sigma, e.g. "
            "fedtoll budget --epsilon 2 --rate 0.02 --steps 300"
        )
    if not 0 < rate <= 1:
        raise ScenarioError(f"--rate {rate:g}: must be greater than 0 and at most 1")
    if steps < 1:
        raise ScenarioError(f"--steps {steps}: must be 1 or more")
    statistics = {f"statistic {i + 1}": _statistic(text) for i, text in enumerate(statistic)}
    if sigma is None:
        assert epsilon is not None
        try:
            sigma = budgets.calibrate(
                epsilon,
                sampling_rate=rate,
                count=steps,
                delta=delta,
                accountant=accountant,
                others=tuple(statistics.values()),
            )
        except ScenarioError as error:
            raise ScenarioError(str(error).replace("privacy.epsilons:", "--epsilon:")) from None
    return spending({DP_SGD: Event(sigma, rate, steps), **statistics}, delta, accountant, epsilon)


def _statistic(text: str) -> Any:
    """Parse ``Z:N`` into an event."""
    from fedtoll.privacy.accounting import Event

    z, _, times = text.partition(":")
    try:
        noise, count = float(z), int(times)
    except ValueError:
        noise, count = 0.0, 0
    if not (0 < noise < math.inf and count >= 1):
        raise ScenarioError(
            f"--statistic {text}: must be a noise multiplier and a number of releases, e.g. 100:30"
        )
    return Event(noise, 1.0, count)


def _from_scenario(
    name: str,
    override: list[str],
    epsilon: float | None,
    sigma: float | None,
    delta: float | None,
    accountant: str | None,
) -> list[dict[str, Any]]:
    """Return the account of every set of identical clients of a scenario."""
    from fedtoll.scenarios.read import find, read
    from fedtoll.sweep.dry_run import scenario_spending

    privacy = [
        f"privacy.{key}={value}"
        for key, value in (
            ("epsilons", None if epsilon is None else [epsilon]),
            ("delta", delta),
            ("accountant", None if accountant is None else json.dumps(accountant)),
        )
        if value is not None
    ]
    return scenario_spending(read(name, [*override, *privacy]), find(name).name, sigma, warn)


def _text(row: dict[str, Any]) -> str:
    """Return one row of the account as text."""
    header = f"δ = {row['delta']:g}, {row['accountant']}"
    if "strategy" in row:
        sizes = row["public_sizes"]
        clients = f"client{'s' if len(sizes) > 1 else ''} {_ranges(row['clients'])}"
        if len(row["groups"]) == 1:
            clients += f", {row['groups'][0]}"
        size_range = f"{min(sizes):,}" if min(sizes) == max(sizes) else f"{min(sizes):,} to {max(sizes):,}"
        header = f"{row['strategy']}, ε = {row['epsilon']:g}: {clients} (public size {size_range}); {header}"
        if "trust" in row:
            header += f"; {row['trust']}: noise multipliers are those of the sum over all clients"
            header += ", for a client with all its records" if row.get("unit") == "client" else ""
            header += f", {row['colluding']} colluding" if row["colluding"] else ""
    table = [("part", "releases", "q", "noise multiplier", "alone", "adds")]
    table += [
        (
            part["what"],
            f"{part['releases']:,}",
            "–" if part["sampling_rate"] is None else f"{part['sampling_rate']:g}",
            "–" if part["noise_multiplier"] is None else f"{part['noise_multiplier']:g}",
            _number(part["alone"]),
            _number(part["adds"]),
        )
        for part in row["parts"]
    ]
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    lines = [
        "  ".join(
            f"{cell:<{w}}" if i == 0 else f"{cell:>{w}}"
            for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in table
    ]
    total = f"total ε = {_number(row['spent'])}"
    if joint := row.get("joint"):
        within = ", ".join(f"{name} {z:g}" for name, z in joint.items())
        lines.append(f"noise multipliers within one release of a round: {within}")
    if "left" in row:
        total += f" of {row['epsilon']:g}, left {_number(row['left'])}"
    return "\n".join([header, *(f"  {line}" for line in [*lines, total, *_curve_lines(row)])])


def _curve_lines(row: dict[str, Any]) -> list[str]:
    """Return what holds at every δ as text."""
    lines = []
    if found := row["gaussian_dp"]:
        mu, least, regret = found["mu"], found["least_delta"], found["regret"]
        reach = f"at every δ ≥ {least:g}, regret {regret:.2g}" if least else "exact, at every δ"
        lines.append(f"μ = {_rounded_up(mu)} (Gaussian DP, {reach})")
    if found := row["zero_concentrated_dp"]:
        sampled = any(part["sampling_rate"] < 1 for part in row["parts"])
        reach = "sampling does not lower it" if sampled else "exact"
        lines.append(f"ρ = {_rounded_up(found['rho'])} (zero-concentrated DP, {reach})")
    return lines


def _rounded_up(value: float) -> str:
    """Round up to four significant digits."""
    if not 0 < value < math.inf:
        return _number(value)
    scale = 10.0 ** (3 - math.floor(math.log10(value)))
    return f"{math.ceil(value * scale * (1 - 1e-12)) / scale:.4g}"


def _number(value: float) -> str:
    return "–" if math.isnan(value) else "∞" if math.isinf(value) else f"{value:.4f}"


def _ranges(ids: list[int]) -> str:
    """Abbreviate sorted ids, e.g. ``0 to 7, 9``."""
    runs: list[list[int]] = []
    for i in ids:
        if runs and i == runs[-1][1] + 1:
            runs[-1][1] = i
        else:
            runs.append([i, i])
    return ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in runs)
