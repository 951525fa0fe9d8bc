"""The report as one page: self-contained, and walled in so that it opens no connection.

The charts are drawn by Vega, inlined once. A content security policy admits
exactly that script (by its hash) and nothing else: neither a script that a
group's name could smuggle in, nor any connection.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedtoll.formatting import budget, listed
from fedtoll.report import alternatives, privacy, skips, tables, vega
from fedtoll.report.charts import Charts, Spec
from fedtoll.report.digest import Digest
from fedtoll.report.headline import sentences
from fedtoll.scenarios.atomic import write_bytes
from fedtoll.scenarios.measures import RUN
from fedtoll.toll import FEW_SEEDS, ResultsLike

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Chart:
    """A chart on the page: its element's id, its text alternative and its specifications as JSON.

    ``narrow`` is drawn in place of ``json`` where there is little room; empty if that one fits anywhere.
    """

    id: str
    alternative: str
    json: str
    caption: str = ""
    narrow: str = ""


def write(results: ResultsLike | Digest, path: Path) -> None:
    """Write the report as one HTML file, beside and renamed.

    The same results give the same bytes. The page opens no connection and needs no other file.

    Parameters
    ----------
    results
        The results of a scenario, or their digest.
    path
        The file to write, e.g. ``report.html``; its folder must exist.
    """
    write_bytes(Path(path), render(results).encode())


def render(results: ResultsLike | Digest, charts: Charts | None = None) -> str:
    """Return the report as a string of HTML; its charts may be made already, for the figures."""
    import jinja2

    bundled = begin_script()
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["packed"] = packed
    page = environment.get_template("page.html")
    digest = Digest.of(results)
    content = _content(digest) | _charts(charts or Charts(digest))
    script = bundled.result().replace("</script", "<\\/script").replace("<!--", "<\\!--").replace("\r", "")
    checksum = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return page.render(script=script, script_hash=f"sha256-{checksum}", **content) + "\n"


def begin_script() -> Future[str]:
    """Begin to bundle Vega and our own scripts as one, in the process beside; once."""
    ours = [(_HERE / name).read_text(encoding="utf-8") for name in ("page.js", "tables.js")]
    return vega.bundle("\n".join(ours))


def script_json(value: Any) -> str:
    """Write a value as JSON that is safe inside a script element of HTML."""
    # In a script element only "<" could end or open anything; the rest is for other parsers' sake.
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def folded(spec: Spec) -> str:
    """Write a specification as JSON in which the fields of a data set's rows are named once."""
    datasets = {
        name: {"fields": list(rows[0]), "rows": [list(row.values()) for row in rows]}
        for name, rows in spec["datasets"].items()
    }
    return script_json(spec | {"datasets": datasets})


def packed(text: str) -> str:
    """Return a text compressed (gzip) and written in base64: what a table is downloaded from."""
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def _content(digest: Digest) -> dict[str, Any]:
    """Return everything that the template shows."""
    resolved = digest.results.resolved
    scenario = resolved.get("scenario", {})
    said = sentences(digest)
    payers = 2 if len(said) > 2 else 1  # who pays most and who least; then what can be done, and how sure
    card = privacy.card(digest.results)
    return {
        "name": scenario.get("name", "results"),
        "file": str(scenario.get("name", "results")),
        "title": scenario.get("title") or scenario.get("name", "Results"),
        "description": scenario.get("description", ""),
        "lead": said[:payers],
        "more": said[payers:],
        "any_few": bool(digest.loss["too_few"].any()),
        "attribute": digest.attribute,
        "leader": digest.leader,
        "seeds": digest.seeds,
        "few_seeds": FEW_SEEDS,
        "several_classes": digest.several_classes,
        "epsilon": digest.epsilon_text,
        "missing": _missing(digest),
        "toll_table": tables.toll_table(digest),
        "utility_table": tables.utility_table(digest),
        "gap_table": tables.gap_table(digest),
        "disparity_table": tables.disparity_table(digest),
        "comparison_table": tables.comparison_table(digest),
        "declared": digest.declared,
        "baseline": next(iter(digest.comparisons["baseline"]), ""),
        "literature_table": tables.literature_table(digest),
        "group_table": tables.group_table(digest),
        "client_table": tables.client_table(digest),
        "skips": skips.skips_line(digest),
        "skips_table": skips.skips_table(digest),
        "may_skip": skips.may_skip(digest),
        "weights_at": _tightest(digest),
        "card": card,
        "exposed": _exposed(digest),
        "spent_table": tables.spent_table(card),
        "spent_by_client": tables.spent_by_client(card),
        "runs_table": tables.runs_table(digest),
        "resolved": resolved,
        "setting": _setting(scenario),
    }


_CHARTS = ("who_pays", "others", "split", "front", "partition", "weights", "noise")
"""The charts and, under the same names, their alternatives in words."""

_CAPTIONS = {
    "log_loss": "Log-loss resolves the smallest groups best.",
    "tpr": (
        "The share of a group’s positives that are found: "
        "in groups with a low base rate, privacy shows here first."
    ),
    "accuracy": "Accuracy misleads where few records are positive: predicting nobody scores high.",
}


def _charts(charts: Charts) -> dict[str, Any]:
    """Return every chart by its name in the template; ``None`` for those that cannot be drawn."""
    digest = charts.digest

    def chart(name: str) -> Chart | None:
        spec = getattr(charts, name)
        if spec is None:
            return None
        return Chart(name.replace("_", "-"), getattr(alternatives, name)(digest), folded(spec))

    made: dict[str, Any] = {name: chart(name) for name in _CHARTS}
    if charts.who_pays_narrow:
        made["who_pays"] = replace(made["who_pays"], narrow=folded(charts.who_pays_narrow))
    captions = _CAPTIONS | ({"accuracy": ""} if digest.several_classes else {})
    made["utility"] = [
        Chart(f"utility-{m}", alternatives.utility(digest, m), folded(spec), captions[m])
        for m, spec in charts.utility.items()
    ]
    return made


def _exposed(digest: Digest) -> dict[str, Any] | None:
    """Return what an audit found, if there is one."""
    if not (digest.results.folder / "audit").is_dir():
        return None  # scipy.stats is slow to import
    from fedtoll.report.exposure import audit_section

    return audit_section(digest.results)


def _missing(digest: Digest) -> list[str]:
    """Name the runs that were planned and are not here."""
    groups = digest.results.groups
    here = {tuple(run) for run in groups[RUN].drop_duplicates().itertuples(index=False, name=None)}
    return [
        f"{r['strategy']}, ε = {budget(r['mechanism'], float(r['epsilon']))}, seed {r['seed']}"
        for r in digest.results.resolved.get("runs", [])
        if (r["strategy"], r["mechanism"], float(r["epsilon"]), r["seed"]) not in here
    ]


def _tightest(digest: Digest) -> str:
    epsilon = digest.results.groups["epsilon"].min()
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
