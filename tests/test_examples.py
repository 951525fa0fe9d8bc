"""The examples in every docstring print what they show."""

from __future__ import annotations

import doctest
import importlib
import warnings

import pytest

from tests.test_walls import FILES

MODULES = [".".join(("fedtoll", *p.with_suffix("").parts)).removesuffix(".__init__") for p in FILES]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = doctest.testmod(importlib.import_module(name))
    assert found.failed == 0


def test_there_are_examples():
    found = [doctest.DocTestFinder().find(importlib.import_module(name)) for name in MODULES]
    assert sum(bool(example.examples) for examples in found for example in examples) > 40
