"""Parts of pages that are made at the build: references from docstrings, and reports of short runs.

``{strategies}`` and ``{measures}`` list what is built in; ``{report} NAME`` trains a scenario for a moment
and shows the first chart of its report. Nothing needs a network.
"""

from __future__ import annotations

import html
import re
import shutil
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

import fedtoll
from fedtoll.scenarios.measures import MEASURES
from fedtoll.strategies import registry

ROOT = Path(__file__).parents[2]

ROUNDS = 5
"""Rounds of the runs for the gallery."""

_PART = re.compile(r"^```\{(strategies|measures|report)\}(?: (\S+))?\n```$", re.MULTILINE)


def strategies() -> str:
    """Return a section for every built-in strategy, with its docstring."""
    parts = []
    for name in registry.names():
        path = registry.resolve(name)[0]
        if path.startswith("fedtoll."):
            path = path.replace(":", ".")
            parts.append(f"### {name}\n\n```{{eval-rst}}\n.. autoclass:: {path}\n   :no-members:\n```")
    return "\n\n".join(parts)


def measures() -> str:
    """Return the table of measures."""
    rows = [
        f"| `{m.name}` | {m.title} | {'higher' if m.higher_is_better else 'lower'} | {m.unit or '–'} "
        f"| {f'records: {m.of}' if m.of else '–'} |"
        for m in MEASURES.values()
    ]
    head = "| name | measure | better | unit | share of |\n|---|---|---|---|---|"
    return "\n".join([head, *rows])


def report(name: str, folder: Path, scratch: Path) -> str:
    """Train a scenario for a moment; write its report into a folder, and return its picture and its headline.

    ``name`` is a built-in scenario, or a file in the repository.
    """
    scenario, command = (ROOT / name if name.endswith(".toml") else name), f"fedtoll run {name}"
    name = Path(name).stem
    results: Any = fedtoll.run(
        scenario,
        seeds="0:2",
        training={"rounds": ROUNDS},
        tune=False,
        probe=False,
        executor="serial",
        out=scratch / name,
        progress=False,
    )
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(results.report(), folder / f"{name}.html")
    shutil.copy(scratch / name / "figures" / "who-pays.svg", folder / f"{name}.svg")
    title = html.escape(results.resolved["scenario"]["title"])
    sentence = html.escape(results.headline.split(". ")[0])
    link = f"{folder.name}/{name}.html"
    picture = f'<img src="{folder.name}/{name}.svg" alt="{sentence}." style="background: white; width: 100%">'
    return (
        f"## {title}\n\n`{command}`\n\n```{{raw}} html\n"
        f'<p>{sentence}. <a href="{link}">The whole report</a></p>\n<a href="{link}">{picture}</a>\n```'
    )


def _fill(app: Sphinx, docname: str, source: list[str]) -> None:
    """Replace the marked parts of a page."""
    out = Path(app.outdir)

    def part(found: re.Match[str]) -> str:
        kind, name = found.groups()
        if kind == "report":
            return report(name, out / "gallery", out.parent / "gallery-runs")
        return strategies() if kind == "strategies" else measures()

    source[0] = _PART.sub(part, source[0])


def setup(app: Sphinx) -> dict[str, bool]:
    """Fill the parts when a page is read."""
    app.connect("source-read", _fill)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
