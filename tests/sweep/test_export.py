"""A shareable copy depends on no record, and a results folder contains what the threat model lists."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

import fedtoll
from fedtoll.audit import run as audits
from fedtoll.report import write_report
from fedtoll.scenarios.errors import RunError, ScenarioError
from fedtoll.server.store import TABLES
from fedtoll.sweep import export as exports
from fedtoll.sweep.export import export
from tests.server import own

THREATS = (Path(__file__).parents[2] / "docs/threat-model.md").read_text(encoding="utf-8")
SECTION = THREATS.split("## What a results folder contains\n")[1].split("\n## ")[0]
HASH = re.compile(r"[0-9a-f]{16}(-[0-9a-f]{8})?")


def changed(frame: pd.DataFrame, *, groups: bool) -> pd.DataFrame:
    """Return other records of the same public sizes: other features and, if asked, two swapped groups.

    With a public part, swapping groups may change a size: which records are public depends on groups.
    """
    keys = ["hospital", "region", "readmitted"]
    frame = frame.assign(age=100 - frame["age"], stays=frame["stays"].to_numpy()[::-1])
    if not groups:
        return frame
    city = frame[(frame["hospital"] == "City") & (frame["readmitted"] == "yes")]
    rows = [city[city["region"] == region].index[0] for region in own.REGIONS]
    frame.loc[rows, "region"] = frame.loc[rows[::-1], "region"].to_numpy()
    assert frame.groupby(keys).size().equals(own.patients().groupby(keys).size())
    return frame


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The results of a tuned scenario on a user's own table, with a report and a failed run."""
    place: Path = tmp_path_factory.mktemp("own")
    scenario = own.write(place, own.patients(), own.TUNE)
    (place / "breaks.py").write_text(own.BREAKS)
    out = place / "results"
    fails = f'strategies=[{{name="fedavg"}}, {{name="term", t=1.0}}, {{name="{place}/breaks.py:Breaks"}}]'
    with pytest.raises(RunError, match=r"runs failed"):
        fedtoll.run(scenario, out=out, overrides=[fails], executor="serial", tune=False)
    write_report(fedtoll.run(scenario, out=out, executor="serial"), out)
    (out / "audit").mkdir()
    return out


@pytest.fixture(scope="module")
def least(tmp_path_factory) -> Path:
    """The results of one strategy and seed, tuned, without a report."""
    place: Path = tmp_path_factory.mktemp("least")
    few = ['strategies=[{name="fedavg"}]']
    scenario = own.write(place, own.patients(), own.TUNE)
    fedtoll.run(scenario, out=place / "results", overrides=few, seeds="0:1", executor="serial")
    (place / "results/audit").mkdir()
    return place / "results"


@pytest.fixture(scope="module")
def untuned(tmp_path_factory) -> Path:
    """The results of a scenario that stores predictions, skips replies and probes other learning rates."""
    place: Path = tmp_path_factory.mktemp("untuned")
    settings = ['partition={kind="group"}', 'training.on_failure="skip"', "results.predictions=true"]
    seeds = "0:6"
    fedtoll.run(
        own.write(place, own.patients()),
        out=place / "results",
        overrides=settings,
        seeds=seeds,
        executor="serial",
    )
    return place / "results"


@pytest.fixture(scope="module")
def audited(tmp_path_factory) -> Path:
    """The results of an audit of few observations, which has the same files."""
    place: Path = tmp_path_factory.mktemp("audited")
    scenario = own.write(place, own.patients())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audits, "OBSERVATIONS", dict.fromkeys(audits.OBSERVATIONS, 1000))
        prepared = audits.prepare(scenario, ['strategies=[{name="fedavg"}]'], "0:4")
        audits.run_audit(prepared, place / "results", workers=1)
    return place / "results"


# What a folder contains.


def listed() -> Iterator[tuple[str, list[str], str]]:
    """Yield file, names and whether it is shareable for every row of the threat model's table."""
    rows = re.findall(r"^\| `([^`|]+)`(?:: ([^|]+))? \| [^|]+ \| ([^|]+) \|$", SECTION, re.MULTILINE)
    assert len(rows) > 20
    for file, names, shareable in rows:
        assert shareable in {"yes", "no", "with measures"}, file
        yield file, re.findall(r"`([^`]+)`", names), shareable


def names_in(file: Path) -> list[str]:
    """Return the columns of a table, or the keys of a JSON file; none for another file."""
    if file.suffix == ".parquet":
        return list(pq.read_schema(file).names)
    content = json.loads(file.read_bytes()) if file.suffix == ".json" else None
    return list(content) if isinstance(content, dict) else []


@pytest.mark.slow
@pytest.mark.parametrize("which", ["folder", "untuned", "audited"])
def test_the_threat_model_lists_all_that_a_folder_contains(which, request):
    where = request.getfixturevalue(which)
    known: dict[str, set[str]] = {}
    for file, names, _ in listed():
        known.setdefault(file, set()).update(names)
    seen = set()
    for path in sorted(where.rglob("*")):
        if not path.is_file() or path.name == ".lock":
            continue
        name = HASH.sub("HASH", str(path.relative_to(where)))
        name = re.sub(r"^figures/.*", "figures/", name)
        seen.add(name)
        assert name in known, f"{name} is not in docs/threat-model.md"
        for entry in names_in(path):
            if name.startswith("tuning/HASH") or "GROUP" in known[name]:
                entry = "GROUP"
            if name == "runs/HASH/clients.parquet" and entry.removesuffix("_sd") == "mean_loss":
                entry = entry.replace("mean_loss", "STATISTIC")
            assert entry in known[name], f"{entry} of {name} is not in docs/threat-model.md"
    if which == "folder":
        expected = {"errors/HASH.txt", "report.html", "figures/", "tuning/HASH.json", "converged/HASH.json"}
        assert expected <= seen
        assert not any("predictions" in name for name in seen)
    elif which == "untuned":
        assert "runs/HASH/predictions.parquet" in seen
    else:
        assert {"audit/audit.json", "audit/canary.parquet", "audit/models/HASH.parquet"} <= seen


def test_what_is_copied_is_what_the_threat_model_calls_shareable():
    def marked(file: str, answer: str) -> set[str]:
        return {
            name for f, names, shareable in listed() if f == file and shareable == answer for name in names
        }

    assert marked("resolved.json", "yes") == {*exports.PUBLIC, "exported"}
    assert marked("resolved.json", "with measures") == {*exports.MEASURED}
    assert marked("runs/HASH/ledger.parquet", "yes") == {*exports.LEDGER}
    whole = {
        f.split("/")[-1].removesuffix(".parquet"): s for f, _, s in listed() if f.startswith("runs/HASH/")
    }
    assert {name for name, s in whole.items() if s == "with measures"} == {*exports.TABLES}
    assert whole["predictions"] == "no"


# The records of a user's own table.


@pytest.mark.slow
def test_without_a_request_no_record_is_in_the_folder(folder, untuned):
    assert not list(folder.rglob("predictions.parquet"))
    assert fedtoll.load(folder).predictions.empty
    assert "expected" not in json.dumps(
        json.loads((folder / "resolved.json").read_text()).get("partition", {})
    )
    stored = fedtoll.load(untuned).predictions
    assert {"record", "group", "label", "score"} <= {*stored.columns}
    resolved = json.loads((untuned / "resolved.json").read_text())
    sizes = [client["size"] for client in resolved["clients"]]
    assert [int(sum(row) + 1e-6) for row in resolved["partition"]["expected"]] == sizes


@pytest.mark.slow
def test_the_report_says_what_to_switch_on(folder, untuned):
    needs = "needs the score of every held-out record: set [results] predictions = true"
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert needs in page
    assert json.loads((folder / "resolved.json").read_text())["data"]["checksum"] not in page
    write_report(fedtoll.load(untuned), untuned)
    assert needs not in (untuned / "report.html").read_text(encoding="utf-8")


def test_predictions_may_be_asked_for_later(tmp_path, monkeypatch):
    scenario = own.write(tmp_path, own.patients())
    few = ["privacy.epsilons=[4]", 'strategies=[{name="fedavg"}]']
    before = fedtoll.run(scenario, out=tmp_path / "out", overrides=few, seeds="0:1", executor="serial")
    tables = files(tmp_path / "out" / "runs")
    more = [*few, "results.predictions=true"]
    after = fedtoll.run(scenario, out=tmp_path / "out", overrides=more, seeds="0:1", executor="serial")
    assert before.predictions.empty
    assert len(after.predictions) == after.groups.query("round == 0 and group == '(all)'")["n"].sum()
    again = files(tmp_path / "out" / "runs")
    assert {k for k, v in again.items() if tables.get(k) != v} == {
        k for k in again if k.endswith(("predictions.parquet", "run.json"))
    }


# A shareable copy.


@pytest.mark.slow
@pytest.mark.parametrize("settings", [(), (own.TUNE,)])
@pytest.mark.parametrize("kind", ["column", "group"])
def test_a_shareable_copy_is_the_same_for_other_records(tmp_path, settings, kind):
    toml = own.TOML
    if kind == "group":
        toml = toml.replace('kind = "column"\ncolumn = "hospital"\n', 'kind = "group"\n')
    without = toml.replace("validation = 0.2", "validation = 0.0")
    copies = []
    for name, frame in (("a", own.patients()), ("b", changed(own.patients(), groups=not settings))):
        scenario = own.write(tmp_path / name, frame, *settings, toml=toml if settings else without)
        results = fedtoll.run(scenario, out=tmp_path / name / "results", executor="serial")
        runs, _ = export(results.folder, tmp_path / name / "copy")
        assert runs == 8
        copies.append(files(tmp_path / name / "copy"))
    measures = [(tmp_path / n / "results/resolved.json").read_text() for n in ("a", "b")]
    assert measures[0] != measures[1]
    assert copies[0] == copies[1]


@pytest.mark.slow
def test_a_shareable_copy_has_the_ledger_and_says_what_it_lacks(folder, tmp_path):
    runs, left_out = export(folder, tmp_path / "copy")
    assert runs == len(list((tmp_path / "copy/runs").glob("*/ledger.parquet"))) == 8
    assert {Path(name).name for name in files(tmp_path / "copy")} == {
        *("scenario.toml", "resolved.json", "run.json", "ledger.parquet")
    }
    for name in ("groups.parquet", "errors", "audit", "report.html", "tuning", "tuning of resolved.json"):
        assert name in left_out
    content = json.loads((tmp_path / "copy/resolved.json").read_text())
    assert {"checksum", "rows"}.isdisjoint(content["data"])
    with pytest.raises(ScenarioError, match="a shareable copy without measures: it has nothing to report"):
        fedtoll.load(tmp_path / "copy")


@pytest.mark.slow
def test_a_shareable_copy_tells_neither_a_choice_nor_where_a_model_is(tmp_path):
    """How often a client takes part follows from the chosen number of rounds."""
    scenario = own.write(tmp_path, own.patients(), own.TUNE)
    (tmp_path / "nets.py").write_text(
        "from torch import nn\n\n\ndef line(inputs, outputs):\n    return nn.Linear(inputs, outputs)\n"
    )
    overrides = [
        'participation={kind="fraction", fraction=0.5}',
        "tune.rounds=[1, 5]",
        f'model={{kind="{tmp_path}/nets.py:line"}}',
        'strategies=[{name="fedavg"}]',
    ]
    results = fedtoll.run(scenario, out=tmp_path / "out", overrides=overrides, seeds="0:1", executor="serial")
    assert any("rounds" in client for client in results.resolved["clients"])
    export(results.folder, tmp_path / "copy")
    content = json.loads((tmp_path / "copy/resolved.json").read_text())
    assert all("rounds" not in client for client in content["clients"])
    for file in (tmp_path / "copy/runs").glob("*/run.json"):
        assert json.loads(file.read_text())["model"]["kind"] == "nets.py:line"


@pytest.mark.slow
def test_a_copy_with_measures_can_be_reported(folder, tmp_path):
    runs, left_out = export(folder, tmp_path / "copy", with_measures=True)
    assert runs >= 8
    assert "groups.parquet" not in left_out
    results, copy = fedtoll.load(folder), fedtoll.load(tmp_path / "copy")
    pd.testing.assert_frame_equal(results.toll(), copy.toll())
    write_report(copy, tmp_path / "copy")
    shared = b"".join(files(tmp_path / "copy").values())
    checksum = json.loads((folder / "resolved.json").read_text())["data"]["checksum"]
    names = {path.name for path in (folder / "runs").iterdir()}
    for secret in (checksum, str(folder.parent), *names - {".lock"}):
        assert secret.encode() not in shared


@pytest.mark.slow
def test_predictions_are_never_copied(untuned, tmp_path):
    _, left_out = export(untuned, tmp_path / "copy", with_measures=True)
    assert "predictions.parquet" in left_out
    assert not list((tmp_path / "copy").rglob("predictions*"))


def test_nothing_is_overwritten_and_the_command_prints_one_line(here, least, tmp_path):
    code, out, err = here("export", least, "--shareable", "copy")
    assert (code, err) == (0, "")
    assert out.startswith("copy: 2 runs; left out: clients.parquet, groups.parquet, rounds.parquet, audit, ")
    assert out.count("\n") == 1
    before = files(tmp_path / "copy")
    code, out, err = here("status", "copy")
    assert (code, err) == (0, "")
    assert out.endswith(" runs done, 0 failed\na shareable copy without measures: it has nothing to report\n")
    code, out, err = here("export", least, "--shareable", "copy", "--with-measures")
    assert (code, out, err) == (2, "", "fedtoll: copy: exists already; choose another name\n")
    assert files(tmp_path / "copy") == before
    code, out, err = here("export", "copy", "--shareable", "copy/runs/../sub")
    assert (code, out) == (2, "")
    assert err == "fedtoll: copy/runs/../sub: lies in the results folder copy; choose another place\n"
    assert files(tmp_path / "copy") == before
    code, _, err = here("export", tmp_path, "--shareable", "other")
    assert (code, err.count("\n")) == (2, 1)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("damage", ["hash", "run", "ledger", "scenario"])
def test_a_damaged_folder_is_one_line(here, least, tmp_path, damage):
    import shutil

    shutil.copytree(least, place := tmp_path / "damaged")
    resolved: dict[str, Any] = json.loads((place / "resolved.json").read_text())
    if damage == "hash":
        resolved["recipe"][0]["hash"] = "../../elsewhere"
    run = place / "runs" / json.loads((least / "resolved.json").read_text())["recipe"][0]["hash"]
    if damage == "run":
        (run / "run.json").write_text("[]")
    if damage == "ledger":
        (run / "ledger.parquet").write_bytes(b"PAR1")
    if damage == "scenario":
        resolved["scenario"] = 7
    (place / "resolved.json").write_text(json.dumps(resolved))
    code, out, err = here("export", place, "--shareable", "copy")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert not (tmp_path / "copy").exists()


def test_tables_are_those_of_the_store():
    assert {*exports.TABLES, "ledger", "predictions"} == {*TABLES}
