"""A calibration: its offsets are those of the equations, and without noise they mend a wrong intercept."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord

from fedtoll.audit.run import prepare
from fedtoll.clients import calibration as clients
from fedtoll.clients.state import LEDGER
from fedtoll.scenarios.errors import RunError, ScenarioError
from fedtoll.scenarios.federation import Federation
from fedtoll.scenarios.read import read
from fedtoll.scenarios.run import Run
from fedtoll.scenarios.streams import Purpose, stream
from fedtoll.server.app import federate, fit
from fedtoll.server.calibration import Offsets, calibrate, offsets
from fedtoll.server.grid import LocalGrid
from fedtoll.server.plan import check, plan
from fedtoll.server.strict import Strict
from fedtoll.server.trainer import Trainer
from fedtoll.sweep.validate import validation_losses
from tests.server.federation import Wrapped, parquet, refusal
from tests.server.test_personal import MIXED, scenario, trained
from tests.shared import records

Z = 4.0
SECTION = {"noise_multiplier": Z, "prior": 0.5}


def one(epsilon: Any = 3.0, section: dict[str, Any] | None = SECTION, **changes: Any) -> Run:
    more = {} if section is None else {"calibration": section}
    (run,) = plan(scenario(privacy={"epsilons": [epsilon]}, **more, **changes), "own.toml").runs
    return run


def exact(run: Run) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return every client's Σ (y − p) and Σ p (1 − p) by group at the final model, and that model."""
    shared, _ = trained(run)
    model, held = shared[-1], records(run)
    cells = np.zeros((len(run.clients), len(run.groups), 2))
    for k, rows in enumerate(held.held):
        p = 1 / (1 + np.exp(-(held.table.features[rows].astype(float) @ model[:-1] + model[-1])))
        for g in range(len(run.groups)):
            mine = held.groups.codes[rows] == g
            y = held.table.label[rows][mine]
            cells[k, g] = (y - p[mine]).sum(), (p[mine] * (1 - p[mine])).sum()
    return cells, model


def found(run: Run) -> Offsets:
    last: dict[str, Any] = {}
    grid = LocalGrid(run)
    strict, _ = fit(grid, run, lambda _, model: last.update(model=model), Federation.of(run))
    return calibrate(grid, strict, run, last["model"], 10.0)


@pytest.mark.parametrize(
    "partition", [{"kind": "group", "clients": {"A": 2}}, MIXED], ids=["public", "mixed"]
)
@pytest.mark.parametrize("epsilon", ["inf", 3.0])
def test_offsets_are_those_of_the_equations(epsilon, partition):
    run = one(epsilon, partition=partition)
    cells, _ = exact(run)
    noise, variance = np.zeros_like(cells), np.zeros(2)
    for k, client in enumerate(run.clients if epsilon == 3.0 else ()):
        rng = stream(run.noise_seed, Purpose.CALIBRATION, k)
        mine = [run.groups.index(client.group)] if client.group else [0, 1]
        noise[k, mine] = Z * rng.standard_normal((len(mine), 2))
        variance[mine] += Z**2
    S, H = (cells + noise).sum(axis=0).T
    H = np.maximum(H, 0)
    due = H * S / (H**2 + variance / 0.25)
    seen = found(run)
    assert np.abs(seen.values - due).max() < 1e-4
    assert np.allclose(seen.sds, H * np.sqrt(variance) / (H**2 + variance / 0.25), atol=1e-5)
    if epsilon == "inf":
        assert np.abs(seen.values - cells.sum(axis=0)[:, 0] / cells.sum(axis=0)[:, 1]).max() < 1e-5
        assert not seen.sds.any()


def test_without_noise_a_large_group_gets_the_offset_that_fits_it():
    """Against Newton's method to convergence on the likelihood of each group's records."""
    run = one("inf", training={"rounds": 1})
    held = records(run)
    rows = np.concatenate(held.held)
    x, y, codes = held.table.features[rows].astype(float), held.table.label[rows], held.groups.codes[rows]
    shared, _ = trained(run)
    logits = x @ shared[-1][:-1] + shared[-1][-1]
    seen = found(run).values
    for g in range(2):
        mine, b = codes == g, 0.0
        for _ in range(50):
            p = 1 / (1 + np.exp(-(logits[mine] + b)))
            b += (y[mine] - p).sum() / (p * (1 - p)).sum()
        assert seen[g] == pytest.approx(b, abs=0.02 + 0.2 * abs(b))


def test_more_noise_means_smaller_offsets_and_none_without_curvature():
    run = one()
    cells = [np.array([[20.0, 100.0], [5.0, -3.0]])]
    seen = offsets(run, cells)
    assert seen.values[1] == seen.sds[1] == 0, "a curvature below 0 is noise"
    sizes = []
    for z in (0.0, 1.0, 20.0, 1000.0):
        stated = run.calibration.changed(noise_multiplier=z)  # type: ignore[union-attr]
        sizes.append(offsets(run.model_copy(update={"calibration": stated}), cells).values[0])
    assert sizes[0] == pytest.approx(0.2)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 0.01


def test_the_sensitivity_is_one():
    """No record moves its group's pair by more; where the model is sure and wrong, it moves by nearly 1."""
    logits = np.linspace(-30, 30, 4001)
    norms = [
        np.linalg.norm(clients.residuals(np.array([x]), np.array([y]), np.array([0]), 1))
        for x in logits
        for y in (0, 1)
    ]
    assert max(norms) <= 1 + 1e-12
    assert max(norms) > 0.9999
    absent = clients.residuals(np.array([np.nan, np.inf, 0.0]), np.array([1, 0, 1]), np.array([0, 1, 1]), 2)
    assert absent.tolist() == [[0.0, 0.0], [0.5, 0.25]]


def test_figures_and_scores_are_calibrated_and_charged():
    run, plain = one(), one(section=None)
    tables = federate(LocalGrid(run), run)
    seen, model, held = found(run), exact(run)[1], records(run)
    last = tables["groups"][tables["groups"]["round"] == run.rounds].set_index("group")
    assert last["offset"].dropna().to_dict() == pytest.approx(dict(zip(run.groups, seen.values, strict=True)))
    assert tables["groups"].loc[tables["groups"]["round"] < run.rounds, "offset"].isna().all()
    x, codes = held.table.features[held.test].astype(float), held.groups.codes[held.test]
    due = 1 / (1 + np.exp(-(x @ model[:-1] + model[-1] + seen.values[codes])))
    assert np.abs(tables["predictions"]["score"] - due).max() < 1e-6
    y = held.table.label[held.test]
    nats = -np.log(np.where(y == 1, due, 1 - due))
    assert last["log_loss"]["B"] == pytest.approx(nats[codes == 1].mean(), abs=1e-6)
    ledger = tables["ledger"]
    extra = ledger[ledger["round"] == run.rounds + 1]
    assert set(extra["release"]) == {"group_residual"}
    assert extra["noise_multiplier"].tolist() == [Z] * 3
    assert ledger["epsilon_spent"].max() == pytest.approx(3.0, abs=0.01)
    assert run.clients[0].noise_multiplier > plain.clients[0].noise_multiplier


def test_a_repeated_question_gets_the_same_answer_and_another_none():
    run = one()
    grid = LocalGrid(run)
    last: dict[str, Any] = {}
    strict, _ = fit(grid, run, lambda _, model: last.update(model=model), Federation.of(run))
    first = calibrate(grid, strict, run, last["model"], 10.0)
    fresh = Strict(grid, run)
    fresh.node_of, fresh.client_of = strict.node_of, strict.client_of
    for client in run.clients:
        fresh.ledger.charge([r for r in strict.ledger.releases_of(client.id) if r.round <= run.rounds])
    again = calibrate(grid, fresh, run, last["model"], 10.0)
    assert np.array_equal(first.values, again.values)
    other = [a + 1 for a in last["model"]]
    with pytest.raises(RunError, match="calibration, client 0: the client rejects the message"):
        calibrate(grid, strict, run, other, 10.0)


@pytest.mark.slow
def test_results_do_not_depend_on_which_runs_train_together():
    runs = [one(), one(section=None), one("inf")]
    for run, tables in zip(runs, Trainer().train_together(runs), strict=True):
        assert isinstance(tables, dict), tables
        assert parquet(tables) == parquet(Trainer().train(run))


def test_a_choice_of_constants_is_made_by_calibrated_models():
    run = one(split={"validation": 0.2})
    (losses,) = validation_losses(Trainer(), [run.to_json()])
    assert isinstance(losses, dict)
    seen, model, held = found(run).values, exact(run)[1], records(run)
    x, codes = held.table.features[held.validation].astype(float), held.groups.codes[held.validation]
    logits = x @ model[:-1] + model[-1] + seen[codes]
    nats = np.logaddexp(0, np.where(held.table.label[held.validation] == 1, -logits, logits))
    assert losses["(all)"] == pytest.approx(nats.mean(), abs=1e-6)


def test_a_run_without_has_no_trace_of_it():
    run = one(section=None)
    assert "calibration" not in run.to_json()
    assert len({run.hash, one().hash, one(section={**SECTION, "prior": 1.0}).hash}) == 3


def _set(name: str, value: Any) -> Any:
    def change(content: Any) -> None:
        content.metric_records["metrics"][name] = value

    return change


def _ledger(content: Any) -> None:
    content.config_records[LEDGER]["noise_multiplier"][-1] = 1.0


def _more(content: Any) -> None:
    content["more"] = ConfigRecord({"count": 1})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_set("group_residual", [math.nan, 1.0]), "group_residual is not finite"),
        (_set("group_residual", [1.0]), "cannot reshape"),
        (_set("group_residual.sd", 1.0), "or other values"),
        (_set("records", 7.0), "metrics ['group_residual', 'group_residual.sd', 'num-examples', 'records']"),
        (_ledger, "its ledger differs from the server's"),
        (_more, "records ['fedtoll.ledger', 'metrics', 'more']"),
    ],
    ids=["nan", "short", "sd", "more metrics", "ledger", "more records"],
)
def test_a_malformed_last_reply_ends_the_run_in_one_line(change, reason):
    run = one()

    def last(replies: Any, round: int) -> Any:
        if round == run.rounds + 1:
            change(replies[1].content)
        return replies

    line = refusal(run, Wrapped(run, last))
    assert line.startswith("calibration, client 1: the reply is malformed: ")
    assert reason in line
    missing = refusal(run, Wrapped(run, lambda replies, t: replies[1:] if t == run.rounds + 1 else replies))
    assert missing == "calibration, client 0: the reply is missing"


def test_it_needs_two_classes_and_check_says_so_without_the_records():
    with pytest.raises(ScenarioError, match=r"x: calibration: needs two classes, not 10"):
        check(read("digits-rare", ["calibration={}"]), "x")


def test_an_audit_refuses():
    with pytest.raises(ScenarioError, match=r"calibration: an audit does not attack"):
        prepare("adult-race", ["calibration.prior=0.5"], "0:4")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"privacy": {"trust": "central"}, "training": {"local_steps": 1}}, "privacy.trust = 'central'"),
        ({"participation": {"kind": "fraction", "fraction": 0.5}}, "participation.kind = 'fraction'"),
        ({"training": {"on_failure": "skip"}}, "training.on_failure = 'skip'"),
        ({"personal": {"kind": "mr-mtl", "strength": 0.1}}, "calibration: not with personal.kind"),
        ({"calibration": {"noise": 1.0}}, "calibration.noise: unknown"),
        ({"data": {"source": "digits", "groups": ["digit"], "synthetic": None}}, "calibration: needs two"),
    ],
    ids=str,
)
def test_what_cannot_run_is_one_line(changes, reason):
    if "data" in changes:
        changes = {**changes, "partition": {"kind": "iid", "clients": 2}}
    with pytest.raises(ScenarioError, match=reason) as caught:
        plan(scenario(**{"calibration": SECTION, **changes}), "own.toml")
    assert "\n" not in str(caught.value)
