"""Adult with the doctorate as an attribute: the same records, and ``adult`` itself is unchanged."""

from __future__ import annotations

import numpy as np
import pytest

from fedtoll.scenarios import data
from tests.shared import built_in_table

# The checksum of adult, which is part of the hash of every run on it.
CHECKSUM = "8e018e1a38883630633fefd25f7176647a79ac59e1e6439b34834c45a8932891"


def test_adult_is_as_it_was():
    assert data.builtin("adult").checksum == CHECKSUM
    assert data.builtin("adult-phd").checksum != CHECKSUM
    assert "phd" not in data.builtin("adult").attributes


def test_the_records_are_those_of_adult():
    adult, phd = built_in_table("adult"), built_in_table("adult-phd")
    np.testing.assert_array_equal(adult.features, phd.features)
    np.testing.assert_array_equal(adult.label, phd.label)
    np.testing.assert_array_equal(adult.canonical_test, phd.canonical_test)
    for attribute in adult.attributes:
        np.testing.assert_array_equal(adult.attributes[attribute].codes, phd.attributes[attribute].codes)


def test_a_doctorate_is_the_highest_education():
    table = built_in_table("adult-phd")
    groups = table.attributes["phd"]
    assert dict(zip(groups.names, groups.counts, strict=True)) == {"PhD": 594, "non-PhD": 48_248}
    years = table.features[:, table.feature_names.index("education-num")]
    np.testing.assert_array_equal(groups.codes == groups.names.index("PhD"), years == 1)
    rates = [table.label[groups.codes == code].mean() for code in (0, 1)]
    assert rates == pytest.approx([431 / 594, 0.2333], abs=1e-4)
