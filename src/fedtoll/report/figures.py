"""Figures for papers: main charts as SVG, PNG and, on request, PDF; tolls as LaTeX and Markdown tables."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path

from fedtoll.report import paper, vega
from fedtoll.report.charts import Charts, Spec, stacked
from fedtoll.report.digest import Digest
from fedtoll.scenarios.atomic import write_bytes
from fedtoll.scenarios.visible import visible
from fedtoll.toll import ResultsLike

FIGURES = ("who-pays", "utility", "pareto", "split", "weights", "noise")
"""The names of the charts; one whose numbers are unknown is not drawn."""

Drawings = dict[str, Future[tuple[str, bytes]]]
"""Pending figures by name, each as SVG and PNG."""


def write_figures(results: ResultsLike | Digest, folder: Path, pdf: bool = False) -> list[Path]:
    """Write each chart as ``NAME.svg`` and ``NAME.png``, and the tolls as ``tolls.tex`` and ``tolls.md``.

    The folder is created if needed. An old chart that is not drawn from these results is removed. The same
    results give the same bytes, except for PDF.

    Parameters
    ----------
    results
        The results of a scenario, or their digest.
    folder
        The folder to write into, e.g. ``results/adult-race/figures``.
    pdf
        Whether to write each chart as ``NAME.pdf``, too.

    Returns
    -------
    list of Path
        The files written.
    """
    digest = Digest.from_results(results)
    return write_drawings(start_drawing(Charts(digest)), digest, folder, pdf)


def start_drawing(charts: Charts) -> Drawings:
    """Start to draw the figures in Vega's process, first those whose data are ready soonest."""
    drawings: Drawings = {}

    def draw(name: str, *parts: Spec | None) -> None:
        specs = [spec for spec in parts if spec is not None]
        if specs:
            drawings[name] = vega.draw(stacked(specs))

    draw("noise", charts.noise)
    draw("weights", charts.weights)
    draw("pareto", charts.front)
    draw("utility", *charts.utility.values())
    draw("split", charts.split)
    if charts.who_pays:
        title = visible(f"{charts.digest.leader}, ε = {charts.digest.epsilon_text}")
        draw("who-pays", charts.who_pays | {"title": title}, charts.others)
    return drawings


def write_drawings(drawings: Drawings, digest: Digest, folder: Path, pdf: bool = False) -> list[Path]:
    """Write each figure as soon as it is drawn; see :func:`write_figures`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name in FIGURES:
        contents: dict[str, bytes] = {}
        if name in drawings:
            svg, png = drawings[name].result()
            contents = {"svg": svg.encode(), "png": png}
            if pdf:
                contents["pdf"] = vega.pdf(svg).result()
        for kind in ("svg", "png", "pdf"):
            file = folder / f"{name}.{kind}"
            if kind not in contents:  # no figure of other results stays
                file.unlink(missing_ok=True)
                continue
            write_bytes(file, contents[kind])
            written.append(file)
    for file, text in (
        (folder / "tolls.tex", paper.latex(digest)),
        (folder / "tolls.md", paper.markdown(digest)),
    ):
        write_bytes(file, text.encode())
        written.append(file)
    return written
