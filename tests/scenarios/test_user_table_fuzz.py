"""Thousands of tables that nobody would wish for: each is read correctly or refused in one line.

The draws are numpy's, not Hypothesis's: with the same number of tables, these reach far more damaged files
and keep a steady share of tables that are read and trained on.
"""

from __future__ import annotations

import copy
import gzip
import io
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fedtoll.scenarios import split
from fedtoll.scenarios.data import load_table, source_of
from fedtoll.scenarios.errors import FedtollError, ScenarioError
from fedtoll.scenarios.read import validate
from fedtoll.server.plan import plan
from fedtoll.server.trainer import simulate

Facts = dict[str, Any]

EVERY = 16
"""One of this many tables that are read is trained on."""

HOSTILE = (
    "__index_level_0__",
    'q"uo"te',
    "new\nline",
    "comma,tab\t",
    "x" * 3000,
    "",
    " ",
    "é\u202e",
    "a=b",
    "canonical_test",
    "(missing)",
    "'; drop table",
    "{0}",
    "%s",
    "<script>",
    "age ",
    "AGE",
    "label",
    "group",
)
JUNK: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1.5,
    float("nan"),
    float("inf"),
    10**400,
    "",
    "\x00",
    "x" * 300,
    [],
    {},
    ["a", "a"],
    {"a": 1},
    [[1]],
)
WORDS = (
    "a",
    "b",
    "c",
    "White",
    "Black",
    "0",
    "1",
    "True",
    "nan",
    "None",
    "é",
    "ß\u0301",
    "a b",
    "a/b",
    "-",
    "=1+1",
)
CELLS = (
    None,
    "",
    " ",
    "x",
    "NaN",
    "inf",
    "-inf",
    "1e999",
    "1,5",
    "2020-01-01",
    "True",
    "\x00",
    "a\nb",
    '"',
    "é",
    1e300,
    -1e300,
    10**30,
)
ENCODINGS = ("latin-1", "utf-16", "utf-8-sig", "utf-32", "cp037", "utf-7", "cp1252", "shift_jis")
PARTITIONS: tuple[Facts, ...] = (
    {},
    {},
    {},
    {"clients": {"*": 2}},
    {"kind": "iid", "clients": 3},
    {"kind": "iid", "clients": 40, "skew": 1.5},
    {"kind": "iid", "clients": 3, "copies": 2},
    {"kind": "dirichlet", "clients": 3, "alpha": 0.5},
    {"kind": "dirichlet", "clients": 2, "alpha": 5.0, "over": "label"},
    {"kind": "shares", "shares": [[0.5, 0.2], [0.5, 0.8]]},
    {"kind": "column", "column": "g"},
    {"keep": {"a": 0.5}},
)


class Case:
    """One table and its scenario, drawn from a seed."""

    def __init__(self, seed: int) -> None:
        self.draw = np.random.default_rng([2026, seed])
        self.exact = True  # whether the file has the frame's records
        n = int(self.pick([0, 1, 2, 3, 6, 25, *[60] * 10]))
        self.frame, self.own = self._base(n)
        self.suffix = str(self.pick([".csv", ".csv", ".csv.gz", ".tsv", ".parquet", ".feather"]))
        late = (
            "with_a_hostile_name",
            "with_a_name_twice",
            "with_a_junk_declaration",
        )  # names are needed before
        ways = sorted((m for m in dir(Case) if m.startswith("with_")), key=lambda m: (m in late, m))
        for way in sorted(int(self.draw.integers(len(ways))) for _ in range(self.pick([0, 0, 1, 1, 2, 3]))):
            getattr(self, ways[way])()
        self.scenario: Facts = {
            "name": "fuzz",
            "title": "Fuzz",
            "seeds": [int(self.draw.integers(5))],
            "data": {
                "groups": self.pick([["g"]] * 12 + [["g", "h"]] * 3 + [["none"]]),
                "floor": int(self.pick([0, 0, 0, 2, 10])),
                "own": self.own,
            },
            "split": {"folds": int(self.pick([2, 5])), "validation": float(self.pick([0, 0, 0.3]))},
            "partition": copy.deepcopy(self.pick(PARTITIONS)),
            "training": {
                "rounds": 1,
                "sampling_rate": 0.5,
                "local_steps": 1,
                "learning_rate": 0.1,
                "clip": 1.0,
            },
            "privacy": {"epsilons": ["inf"]},
            "strategies": [{"name": "fedavg"}],
        }
        self.content = self._bytes()

    def pick(self, options: Any) -> Any:
        return options[int(self.draw.integers(len(options)))]

    def words(self, least: int = 1) -> list[str]:
        return [str(w) for w in self.draw.permutation(WORDS)[: int(self.draw.integers(least, 6))]]

    def _base(self, n: int) -> tuple[pd.DataFrame, Facts]:
        """Return records and declarations that fit them."""
        groups, more, label = self.words(), self.words(2), self.words(2)
        columns: dict[str, Any] = {"y": self.draw.choice(label, n), "g": self.draw.choice(groups, n)}
        facts: Facts = {}
        for i in range(int(self.draw.integers(1, 5))):
            kind = self.pick(["int", "float", "money", "scaled", "text"])
            numbers = self.draw.normal(0, 50, n)
            if kind == "text":
                columns[f"x{i}"], facts[f"x{i}"] = self.draw.choice(more, n), {"values": list(more)}
            elif kind == "money":
                columns[f"x{i}"] = np.abs(numbers).round(2)
                facts[f"x{i}"] = {"low": 0, "high": 60.5, "transform": "log1p"}
            elif kind == "scaled":
                columns[f"x{i}"], facts[f"x{i}"] = numbers, {"centre": 0, "scale": 30.0}
            else:
                columns[f"x{i}"] = numbers.astype(int) if kind == "int" else numbers
                facts[f"x{i}"] = {"low": -40, "high": 60}
        columns["h"] = self.draw.integers(0, 80, n)
        own: Facts = {
            "label": "y",
            "positive": label[-1],
            "negative": label[:-1],
            "columns": facts,
            "attributes": {"g": {"values": groups}, "h": {"bins": [20, 40.0]}},
        }
        if self.draw.random() < 0.3:
            own["missing"] = "category"
        return pd.DataFrame(columns), own

    def _bytes(self) -> bytes:
        frame, file = self.frame, io.BytesIO()
        if self.suffix in {".parquet", ".feather"}:
            try:
                (frame.to_parquet if self.suffix == ".parquet" else frame.to_feather)(file)
                return self._spoilt(file.getvalue())
            except Exception:  # this format cannot hold such a table
                self.suffix = ".csv"
        text = frame.to_csv(index=False, sep="\t" if self.suffix == ".tsv" else ",")
        if self.encoding:
            self.exact = False
        content = self._spoilt(text.encode(self.encoding or "utf-8", errors="replace"))
        return gzip.compress(content) if self.suffix == ".csv.gz" and self.draw.random() < 0.9 else content

    encoding = ""
    spoils: tuple[str, ...] = ()

    def _spoilt(self, content: bytes) -> bytes:
        for how in self.spoils:
            self.exact = False
            place = int(self.draw.integers(len(content) + 1))
            if how == "cut":
                content = content[:place]
            elif how == "random":
                content = self.draw.bytes(int(self.pick([0, 1, 40, 3000])))
            elif how == "flip" and content:
                spoilt = bytearray(content)
                for _ in range(int(self.pick([1, 1, 5, 50]))):
                    spoilt[int(self.draw.integers(len(spoilt)))] = int(self.draw.integers(256))
                content = bytes(spoilt)
            elif how == "insert":
                content = (
                    content[:place]
                    + self.pick([b",", b'"', b"\n", b"\r", b"\x00", b"\xff", b",,,,\n", b'"\n"'])
                    + content[place:]
                )
            elif how == "twice":
                content += content
        return content

    # What may go wrong. Each changes the records, the file or the declaration.

    def with_a_cell(self) -> None:
        if len(self.frame):
            name, row = self.pick(list(self.frame)), int(self.draw.integers(len(self.frame)))
            column = self.frame[name].astype(object)
            column.iloc[row] = self.pick(CELLS)
            self.frame[name] = (
                column if self.draw.random() < 0.5 else column.map(lambda x: x if x is None else str(x))
            )

    def with_a_missing_number(self) -> None:
        self.frame["h"] = self.frame["h"].where(self.draw.random(len(self.frame)) < 0.9)

    def with_missing_texts(self) -> None:
        self.frame["g"] = self.frame["g"].where(self.draw.random(len(self.frame)) < 0.9, None)
        if self.draw.random() < 0.7:
            self.own["missing"] = "category"
            self.own["attributes"]["g"]["values"] = [*self.own["attributes"]["g"]["values"], "(missing)"]

    def with_another_type(self) -> None:
        n, name = len(self.frame), self.pick(list(self.frame))
        self.frame[name] = self.pick(
            [
                pd.date_range("2020", periods=n),
                np.arange(n) % 2 == 0,
                pd.Categorical(self.frame[name]),
                np.arange(n, dtype=np.uint64) + 2**63,
                np.arange(n, dtype=np.float32),
                [[i] for i in range(n)],
                [None] * n,
                pd.Series(np.arange(n), dtype="Int64"),
                [f"{i}".encode() for i in range(n)],
                pd.to_timedelta(np.arange(n), unit="s"),
                np.arange(n) + 1j,
            ]
        )

    def with_a_hostile_name(self) -> None:
        old, new = str(self.pick(list(self.frame))), str(self.pick(HOSTILE))
        self.frame = self.frame.rename(columns={old: new})
        if self.draw.random() < 0.7:
            for section in ("columns", "attributes"):
                self.own[section] = {new if k == old else k: v for k, v in self.own[section].items()}
            if self.own["label"] == old:
                self.own["label"] = new

    def with_a_name_twice(self) -> None:
        names = list(self.frame)
        self.frame = pd.concat([self.frame, self.frame[[self.pick(names)]]], axis=1)
        if self.draw.random() < 0.3:
            self.frame.columns = pd.Index([self.pick(names)] * len(self.frame.columns))

    def with_many_values(self) -> None:
        self.frame[self.pick(["g", "y", "h"])] = [f"v{i}" for i in range(len(self.frame))]
        if self.draw.random() < 0.5:
            self.own["attributes"]["g"] = {"values": [f"v{i}" for i in range(int(self.pick([60, 200, 201])))]}

    def with_one_class(self) -> None:
        self.frame["y"] = self.pick([self.own["positive"], self.own["negative"][0]])

    def with_one_record_of_a_group(self) -> None:
        self.frame["g"] = np.array(["a", "b"])[(np.arange(len(self.frame)) == 0).astype(int)]
        self.own["attributes"]["g"] = {"values": ["a", "b"]}

    def with_an_index(self) -> None:
        self.frame.index = pd.Index(
            self.pick([np.arange(len(self.frame)) * 3, [f"r{i}" for i in range(len(self.frame))]])
        )

    def with_another_encoding(self) -> None:
        self.encoding = str(self.pick(ENCODINGS))

    def with_spoilt_bytes(self) -> None:
        self.spoils = (*self.spoils, str(self.pick(["cut", "random", "flip", "insert", "twice"])))

    def with_another_suffix(self) -> None:
        self.suffix = str(self.pick([".parquet", ".feather", ".CSV", ".tsv", ".csv.gz"]))

    def with_a_junk_declaration(self) -> None:
        """Replace a key or a value anywhere in the declaration."""
        place: Any = self.own
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                return
            key = self.pick(keys)
            if isinstance(place[key], dict | list) and self.draw.random() < 0.7:
                place = place[key]
                continue
            if isinstance(place, dict) and self.draw.random() < 0.2:
                place[str(self.pick(HOSTILE))] = place.pop(key)
            else:
                place[key] = copy.deepcopy(self.pick(JUNK))
            return


def judge(case: Case, path: Path, *, train: bool) -> str:
    """Return what became of a case, after checking everything that must be true of it."""
    path.write_bytes(case.content)
    case.scenario["data"]["file"] = str(path)
    try:
        scenario = validate(case.scenario, "fuzz.toml")
        made = load_table(source_of(scenario.data))
    except ScenarioError as error:
        one_line(error)
        return "refused"
    own = scenario.data.own
    assert own is not None
    assert made.features.dtype == np.float32
    assert np.isfinite(made.features).all()
    assert set(np.unique(made.label)) <= {0, 1}
    assert len(made) >= 1
    if case.exact:
        assert len(made) == len(case.frame)
    for name, facts in own.columns.items():
        part = made.features[:, [c == name for c in made.feature_columns]]
        if facts.values:  # noqa: PD011
            assert (part.sum(axis=1) == 1).all()
            assert part.shape[1] == len(own.vocabulary(name))
        elif facts.low is not None:
            assert np.abs(part).max() <= 1
    for name, attribute in made.attributes.items():
        assert attribute.names == own.attributes[name].names
        assert attribute.counts.sum() == len(made)
    try:
        planned = plan(scenario, "fuzz.toml")
    except ScenarioError as error:
        one_line(error)
        return "not planned"
    federation, (run,) = planned.federation, planned.runs
    chosen, groups, layout = federation.table, federation.groups, federation.layout
    assert groups.counts.sum() == len(chosen) == len(made)
    assert np.isfinite(layout.expected_KG).all()
    assert [c.size for c in run.clients] == [c.size for c in layout.clients]
    held = federation.records(run.seed)
    training, test = split.split(
        chosen, groups, scenario.split.kind, scenario.split.folds, run.seed, scenario.split.validation
    )
    everybody = np.concatenate([np.unique(np.concatenate(held.held)), held.test, held.validation])
    assert len(np.unique(everybody)) == len(everybody)
    assert set(held.test) == set(test)
    assert set(held.validation.tolist()) == set(range(len(chosen))) - set(training) - set(test)
    rows = Counter(int(row) for client in held.held for row in client)
    assert set(rows.values()) <= {scenario.partition.copies}
    if not scenario.partition.keep:
        assert set(rows) == set(training.tolist())
    if not train:
        return "read"
    tables = simulate(run)
    assert int(tables["groups"].query("round == 1 and group == '(all)'")["n"].iloc[0]) == len(test)
    return "trained"


def one_line(error: FedtollError) -> None:
    text = str(error)
    assert text
    assert len(text.splitlines()) == 1
    assert len(text) < 20_000


def listing(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


@pytest.fixture
def fuzz(tmp_path, monkeypatch):
    """Judge the tables of many seeds; afterwards, nothing is on disk but what was there before."""
    folder = tmp_path / "tables"
    for place, variable in (("tables", ""), ("cwd", ""), ("cache", "FEDTOLL_DATA"), ("scratch", "TMPDIR")):
        (tmp_path / place).mkdir()
        if variable:
            monkeypatch.setenv(variable, str(tmp_path / place))
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setattr(tempfile, "tempdir", None)

    def run(seeds: range) -> Counter[str]:
        outcomes: Counter[str] = Counter()
        for seed in seeds:
            case = Case(seed)
            path = folder / f"{seed}{case.suffix}"
            train = (outcomes["read"] + outcomes["trained"] + 1) % EVERY == 0
            try:
                outcomes[judge(case, path, train=train)] += 1
            except Exception as error:
                error.add_note(f"seed {seed}, {path.name}: {case.scenario['data']}")
                raise
            assert path.read_bytes() == case.content
            path.unlink()
        assert listing(tmp_path) == {"tables", "cwd", "cache", "scratch"}
        return outcomes

    return run


@pytest.mark.slow
def test_a_hundred_tables_are_read_right_or_refused_in_one_line(fuzz):
    outcomes = fuzz(range(100))
    assert outcomes["refused"] > 20
    assert outcomes["read"] > 10
    assert outcomes["trained"] > 0


@pytest.mark.thorough
@pytest.mark.parametrize("part", range(4))
def test_two_thousand_tables_are_read_right_or_refused_in_one_line(fuzz, part):
    outcomes = fuzz(range(100 + 500 * part, 600 + 500 * part))
    assert min(outcomes[word] for word in ("refused", "not planned", "read", "trained")) > 5
