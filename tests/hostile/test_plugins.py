"""Errors of strategies and data sources that would end a command, or that cannot be shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.server.federation import TOML

SOURCE = '''
from dataclasses import dataclass
from fedtoll.strategies.fedavg import FedAvg

class Mute(Exception):
    def __str__(self):
        raise ValueError("no words")

class Base(BaseException):
    pass

@dataclass(frozen=True)
class Mine(FedAvg):
    """Raises."""

    def {where}:
        raise {error}
'''

ERRORS = {
    "Base('x')": "raises Base, which is no Exception",
    "GeneratorExit": "raises GeneratorExit, which is no Exception",
    "Mute": "raises Mute, which cannot be shown as text",
    "SystemExit(0)": "SystemExit",
    "KeyError('\\u202e')": "KeyError",
}


@pytest.mark.slow
@pytest.mark.parametrize("error", ERRORS)
def test_a_run_whose_strategy_raises_it_has_failed(here, tmp_path: Path, error):
    (tmp_path / "mine.py").write_text(SOURCE.format(where="weigh(self, reports, state)", error=error))
    (tmp_path / "x.toml").write_text(TOML.replace('"fedavg"', '"mine.py:Mine"'))
    code, out, err = here("run", "x.toml", "--out", "out", "--executor", "serial", "--no-probe")
    assert (code, out) == (1, "")
    (line,) = err.splitlines()
    assert line.startswith("fedtoll: failed: Mine, ε = ∞, seed 0: ")
    assert ERRORS[error] in line
    assert line.isprintable()


@pytest.mark.parametrize("where", ["__post_init__(self)", "requests(self)"])
@pytest.mark.parametrize("error", ERRORS)
def test_a_strategy_that_raises_it_when_it_is_made_is_refused(refused, tmp_path: Path, error, where):
    source = SOURCE.format(where=where, error=error).replace(
        "    def requests", "    @property\n    def requests"
    )
    (tmp_path / "mine.py").write_text(source)
    (tmp_path / "x.toml").write_text(TOML.replace('"fedavg"', '"mine.py:Mine"'))
    assert ERRORS[error] in refused("check", "x.toml")


@pytest.mark.parametrize("error", ERRORS)
def test_the_kit_does_not_take_it_for_success(here, tmp_path: Path, error):
    (tmp_path / "mine.py").write_text(SOURCE.format(where="weigh(self, reports, state)", error=error))
    code, out, err = here("check-strategy", "mine.py:Mine")
    assert (code, err) == (1, "")
    (line,) = (line for line in out.splitlines() if line.startswith("FAILED"))
    assert ERRORS[error] in line


RECORDS = """
from fedtoll.scenarios.data import DataSource

class Mute(Exception):
    def __str__(self):
        raise ValueError("no words")

class Base(BaseException):
    pass

class Mine(DataSource):
    label, positive, negative = "y", "a", ["b"]
    columns, attributes = {"x": {"values": ["a"]}}, {"g": {"values": ["a"]}}

    def WHERE:
        raise ERROR

    table = locals().get("table", lambda self: None)
"""


@pytest.mark.parametrize("where", ["__init__(self)", "table(self)"])
@pytest.mark.parametrize("error", ERRORS)
def test_a_data_source_that_raises_it_is_refused(refused, tmp_path: Path, error, where):
    (tmp_path / "mine.py").write_text(RECORDS.replace("WHERE", where).replace("ERROR", error))
    source = 'source = "mine.py:Mine"\ngroups = ["g"]'
    text = TOML.replace('source = "adult"\ngroups = ["sex"]', source).replace("{ Male = 2, Female = 1 }", "1")
    assert source in text
    (tmp_path / "x.toml").write_text(text.replace("clients = 1\n", ""))
    assert ERRORS[error] in refused("data", "check", "x.toml")
