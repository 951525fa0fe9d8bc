"""A results folder's report: the page, and the figures that are drawn beside it meanwhile."""

from __future__ import annotations

from pathlib import Path

from fedtoll.report import figures, page, vega
from fedtoll.report.charts import Charts
from fedtoll.report.digest import Digest
from fedtoll.scenarios.atomic import write_bytes
from fedtoll.toll import ResultsLike


def write_report(results: ResultsLike | Digest, folder: Path) -> Path:
    """Write ``report.html`` and ``figures/`` into a folder.

    Parameters
    ----------
    results
        The results of a scenario, or their digest.
    folder
        Where they go; it must exist.

    Returns
    -------
    Path
        The page.
    """
    begin()
    digest, path = Digest.of(results), Path(folder) / "report.html"
    charts = Charts(digest)
    drawing = figures.begin(charts)
    write_bytes(path, page.render(digest, charts).encode())
    figures.write_drawn(drawing, digest, Path(folder) / "figures")
    return path


def begin() -> None:
    """Begin what every report needs, in a process beside: it may be ready before the results are."""
    page.begin_script()
    vega.warm()
