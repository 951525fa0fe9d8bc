"""A complete audit of a small scenario: what it writes, that it resumes, and what the report shows."""

from __future__ import annotations

import errno
import json
import math
import re
import shutil
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fedtoll.audit import run as run_module
from fedtoll.audit import statistics
from fedtoll.audit import targets as models
from fedtoll.audit.bounds import LEVEL
from fedtoll.audit.run import _canary, prepare, run_audit
from fedtoll.audit.subject import (
    FIRST,
    LAST,
    ROUND,
    RUN,
    SAMPLED,
    broken,
    mismatch,
    over_claim,
    refuted,
    settings,
    too_many,
    verdict,
)
from fedtoll.clients import mechanisms
from fedtoll.clients.engines import sampling
from fedtoll.commands.audit import _text
from fedtoll.report.exposure import audit_section
from fedtoll.report.page import render
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.server.results import load
from fedtoll.server.trainer import Trainer
from tests.audit.test_white_box import halved, late
from tests.server.federation import TOML

QUICK = ('privacy.epsilons=["inf", 2.0]',)


FEW = 4000
"""Observations on each side: enough to see what these tests break."""


@pytest.fixture(scope="module", autouse=True)
def _few_observations():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "OBSERVATIONS", dict.fromkeys(run_module.OBSERVATIONS, FEW))
        patch.setattr(statistics, "OBSERVATIONS", 300)
        yield


@pytest.fixture(scope="module")
def scenario(tmp_path_factory):
    file = tmp_path_factory.mktemp("audit") / "adult-sex.toml"
    text = TOML.replace("local_steps = 2", "local_steps = 3").replace('"fedavg"', '"uniform"')
    file.write_text(f'{text}\n[[strategies]]\nname = "term"\nt = 5.0\nclip = 1.0\n')
    return file


@pytest.fixture(scope="module")
def audited(scenario):
    folder = scenario.parent / "results"
    finished = []
    prepared = prepare(str(scenario), QUICK, "0:6")
    content = run_audit(prepared, folder, workers=1, finished=lambda: finished.append(1))
    assert len(finished) == prepared.progress_steps
    return folder, content


@pytest.mark.slow
def test_what_is_written_is_what_is_returned(audited):
    folder, content = audited
    assert json.loads((folder / "audit/audit.json").read_text(encoding="utf-8")) == content
    for name in ("canary", "membership", "disparity"):
        assert len(pd.read_parquet(folder / f"audit/{name}.parquet")) == len(content[name])
    leftovers = [p.name for p in (folder / "audit").rglob("*") if ".beside" in p.name]
    assert leftovers == []
    assert len(list((folder / "audit/models").glob("*.parquet"))) == 24


@pytest.mark.slow
def test_every_group_has_the_claim_and_the_bound_of_every_view(audited):
    rows = audited[1]["canary"]
    statistics = ["first mean_loss", "last mean_loss"]
    assert {r["group"] for r in rows} == {"Female", "Male", ""}
    for group in ("Female", "Male"):
        found = [r["view"] for r in rows if (r["group"], r["strategy"]) == (group, "uniform")]
        assert found == [FIRST, LAST, SAMPLED, RUN]
        found = [r["view"] for r in rows if r["group"] == group and r["strategy"].startswith("term")]
        assert found == [FIRST, LAST, SAMPLED, RUN, *statistics]
    assert [r["view"] for r in rows if not r["group"]] == [ROUND, ROUND]
    for row in rows:
        assert row["p"] > 1e-3
        if row["view"] in {FIRST, LAST, ROUND}:
            assert row["observations"] >= FEW
            assert row["bound"] > 0.5 * row["claim"]
        if row["view"] == RUN:
            assert row["claim"] <= 2.0
    assert not audited[1]["broken"]


@pytest.mark.slow
def test_every_group_is_attacked_at_every_epsilon(audited):
    frame = pd.DataFrame(audited[1]["membership"])
    assert len(frame) == 2 * 2 * 2 * 3  # strategies, ε, attacks, groups and everybody
    private = frame[frame["mechanism"] == "dp-sgd"]
    assert (private["advantage"] < private["ceiling"]).all()
    assert private["ceiling"].iloc[0] == pytest.approx((math.exp(4) - 1) / (math.exp(4) + 1), abs=1e-3)
    assert (frame[frame["mechanism"] == "none"]["ceiling"] == 1).all()
    everybody = frame[frame["group"] == ""]
    assert everybody["members"].to_numpy() == pytest.approx(everybody["others"].to_numpy(), rel=0.02)


@pytest.mark.slow
def test_a_second_audit_trains_nothing_and_gives_the_same(audited, scenario, monkeypatch):
    folder, content = audited
    monkeypatch.setattr(models, "train_target", lambda *a: pytest.fail("trained again"))
    assert run_audit(prepare(str(scenario), QUICK, "0:6"), folder, workers=1) == content


@pytest.mark.slow
def test_a_file_cut_short_is_trained_again(audited, scenario):
    folder, content = audited
    file = sorted((folder / "audit/models").glob("*.parquet"))[0]
    file.write_bytes(file.read_bytes()[:100])
    assert run_audit(prepare(str(scenario), QUICK, "0:6"), folder, workers=1) == content


def all_records(monkeypatch):
    """Use all records in each step."""
    monkeypatch.setattr(sampling, "poisson", lambda rng, count, rate: np.arange(count))


def first_step_only(monkeypatch):
    late(monkeypatch, "cohort", lambda round, step: step > 0)


def statistics_without_noise(monkeypatch):
    real = mechanisms.release

    def release(plan, records, **key):
        return real(plan.model_copy(update={"noise_multiplier": 1e-9}), records, **key)

    monkeypatch.setattr(mechanisms, "release", release)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("broken", "views"),
    [
        (lambda monkeypatch: halved(monkeypatch, "cohort"), "last round, first step, last step"),
        (all_records, "sampled step"),
        (first_step_only, "last round, last step"),
        (statistics_without_noise, "first mean_loss, last mean_loss"),
    ],
    ids=["half the noise", "q = 1", "noise in the first step of a round", "no noise on statistics"],
)
def test_a_broken_system_is_called_broken(here, audited, scenario, tmp_path, monkeypatch, broken, views):
    folder = shutil.copytree(audited[0], tmp_path / "copy")
    broken(monkeypatch)
    arguments = ("--set", QUICK[0], "--seeds", "0:6", "--workers", 1, "--out", folder)
    code, out, err = here("audit", scenario, *arguments)
    assert (code, err) == (1, "")
    assert "BROKEN: " in out
    assert f"the excess alone is more than chance explains: {views}" in out


def test_many_bounds_a_little_above_their_claims_are_broken_together():
    rows = [{"p": p, "view": FIRST} for p in [0.03] * 11 + [0.5] * 49]
    assert not refuted(rows)
    assert over_claim(rows, 0.05) == 11
    assert too_many(rows, 0.05)  # P[Bin(60, .05) ≥ 11] = 2e-4
    assert not too_many(rows[1:], 0.05)  # P[Bin(59, .05) ≥ 10] = 8e-4
    assert broken(rows, 0.05)
    assert refuted([{"p": 1e-9, "view": LAST}, *rows]) == [{"p": 1e-9, "view": LAST}]
    assert not broken([{"p": None}, {"p": 0.5}], 0.05)


@pytest.mark.thorough
def test_twenty_audits_of_a_sound_system_are_not_broken(scenario):
    least = []
    for seed in range(20):
        prepared = prepare(str(scenario), QUICK, f"{seed}:{seed + 4}")
        rows = _canary(prepared, lambda: None)
        assert not broken(rows, LEVEL)
        least.append(min(row["p"] for row in rows))
    assert min(least) < 0.2  # the p-values, which are conservative, are not all 1


def test_memberships_differ_and_the_records_are_the_same(scenario):
    prepared = prepare(str(scenario), QUICK, "0:6")
    a, b = (models.train_target(Trainer(), run.to_json()) for run in prepared.halves.runs[:2])
    assert (a.rows_N == b.rows_N).all()
    assert 0.49 < a.member_N.mean() < 0.51
    assert 0.45 < (a.member_N == b.member_N).mean() < 0.55


@pytest.mark.slow
def test_the_text_for_the_terminal(audited):
    shown = _text(audited[1])
    assert "Membership by group" in shown
    assert re.search("[012] of 22 lower bounds of ε exceed their claim", shown)
    assert "One release of a statistic" in shown
    assert re.search(r"\b[Ee]verybody\b", shown)
    assert "(all)" not in shown  # the name in the files is not the name for people


@pytest.mark.slow
def test_the_report_shows_who_is_exposed(here, scenario, audited):
    folder, _ = audited
    overrides = ("--set", QUICK[0], "--executor", "serial")
    assert here("run", scenario, "--out", folder, *overrides)[0] == 0
    results = load(folder)
    section = audit_section(results)
    assert section is not None
    assert "the attacker’s advantage is" in section["sentences"][0]
    assert [t.id for t in section["tables"]] == ["exposed", "canaries"]
    (folder / "report.html").unlink()
    _, out, _ = here("audit", scenario, "--set", QUICK[0], "--seeds", "0:6", "--out", folder)
    assert f"report: {folder / 'report.html'}#exposed" in out
    assert section["sentences"][0] in out
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert 'id="exposed"' in page
    assert 'id="exposure"' in page
    assert "Membership inference by group" in page
    _check_other_subjects(results)
    changed = {**results.resolved, "scenario": {**results.resolved["scenario"], "training": {}}}
    results.resolved.clear()
    results.resolved.update(changed)
    elsewhere = audit_section(results)
    assert elsewhere is not None
    assert elsewhere["tables"] == []
    assert "other settings" in elsewhere["sentences"][0]
    (folder / "audit/audit.json").rename(folder / "audit/moved.json")
    try:
        assert audit_section(results) is None
        assert 'id="exposed"' not in render(load(folder))
    finally:
        (folder / "audit/moved.json").rename(folder / "audit/audit.json")


def _check_other_subjects(results):
    """Check that no audit of other records, model code or strategies, or of unknown ones, is shown."""
    file = results.folder / "audit/audit.json"
    original = file.read_text(encoding="utf-8")
    content = json.loads(original)
    plan = content["strategies"]["uniform"]
    changes: dict[str, dict[str, Any]] = {
        "other records": {"checksums": ["0" * 64]},
        "other model code": {"model_digests": ["0" * 64]},
        "another strategy uniform": {"strategies": {"uniform": {**plan, "digest": "0" * 64}}},
        "other strategies": {"strategies": {"mine": plan}},
    }
    try:
        for words, change in changes.items():
            file.write_text(json.dumps({**content, **change}), encoding="utf-8")
            section = audit_section(results)
            assert section is not None
            assert section["tables"] == []
            assert section["sentences"] == [
                f"The audit in this folder is of {words} than these results, so it is not shown."
            ]
        del content["checksums"]
        file.write_text(json.dumps(content), encoding="utf-8")
        section = audit_section(results)
        assert section is not None
        assert section["tables"] == []
        assert "run fedtoll audit again" in section["sentences"][0]
    finally:
        file.write_text(original, encoding="utf-8")


def test_an_audit_names_its_subject(audited, scenario):
    content = audited[1]
    run = prepare(str(scenario), QUICK, "0:6").private[0]
    assert content["checksums"] == [run.checksum]
    assert content["model_digests"] == [run.model_digest]
    assert content["strategies"]["uniform"]["digest"] == run.strategy.digest
    subject = {key: content[key] for key in ("checksums", "model_digests", "strategies")}
    assert mismatch(subject, subject) == ""
    changes: list[dict[str, Any]] = [
        {"checksums": ["0"]},
        {"model_digests": ["0"]},
        {"strategies": {"x": {}}},
    ]
    for change in changes:
        assert mismatch({**subject, **change}, subject) != ""


def test_a_row_that_shows_nothing_is_undefined_and_reported(audited):
    content = json.loads(json.dumps(audited[1]))
    content["canary"][0] |= {"bound": None, "p": None, "counted": 0, "observations": 0}
    sentence = verdict(content)
    assert " of 21 lower bounds of ε" in sentence
    assert "In 1 case the model ignores every canary" in sentence
    assert "ignores" not in verdict(audited[1])
    assert "–" in _text(content)


@pytest.mark.parametrize("what", ["mkdir", "write"])
def test_a_disk_that_fails_while_models_are_written_is_one_line(scenario, tmp_path, monkeypatch, what):
    def full(*arguments, **named):
        raise OSError(errno.ENOSPC, "No space left on device")

    prepared = prepare(str(scenario), QUICK, "0:4")
    monkeypatch.setattr(models, "train_target", lambda trainer, text: models.Target(*np.zeros((3, 2))))
    if what == "mkdir":
        (tmp_path / "audit").mkdir()
        (tmp_path / "audit/models").write_text("")
    else:
        monkeypatch.setattr(models, "write_file", full)
    with pytest.raises(ScenarioError, match="audit/models: cannot be written: ") as caught:
        run_audit(prepared, tmp_path, workers=1)
    assert "\n" not in str(caught.value)


def test_settings_leave_out_which_epsilon_and_where_records_lie():
    base = {"privacy": {"epsilons": [1.0], "delta": 1e-5}, "data": {"file": "/x/y/mine.csv"}}
    moved = {"privacy": {"epsilons": [2.0], "delta": 1e-5}, "data": {"file": "/z/mine.csv"}}
    assert settings(base) == settings(moved)
    assert settings({**base, "privacy": {"delta": 1e-6}}) != settings(base)


@pytest.mark.slow
def test_several_processes_give_the_same(audited, scenario, tmp_path):
    _, content = audited
    assert run_audit(prepare(str(scenario), QUICK, "0:6"), tmp_path, workers=2) == content


BAD = {
    "no finite ε": (("--set", 'privacy.epsilons=["inf"]'), "no finite ε to audit; give one with --epsilon"),
    "few seeds": (("--seeds", "0:3"), "--seeds 0:3: 3 models; an attack needs 4 or more"),
    "no range": (("--seeds", "many"), "seeds"),
    "ε of 0": (("--epsilon", 0), "--epsilon 0: must be a finite number greater than 0"),
    "infinite ε": (("--epsilon", "inf"), "--epsilon inf: must be a finite number"),
    "unknown key": (("--set", "training.clipp=1.0"), "did you mean 'clip'"),
    "skips": (
        ("--set", 'training.on_failure="skip"'),
        "training.on_failure = 'skip': an audit does not report skipped replies; use 'abort'",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_mistakes_are_one_line_and_write_nothing(here, scenario, tmp_path, case):
    arguments, words = BAD[case]
    code, out, err = here("audit", scenario, "--set", "privacy.epsilons=[2.0]", *arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1
    assert not (tmp_path / "results").exists()


def test_a_folder_that_cannot_be_written_is_one_line(here, scenario, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = here("audit", scenario, "--epsilon", 2, "--seeds", "0:4", "--out", tmp_path / "file")
    assert code == 2
    assert "cannot be written" in err
    assert err.count("\n") == 1


def test_one_epsilon_in_place_of_the_scenarios(scenario):
    prepared = prepare(str(scenario), ('privacy.epsilons=["inf", "clip-only", 8, 1]',), "0:4", 3.0)
    assert prepared.scenario.privacy.epsilons == (math.inf, "clip-only", 3.0)
    assert {r.epsilon for r in prepared.private} == {3.0}
    assert np.ptp([run.seed % 5 for run in prepared.halves.runs]) == 0
