"""The reference pages of docs/ list exactly the keys, columns and measures of the code."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from fedtoll.report.exposure import TITLE
from fedtoll.report.figures import FIGURES
from fedtoll.scenarios.measures import MEASURES
from fedtoll.scenarios.scenario import Scenario
from fedtoll.server.plan import plan
from fedtoll.server.results import load
from fedtoll.server.store import TABLES, Store
from fedtoll.server.trainer import simulate

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
WORDS = re.compile(r"`([^`\n]+)`")


def page(name: str) -> str:
    return (DOCS / f"{name}.md").read_text(encoding="utf-8")


def sections(text: str) -> dict[str, str]:
    """Return the text below every heading, up to the next heading of any level."""
    parts = re.split(r"^#{1,4} (.+)$", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def table(text: str) -> dict[str, list[str]]:
    """Return the rows of all tables in a text, keyed by the code in their first cell."""
    rows = re.findall(r"^\| `([^`]+)` \|(.*)\|$", text, re.M)
    assert len(rows) == len({key for key, _ in rows})
    return {key: [cell.strip() for cell in cells.split(" | ")] for key, cells in rows}


def models(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield every section of a scenario with the heading of its documentation."""
    yield path or "Top of the file", model
    for key, field in model.model_fields.items():
        found = list(_sections(field.annotation))
        for inner, named in found:
            kind = f" ({inner.model_fields['kind'].default})" if len(found) > 1 else ""
            yield from models(inner, ".".join(filter(None, (path, key, "NAME" if named else ""))) + kind)


def _sections(annotation: Any, named: bool = False) -> Iterator[tuple[type[BaseModel], bool]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, named
    for part in get_args(annotation):
        yield from _sections(part, named or get_origin(annotation) is dict)


def literals(annotation: Any) -> set[str]:
    if get_origin(annotation) is Literal:
        return {word for word in get_args(annotation) if isinstance(word, str)}
    return set().union(*map(literals, get_args(annotation)))


@pytest.mark.parametrize(("heading", "model"), list(models(Scenario)))
def test_the_scenario_page_has_every_key_with_its_default_and_its_words(heading, model):
    rows = table(sections(page("scenario-file"))[heading])
    assert list(rows) == list(model.model_fields)
    for key, field in model.model_fields.items():
        kind, default, meaning = rows[key]
        value = field.get_default(call_default_factory=True)
        if value is PydanticUndefined:
            assert default == "required", key
        elif isinstance(value, BaseModel):
            assert default == "defaults", key
        elif value is None:
            assert default == "–", key
        else:
            assert default == f"`{json.dumps(value)}`", key
        for word in literals(field.annotation):
            assert f'`"{word}"`' in kind, (key, word)
        assert meaning, key


def test_the_scenario_page_has_no_section_that_is_not_there():
    known = {heading for heading, _ in models(Scenario)}
    assert {h for h, text in sections(page("scenario-file")).items() if table(text)} == known


@pytest.fixture(scope="module")
def made(tmp_path_factory, runs, small):
    """A results folder of two runs: one strategy requests statistics, the other does not."""
    chosen = [run for run in runs.values() if run.mechanism == "dp-sgd" and run.strategy.name != "uniform"]
    store = Store(tmp_path_factory.mktemp("results"))
    store.open(replace(plan(small, "small.toml"), runs=tuple(chosen)), "", "fedtoll run small.toml")
    for run in chosen:
        store.write(run, simulate(run))
    return load(store.folder)


@pytest.mark.parametrize("name", TABLES)
def test_the_results_page_names_every_column_and_no_other(made, name):
    text = sections(page("results-folder"))
    keys = table(text["Reading it"])
    columns = getattr(made, name).columns
    assert list(columns[:4]) == list(keys)
    documented = list(table(text[name]))
    if name == "clients":
        documented += ["mean_loss", "mean_loss_sd"]
        assert {"mean_loss", "_sd"} <= set(WORDS.findall(text[name]))
    assert list(columns[4:]) == documented


def test_the_results_page_names_every_key_of_the_resolved_file_and_every_file(made):
    text = sections(page("results-folder"))
    assert set(table(text["resolved.json"])) == set(made.resolved)
    words = set(WORDS.findall(text["The results folder"]))
    assert {"scenario.toml", "resolved.json", "runs/HASH/run.json", "report.html", "figures/"} <= words
    stored = {p.name for p in (made.folder / "runs").glob("*/*")}
    assert stored == {"run.json", *(f"{name}.parquet" for name in TABLES)}


def test_the_results_page_names_every_figure():
    assert list(table(sections(page("results-folder"))["figures"])) == list(FIGURES)


def test_the_guide_to_the_report_has_every_section_of_the_page_and_no_other():
    html = (
        (ROOT / "src/fedtoll/report/page.html")
        .read_text(encoding="utf-8")
        .replace("{{ exposed.title }}", TITLE)
        .replace("{{ word }}", "price")  # "toll" without [tune]
    )
    titles = [re.sub(r"<[^>]+>|\{%.*?%\}", "", t).strip() for t in re.findall(r"<h2[^>]*>(.*?)</h2>", html)]
    guide = re.findall(r"^## (.+)$", page("reading-the-report"), re.M)
    assert guide == ["The headline", *titles, "Before you write a sentence"]


def test_the_definitions_have_every_measure():
    rows = table(sections(page("definitions"))["Measures"])
    assert set(MEASURES) <= set(rows)
    for measure in MEASURES.values():
        assert ("higher" if measure.higher_is_better else "lower") in rows[measure.name]


def test_every_page_is_linked_from_the_first_and_names_no_machine():
    index = page("index")
    for path in DOCS.glob("*.md"):
        text = path.read_text(encoding="utf-8")
        if path.stem != "index":
            assert f"]({path.name})" in index
            assert re.search(rf"^{path.stem}$", index, re.M)
        assert not re.search(r"/(work|tmp|home|root|Users)/", text), path.name
