"""Digits: 1,797 handwritten digits of 8 by 8 pixels, ten classes.

The classes are also the groups (attribute ``digit``), so that ``keep`` can make
one of them rare. The records come with scikit-learn, so nothing is fetched.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fedtoll.scenarios.data.source import Numeric, Source

if TYPE_CHECKING:
    import pandas as pd

_COUNTS = dict(zip("0123456789", (178, 182, 177, 183, 181, 182, 181, 179, 174, 180), strict=True))
_PIXELS = tuple(f"pixel-{row}-{column}" for row in range(8) for column in range(8))


def read(folder: Path) -> pd.DataFrame:
    """Return scikit-learn's digits, one row per image; ``folder`` is not used."""
    import pandas as pd
    from sklearn.datasets import load_digits

    pixels, digit = load_digits(return_X_y=True)
    frame = pd.DataFrame(pixels, columns=list(_PIXELS))
    frame["digit"] = digit.astype(str)
    return frame


DIGITS = Source(
    name="digits",
    title="Digits: handwritten digits of 8x8 pixels (1,797 images, ten classes)",
    archive=None,
    read=read,
    version=1,
    fingerprint="4a193f5fe3f75864120bb842292a710412adea796eb77d7862cc9caeb815384e",
    licence="CC BY 4.0 (records, UCI Machine Learning Repository)",
    citation=(
        "Ethem Alpaydin and Cenk Kaynak (1998). Optical Recognition of Handwritten Digits. UCI Machine "
        "Learning Repository. https://doi.org/10.24432/C50P49. Its test set, as scikit-learn's load_digits."
    ),
    rows=1_797,
    label="digit",
    positive="9",
    classes=tuple(_COUNTS),
    columns=tuple(Numeric.bounded(name, 0, 16) for name in _PIXELS),
    counts={"digit": _COUNTS},
    traps=(
        "Every group is one class: its accuracy is the class's recall, and rates that need two classes "
        "(balanced accuracy, AUROC, TPR) are undefined for it.",
        "About 36 test images a digit and fold: pool the folds of several seeds.",
        "Few records: ε below 2 drowns a logistic regression of 650 parameters whatever the strategy.",
    ),
)
