"""Forty people in a user's file, and what a scenario declares about it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from fedtoll.scenarios.read import validate
from fedtoll.scenarios.scenario import Scenario

OWN: dict[str, Any] = {
    "label": "approved",
    "positive": "yes",
    "negative": ["no"],
    "columns": {
        "age": {"low": 18, "high": 90},
        "income": {"low": 0, "high": 1_000_000, "transform": "log1p"},
        "job": {"values": ["clerk", "nurse"]},
    },
    "attributes": {"race": {"values": ["White", "Black"]}, "age": {"bins": [29, 44]}},
}

SCENARIO: dict[str, Any] = {
    "name": "people",
    "title": "Who pays among forty people?",
    "seeds": [0],
    "data": {"groups": ["race"], "own": OWN},
    "training": {"rounds": 2, "sampling_rate": 0.5, "local_steps": 2, "learning_rate": 1.0, "clip": 1.0},
    "privacy": {"epsilons": ["inf"]},
    "strategies": [{"name": "fedavg"}],
}

SUFFIXES = (".csv", ".csv.gz", ".csv.bz2", ".csv.zst", ".tsv", ".tsv.gz", ".parquet", ".feather")
PACKINGS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}


def people(n: int = 40) -> pd.DataFrame:
    """Return records that fit the declarations, some with numbers beyond low and high."""
    draw = np.random.default_rng(7)
    age = draw.integers(16, 95, n)
    return pd.DataFrame(
        {
            "comment": [f'said "{i}", twice\nand more' for i in range(n)],
            "age": age,
            "income": np.round(draw.lognormal(10, 2, n), 2),
            "job": draw.choice(["clerk", "nurse"], n),
            "race": np.where(np.arange(n) % 3 == 0, "Black", "White"),
            "approved": np.where(age + draw.normal(0, 20, n) > 50, "yes", "no"),
        }
    )


def write(frame: pd.DataFrame, path: Path) -> Path:
    """Write a frame in the format of the path's suffix."""
    suffix = f".{path.name.split('.')[1]}"
    if suffix == ".parquet":
        frame.to_parquet(path, index=False)
    elif suffix == ".feather":
        frame.to_feather(path)
    else:
        text = frame.to_csv(index=False, sep="\t" if suffix == ".tsv" else ",").encode()
        packing = PACKINGS.get(path.suffix)
        with pa.CompressedOutputStream(path, packing) if packing else path.open("wb") as out:
            out.write(text)
    return path


def declare(path: str | Path, **changes: Any) -> Scenario:
    """Return the scenario for a file, with changes to ``[data.own]``, or to other sections by keyword."""
    table = copy.deepcopy(SCENARIO)
    table["data"] |= {"file": str(path), **changes.pop("data", {})}
    for section in ("partition", "split"):
        table[section] = changes.pop(section, {})
    table["data"]["own"] |= changes
    return validate(table, "mine.toml")
