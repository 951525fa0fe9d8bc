"""The report of a large sweep takes seconds."""

from __future__ import annotations

import time

import pytest

from fedtoll.report import Digest, terminal_summary, write_report
from tests.server.fake import adult_race


@pytest.mark.slow
def test_a_sweep_of_150_runs_is_reported_in_seconds(tmp_path):
    sweep = adult_race(
        epsilons=(float("inf"), 8.0, 2.0, 1.0, 0.5), seeds=tuple(range(10)), rounds=30, records=9768
    )
    assert len(sweep.resolved["runs"]) == 150
    start = time.perf_counter()
    digest = Digest(sweep)
    write_report(digest, tmp_path)
    terminal_summary(digest)
    elapsed = time.perf_counter() - start
    assert len(list((tmp_path / "figures").iterdir())) >= 10
    assert elapsed < 20  # measured below 5 on an idle machine
