"""Write the report as one self-contained page that opens no connection.

Vega, inlined once, draws the charts. The page's content security policy admits exactly that script, by its
hash: neither a script injected through a group's name can run, nor can any connection be opened.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedtoll.formatting import budget, number
from fedtoll.report import alternatives, privacy, skips, tables, vega
from fedtoll.report.charts import Charts, Spec
from fedtoll.report.definitions import linked
from fedtoll.report.digest import Digest
from fedtoll.report.headline import sentences
from fedtoll.report.provenance import scenario_toml
from fedtoll.scenarios.atomic import write_bytes
from fedtoll.scenarios.measures import RUN
from fedtoll.scenarios.resolved import private_records
from fedtoll.scenarios.visible import visible
from fedtoll.toll import FEW_SEEDS, FEWEST_OF_CLASS, FEWEST_RECORDS, ResultsLike

if TYPE_CHECKING:
    import jinja2

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Chart:
    """A chart on the page.

    Attributes
    ----------
    id
        The id of its element.
    alternative
        Its text alternative.
    json
        Its specification.
    caption
        The text below it, if any.
    narrow
        A specification for narrow screens; empty if ``json`` fits there, too.
    """

    id: str
    alternative: str
    json: str
    caption: str = ""
    narrow: str = ""


def write(results: ResultsLike | Digest, path: Path) -> None:
    """Write the report as one HTML file, atomically.

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
    """Return the report as HTML; pass charts that were built for the figures to reuse them."""
    bundle = start_bundle()
    templates = environment(_HERE)
    templates.filters["gzip_base64"] = gzip_base64
    templates.filters["terms"] = linked
    page = templates.get_template("page.html")
    digest = Digest.from_results(results)
    content = _content(digest) | _charts(charts or Charts(digest))
    script = bundle.result().replace("</script", "<\\/script").replace("<!--", "<\\!--").replace("\r", "")
    checksum = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return page.render(script=script, script_hash=f"sha256-{checksum}", **content) + "\n"


def environment(*folders: Path) -> jinja2.Environment:
    """Return the environment of a page's templates, which escapes markup and shows control characters."""
    import jinja2

    def shown(value: Any) -> Any:  # markup is made of values that were shown already, or is fedtoll's own
        return visible(value) if type(value) is str else value

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders),
        autoescape=True,
        finalize=shown,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def start_bundle() -> Future[str]:
    """Start to bundle Vega and the page's own scripts in Vega's process; the bundle is cached."""
    scripts = [(_HERE / name).read_text(encoding="utf-8") for name in ("page.js", "tables.js")]
    return vega.bundle("\n".join(scripts))


def script_json(value: Any) -> str:
    """Return a value as JSON that is safe inside an HTML script element."""
    # In a script element only "<" can start markup; the others are escaped for the sake of other parsers.
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def compact_json(spec: Spec) -> str:
    """Return a specification as JSON that names the fields of a data set once, not in every row."""
    datasets = {
        name: {"fields": list(rows[0]), "rows": [list(row.values()) for row in rows]}
        for name, rows in spec["datasets"].items()
    }
    return script_json(spec | {"datasets": datasets})


def gzip_base64(text: str) -> str:
    """Compress a string with gzip and encode it as base64: how the page stores a table's CSV file."""
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def _content(digest: Digest) -> dict[str, Any]:
    """Return the template's variables, except for the charts."""
    resolved = digest.results.resolved
    scenario = resolved.get("scenario", {})
    headline = sentences(digest)
    payers = 2 if len(headline) > 2 else 1  # who pays most and least; the rest goes into a second paragraph
    card = privacy.card(digest.results)
    return {
        "name": scenario.get("name", "results"),
        "file": str(scenario.get("name", "results")),
        # Not of a user's own records: whoever knows all but one could try values for it.
        "checksum": "" if private_records(resolved) else resolved["data"].get("checksum"),
        "title": scenario.get("title") or scenario.get("name", "Results"),
        "description": scenario.get("description", ""),
        "lead": headline[:payers],
        "more": headline[payers:],
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
        "tuned": digest.tuned,
        "word": digest.word,
        "sensitivity_table": tables.sensitivity_table(digest),
        "sensitivity_text": tables.sensitivity_text(digest),
        "recipe_table": tables.recipe_table(digest),
        "declared": digest.declared,
        "baseline": next(iter(digest.comparisons["baseline"]), ""),
        "literature_table": tables.literature_table(digest),
        "group_table": tables.group_table(digest),
        "client_table": tables.client_table(digest),
        "participation_table": tables.participation_table(digest),
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
        "fewest": {"records": FEWEST_RECORDS, "of_class": FEWEST_OF_CLASS},
        "settings": scenario_toml(scenario),
    }


_CHARTS = (
    *("who_pays", "others", "split", "front", "sensitivity", "sensitivity_gap"),
    *("partition", "weights", "noise"),
)
"""The names of the charts and of their text alternatives."""


def _captions(digest: Digest) -> dict[str, str]:
    """Return the captions of the charts of utility; which class is rare decides what they say."""
    captions = {"log_loss": "Log-loss resolves the smallest groups best.", "accuracy": ""}
    if digest.rate:
        rare, common = ("negatives", "positive") if digest.rate == "fpr" else ("positives", "negative")
        share = max(digest.base_rate, 1 - digest.base_rate)
        captions["accuracy"] = (
            f"Always predicting {common} has an accuracy of {number(share, 2)} for everybody: accuracy hides "
            f"what happens to the {rare}."
        )
        how = "wrongly calls positive" if digest.rate == "fpr" else "finds"
        captions[digest.rate] = (
            f"The share of a group’s {rare} that the model {how}. Where {rare} are rare, privacy shows here "
            "first."
        )
    return captions


def _charts(charts: Charts) -> dict[str, Any]:
    """Return every chart by its name in the template; ``None`` if it cannot be drawn."""
    digest = charts.digest

    def chart(name: str) -> Chart | None:
        spec = getattr(charts, name)
        if spec is None:
            return None
        return Chart(name.replace("_", "-"), getattr(alternatives, name)(digest), compact_json(spec))

    content: dict[str, Any] = {name: chart(name) for name in _CHARTS}
    if charts.who_pays_narrow:
        content["who_pays"] = replace(content["who_pays"], narrow=compact_json(charts.who_pays_narrow))
    captions = _captions(digest)
    content["utility"] = [
        Chart(f"utility-{m}", alternatives.utility(digest, m), compact_json(spec), captions[m])
        for m, spec in charts.utility.items()
    ]
    return content


def _exposed(digest: Digest) -> dict[str, Any] | None:
    """Return the section on an audit of these results, if there is one."""
    if not (digest.results.folder / "audit").is_dir():
        return None  # before the import, which loads scipy.stats and is slow
    from fedtoll.report.exposure import audit_section

    section = audit_section(digest.results)
    if section and section["chart"]:
        chart = Chart("exposure", section["alternative"], compact_json(section["chart"]))
        section["chart"] = replace(chart, alternative=visible(chart.alternative))
    return section


def _missing(digest: Digest) -> list[str]:
    """Name the planned runs that have no results."""
    groups = digest.results.groups
    finished = {tuple(run) for run in groups[RUN].drop_duplicates().itertuples(index=False, name=None)}
    return [
        f"{r['strategy']}, ε = {budget(r['mechanism'], float(r['epsilon']))}, seed {r['seed']}"
        for r in digest.results.resolved.get("runs", [])
        if (r["strategy"], r["mechanism"], float(r["epsilon"]), r["seed"]) not in finished
    ]


def _tightest(digest: Digest) -> str:
    epsilon = digest.results.groups["epsilon"].min()
    return "∞" if epsilon == float("inf") else f"{epsilon:g}"
