"""Write the report of a results folder: the page, and the figures, which are drawn in the meantime."""

from __future__ import annotations

from pathlib import Path

from fedtoll.report import figures, page, vega
from fedtoll.report.charts import Charts
from fedtoll.report.digest import Digest
from fedtoll.scenarios.atomic import write_bytes
from fedtoll.toll import ResultsLike


def write_report(results: ResultsLike | Digest, folder: Path, pdf: bool = False) -> Path:
    """Write ``report.html`` and ``figures/`` into a folder.

    Parameters
    ----------
    results
        The results of a scenario, or their digest.
    folder
        The folder to write into; it must exist.
    pdf
        Whether to write the figures as PDF, too.

    Returns
    -------
    Path
        The path of the page.
    """
    warm_up()
    digest, path = Digest.from_results(results), Path(folder) / "report.html"
    charts = Charts(digest)
    drawings = figures.start_drawing(charts)
    write_bytes(path, page.render(digest, charts).encode())
    figures.write_drawings(drawings, digest, Path(folder) / "figures", pdf)
    return path


def warm_up() -> None:
    """Start loading Vega in a background process, so that it is ready by the time the results are."""
    page.start_bundle()
    vega.warm_up()
