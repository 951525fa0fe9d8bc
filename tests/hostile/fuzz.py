"""Malformed inputs over all edges: scenarios, tables, results folders, replies of clients, and plug-ins.

``python -m tests.hostile.fuzz 10000`` tries this many, and prints what happened by edge. Each input must end
in a result, or in one line and an exit code. The seed and the number of an input give the same input again.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import os
import random
import shutil
import sys
import tempfile
import time
import tomllib
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pandas as pd

from fedtoll import cli
from fedtoll.report import vega
from fedtoll.scenarios.errors import FedtollError
from fedtoll.scenarios.read import library
from tests.hostile import mutate, plugins, replies
from tests.hostile.traps import state

SYNTHETIC = """
name = "fuzz"
title = "Fuzz"
seeds = [0, 1]
[data]
source = "synthetic"
groups = ["group"]
[data.synthetic]
features = 3
[data.synthetic.groups.A]
size = 120
[data.synthetic.groups.B]
size = 60
[split]
folds = 4
[partition]
clients = { A = 2, B = 1 }
[training]
rounds = 1
local_steps = 1
sampling_rate = 0.2
learning_rate = 1.0
clip = 1.0
[privacy]
epsilons = ["inf", 4.0]
delta = 1e-4
[[strategies]]
name = "fedavg"
[[strategies]]
name = "uniform"
"""

TUNED = """
[tune]
learning_rates = [0.5, 1.0]
seeds = [7]
"""

OWN = {
    "name": "own",
    "title": "Own",
    "seeds": [0],
    "data": {
        "file": "t.csv",
        "groups": ["g"],
        "own": {
            "label": "y",
            "positive": "a",
            "negative": ["b"],
            "columns": {"x": {"low": 0.0, "high": 1.0}, "c": {"values": ["u", "v", "w"]}},
            "attributes": {"g": {"values": ["p", "q"]}},
        },
    },
    "training": {"rounds": 1, "sampling_rate": 0.5, "local_steps": 1, "learning_rate": 1.0, "clip": 1.0},
    "privacy": {"epsilons": [4.0], "delta": 1e-4},
    "strategies": [{"name": "fedavg"}],
}

_WRITES = {
    *("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod"),
    *("shutil.move", "shutil.rmtree"),
}


class Watch:
    """Notes every file that this process writes outside the allowed folders, while it is on.

    A hook cannot be taken back, and is called for every import and every file that is opened. So it is
    added when it is first needed.
    """

    def __init__(self) -> None:
        self.on = False
        self.added = False
        self.allowed: tuple[str, ...] = ()
        self.outside: list[str] = []

    def start(self, allowed: tuple[str, ...]) -> None:
        """Note what is written outside these folders from now on."""
        if not self.added:
            sys.addaudithook(self._hear)
            self.added = True
        self.allowed, self.outside, self.on = allowed, [], True

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on or (event != "open" and event not in _WRITES):
            return
        path, *others = arguments
        if event in {"os.remove", "os.rmdir"} and others[0] != -1:  # a part of shutil.rmtree
            return
        if event == "open":
            flags = others[1] or 0
            if not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND):
                return
        paths = [path, others[0]] if event in {"os.rename", "os.link", "shutil.move"} else [path]
        for place in paths:
            if isinstance(place, str | bytes | os.PathLike):
                real = os.path.realpath(os.fsdecode(place))
                if not real.startswith(self.allowed):
                    self.outside.append(f"{event} {real}")


WATCH = Watch()


@dataclasses.dataclass
class Case:
    """An input: what to do, in this process, and the folder that it may write, if any."""

    act: Callable[[], object]
    out: Path | None = None


@dataclasses.dataclass
class World:
    """A folder with the inputs of all edges."""

    place: Path

    def __post_init__(self) -> None:
        self.here, self.elsewhere, self.temporary = (
            self.place / n for n in ("here", "elsewhere", "temporary")
        )
        for folder in (self.here, self.elsewhere, self.temporary, self.place / "cache"):
            folder.mkdir()
        (self.elsewhere / "precious.txt").write_text("precious\n")
        scenario = self.place / "fuzz.toml"
        self.whole = []
        for name, text in (
            ("plain", SYNTHETIC),
            ("tuned", SYNTHETIC.replace("[split]", "[split]\nvalidation = 0.1")),
        ):
            scenario.write_text(text + (TUNED if name == "tuned" else ""))
            shutil.copy(scenario, self.place / f"{name}.toml")
            code, _, err = command("run", scenario, "--out", self.place / name, "--executor", "serial")
            assert code == 0, err
            shutil.rmtree(self.place / name / "figures")
            self.whole.append(self.place / name)
        rng = random.Random(0)
        rows = [
            (rng.choice("ab"), round(rng.random(), 3), rng.choice("uvw"), rng.choice("pq")) for _ in range(80)
        ]
        self.table = pd.DataFrame(rows, columns=["y", "x", "c", "g"])
        self.replies = replies.Federation(self.place / "plain.toml")


def command(*arguments: Any) -> tuple[int, str, str]:
    """Run the command line in this process; return its exit code and what it printed."""
    out, err = io.StringIO(), io.StringIO()
    sys.argv = ["fedtoll", *map(str, arguments)]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
    assert isinstance(code, int)
    return code, out.getvalue(), err.getvalue()


def scenarios(rng: random.Random, world: World) -> Case:
    """Change a scenario of the library, or one with a user's table."""
    files = sorted(library().values())
    text = rng.choice([*(f.read_text(encoding="utf-8") for f in files), SYNTHETIC, SYNTHETIC + TUNED])
    content = rng.choice([tomllib.loads(text), OWN])
    world.table.to_csv(world.here / "t.csv", index=False)
    kind = rng.randrange(4)
    arguments = []
    if kind == 0:
        file = world.here / "x.toml"
        file.write_bytes(mutate.raw(rng, text.encode()))
    else:
        file = world.here / "x.json"
        file.write_bytes(mutate.as_json(mutate.structure(rng, content) if kind < 3 else content))
    if kind == 3:
        keys = [k for k, v in content.items() if isinstance(v, dict)]
        section = rng.choice(keys)
        key = rng.choice([f"{section}.{k}" for k in content[section]] + [*content, rng.choice(mutate.TEXTS)])
        arguments = ["--set", f"{key}={_toml(mutate.value(rng))}".replace("\0", " ")]
    code = ["--no-code"] if rng.random() < 0.2 else []
    return Case(lambda: command("check", file.name, *arguments, *code))


def _toml(value: Any) -> str:
    return json.dumps(value).replace("null", "nil").replace("Infinity", "inf").replace("NaN", "nan")


def tables(rng: random.Random, world: World) -> Case:
    """Change a user's table, or what is declared of it."""
    suffix = rng.choice([".csv", ".csv", ".tsv", ".parquet", ".feather", ".csv.gz"])
    table = mutate.frame(rng, world.table) if rng.random() < 0.6 else world.table
    file = world.here / f"t{suffix}"
    try:
        if suffix == ".parquet":
            table.to_parquet(file, index=False)
        elif suffix == ".feather":
            table.reset_index(drop=True).to_feather(file)
        else:
            table.to_csv(file, index=False, sep="\t" if suffix == ".tsv" else ",")
    except Exception:  # no file of this kind can hold it
        file.write_bytes(rng.randbytes(200))
    if table is world.table:
        file.write_bytes(mutate.raw(rng, file.read_bytes()))
    content = {**OWN, "data": {**OWN["data"], "file": file.name}}  # type: ignore[dict-item]
    if rng.random() < 0.2:
        content["data"] = mutate.structure(rng, content["data"], most=1)
    (world.here / "x.json").write_bytes(mutate.as_json(content))
    return Case(lambda: command("budget", "x.json", "--json"))


def folders(rng: random.Random, world: World) -> Case:
    """Change a file of a results folder, and give the folder to a command."""
    whole = rng.choice(world.whole)
    folder = world.here / "results"
    shutil.copytree(whole, folder)
    kind = rng.randrange(10)
    runs = sorted((folder / "runs").iterdir())
    if kind < 4:
        file = folder / "resolved.json"
        file.write_bytes(mutate.as_json(mutate.structure(rng, json.loads(file.read_text()), most=2)))
    elif kind < 7:
        chosen = rng.sample(runs, rng.choice([1, 1, len(runs)]))
        name = rng.choice(["groups", "groups", "clients", "rounds", "ledger", "predictions"])
        seed = rng.randrange(2**32)
        for run in chosen:
            file = run / f"{name}.parquet"
            if file.exists():
                with contextlib.suppress(Exception):  # no Parquet file can hold it
                    mutate.frame(random.Random(seed), pd.read_parquet(file)).to_parquet(file, index=False)
    else:
        file = rng.choice([f for f in sorted(folder.rglob("*")) if f.is_file()])
        if file.suffix == ".json" and rng.random() < 0.7:
            file.write_bytes(mutate.as_json(mutate.structure(rng, json.loads(file.read_text()))))
        else:
            file.write_bytes(mutate.raw(rng, file.read_bytes()))
    out = world.here / "out"
    out.mkdir()
    action = rng.randrange(12)
    if action < 2:
        elsewhere = ["--out", out] if action == 0 else []
        draws = rng.random() < 0.05
        return Case(lambda: report("results", *elsewhere, draws=draws), out if action == 0 else folder)
    if action < 5:
        both = [folder, whole] if action == 2 else [whole, folder]
        return Case(lambda: command("compare", *both, *rng.choice([[], ["--json"]])))
    if action < 9:
        measures = ["--with-measures"] if action < 7 else []
        return Case(lambda: command("export", "results", "--shareable", out / "copy", *measures), out)
    if action == 9:
        scenario = f"{whole}.toml"
        return Case(lambda: command("run", scenario, "--out", folder, "--executor", "serial"), folder)
    return Case(lambda: library_calls(folder))


def report(*arguments: Any, draws: bool) -> tuple[int, str, str]:
    """Write a report; Vega draws the figures of few, because it takes longer than all else."""
    drawn: Future[tuple[str, bytes]] = Future()
    drawn.set_result(("<svg/>", b""))
    with patch.object(vega, "draw", lambda spec: drawn) if not draws else contextlib.nullcontext():
        return command("report", *arguments)


def library_calls(folder: Path) -> None:
    """Compute what a user would with the results of a folder."""
    import fedtoll

    try:
        results = fedtoll.load(folder)
        for measure in ("log_loss", "tpr"):
            results.toll(measure)
            results.toll_gap(measure)
        results.comparisons()
        results.joint_intervals()
        _ = results.recipe, results.probe
    except FedtollError as error:
        if len(str(error)) > 3000 or "\n" in str(error):
            raise AssertionError(f"not one line: {error}") from None


def answers(rng: random.Random, world: World) -> Case:
    """Change the reply of a client."""
    return Case(lambda: world.replies.run(rng))


def plug_ins(rng: random.Random, world: World) -> Case:
    """Train with a strategy that misbehaves."""
    (world.here / "mine.py").write_bytes(plugins.source(rng))
    text = (world.place / "plain.toml").read_text().replace('name = "uniform"', 'name = "mine.py:Mine"')
    (world.here / "x.toml").write_text(text.replace("seeds = [0, 1]", "seeds = [0]"))
    if rng.random() < 0.4:
        return Case(lambda: command("check", "x.toml"))
    if rng.random() < 0.3:
        return Case(lambda: command("check-strategy", "mine.py:Mine"))
    out = world.here / "out"
    return Case(lambda: command("run", "x.toml", "--out", out, "--executor", "serial", "--no-probe"), out)


EDGES: dict[str, Callable[[random.Random, World], Case]] = {
    "scenarios": scenarios,
    "tables": tables,
    "folders": folders,
    "replies": answers,
    "plug-ins": plug_ins,
}


@contextlib.contextmanager
def world() -> Iterator[World]:
    """Make a world in a temporary folder, which becomes the working directory with its own caches."""
    before, argv, temporary, compiled = Path.cwd(), sys.argv, tempfile.tempdir, sys.dont_write_bytecode
    with tempfile.TemporaryDirectory() as name, patch.dict(os.environ):
        place = Path(name).resolve()
        os.environ |= {"FEDTOLL_DATA": str(place / "cache"), "COLUMNS": "100"}
        made = World(place)
        tempfile.tempdir = str(made.temporary)
        sys.dont_write_bytecode = True  # Python's compiled files are no writes of ours
        os.chdir(made.here)
        try:
            yield made
        finally:
            os.chdir(before)
            sys.argv, tempfile.tempdir, sys.dont_write_bytecode = argv, temporary, compiled


def attempt(edge: str, number: int, seed: int, made: World) -> tuple[str, str]:
    """Try one input; return how it ended, and what is wrong with that, if anything."""
    for file in made.here.iterdir():
        shutil.rmtree(file) if file.is_dir() else file.unlink()
    case = EDGES[edge](random.Random(f"{edge} {seed} {number}"), made)
    before = state(made.elsewhere)
    allowed = [made.temporary, made.place / "cache", *([case.out] if case.out else [])]
    inputs = {file.name for file in made.here.iterdir()} | ({case.out.name} if case.out else set())
    WATCH.start((*(f"{p}" for p in allowed), "/dev/", "/proc/self"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = case.act()
    except KeyboardInterrupt:
        raise
    except BaseException:
        return "traceback", traceback.format_exc()
    finally:
        WATCH.on = False
    new = {file.name for file in made.here.iterdir()} - inputs
    if WATCH.outside or new or state(made.elsewhere) != before:
        return "wrote outside", f"{WATCH.outside} {new}"
    if not isinstance(result, tuple):
        return "ended", ""
    code, out, err = result
    if "Traceback" in err or "Traceback" in out:
        return "traceback", err
    lines = [line for line in err.splitlines() if line != plugins.PRINTED]
    if code not in {0, 1, 2, 3} or (code == 2 and (len(lines) != 1 or not lines[0].startswith("fedtoll: "))):
        return "not one line", f"exit code {code}: {err}"
    raw = [c for c in out + err if not (c.isprintable() or c in "\n\t\u00a0\u200c\u200d\u3000")]
    if raw:
        return "raw characters", repr(raw[:20])
    return f"exit code {code}", ""


GOOD = {"ended", *(f"exit code {code}" for code in (0, 1, 2, 3))}


def main() -> None:
    """Try inputs over all edges, and print what happened."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int, help="number of inputs, over all edges")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--edge", choices=EDGES, action="append")
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    options = parser.parse_args()
    edges = options.edge or list(EDGES)
    failures = 0
    with world() as made:
        for edge in edges:
            counts: Counter[str] = Counter()
            began = time.monotonic()
            for number in range(options.first, options.first + options.count // len(edges)):
                how, wrong = attempt(edge, number, options.seed, made)
                counts[how] += 1
                if counts.total() % 100 == 0:
                    print(f"{edge}: {counts.total()}: {dict(counts)}", file=sys.stderr, flush=True)  # noqa: T201
                if how not in GOOD:
                    failures += 1
                    print(f"--- {edge} {number}: {how}\n{wrong[-3000:]}", flush=True)  # noqa: T201
            seconds = time.monotonic() - began
            print(f"=== {edge}: {sum(counts.values())} in {seconds:.0f} s: {dict(counts)}", flush=True)  # noqa: T201
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
