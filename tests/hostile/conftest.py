"""What must not happen, held around every test that asks for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.traps import state


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[Path]:
    """A place where a trap leaves its mark; in the end there must be none."""
    place = tmp_path / "mark"
    yield place
    assert not place.exists(), "code was run that nobody named"


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A folder that nobody named, with something in it; in the end it must be as it was."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "precious.txt").write_text("precious\n")
    (folder / "empty").mkdir()
    before = state(folder)
    yield folder
    assert state(folder) == before, "something was written outside the named folder"


@pytest.fixture
def refused(here, tmp_path) -> Callable[..., str]:
    """Call the command line, which must refuse in one line; nothing may be written at all."""

    def call(*arguments: Any) -> str:
        before = state(tmp_path)
        code, out, err = here(*arguments)
        assert code == 2, (out, err)
        assert err.count("\n") == 1, err
        assert err[:-1].isprintable(), err
        assert "Traceback" not in err
        assert out == ""
        assert len(err) < 2100
        assert state(tmp_path) == before
        return str(err)

    return call
