"""Statistics from clients to strategies: cells, rounds, post-processing, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from flwr.app import Message

from fedtoll.clients import mechanisms, model
from fedtoll.clients import state as client_state
from fedtoll.clients import train as clients
from fedtoll.privacy.update_noise import noise_variance
from fedtoll.scenarios.errors import RunError, ScenarioError
from fedtoll.scenarios.read import read
from fedtoll.scenarios.run import Run
from fedtoll.scenarios.statistics import Estimate
from fedtoll.server import plan as planning
from fedtoll.server.app import federate
from fedtoll.server.grid import LocalGrid
from fedtoll.server.trainer import simulate
from fedtoll.strategies.postprocess import Released, shrink, smooth
from tests.server.federation import FEDAVG, TERM, Replies, refusal, single_run
from tests.shared import records

EVERYTHING: dict[str, Any] = {"name": "tests.server.asks:Everything"}
TELLS = "tests.server.asks:Tells"
MIXED: dict[str, Any] = {"partition": {"kind": "iid", "clients": 4}}


class Tap(LocalGrid):
    """Stores what every client returned, by round."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.replies: list[tuple[list[Any], Replies]] = []

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Replies:
        sent = list(messages)
        replies = super().send_and_receive(sent, timeout=timeout)
        if sent[0].content:
            broadcast = sent[0].content.array_records["arrays"].to_numpy_ndarrays()
            self.replies.append((broadcast, replies))
        return replies


def exact(run: Run, client: int, parameters: Any) -> dict[str, Any]:
    """Return every statistic of one client without noise, clipped as declared, in full shape."""
    data = records(run)
    features, labels, groups = clients._tensors(data, run.precision)[client]
    module = model.build(run.model, features.shape[1], run.classes, run.precision)
    model.put(module, parameters)
    plan = run.clients[client]
    seen = mechanisms.evaluate(
        module, features, labels, groups, size=plan.size, groups=len(run.groups), classes=run.classes
    )
    key = {"group": None, "seed": 0, "client": 0, "round": 1, "index": 0}
    tiny = [s.model_copy(update={"noise_multiplier": 1e-12}) for s in run.statistics]
    return {s.name: mechanisms.release(s, seen, **key).value for s in tiny}  # type: ignore[arg-type]


@pytest.mark.parametrize("change", [{}, MIXED], ids=["one group each", "mixed"])
def test_every_number_of_every_statistic_leaves_with_the_noise_that_was_charged(change):
    run = single_run(EVERYTHING, 2.0, **change, statistics={"noise_multiplier": 30.0})
    federate(tap := Tap(run), run)
    scores: list[float] = []
    for broadcast, replies in tap.replies:
        for plan, reply in zip(run.clients, replies, strict=True):
            assert set(reply.content) == {"arrays", "metrics", client_state.LEDGER}
            metrics: dict[str, Any] = dict(reply.content.metric_records["metrics"])
            assert metrics.pop("num-examples") == plan.size
            true = exact(run, plan.id, broadcast)
            for s in run.statistics:
                own = np.asarray(true[s.name])
                if own.ndim and plan.group:
                    own = own[run.groups.index(plan.group)]
                sd = metrics.pop(f"{s.name}.sd")
                assert sd == pytest.approx(30.0 * s.declaration.sensitivity(plan.size))
                noise = (np.asarray(metrics.pop(s.name)) - own.ravel()) / sd
                scores += noise.ravel().tolist()
            assert not metrics
    # One group: 1 + 2 + 4 + 1 + 4 + 2 numbers a client; mixed: 1 + 4 + 8 + 1 + 8 + 4.
    assert len(scores) == run.rounds * (3 * 14 if not change else 4 * 26)
    z = np.array(scores)
    assert len(np.unique(z)) == len(z)
    assert np.abs(z).min() > 1e-4
    assert abs(z.mean()) < 4 / math.sqrt(len(z))
    assert z.std() == pytest.approx(1, abs=4 / math.sqrt(2 * len(z)))


def test_a_strategy_sees_full_shapes_with_exact_zeros_where_the_plan_says_empty():
    run = single_run(EVERYTHING, 2.0)
    sd = {s.name: 1.0 for s in run.statistics}
    metrics: list[dict[str, Any]] = []
    for plan in run.clients:
        metric: dict[str, Any] = {f"{name}.sd": s for name, s in sd.items()}
        for s in run.statistics:
            cells = math.prod(run.released(plan, s))
            metric[s.name] = [float(plan.id + 1)] * cells if s.declaration.shape(2, 2) else 0.5
        metrics.append(metric)
    for plan, seen in zip(run.clients, Released(run).update(run.clients, metrics), strict=True):
        own = run.groups.index(plan.group)
        for s in run.statistics:
            shape = s.declaration.shape(2, 2)
            estimate = seen[s.name]
            assert np.shape(estimate.value) == np.shape(estimate.sd) == shape
            if shape:
                assert (np.asarray(estimate.value)[own] == plan.id + 1).all()
                assert (np.asarray(estimate.value)[1 - own] == 0).all()
                assert (np.asarray(estimate.sd)[1 - own] == 0).all()


def test_between_releases_nothing_leaves_nothing_is_charged_and_the_last_is_seen():
    run = single_run(TERM, 2.0, training={"rounds": 5}, statistics={"every": 2})
    tables = federate(tap := Tap(run), run)
    released = ["mean_loss" in r[0].content.metric_records["metrics"] for _, r in tap.replies]
    assert released == [True, False, True, False, True]
    ledger = tables["ledger"]
    assert set(ledger[ledger["release"] == "mean_loss"]["round"]) == {1, 3, 5}
    seen = tables["clients"].pivot_table(index="round", columns="client", values="mean_loss")
    assert (seen.loc[2] == seen.loc[1]).all()
    assert (seen.loc[4] == seen.loc[3]).all()
    assert (seen.loc[3] != seen.loc[1]).all()
    last = tables["clients"].query("round == 5")["epsilon_spent"]
    assert ((last > 0.98 * 2) & (last <= 2)).all()


def released(run: Run, *rounds: tuple[float | None, ...]) -> list[list[Estimate]]:
    """Return what a strategy sees each round if clients release these mean losses, or nothing (``None``)."""
    statistics_seen = Released(run)
    return [
        [
            seen["mean_loss"]
            for seen in statistics_seen.update(
                run.clients, [None if x is None else {"mean_loss": x, "mean_loss.sd": 0.5} for x in losses]
            )
        ]
        for losses in rounds
    ]


def test_a_skipped_client_continues_from_its_last_release():
    run = single_run(TERM, 2.0, statistics={"smoothing": 0.5})
    first, second, third = released(run, (1.0, 1.0, 3.0), (2.0, None, 1.0), (2.0, 2.0, 1.0))
    assert math.isnan(second[1].value)
    assert math.isnan(second[1].sd)
    assert (third[1].value, third[1].sd) == (1.5, pytest.approx(math.hypot(0.25, 0.25)))  # 1, then 2
    assert third[1] == second[0]  # as if the same two numbers were released without a gap
    assert first[1] == Estimate(1.0, 0.5)
    assert third[0].value == 1.75


def test_a_skipped_client_does_not_enter_shrinkage():
    run = single_run(TERM, 2.0, statistics={"shrinkage": True})
    without = released(run, (1.0, 9.0, 4.0), (1.0, None, 4.0))[1]
    assert [without[0], without[2]] == shrink([Estimate(1.0, 0.5), Estimate(4.0, 0.5)])
    assert math.isnan(without[1].value)
    alone = released(run, (1.0, None, None))[0]
    assert alone[0] == Estimate(1.0, 0.5)


def test_a_moving_average_over_rounds():
    plain = simulate(single_run(TERM, 2.0, training={"rounds": 3}))["clients"]
    run = single_run(TERM, 2.0, training={"rounds": 3}, statistics={"smoothing": 0.6})
    smoothed = simulate(run)["clients"]
    first = smoothed["round"] == 1
    assert smoothed[first]["mean_loss"].equals(plain[first]["mean_loss"])
    second = smoothed[smoothed["round"] == 2]
    before, sd = plain[first]["mean_loss"].to_numpy(), plain[first]["mean_loss_sd"].to_numpy()
    assert second["mean_loss_sd"].to_numpy() == pytest.approx(sd * math.hypot(0.6, 0.4))
    # Round 1 is equal in both, so round 2's releases would be too if the weights were; they differ slightly.
    new = plain[plain["round"] == 2]["mean_loss"].to_numpy()
    assert second["mean_loss"].to_numpy() == pytest.approx(0.6 * before + 0.4 * new, abs=1e-12)
    third = smoothed[smoothed["round"] == 3]["mean_loss_sd"].to_numpy()
    assert third == pytest.approx(sd * math.sqrt(0.6**2 * (0.6**2 + 0.4**2) + 0.4**2))


@pytest.mark.slow
def test_smoothing_and_shrinking_state_the_noise_that_is_left():
    rng = np.random.default_rng(0)
    draws: list[Estimate] = []
    for _ in range(20_000):
        e = smooth(None, Estimate(rng.normal(1.0, 0.5), 0.5), 0.7)
        for sd in (0.2, 0.3):
            e = smooth(e, Estimate(rng.normal(1.0, sd), sd), 0.7)
        draws.append(e)
    values: Any = [e.value for e in draws]
    assert np.std(values) == pytest.approx(draws[0].sd, rel=0.02)


def test_shrinking_brings_noisy_numbers_nearer_to_the_truth():
    rng = np.random.default_rng(1)
    sd = np.array([0.05] * 10 + [1.0] * 10)
    before = after = 0.0
    for _ in range(300):
        truth = rng.normal(0.5, 0.2, 20)
        noisy = [Estimate(float(v), float(s)) for v, s in zip(rng.normal(truth, sd), sd, strict=True)]
        before += float(np.mean((np.array([e.value for e in noisy]) - truth) ** 2))
        after += float(np.mean((np.array([e.value for e in shrink(noisy)]) - truth) ** 2))
    assert after < 0.35 * before


@pytest.mark.parametrize("sds", [[0.0, 0.0, 0.0], [0.0, 1.0, 2.0], [1.0, 1.0, 1.0], [5.0]])
def test_shrinking_keeps_what_is_exact_and_is_finite(sds):
    values = [0.2, 0.9, 0.4][: len(sds)]
    drawn: list[Any] = shrink([Estimate(v, s) for v, s in zip(values, sds, strict=True)])
    for e, v, s in zip(drawn, values, sds, strict=True):
        assert math.isfinite(e.value)
        assert math.isfinite(e.sd)
        if s == 0:
            assert e.value == pytest.approx(v)
        assert e.sd <= s


def test_statistics_that_take_a_share_leave_the_total_as_asked():
    run = single_run(EVERYTHING, 1.0, statistics={"budget_share": 0.2})
    bare = single_run(FEDAVG, 1.0)
    assert {s.noise_multiplier for s in run.statistics} == {run.statistics[0].noise_multiplier}
    for with_, without in zip(run.clients, bare.clients, strict=True):
        assert with_.noise_multiplier > without.noise_multiplier
    spent = simulate(run)["ledger"].groupby("client")["epsilon_spent"].last()
    assert ((spent > 0.98) & (spent <= 1.0)).all()


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"budget_share": 1.0}, "statistics.budget_share = 1.0"),
        ({"budget_share": 0.1, "noise_multiplier": 3.0}, "give at most one of them"),
        ({"every": 0}, "statistics.every = 0"),
        ({"smoothing": 1.0}, "statistics.smoothing = 1.0"),
        ({"shrink": True}, "statistics.shrink: unknown key; did you mean 'shrinkage'?"),
    ],
)
def test_mistakes_are_one_line(section, words):
    with pytest.raises(ScenarioError) as caught:
        single_run(TERM, 2.0, statistics=section)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


# Instructions to clients.


BY_LABEL = [tuple(cell) for cell in np.eye(4)]


@pytest.mark.slow
def test_group_weights_reach_every_record_in_both_engines():
    """Weight 0 for a group is training without its records; weight 2 doubles their gradients."""
    start = {"training": {"rounds": 1, "precision": "float64"}}
    parameters = {}
    for engine in ("cohort", "opacus"):
        for weights in ((1.0, 1.0), (0.0, 1.0), (2.0, 2.0), *BY_LABEL):
            strategy = {"name": TELLS, "weights": list(weights)}
            changed = {"training": {**start["training"], "engine": engine, "local_steps": 1}}
            run = single_run(strategy, "inf", **changed, **MIXED)
            parameters[engine, weights] = model_of(run)
    for weights in ((1.0, 1.0), (0.0, 1.0), (2.0, 2.0), *BY_LABEL):
        np.testing.assert_allclose(parameters["cohort", weights], parameters["opacus", weights], atol=1e-12)
    np.testing.assert_allclose(
        parameters["cohort", (2.0, 2.0)], 2 * parameters["cohort", (1.0, 1.0)], atol=1e-12
    )
    assert np.abs(parameters["cohort", (0.0, 1.0)] - parameters["cohort", (1.0, 1.0)]).max() > 1e-3
    # One weight for each group and label: the steps of the four cells add up, and groups go before labels.
    by_cell = [parameters["cohort", tuple(cell)] for cell in np.eye(4)]
    np.testing.assert_allclose(sum(by_cell), parameters["cohort", (1.0, 1.0)], atol=1e-12)
    np.testing.assert_allclose(by_cell[2] + by_cell[3], parameters["cohort", (0.0, 1.0)], atol=1e-12)


@pytest.mark.slow
def test_score_weights_reach_every_record_in_both_engines():
    """Without a clip the steps of two groups add up, and a weight may have either sign."""
    parameters = {}
    for engine in ("cohort", "opacus"):
        for scores in ((), (1.5, 0.0), (0.0, -2.0), (1.5, -2.0), (-1.5, 2.0)):
            training = {"rounds": 1, "local_steps": 1, "precision": "float64", "engine": engine}
            run = single_run({"name": TELLS, "scores": list(scores)}, "inf", training=training, **MIXED)
            parameters[engine, scores] = model_of(run)
    for (engine, scores), found in parameters.items():
        np.testing.assert_allclose(found, parameters["cohort", scores], atol=1e-12, err_msg=engine)
    plain, first, second, both, opposite = [v - parameters["cohort", ()] for v in parameters.values()][:5]
    assert not plain.any()
    assert min(np.abs(first).max(), np.abs(second).max()) > 1e-3
    np.testing.assert_allclose(first + second, both, atol=1e-12)
    np.testing.assert_allclose(-both, opposite, atol=1e-12)


@pytest.mark.parametrize("scores", [[1.0], [1.0, math.nan], [1.0, -math.inf], [1.0] * 4])
def test_score_weights_that_cannot_be_are_refused(scores):
    run = single_run({"name": TELLS, "scores": [1.0, 1.0]}, "inf")
    strategy = run.strategy.model_copy(update={"parameters": {"weights": [], "mu": 0.0, "scores": scores}})
    run = run.model_copy(update={"strategy": strategy})
    with pytest.raises(RunError, match=r"RejectedError: score_weights .*: not 2 finite numbers"):
        simulate(run)


def test_score_weights_are_refused_with_more_than_two_classes():
    scenario = read("digits-rare", [f'strategies=[{{name="{TELLS}", scores=[1.0, 1.0]}}]'], "0:1")
    (run, *_) = planning.plan(scenario, "digits").runs
    with pytest.raises(RunError, match="score_weights: need two classes, and the records have 10"):
        simulate(run)


def model_of(run: Run) -> np.ndarray:
    """Return the first client's parameters after one round from zero."""
    federate(tap := Tap(run), run)
    arrays = tap.replies[0][1][0].content.array_records["arrays"].to_numpy_ndarrays()
    return np.concatenate([a.ravel() for a in arrays])


@pytest.mark.parametrize("weights", [[1.0], [1.0, -1.0], [1.0, math.inf], [1.0] * 3, [1.0, 1.0, 1.0, -1.0]])
def test_weights_that_cannot_be_are_refused(weights):
    run = single_run({"name": TELLS, "weights": [1.0, 1.0]}, "inf")
    strategy = run.strategy.model_copy(update={"parameters": {"weights": weights, "mu": 0.0}})
    run = run.model_copy(update={"strategy": strategy})
    assert refusal(run, LocalGrid(run)) == "round 1, client 0 (Male): the client rejects the message"
    with pytest.raises(RunError, match="the client rejects the message: RejectedError: group_weights"):
        simulate(run)


def test_fedprox_draws_back_the_noise_of_earlier_steps():
    """The reported variance is that of the noise, measured from two runs that differ in noise alone."""
    change = {"training": {"rounds": 1, "local_steps": 10, "learning_rate": 0.5, "precision": "float64"}}
    mu = 0.3
    runs = [single_run({"name": TELLS, "mu": mu}, e, **change) for e in (0.05, "clip-only")]
    noised, clipped = (model_of(run) for run in runs)
    client = runs[0].clients[0]
    stated = noise_variance(runs[0], client, mu)
    plain = noise_variance(runs[0], client)
    assert plain == pytest.approx(
        10 * (0.5 * client.noise_multiplier * runs[0].clip / client.batch_size) ** 2  # type: ignore[operator]
    )
    assert stated == pytest.approx(plain * sum((1 - 0.5 * mu) ** (2 * j) for j in range(10)) / 10)
    measured = np.var(noised - clipped)
    assert abs(measured / stated - 1) < 4 * math.sqrt(2 / len(noised)) + 0.1  # the curvature of the loss
    assert abs(measured / plain - 1) > 0.3


# Averages, and clients of any group.


def test_the_average_of_all_models_is_evaluated_and_the_last_one_broadcast():
    plain, averaged = (single_run(FEDAVG, 2.0, training={"rounds": 3, "average": a}) for a in (False, True))
    assert plain.hash != averaged.hash
    taps = [Tap(run) for run in (plain, averaged)]
    tables = [federate(tap, run) for tap, run in zip(taps, (plain, averaged), strict=True)]
    for (a, _), (b, _) in zip(taps[0].replies, taps[1].replies, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)  # clients continue from the same models
    from fedtoll.server.evaluate import HeldOut

    models = [broadcast for broadcast, _ in taps[0].replies[1:]]  # after rounds 1 and 2
    mean = tuple((a.astype(np.float64) + b) / 2 for a, b in zip(*models, strict=True))
    rows = HeldOut(plain).measure(HeldOut(plain).probabilities(tuple(m.astype(np.float32) for m in mean)))
    measured = tables[1]["groups"].query("round == 2")["log_loss"].to_numpy()
    assert measured == pytest.approx([r["log_loss"] for r in rows], rel=1e-6)
    first = [t["groups"].query("round == 1")["log_loss"].to_numpy() for t in tables]
    assert first[0] == pytest.approx(first[1], rel=1e-12)


def test_mixed_clients_hold_all_groups_and_their_weight_goes_to_groups_as_the_plan_expects():
    run = single_run(FEDAVG, "inf", **MIXED)
    data = records(run)
    assert [c.group for c in run.clients] == [""] * 4
    assert sorted(np.concatenate(data.held)) == sorted(set(range(len(data.table))) - set(data.test))
    assert max(map(len, data.held)) - min(map(len, data.held)) <= 1
    rows = simulate(run)["groups"].query("round == 1").set_index("group")["weight"]
    share = data.groups.counts / data.groups.counts.sum()  # the plan's, and no training record's
    assert rows[list(data.groups.names)].to_numpy() == pytest.approx(share, abs=1e-12)
    assert rows["(all)"] == pytest.approx(1)


def test_mixed_clients_are_dealt_anew_for_every_seed():
    # Seeds 0 and 5 have the same fold.
    first, second = (records(single_run(FEDAVG, "inf", seeds=[s], **MIXED)).held[0] for s in (0, 5))
    assert len(np.intersect1d(first, second)) < 0.5 * len(first)


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"kind": "iid", "clients": {"Male": 2}}, "must be a number"),
        ({"kind": "group", "clients": 3}, "must be a table"),
        ({"kind": "iid", "clients": 40_000}, "client 0 of 40000 would hold none of 39073 training records"),
    ],
)
def test_partitions_that_cannot_be_are_one_line(section, words):
    with pytest.raises(ScenarioError) as caught:
        single_run(FEDAVG, "inf", partition=section)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
