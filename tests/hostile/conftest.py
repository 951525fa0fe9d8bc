"""Fixtures that check, after a test, that nothing forbidden happened."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.traps import state


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[Path]:
    """The path where a trap would leave its mark. It must not exist at the end."""
    place = tmp_path / "mark"
    yield place
    assert not place.exists(), "a trap ran"


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A folder with content that no argument names. It must be unchanged at the end."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "precious.txt").write_text("precious\n")
    (folder / "empty").mkdir()
    before = state(folder)
    yield folder
    assert state(folder) == before, "something was written outside the named folder"


@pytest.fixture
def refused(here, tmp_path) -> Callable[..., str]:
    """Return a function that runs a command, which must fail in one line and write nothing."""

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
