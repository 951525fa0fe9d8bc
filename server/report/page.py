"""The report as one page: self-contained, and walled in so that it opens no connection.

The charts are drawn by Vega, inlined once. A content security policy admits
exactly that script (by its hash) and nothing else: neither a script that a
group's name could smuggle in, nor any connection.
"""

from __future__ import annotations

import base64
import hashlib
import json
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from fedtoll.server.report import charts, privacy, tables
from fedtoll.server.report.headline import headline
from fedtoll.server.report.words import budget, listed
from fedtoll.server.toll import FEW_SEEDS, RUN, ResultsLike, folds_of, toll

_HERE = Path(__file__).parent
_MEASURES = ("log_loss", "tpr", "accuracy", "balanced_accuracy")
_PNG_SCALE = 2.0  # pixels a point, for print


@dataclass(frozen=True)
class Chart:
    """A chart on the page: its element's id, its caption, and its specification as JSON."""

    id: str
    caption: str
    json: str


def write(results: ResultsLike, path: Path) -> None:
    """Write the report as one HTML file, beside and renamed.

    The same results give the same bytes. The page opens no connection and needs no other file.

    Parameters
    ----------
    results
        The results of a scenario.
    path
        The file to write, e.g. ``report.html``; its folder must exist.
    """
    _replace(Path(path), render(results).encode())


def write_figures(results: ResultsLike, folder: Path) -> list[Path]:
    """Write the main chart, who pays, as ``who-pays.svg`` and ``who-pays.png``; make the folder.

    Returns
    -------
    list of Path
        The files written.
    """
    import vl_convert

    tolls = _tolls(results)
    spec = charts.stacked([charts.who_pays(tolls[m], m) for m in _MEASURES[:3]])
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    nothing: list[str] = []  # no address may be read
    svg = vl_convert.vegalite_to_svg(spec, allowed_base_urls=nothing).encode()
    png = vl_convert.vegalite_to_png(spec, scale=_PNG_SCALE, allowed_base_urls=nothing)
    files = [folder / "who-pays.svg", folder / "who-pays.png"]
    for file, content in zip(files, (svg, png), strict=True):
        _replace(file, content)
    return files


def render(results: ResultsLike) -> str:
    """Return the report as a string of HTML."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = _script()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = environment.get_template("page.html")
    return page.render(script=script, script_hash=f"sha256-{digest}", **_content(results)) + "\n"


def _content(results: ResultsLike) -> dict[str, Any]:
    """Return everything that the template shows."""
    resolved = results.resolved
    scenario = resolved.get("scenario", {})
    tolls = _tolls(results)
    loss = tolls["log_loss"]
    seeds = sorted(results.groups["seed"].unique())
    return {
        "name": scenario.get("name", "results"),
        "title": scenario.get("title") or scenario.get("name", "Results"),
        "description": scenario.get("description", ""),
        "headline": headline(results),
        "seeds": len(seeds),
        "few_seeds": FEW_SEEDS,
        "missing": _missing(results),
        "who_pays": [
            _chart(f"who-pays-{m}", _WHO_PAYS[m], charts.who_pays(tolls[m], m)) for m in _MEASURES[:3]
        ],
        "toll_chart": _chart("tolls", "", charts.toll_intervals(loss))
        if loss["toll"].abs().sum() > 0
        else None,
        "toll_tables": tables.toll_tables(tolls),
        "gap_table": tables.gap_table(results, loss),
        "group_table": tables.group_table(results, loss),
        "partition": _chart("partition", "", charts.partition(results)),
        "client_table": tables.client_table(results),
        "weights": _chart("weights", "", charts.weights(results)),
        "weights_at": _tightest(results),
        "noise": _chart("noise", "", charts.effective_noise(results)),
        "card": privacy.card(results),
        "resolved": resolved,
        "setting": _setting(scenario),
        "runs": [
            (r["hash"], r["strategy"], budget(r["mechanism"], float(r["epsilon"])), r["seed"], r["engine"])
            for r in resolved.get("runs", [])
        ],
    }


_WHO_PAYS = {
    "log_loss": "Log-loss resolves the smallest groups best.",
    "tpr": (
        "The share of a group’s positives that are found: "
        "in groups with a low base rate, privacy shows here first."
    ),
    "accuracy": "Accuracy misleads where few records are positive: predicting nobody scores high.",
}


def _tolls(results: ResultsLike) -> tables.Tolls:
    folds = folds_of(results.resolved)
    return {m: toll(results.groups, m, folds) for m in _MEASURES}


def _chart(id: str, caption: str, spec: charts.Spec | None) -> Chart | None:
    if spec is None:
        return None
    # In a script element only "<" could end or open anything; the rest is for other parsers' sake.
    text = json.dumps(spec, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Chart(id, caption, text)


@cache
def _script() -> str:
    """Return Vega, Vega-Lite, vega-embed and ``page.js`` as one script that is safe inside HTML."""
    import vl_convert

    bundle = str(vl_convert.javascript_bundle((_HERE / "page.js").read_text(encoding="utf-8")))
    return bundle.replace("</script", "<\\/script").replace("<!--", "<\\!--").replace("\r", "")


def _missing(results: ResultsLike) -> list[str]:
    """Name the runs that were planned and are not here."""
    here = {tuple(run) for run in results.groups[RUN].drop_duplicates().itertuples(index=False, name=None)}
    return [
        f"{r['strategy']}, ε = {budget(r['mechanism'], float(r['epsilon']))}, seed {r['seed']}"
        for r in results.resolved.get("runs", [])
        if (r["strategy"], r["mechanism"], float(r["epsilon"]), r["seed"]) not in here
    ]


def _tightest(results: ResultsLike) -> str:
    epsilon = results.groups["epsilon"].min()
    return "∞" if epsilon == float("inf") else f"{epsilon:g}"


def _setting(scenario: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the scenario's settings, section by section, as words."""

    def word(value: Any) -> str:
        if isinstance(value, dict):
            return listed(f"{k}: {word(v)}" for k, v in value.items()) or "none"
        if isinstance(value, list):
            return ", ".join(word(v) for v in value) or "none"
        return f"{value:g}" if isinstance(value, float) else str(value)

    rows = []
    for section in ("data", "split", "partition", "model", "training", "privacy", "statistics"):
        values = scenario.get(section, {})
        if values:
            text = "; ".join(f"{k.replace('_', ' ')} {word(v)}" for k, v in values.items() if v is not None)
            rows.append((section, text))
    return rows


def _replace(path: Path, content: bytes) -> None:
    """Write a file beside and rename it, so that nobody reads half of it."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as beside:
        beside.write(content)
    Path(beside.name).chmod(0o644)
    Path(beside.name).replace(path)
