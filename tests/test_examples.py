"""The examples in every docstring print what they show."""

from __future__ import annotations

import doctest
import importlib
import warnings

import pytest

from tests.test_walls import FILES, SOURCE

MODULES = [
    ".".join(("fedtoll", *p.with_suffix("").parts)).removesuffix(".__init__")
    for p in FILES
    if ">>>" in (SOURCE / p).read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = doctest.testmod(importlib.import_module(name))
    assert found.attempted > 0
    assert found.failed == 0


def test_there_are_examples():
    assert len(MODULES) > 40
