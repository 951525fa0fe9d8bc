"""Format the measurements as Markdown, one table per question."""

from __future__ import annotations

from typing import Any

from benchmarks.claims import claims, sweeps
from benchmarks.compare import GROUP
from benchmarks.tables import numbers, table, three
from benchmarks.work import SWEEP

TITLES = {
    "a": "Flower + Ray + Opacus as their users write it, under `flwr run`",
    "b": "sequential Opacus (our Opacus engine), in one process",
    "c": "pfl-research, **non-private**, one process per run",
    "d": "fedtoll (cohort engine), in one process",
    "e": "fedtoll on all cores",
    "f": "the limit: matrix products and normal draws alone",
    "g": f"{GROUP} runs of one seed in step, by the cohort engine",
    "h": f"their limit: the matrix products of {GROUP} runs and the normal draws of one",
    "products": "of which matrix products",
    "draws": "of which normal draws",
}

WORK = """\
The work of all variants: Adult, an MLP 64-32, 20 clients of unequal size (race crossed with sex; 7 hold White
men, 5 White women, 1 each other cell), Poisson batches of 64 expected records, one local epoch per round,
flat clip 1, SGD, ε = 8 (σ about 1), {rounds} rounds per run. The sweep: {sweep} such runs, 10 seeds × 5 ε × 3
strategies. Every number is the median of the repetitions, with their minimum and maximum; the variants took
turns within each repetition. Seconds are wall-clock time."""

NOTES = {
    "a": """\
- (a) uses all cores, one torch thread per client, and is timed from `flwr run` to its written result. The
  shutdown of Flower is not counted; the start of the SuperLink ({start_up:.1f} s) counts once per sweep.
  {between}""",
    "b": """\
- (b) and (d) run on the same single core, with messages, evaluation of every group after every round, ledger
  and tables; imports are not counted. Each repetition has its own seed, so draws are not shared as they are
  among the runs of one seed in a sweep (e). The same holds for training alone, below.""",
    "c": """\
- (c) runs on one core without clipping or noise; the start of its process is counted. {between}""",
    "e": """\
- (e) is timed in a fresh process: imports, plan, worker processes, training, results on disk. For a piece,
  the σ are already calibrated.""",
}
EXTRAPOLATED = """\
- ✱ extrapolated: {sweep} × a run; for (e) imports and plan once, plus {sweep} × the training of a piece ÷ its
  runs. This spreads the start of the workers over a piece instead of the sweep, so it is rather too slow than
  too fast. A piece consists of whole seeds of the sweep."""


def markdown(results: dict[str, Any]) -> str:
    """Return the page ``RESULTS.md``."""
    machine, size = results["machine"], results["size"]
    parts = ["# Benchmarks", _machine(machine, results)]
    if results["quick"]:
        parts.append("**A quick run: it shows only that everything works.**")
    parts += [WORK.format(rounds=size["rounds"], sweep=SWEEP), _claims(results)]
    if "whole" in results:
        parts += ["## The sweep", _sweep(results), _notes(results)]
    if results.get("training"):
        parts += ["## Training alone, one round, one core", _training(results["training"])]
    if "scaling" in results:
        parts += _scaling(results["scaling"])
    if "large" in results:
        parts += _large(results["large"])
    if "resume" in results:
        parts += ["## Killed and resumed", _resume(results["resume"])]
    return "\n\n".join(p for p in parts if p) + "\n"


def _machine(machine: dict[str, Any], results: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {v}" for name, v in machine["versions"].items())
    load = results["load"]
    return (
        f"{machine['cores']} cores of {machine['processor']}, {machine['memory_gb']} GB, "
        f"{machine['system']}; {versions}; commit {machine['commit']}. Load average of "
        f"the minute before: {load['start']:g}; it should be near 0. Written by `make bench`."
    )


def _claims(results: dict[str, Any]) -> str:
    decided = not results["quick"]
    repeated = "training alone" if "again" in results else "-"
    rows = [
        [
            c.what + " †" * c.what.startswith(repeated),
            c.needed,
            c.measured,
            ("yes" if c.holds else "**no**") if decided else "not decided",
        ]
        for c in claims(results)
    ]
    return "\n\n".join([table(["what", "aim", "measured", "reached"], rows), _again(results)]) if rows else ""


def _sweep(results: dict[str, Any]) -> str:
    whole, all_of = results["whole"], sweeps(results["whole"])
    rows = []
    for key in [k for k in "abcde" if k in all_of or k in whole["absent"]]:
        if key in whole["absent"] and key not in all_of:
            rows.append([f"({key}) {TITLES[key]}", "", f"not measured: {whole['absent'][key]}", "", "", ""])
            continue
        runs = whole["seconds"].get(key, [p["train"] / p["runs"] for p in whole["pieces"]])
        count = str(len(runs)) if key != "e" else f"{len(runs)} × {whole['pieces'][0]['runs']}"
        faster = (
            numbers([a / b for a, b in zip(all_of["a"], all_of[key], strict=False)]) if "a" in all_of else ""
        )
        accuracy = f"{whole['accuracy'][key]:.3f}" if key in whole["accuracy"] else ""
        title = f"({key}) {TITLES[key]}" + (", a piece" if key == "e" else "")
        rows.append([title, count, numbers(runs), f"{numbers(all_of[key], 60)} ✱", faster, accuracy])
    if real := results.get("whole_sweep"):
        faster = numbers([a / real["total"] for a in all_of["a"]]) if "a" in all_of else ""
        total = real["total"]
        title = f"**(e) {TITLES['e']}, the whole sweep, measured**"
        rows.append(
            [title, str(real["runs"]), three(real["train"] / real["runs"]), three(total / 60), faster, ""]
        )
    head = ["variant", "runs measured", "s per run", f"the sweep of {SWEEP} runs, min", "× (a)", "accuracy"]
    return table(head, rows)


def _notes(results: dict[str, Any]) -> str:
    whole = results["whole"]
    notes = []
    for key, text in NOTES.items():
        if key in whole["seconds"] or (key == "e" and whole["pieces"]):
            rounds = whole["rounds"].get(key)
            between = f"From one round's end to the next: {numbers(rounds)} s." if rounds else ""
            notes.append(text.format(start_up=whole.get("start_up", 0.0), between=between).rstrip())
    notes.append(EXTRAPOLATED.format(sweep=SWEEP))
    if real := results.get("whole_sweep"):
        notes.append(
            f"- The whole sweep started without calibrated σ: its plan took {three(real['plan'])} s, the "
            f"training on {real['workers']} workers {three(real['train'])} s."
        )
    return "\n".join(notes)


def _training(alone: dict[str, list[float]]) -> str:
    rows = []
    for key in [k for k in ("b", "d", "f", "products", "draws", "g", "h") if k in alone]:
        title = f"({key}) {TITLES[key]}" if key in "bdfgh" else TITLES[key]
        faster = numbers(_each(alone, "b", key)) if "b" in alone and key not in "gh" else ""
        least = "h" if key in "gh" else "f"
        limit = numbers(_each(alone, key, least)) if least in alone else ""
        rows.append([title, str(len(alone[key])), numbers(alone[key]), faster, limit])
    return table(["variant", "repetitions", "s per round", "× (b)", "÷ its limit"], rows)


def _again(results: dict[str, Any]) -> str:
    """Return the note on the part that was measured again on another commit."""
    if "again" not in results:
        return ""
    again = results["again"]
    before = "{median:.2f} ({low:.2f} to {high:.2f})".format_map(again["before"])
    return (
        f"† Measured again, on commit {again['commit']} (load average of the minute before: "
        f"{again['load']:g}). On commit {results['machine']['commit']}, with all the rest, (d) ÷ (f) was "
        f"{before}."
    )


def _each(alone: dict[str, list[float]], slow: str, fast: str) -> list[float]:
    return [a / b for a, b in zip(alone[slow], alone[fast], strict=True)]


def _scaling(scaling: dict[str, Any]) -> list[str]:
    def rows(series: str, label: str) -> list[list[str]]:
        return [
            [
                "-".join(map(str, p[label])) if label == "hidden" else f"{p[label]:,}",
                *([f"{p['parameters']:,}"] if label == "hidden" else []),
                _range(p["seconds"]),
                f"{p['seconds']['median'] / p['row_visits'] * 1e6:.2f}" if "row_visits" in p else "",
                f"{p['peak_mb']:,.0f}",
                *([f"{p['before_mb']:,.0f}"] if "before_mb" in p else []),
            ]
            for p in scaling[series]
        ]

    tail = ["s per round", "µs per row", "peak MB", "MB before training"]
    return [
        "## Scaling of the cohort engine, one core",
        "Synthetic records of 100 features, MLP 64-32 unless stated otherwise, batches of 64, one epoch per "
        "round; each point in its own process.",
        f"Clients of {scaling['clients'][0]['rows']} records each:",
        table(["clients", *tail], rows("clients", "clients")),
        "Records of each of 20 clients:",
        table(["records per client", *tail], rows("rows", "rows")),
        "Width of the model, 20 clients of 2,000 records:",
        table(["hidden layers", "parameters", *tail], rows("width", "hidden")),
        "The whole app, Adult over many clients by race, batches of 16, including messages, checks, ledger "
        "and evaluation:",
        table(["clients", *tail[:3]], rows("app", "clients")),
    ]


def _large(large: dict[str, Any]) -> list[str]:
    def rows(series: str) -> list[list[str]]:
        return [
            [
                f"{p[series]:,}",
                three(p["plan"]),
                f"{p['plan_mb']:,.0f}",
                three(p["round"]),
                f"{p['peak_mb']:,.0f}",
            ]
            for p in large[series]
        ]

    tail = ["s to load and plan", "MB then", "s per round", "peak MB"]
    group, texts = large["in_step"], []
    if tuned := large.get("tuned"):
        texts = [
            "A tuned sweep, `adult-race` with eight learning rates, five ε, three strategies and ten seeds, "
            f"by `fedtoll run` from nothing to its report: {tuned['runs']} runs and candidates in "
            f"{three(tuned['seconds'] / 60)} minutes, {three(tuned['processor'] / 60)} minutes of processor "
            "time."
        ]
    return [
        "## Large work, one core",
        "Census records dealt to many clients under local trust, of whom a hundredth train in a round:",
        table(["clients", *tail], rows("clients")),
        "A Parquet file of 25 numbers and 5 texts, one client for each of five groups, logistic regression, "
        "batches of 1,000, one epoch per round:",
        table(["records", *tail], rows("records")),
        f"{group['runs']} runs of {group['clients']:,} clients in step, one round: "
        f"{three(group['together'])} s, {group['peak_mb']:,.0f} MB; one of them alone "
        f"{three(group['alone'])} s, {group['alone_mb']:,.0f} MB.",
        *texts,
    ]


def _range(s: dict[str, float]) -> str:
    if s["n"] == 1:
        return three(s["median"])
    return f"{three(s['median'])} ({three(s['low'])} to {three(s['high'])})"


def _resume(r: dict[str, Any]) -> str:
    stored = r["present"]
    text = (
        f"`fedtoll run` of {r['runs']} short runs ({three(r['seconds_uninterrupted'])} s uninterrupted) was "
        f"killed {r['kills']} times with its whole process group, at moments spread evenly over that time, "
        f"and resumed every time, over {r['sweeps']} sweeps; {min(stored)} to {max(stored)} runs were stored "
        "after a kill."
    )
    rows = [
        ["runs lost", r["lost"]],
        ["duplicate runs or rows", r["duplicated"]],
        ["torn runs", r["torn"]],
        ["tables that differ from those of the uninterrupted sweep in any byte", r["different"]],
        ["resumes that failed", r["failed"]],
        ["files left next to the runs of finished sweeps (one lock file per sweep is expected)", r["litter"]],
    ]
    return text + "\n\n" + table(["found", "times"], [[what, str(n)] for what, n in rows])
