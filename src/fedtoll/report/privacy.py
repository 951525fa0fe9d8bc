"""The privacy card: what is guaranteed, for whom, against whom, and what is not covered.

Every number comes from the results: from the ledger (what was charged) and the resolved scenario (what was
planned).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from fedtoll.formatting import MOST_CLIENTS, count, general, listed, span
from fedtoll.privacy import accounting
from fedtoll.privacy.delta import WORRYING
from fedtoll.privacy.ledger import ALL_CLIENTS, CHOICE, is_training, statistics_in
from fedtoll.report import trust, unit, who
from fedtoll.scenarios.calibration import GroupResidual
from fedtoll.scenarios.resolved import private_records
from fedtoll.toll import ResultsLike


@dataclass(frozen=True)
class Spent:
    """What the clients of one strategy spent at one ε."""

    epsilon: str
    strategy: str
    spent: str
    largest: str
    noise: str
    rate: str
    steps: str
    statistics: str


@dataclass(frozen=True)
class Card:
    """The privacy card.

    Attributes
    ----------
    promises
        Terms of the guarantee, each with its explanation.
    not_covered
        What no ε of these results covers.
    spent
        What clients spent, by strategy and ε; empty if no run is private.
    by_client, columns
        The rows of ε spent by client, and the names of their columns; empty with very many clients.
    """

    promises: tuple[tuple[str, str], ...]
    not_covered: tuple[str, ...]
    spent: tuple[Spent, ...]
    by_client: tuple[tuple[str, ...], ...]
    columns: tuple[str, ...]


def card(results: ResultsLike) -> Card:
    """Return the privacy card of these results."""
    ledger = (
        results.ledger[results.ledger["mechanism"] == "dp-sgd"] if len(results.ledger) else results.ledger
    )
    if ledger.empty:
        promises: tuple[tuple[str, str], ...] = (
            (
                "Guarantee",
                "None. No run here is private: nothing was noised, and what leaves a client may reveal its "
                "records.",
            ),
        )
        return Card((*promises, ("Results folder", _folder(results))), (), (), (), ())
    pairs = (
        ledger[["strategy", "epsilon"]]
        .drop_duplicates()
        .sort_values("epsilon", ascending=False, kind="stable")
    )
    cells = [
        (s, e, ledger[(ledger["strategy"] == s) & (ledger["epsilon"] == e)])
        for s, e in pairs.itertuples(index=False, name=None)
    ]
    sizes = {c["id"]: c for c in results.resolved.get("clients", [])}
    columns, by_client = _by_client(cells, sizes)
    return Card(
        promises=(*_promises(results, ledger), ("Results folder", _folder(results))),
        not_covered=tuple(_not_covered(results, charged=bool((ledger["release"] == CHOICE).any()))),
        spent=tuple(_spent(s, e, rows, sizes) for s, e, rows in cells),
        by_client=by_client,
        columns=columns,
    )


def _promises(results: ResultsLike, ledger: pd.DataFrame) -> list[tuple[str, str]]:
    """Return unit, neighbours, adversary, guarantee and mechanism, each with its explanation."""
    scenario = results.resolved.get("scenario", {})
    delta = listed(general(d) for d in sorted(ledger["delta"].unique()))
    accountant = listed(sorted(ledger["accountant"].astype(str).unique()))
    largest = ledger.groupby("epsilon")["epsilon_spent"].max().sort_index(ascending=False)
    largest_spent = listed(
        f"{general(s)} of ε = {general(e)}" for e, s in zip(largest.index, largest, strict=True)
    )
    copies, privacy = int(scenario.get("partition", {}).get("copies", 1)), scenario.get("privacy", {})
    by_client = unit.is_client(scenario)
    whose = unit.composed(scenario) if by_client else _record_epsilon_sentence(ledger, copies)
    mechanism = (
        unit.mechanism(scenario, _norm(results))
        if by_client
        else "DP-SGD: each local step draws a Poisson sample of the client’s records, clips each record’s "
        f"gradient{_norm(results)}, and {trust.noise(privacy)} {_constants(results)}"
    )
    terms = [
        *unit.terms(scenario),
        *trust.terms(privacy),
        ("Adversary", trust.adversary(privacy, hidden=unit.is_hidden(scenario))),
        (
            "Guarantee",
            f"(ε, δ)-differential privacy with δ = {delta}, composed over all rounds and all releases of a "
            f"client by the {accountant} accountant. {whose} "
            f"Largest ε spent by any client: {largest_spent}.",
        ),
        ("Mechanism", mechanism),
    ]
    if by_client and (clients := len(results.resolved.get("clients", []))):
        terms.append(("δ and clients", unit.exposed(clients, float(ledger["delta"].max()))))
    elif records := int(results.resolved.get("data", {}).get("rows", 0)):
        terms.append(("δ and records", _exposed(records, float(ledger["delta"].max()))))
    terms += who.terms(scenario)
    terms.append(("Statistics", _statistics(ledger, scenario)))
    if not (choices := ledger[ledger["release"] == CHOICE]).empty:
        alone = choices.groupby("epsilon")["epsilon_spent"].max().sort_index(ascending=False)
        prices = listed(f"{general(s)} of ε = {general(e)}" for e, s in zip(alone.index, alone, strict=True))
        terms.append(
            (
                "Choice of constants",
                "The constants are those of the best of a random number of candidates, trained on private "
                "records and compared on public ones. The choice is charged, and so is the final training, "
                f"as if the most costly candidate had won. Largest ε of the choice alone: {prices}.",
            )
        )
    references = [m for m in ("none", "clip-only") if (results.groups["mechanism"] == m).any()]
    if references:
        clipped = " (clip-only: clipped but not noised)" if "clip-only" in references else ""
        terms.append(
            (
                "Not private",
                f"The runs at ε = ∞{clipped} are references: their updates and statistics have no noise, and "
                "they have no guarantee.",
            )
        )
    return terms


def _statistics(ledger: pd.DataFrame, scenario: dict[str, Any]) -> str:
    """Return which statistics strategies ask for, and how those are paid for."""
    kinds: dict[str, list[str]] = {}
    for strategy, release in ledger[["strategy", "release"]].drop_duplicates().itertuples(index=False):
        other = release not in {CHOICE, GroupResidual.name}
        names = statistics_in(release) if is_training(release) else (release,) if other else ()
        kinds.setdefault(strategy, []).extend(n for n in names if n not in kinds.get(strategy, []))
    requests = [f"{strategy} asks for {listed(names)}" for strategy, names in kinds.items() if names]
    if not requests:
        return "No strategy asks clients for statistics."
    if unit.is_client(scenario):
        return f"{listed(requests)}. {unit.statistics(scenario)}"
    return (
        f"{listed(requests)}. These are Gaussian releases, charged to the same ledger and paid for from the "
        "same ε."
    )


def _exposed(records: int, delta: float) -> str:
    """Return a sentence on how many records δ could expose outright."""
    large = " That is too many: state a smaller privacy.delta." if delta * records >= WORRYING else ""
    return (
        "δ alone would allow a mechanism to publish each record with probability δ: of the "
        f"{count(records)} records here, {general(delta * records)} on average.{large}"
    )


def _folder(results: ResultsLike) -> str:
    """Return a sentence on what the results folder contains and how to share it."""
    if not private_records(results.resolved):
        return "Its records are public, so the whole folder may be shared."
    rows = "the row, group, label and score of every held-out record, " if len(results.predictions) else ""
    return (
        f"The folder contains {rows}exact measures of every group, what every run and candidate released, "
        "with the seeds of its noise, and a checksum of the records. None of this is protected by ε, and "
        "this page and its figures show part of it. “fedtoll export” writes a copy that can be shared."
    )


def _chosen(results: ResultsLike, *names: str) -> dict[str, list[Any]]:
    """Return the values of some constants that private runs chose by ``[tune]``; empty if none was tuned."""
    found: dict[str, list[Any]] = {}
    for row in results.resolved.get("tuning", []):
        if row["chosen"] and row["mechanism"] == "dp-sgd":
            for name in names:
                if name in row["constants"]:
                    found.setdefault(name, []).append(row["constants"][name])
    return found


def _norm(results: ResultsLike) -> str:
    """Return the norm that gradients are clipped to, after which the sentence goes on."""
    if clips := _chosen(results, "clip").get("clip"):
        return f" to norm {span(min(clips), max(clips), 'general')} (chosen for each strategy and ε)"
    training = results.resolved.get("scenario", {}).get("training", {})
    return f" to norm {general(float(training['clip']))}" if "clip" in training else ""


def _constants(results: ResultsLike) -> str:
    """Return a sentence on what q, T and σ depend on."""
    training = results.resolved.get("scenario", {}).get("training", {})
    chosen = _chosen(results, "sampling_rate", "batch_size", "local_steps", "rounds", "personal.steps")
    start = "Given the chosen constants, sampling rate q" if chosen else "Sampling rate q"
    fixed = training.get("sampling_rate") is not None and "batch_size" not in chosen
    if fixed or "sampling_rate" in chosen:
        return (
            f"{start}, number of steps T and noise multiplier σ follow from the scenario, whatever "
            "records a client holds; the normaliser B = q·n follows from the client’s declared size n."
        )
    return (
        f"{start}, number of steps T and noise multiplier σ depend on a client’s declared size, never "
        "on the records it holds."
    )


def _not_covered(results: ResultsLike, charged: bool) -> list[str]:
    """List what no ε of these runs covers."""
    resolved = results.resolved
    scenario = resolved.get("scenario", {})
    grouped = any(c.get("group") for c in resolved.get("clients", []))
    precision = str(scenario.get("training", {}).get("precision", "float32"))
    split = scenario.get("split", {})
    public = float(split.get("validation", 0.0))
    tuned = bool(resolved.get("tuning"))
    choices = "the grid of candidates" if tuned or charged else "hyper-parameters"
    items = [
        *(
            [
                "The choice of constants. Its candidates were trained on private records; what it reveals is "
                "not counted in ε."
            ]
            if tuned and not charged
            else []
        ),
        f"Choices made by looking at results: {choices}, the best of several runs, this page’s headline.",
        f"What is declared public: every client’s size{' and group' if grouped else ''}, and each column’s "
        "centre, scale, transform and categories.",
        "The held-out measures on this page. They come from records that no client’s guarantee covers and "
        "that no strategy gets through its interface: the experimenter’s view, which a deployment would not "
        "have.",
        "The noise itself. It is drawn from the seeds published here, so that anybody can repeat the runs; "
        "whoever knows a seed can subtract the noise. This is a simulation, not a deployable guarantee.",
        f"The rounding of {'updates' if unit.is_client(scenario) else 'sums of clipped gradients'} in "
        f"{precision}: it depends on all records of a {'client' if unit.is_client(scenario) else 'batch'}. "
        "(The noise itself is drawn and added in float64, and releases are rounded to a coarser grid.)",
    ]
    if charged:
        items.append(
            "Messages of the trainings among which the constants were chosen, their number and their losses. "
            "The choice is charged as if only its winner were released: whoever sees the messages of the "
            "candidates, as their server does, learns what all of them release."
        )
    items += [*trust.not_covered(scenario.get("privacy", {})), *unit.not_covered(scenario)]
    items.append(_other_runs(scenario.get("privacy", {}).get("noise_seed")))
    if floor := int(scenario.get("data", {}).get("floor", 0)):
        items.append(
            f"Which groups exist. Those with fewer than {count(floor)} records are merged, and this is "
            "decided by exact counts."
        )
    if public:
        whole = "the source’s own training records" if split.get("kind") == "canonical" else "the records"
        items.append(f"The {public:.0%} of {whole} that the scenario declares public for validation.")
    items.append(_side_channel(skips=scenario.get("training", {}).get("on_failure") == "skip"))
    return items


def _other_runs(noise_seed: int | None) -> str:
    """Return the warning not to release paired runs together."""
    noise = (
        "The noise of a run depends on its seed"
        if noise_seed is None
        else f"The noise of a run depends on its seed and on privacy.noise_seed = {noise_seed}"
    )
    return (
        "More than one run. Each ε holds for a run released alone. "
        f"{noise}, its sampling masks on the seed alone, neither on strategy, ε or constants. So runs of one "
        "seed, in this folder or another, share them: never release paired runs together, because their "
        "difference reveals exact sums."
    )


def _side_channel(skips: bool) -> str:
    """Return a sentence on what a skipped reply or an aborted run can reveal."""
    if skips:
        return (
            "Skipped replies and aborted runs. Whether a reply is finite can depend on the values of "
            "records, so a skip is a side channel, and skips in many rounds reveal more than a single abort. "
            "Skipped rounds are charged in full."
        )
    return (
        "Aborted runs. Whether a reply is finite can depend on the values of records, so an abort is a side "
        "channel."
    )


def _record_epsilon_sentence(ledger: pd.DataFrame, copies: int) -> str:
    """Return a sentence on the ε of a record, which several clients may hold."""
    if copies == 1:
        return "Clients hold disjoint records, so the ε of a run is the largest that any client spent."
    together: dict[float, float] = {}
    for _, run in ledger.groupby(["epsilon", "strategy", "seed"]):
        epsilon = float(run["epsilon"].iloc[0])
        spent = accounting.record_epsilon(
            [_events(rows) for _, rows in run.groupby("client")],
            copies,
            float(run["delta"].iloc[0]),
            str(run["accountant"].iloc[0]),
        )
        together[epsilon] = max(together.get(epsilon, 0.0), spent)
    totals = listed(f"{general(s)} of ε = {general(e)}" for e, s in sorted(together.items(), reverse=True))
    return (
        f"Each record is held by {copies} clients, so their ledgers add up: a record’s ε is what its "
        f"{copies} clients spend together, at most {totals}."
    )


def _events(rows: pd.DataFrame) -> list[accounting.Event]:
    releases = zip(rows["noise_multiplier"], rows["sampling_rate"], rows["count"], strict=True)
    return [accounting.Event(float(z), float(q), int(n)) for z, q, n in releases]


def _spent(strategy: str, epsilon: float, rows: pd.DataFrame, clients: dict[int, dict[str, Any]]) -> Spent:
    """Summarise what was charged to the clients of one strategy at one ε."""
    by_client = rows.groupby("client")["epsilon_spent"].max()
    least, most = float(by_client.min()), float(by_client.max())
    training = rows[rows["release"].map(is_training)]
    one_run = rows[rows["seed"] == rows["seed"].iloc[0]]
    trained = one_run["release"].map(is_training)
    steps = one_run[trained].groupby("client")["count"].sum()
    statistics = []
    for name, part in one_run[~trained & (one_run["release"] != CHOICE)].groupby("release", sort=False):
        times = part.groupby("client")["count"].sum()
        noise = span(part["noise_multiplier"].min(), part["noise_multiplier"].max(), "general")
        statistics.append(
            f"{name}: {span(times.min(), times.max(), 'count')} releases, noise multiplier {noise}"
        )
    for names, part in one_run[trained].groupby(one_run["release"].map(statistics_in)):
        times = part.groupby("client")["count"].sum()
        released = span(times.min(), times.max(), "count")
        statistics += [f"{name}: {released} releases, each one with the update" for name in names]
    return Spent(
        epsilon=general(epsilon, 6),
        strategy=strategy,
        spent=span(least, most, "general"),
        largest="all equal"
        if general(least) == general(most)
        else _label(int(by_client.index[int(by_client.argmax())]), clients),
        noise=span(training["noise_multiplier"].min(), training["noise_multiplier"].max(), "general"),
        rate=span(training["sampling_rate"].min(), training["sampling_rate"].max(), "general"),
        steps=span(steps.min(), steps.max(), "count") if len(steps) else "0",
        statistics="; ".join(statistics) or "none",
    )


def _label(client: int, clients: dict[int, dict[str, Any]]) -> str:
    if client == ALL_CLIENTS:
        return "all clients"
    known = clients.get(client, {})
    group = f", {known['group']}" if known.get("group") else ""
    return (
        f"client {client}{group}, n\u00a0=\u00a0{count(known['size'])}"
        if "size" in known
        else f"client {client}{group}"
    )


def _by_client(
    cells: list[tuple[str, float, pd.DataFrame]], clients: dict[int, dict[str, Any]]
) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Return the ε that every client spent, as column names and rows; empty with very many clients."""
    spent = {
        f"{s}, ε = {general(e, 6)}": rows.groupby("client")["epsilon_spent"].max() for s, e, rows in cells
    }
    ids = sorted({int(i) for series in spent.values() for i in series.index.tolist()})
    if len(ids) > MOST_CLIENTS:
        return (), ()
    rows = tuple(
        (_label(i, clients), *(general(float(s.get(i, float("nan"))), 5) for s in spent.values()))
        for i in ids
    )
    return tuple(spent), rows
