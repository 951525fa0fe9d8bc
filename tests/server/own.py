"""A user's own table of a few hundred patients, and a scenario on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

RECORDS = 400
HOSPITALS, REGIONS = ("City", "Park"), ("urban", "rural")

TOML = """\
name = "patients"
title = "Which patients pay?"
seeds = [0, 1]

[data]
file = "patients.csv"
groups = ["region"]

[data.own]
label = "readmitted"
positive = "yes"
negative = ["no"]

[data.own.columns]
age = { low = 0, high = 100 }
stays = { low = 0, high = 20 }

[data.own.attributes]
region = { values = ["urban", "rural"] }
hospital = { values = ["City", "Park"] }

[split]
folds = 2
validation = 0.2

[partition]
kind = "column"
column = "hospital"

[training]
rounds = 2
sampling_rate = 0.2
local_steps = 1
learning_rate = 1.0
clip = 1.0

[privacy]
epsilons = ["inf", 4]

[[strategies]]
name = "fedavg"

[[strategies]]
name = "term"
t = 1.0
"""

TUNE = """
[tune]
seeds = [7]
learning_rates = [0.5, 1.0]
"""

BREAKS = '''
"""A strategy that fails: its run has a traceback in errors/."""
from dataclasses import dataclass
from fedtoll.strategies.fedavg import FedAvg

@dataclass(frozen=True)
class Breaks(FedAvg):
    """Fails in the last round."""

    def weigh(self, reports, state):
        raise ValueError(f"{reports[0].update}")
'''


def patients() -> pd.DataFrame:
    """Draw the table; every stratum of hospital, region and label has records."""
    rng = np.random.default_rng(0)
    at = np.arange(RECORDS)
    frame = pd.DataFrame(
        {
            "age": rng.integers(0, 101, RECORDS),
            "stays": rng.integers(0, 21, RECORDS),
            "region": np.array(REGIONS)[(at % 5 == 0).astype(int)],
            "hospital": np.array(HOSPITALS)[(at % 3 == 0).astype(int)],
        }
    )
    label = rng.uniform(size=RECORDS) < 0.2 + 0.006 * frame["age"]
    return frame.assign(readmitted=np.where(label, "yes", "no"))


def write(folder: Path, frame: pd.DataFrame, *more: str, toml: str = TOML) -> str:
    """Write the table and a scenario; return the path of the scenario."""
    folder.mkdir(parents=True, exist_ok=True)
    frame.to_csv(folder / "patients.csv", index=False)
    (folder / "patients.toml").write_text("".join([toml, *more]), encoding="utf-8")
    return str(folder / "patients.toml")
