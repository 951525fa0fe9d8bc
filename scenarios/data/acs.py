"""ACS: which working people in six US states earned more than $50,000 in 2018.

The successor of Adult (Ding et al. 2021), with states as natural clients. No
archive on the package index holds its records: fairlearn downloads them from
OpenML, once, and they are cached as Parquet. Nothing pins them, so neither their
number nor a fingerprint is declared. The name of the cached file ends with digits
of their fingerprint, which are part of the checksum of every run on them.

For other states, call ``acs(("CA", "TX"))``.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedtoll.scenarios import atomic
from fedtoll.scenarios.data import archive
from fedtoll.scenarios.data.source import Categorical, Numeric, Source
from fedtoll.scenarios.errors import ScenarioError

if TYPE_CHECKING:
    import pandas as pd

STATES = ("AL", "GA", "HI", "LA", "MS", "NM")
"""Six states whose people differ widely."""

# The published codes of the 2018 Public Use Microdata Sample, as far as they pass the task's filter (over 16
# years old, working, with an income).
_CODES = {
    "workclass": (
        "COW",
        {
            1: "Private for profit",
            2: "Private not for profit",
            3: "Local government",
            4: "State government",
            5: "Federal government",
            6: "Self-employed",
            7: "Self-employed, incorporated",
            8: "Unpaid in the family",
            9: "Unemployed",
        },
    ),
    "marital": (
        "MAR",
        {1: "Married", 2: "Widowed", 3: "Divorced", 4: "Separated", 5: "Never married"},
    ),
    "sex": ("SEX", {1: "Male", 2: "Female"}),
    "race": (
        "RAC1P",
        {
            1: "White",
            2: "Black",
            3: "American Indian/Alaska Native",
            4: "American Indian/Alaska Native",
            5: "American Indian/Alaska Native",
            6: "Asian",
            7: "Pacific Islander",
            8: "Other",
            9: "Two or more",
        },
    ),
    "relationship": (
        "RELP",
        {
            0: "Reference person",
            1: "Husband or wife",
            2: "Child",
            3: "Adopted child",
            4: "Stepchild",
            5: "Brother or sister",
            6: "Parent",
            7: "Grandchild",
            8: "Parent-in-law",
            9: "Child-in-law",
            10: "Other relative",
            11: "Roomer",
            12: "Housemate",
            13: "Unmarried partner",
            14: "Foster child",
            15: "Other nonrelative",
            16: "In an institution",
            17: "In other group quarters",
        },
    ),
}
# Long codes are published in blocks; each number is the last code of its block.
_BLOCKS = {
    "occupation": (
        "OCCP",
        {
            440: "Management",
            750: "Business",
            960: "Finance",
            1240: "Computers",
            1560: "Engineering",
            1980: "Science",
            2060: "Community service",
            2180: "Law",
            2555: "Education",
            2920: "Arts and media",
            3550: "Medicine",
            3655: "Health care support",
            3960: "Protection",
            4160: "Food",
            4255: "Cleaning",
            4655: "Personal care",
            4965: "Sales",
            5940: "Office",
            6130: "Farming",
            6765: "Construction",
            6950: "Extraction",
            7640: "Repair",
            8990: "Production",
            9760: "Transport",
            9830: "Military",
            9999: "Unemployed",
        },
    ),
    "birthplace": (
        "POBP",
        {
            59: "US state",
            99: "US territory",
            199: "Europe",
            299: "Asia",
            399: "Americas",
            499: "Africa",
            999: "Oceania or at sea",
        },
    ),
}
_NUMBERS = {"age": ("AGEP", 17, 99), "education": ("SCHL", 1, 24), "hours": ("WKHP", 1, 99)}
_THRESHOLD = 50_000
_VERSION = 1
_DIGITS = 12  # of the fingerprint, in the name of the cached file


def acs(states: tuple[str, ...] = STATES) -> Source:
    """Return the source of some states, each given by its two letters."""
    records = _Records(states)
    vocabularies = {
        name: tuple(dict.fromkeys(labels.values())) for name, (_, labels) in {**_CODES, **_BLOCKS}.items()
    }
    return Source(
        name="acs",
        title=f"ACS income: above $50,000 in the US of 2018 ({', '.join(states)}; needs a connection once)",
        archive=None,
        read=records.read,
        version=_VERSION,
        fingerprint="",
        content=records.content,
        is_cached=lambda: records.cached() is not None,
        licence="terms of use of the US Census Bureau (records); MIT (folktables)",
        citation=(
            "Frances Ding, Moritz Hardt, John Miller and Ludwig Schmidt (2021). Retiring Adult: New Datasets "
            "for Fair Machine Learning. NeurIPS 34. From the American Community Survey, Public Use "
            "Microdata Sample, 2018; OpenML 43141."
        ),
        rows=0,
        label="income",
        positive=">50K",
        classes=("<=50K", ">50K"),
        columns=(
            *(Numeric.bounded(name, low, high) for name, (_, low, high) in _NUMBERS.items()),
            *(Categorical(name, labels) for name, labels in vocabularies.items()),
        ),
        counts={
            "race": dict.fromkeys(vocabularies["race"], 0),
            "sex": dict.fromkeys(vocabularies["sex"], 0),
            "age": dict.fromkeys(("<=29", "30-44", "45-59", "60+"), 0),
            "state": dict.fromkeys(states, 0),
        },
        bins={"age": (29, 44, 59)},
        traps=(
            "Nothing pins the records: if two downloads differ, so do the checksums of the results.",
            "One threshold for all states: $50,000 is more in Mississippi than in Hawaii, so base rates "
            "differ by state as well as by group.",
            "The survey's weights are left out.",
        ),
    )


def cached_file() -> Path | None:
    """Return the cached file of the source's own states, if there is one."""
    return _Records(STATES).cached()


class _Records:
    """The records of some states: cached in one file, whose name ends with digits of their fingerprint."""

    def __init__(self, states: tuple[str, ...]) -> None:
        self.states = states
        self._stem = f"acs-v{_VERSION}-{'-'.join(states)}"
        self._loaded = ""

    def cached(self) -> Path | None:
        """Return the cached file, if there is one."""
        return min(archive.cache_folder().glob(f"{self._stem}-*.parquet"), default=None)

    def content(self) -> str:
        """Return digits that identify the records: those read, else those in the cache, else none."""
        path = None if self._loaded else self.cached()
        return _digits(path) if path else self._loaded

    def read(self, folder: Path) -> pd.DataFrame:
        """Return the records from the cache, fetching them first if they are not there.

        Raises
        ------
        ScenarioError
            In one line, if they can be neither read nor fetched, or the cache cannot be written.
        """
        path = self.cached()
        if path is not None:
            frame = _read_cached(path)
        else:
            frame, path = self._fetch()
        self._loaded = _digits(path)
        return frame

    def _fetch(self) -> tuple[pd.DataFrame, Path]:
        folder = archive.cache_folder()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):  # fail before the download, not after
                pass
            frame = clean(_download(self.states))
            path = folder / f"{self._stem}-{archive.fingerprint(frame)[:_DIGITS]}.parquet"
            atomic.write_file(path, lambda file: frame.to_parquet(file, engine="pyarrow", index=False))
        except OSError as error:
            raise ScenarioError(
                f"data 'acs' cannot be written to the cache {folder} ({error.strerror or error}); "
                "set FEDTOLL_DATA to a writable folder with enough room"
            ) from error
        return frame, path


def _digits(path: Path) -> str:
    return path.stem.rpartition("-")[2]


def _read_cached(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        frame = pd.read_parquet(path)
    except Exception as error:  # the readers of a damaged file may raise anything
        raise ScenarioError(f"data 'acs': {path} is damaged; delete it and run again") from error
    if archive.fingerprint(frame)[:_DIGITS] != _digits(path):
        raise ScenarioError(f"data 'acs': {path} has changed since it was fetched; delete it and run again")
    return frame


def _download(states: tuple[str, ...]) -> pd.DataFrame:
    """Download the raw records, one state at a time because fairlearn drops the state's column."""
    import pandas as pd
    from fairlearn.datasets import fetch_acs_income

    try:
        with tempfile.TemporaryDirectory(prefix="fedtoll-") as scratch, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # fairlearn warns at every attempt
            parts = [fetch_acs_income(states=[s], data_home=scratch).frame.assign(state=s) for s in states]
    except Exception as error:  # the network, OpenML and the parser of its reply may raise anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ScenarioError(
            f"data 'acs' is not in the cache {archive.cache_folder()} and could not be fetched through "
            f"fairlearn ({reason}); connect once and run the same command again"
        ) from error
    raw: pd.DataFrame = pd.concat(parts, ignore_index=True)
    return raw


def clean(raw: pd.DataFrame) -> pd.DataFrame:
    """Turn the raw codes into the declared columns."""
    import pandas as pd

    frame = pd.DataFrame({"state": raw["state"].astype(str)})
    for name, (code, _, _) in _NUMBERS.items():
        frame[name] = raw[code].astype(np.float64)
    for name, (code, labels) in _CODES.items():
        frame[name] = raw[code].astype(np.float64).map(labels).fillna("(unknown code)")
    for name, (code, blocks) in _BLOCKS.items():
        block = np.searchsorted(list(blocks), raw[code].astype(np.float64))
        frame[name] = np.array([*blocks.values(), "(unknown code)"])[block]
    frame["income"] = np.where(raw["PINCP"].astype(np.float64) > _THRESHOLD, ">50K", "<=50K")
    return frame


ACS = acs()
