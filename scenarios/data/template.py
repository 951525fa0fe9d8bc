"""Write the file of a new data source, and a scenario that uses it: small and complete."""

from __future__ import annotations

from pathlib import Path

from fedtoll.scenarios import new_file
from fedtoll.scenarios.data import SOURCES, plugin
from fedtoll.scenarios.errors import ScenarioError

TEMPLATE = '''\
"""NAME: a data source for fedtoll."""

from __future__ import annotations

import numpy as np
import pandas as pd

from fedtoll.scenarios.data import DataSource


class CLASS(DataSource):
    """Who gets a loan? (made-up records)"""

    # Public facts, from documentation. Never compute them from the records: no ε would cover that.
    label, positive, negative = "approved", "yes", ["no"]
    columns = {
        "age": {"low": 18, "high": 90},
        "income": {"low": 0, "high": 1_000_000, "transform": "log1p"},
        "job": {"values": ["clerk", "nurse", "teacher"]},
    }
    attributes = {"sex": {"values": ["Female", "Male"]}, "age": {"bins": [29, 44]}}
    public = False  # True if everybody may see the records and all that follows from them

    def table(self) -> pd.DataFrame:
        """Return the records: the same ones, in the same order, at every call."""
        # Read yours here, e.g. pd.read_csv(Path(__file__).with_name("records.csv")).
        draw, n = np.random.default_rng(0), 2_000
        sex, age = draw.choice(["Female", "Male"], n, p=[0.3, 0.7]), draw.integers(18, 91, n)
        income = np.round(draw.lognormal(10, 0.7, n), 2)
        score = 0.02 * (age - 50) + np.log(income / 22_000) + 0.5 * (sex == "Female") + draw.normal(0, 1, n)
        return pd.DataFrame(
            {
                "age": age,
                "income": income,
                "job": draw.choice(["clerk", "nurse", "teacher"], n),
                "sex": sex,
                "approved": np.where(score > 0, "yes", "no"),
            }
        )
'''

SCENARIO = """\
name = "{name}"
title = "Who pays for privacy on {name}?"
seeds = "0:3"

[data]
source = "{module}.py:{cls}" # relative to this file
groups = ["sex"]

[training]
rounds = 5
sampling_rate = 0.1
local_steps = 5
learning_rate = 1.0
clip = 1.0

[privacy]
epsilons = ["inf", 1]

[[strategies]]
name = "fedavg"
"""


def write(name: str, folder: Path) -> tuple[Path, str, Path]:
    """Write the file of a new data source from the template, and a scenario next to it.

    Parameters
    ----------
    name
        Lowercase letters and digits, with hyphens between words: ``my-records`` gives ``my_records.py`` with
        the class ``MyRecords``, and ``my_records.toml``.
    folder
        Where to write the files; created if it does not exist.

    Returns
    -------
    tuple
        The file, the name of its class, and the scenario.

    Raises
    ------
    ScenarioError
        If the name is invalid or taken, or a file exists or cannot be written. One line.
    """
    scenario = folder / f"{name.replace('-', '_')}.toml"
    if scenario.exists() or scenario.is_symlink():
        raise ScenarioError(f"new-source {name!r}: {scenario} exists and is left unchanged")
    path, cls = new_file.write("source", name, folder, TEMPLATE, {*SOURCES, "synthetic", *plugin.names()})
    try:
        with scenario.open("x", encoding="utf-8") as file:
            file.write(SCENARIO.format(name=name[:64], module=path.stem, cls=cls))
    except OSError as error:
        raise ScenarioError(f"new-source {name!r}: {scenario} cannot be written: {error.strerror}") from None
    return path, cls, scenario
