"""Adult with one more attribute, the doctorate: the two clients of the q-FFL and AFL experiments.

It is a separate source so that the checksum of ``adult``, and with it the hash of every run on it, stays the
same. The features are those of ``adult``; a doctorate is the highest value of ``education-num``.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from fedtoll.scenarios.data import adult

if TYPE_CHECKING:
    import pandas as pd


def read(folder: Path) -> pd.DataFrame:
    """Read the raw files of Adult, with ``phd`` in place of ``education``."""
    frame = adult.read(folder, extra=("education",))
    frame["phd"] = frame.pop("education").eq("Doctorate").map({True: "PhD", False: "non-PhD"})
    return frame


ADULT_PHD = dataclasses.replace(
    adult.ADULT,
    name="adult-phd",
    title="Adult, with who holds a doctorate (48,842 people, 594 of them with one)",
    read=read,
    fingerprint="a61d75a33fc438269d4106dfde7412e56e1906f0128374ff76194122801ee3c4",
    counts={"phd": {"PhD": 594, "non-PhD": 48_248}, **adult.ADULT.counts},
    traps=(
        "594 people hold a doctorate, about 119 in a test fold; 73% of them earn more than $50,000.",
        *adult.ADULT.traps,
    ),
)
