"""The figures for papers: every main chart as SVG and PNG, and the tolls as LaTeX and Markdown."""

from __future__ import annotations

from pathlib import Path

from fedtoll.scenarios.beside import replace_bytes
from fedtoll.server.report import charts, paper
from fedtoll.server.report.digest import Digest
from fedtoll.server.toll import ResultsLike

FIGURES = ("who-pays", "utility", "pareto", "split", "weights", "noise")
"""The names of the charts; those whose figures are unknown are not drawn."""

_PNG_SCALE = 2.0  # pixels a point, for print


def write_figures(results: ResultsLike | Digest, folder: Path) -> list[Path]:
    """Write each chart as ``NAME.svg`` and ``NAME.png``, and ``tolls.tex`` and ``tolls.md``; make the folder.

    A chart of before that cannot be drawn from these results is removed. The same results give the
    same bytes.

    Parameters
    ----------
    results
        The results of a scenario, or their digest.
    folder
        Where they go, e.g. ``results/adult-race/figures``.

    Returns
    -------
    list of Path
        The files written.
    """
    import vl_convert

    digest = Digest.of(results)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    nothing: list[str] = []  # no address may be read
    written = []
    for name, parts in _specs(digest).items():
        files = folder / f"{name}.svg", folder / f"{name}.png"
        specs = [spec for spec in parts if spec is not None]
        if not specs:
            for file in files:
                file.unlink(missing_ok=True)
            continue
        svg = vl_convert.vegalite_to_svg(charts.stacked(specs), allowed_base_urls=nothing)
        png = vl_convert.svg_to_png(svg, scale=_PNG_SCALE)  # drawn from marks and text: it names no address
        for file, content in zip(files, (svg.encode(), png), strict=True):
            replace_bytes(file, content)
            written.append(file)
    for file, text in (
        (folder / "tolls.tex", paper.latex(digest)),
        (folder / "tolls.md", paper.markdown(digest)),
    ):
        replace_bytes(file, text.encode())
        written.append(file)
    return written


def _specs(digest: Digest) -> dict[str, list[charts.Spec | None]]:
    title = f"{digest.leader}, ε = {digest.epsilon_text}"
    made: list[list[charts.Spec | None]] = [
        [] if digest.tight.empty else [charts.who_pays(digest) | {"title": title}, charts.others(digest)],
        [charts.utility(digest, m) for m in digest.measures if m != "balanced_accuracy"],
        [charts.front(digest)],
        [charts.split(digest)],
        [charts.weights(digest)],
        [charts.effective_noise(digest)],
    ]
    return dict(zip(FIGURES, made, strict=True))
