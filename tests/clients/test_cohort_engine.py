"""The cohort engine against Opacus: the same steps for every model and shape of cohort."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fedtoll.clients import engines, losses, model
from fedtoll.clients.engines import cohort, draws, gradients, opacus
from fedtoll.clients.engines.base import Task
from fedtoll.clients.engines.cohort import CohortEngine, refusal
from fedtoll.clients.engines.opacus import OpacusEngine
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.read import read
from fedtoll.scenarios.run import ClientPlan
from fedtoll.scenarios.scenario import Model, Training
from fedtoll.server.plan import plan
from fedtoll.server.trainer import simulate

INPUTS = 7


def deep(inputs, outputs):
    """Every activation that the engine knows, in and around linear layers with and without bias."""
    return nn.Sequential(
        nn.Tanh(),
        nn.Linear(inputs, 6),
        nn.ReLU(),
        nn.Sequential(nn.Linear(6, 5, bias=False), nn.Tanh()),
        nn.Linear(5, 5),
        nn.GELU(),
        nn.Sigmoid(),
        nn.Linear(5, 4),
        nn.SiLU(),
        nn.ELU(inplace=True),
        nn.Linear(4, 4),
        nn.LeakyReLU(),
        nn.Softplus(),
        nn.Identity(),
        nn.Linear(4, outputs),
    )


MODELS = {
    "logistic": Model(),
    "mlp": Model(kind="mlp", hidden=(6, 5)),
    "deep": Model(kind="here:deep"),
}


@pytest.fixture(autouse=True)
def _deep(monkeypatch):
    monkeypatch.setattr(model, "_factory", lambda path: deep)


@pytest.fixture
def template(runs):
    return runs["fedavg", "dp-sgd"]


def cohort_of(
    template, architecture, classes, clients, precision="float64", mechanism="dp-sgd", clip=0.5, mu=0.0
):
    """Return a run and its tasks; ``clients`` are (number of records, public size, q, steps)."""
    plans = tuple(
        ClientPlan(
            id=i, group="g", size=n, sampling_rate=q, batch_size=q * n, steps=t, noise_multiplier=0.3 + i / 10
        )
        for i, (_, n, q, t) in enumerate(clients)
    )
    if mechanism != "dp-sgd":
        plans = tuple(p.model_copy(update={"noise_multiplier": 0.0}) for p in plans)
    run = template.model_copy(
        update={
            "model": architecture,
            "classes": classes,
            "learning_rate": 0.4,
            "clip": None if mechanism == "none" else clip,
            "mechanism": mechanism,
            "precision": precision,
            "clients": plans,
        }
    )
    rng = np.random.default_rng(3)
    start = [a + 0.05 for a in model.initial(architecture, INPUTS, classes, precision, seed=1)]
    dtype = model.DTYPES[precision]
    tasks = [
        Task(
            p,
            round=2,
            parameters=start,
            features_ND=torch.tensor(2 * rng.normal(size=(held, INPUTS)), dtype=dtype),
            labels_N=torch.tensor(rng.integers(0, classes, held)),
            proximal_mu=mu,
        )
        for p, (held, _, _, _) in zip(plans, clients, strict=True)
    ]
    return run, tasks


def difference(run, tasks):
    """Return the largest difference between the engines, relative to the update."""
    ours, theirs = CohortEngine().train(run, tasks), OpacusEngine().train(run, tasks)
    assert [t.steps for t in ours] == [t.steps for t in theirs] == [t.plan.steps for t in tasks]
    worst = 0.0
    for a, b, task in zip(ours, theirs, tasks, strict=True):
        moved = max(np.abs(y - p).max() for y, p in zip(b.parameters, task.parameters, strict=True))
        for x, y in zip(a.parameters, b.parameters, strict=True):
            assert x.dtype == y.dtype
            assert x.shape == y.shape
            worst = max(worst, float(np.abs(x - y).max() / max(moved, 1.0)))
    return worst


TWENTY = [(int(n), int(n), min(1.0, 16 / n), int(3 + n / 40)) for n in np.geomspace(20, 400, 20)]
COHORTS = {
    "one client": [(30, 30, 0.5, 4)],
    "one record": [(1, 1, 1.0, 3), (30, 30, 0.2, 5)],
    "no record": [(0, 20, 0.2, 3), (30, 30, 0.2, 5)],
    "mostly empty batches": [(4, 4, 0.1, 9), (3, 3, 0.05, 9)],
    "twenty unequal": TWENTY,
    "held is not public": [(29, 30, 0.5, 4), (35, 30, 0.5, 6)],
    "more than a block": [(12, 12, 0.3, 2)] * (cohort.BLOCK + 3),
}


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("architecture", MODELS)
@pytest.mark.parametrize("mechanism", ["none", "clip-only", "dp-sgd"])
@pytest.mark.parametrize(("precision", "tolerance"), [("float64", 1e-12), ("float32", 1e-6)])
def test_one_step_equals_opacus(template, architecture, classes, mechanism, precision, tolerance):
    clients = [(n, n, q, 1) for n, _, q, _ in TWENTY]
    run, tasks = cohort_of(template, MODELS[architecture], classes, clients, precision, mechanism)
    assert difference(run, tasks) < tolerance


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("architecture", MODELS)
@pytest.mark.parametrize("shape", COHORTS)
def test_an_epoch_equals_opacus(template, architecture, classes, shape):
    run, tasks = cohort_of(template, MODELS[architecture], classes, COHORTS[shape])
    assert difference(run, tasks) < 1e-10


@pytest.mark.slow
@pytest.mark.parametrize("mechanism", ["none", "dp-sgd"])
def test_fedprox_and_example_weights_equal_opacus(template, mechanism):
    run, tasks = cohort_of(template, MODELS["mlp"], 2, COHORTS["twenty unequal"], mechanism=mechanism, mu=0.3)
    plain = CohortEngine().train(run, tasks)
    weighted = [
        Task(
            **{
                **vars(t),
                "weights_N": torch.linspace(0.2, 3, len(t.labels_N), dtype=torch.float64) if i % 2 else None,
            }
        )
        for i, t in enumerate(tasks)
    ]
    assert difference(run, weighted) < 1e-10
    moved = CohortEngine().train(run, weighted)
    assert not np.allclose(plain[1].parameters[0], moved[1].parameters[0])  # odd clients are weighted
    np.testing.assert_allclose(plain[0].parameters[0], moved[0].parameters[0], atol=1e-12)


def scored(tasks):
    """Return the tasks with weights of scores of either sign, for every other client."""
    rng = np.random.default_rng(8)
    return [
        replace(t, score_weights_N=torch.tensor(rng.normal(0, 9, len(t.labels_N))) if i % 2 == 0 else None)
        for i, t in enumerate(tasks)
    ]


@pytest.mark.parametrize("mechanism", ["none", "clip-only", "dp-sgd"])
@pytest.mark.parametrize("architecture", MODELS)
def test_weighted_scores_equal_opacus(template, mechanism, architecture):
    run, tasks = cohort_of(template, MODELS[architecture], 2, TWENTY[:6], mechanism=mechanism, mu=0.3)
    assert difference(run, scored(tasks)) < 1e-10
    plain, moved = (CohortEngine().train(run, x) for x in (tasks, scored(tasks)))
    assert not np.allclose(plain[0].parameters[0], moved[0].parameters[0])
    np.testing.assert_allclose(plain[1].parameters[0], moved[1].parameters[0], atol=1e-12)


@pytest.mark.parametrize("mechanism", ["none", "clip-only"])
@pytest.mark.parametrize("engine", [CohortEngine, OpacusEngine])
def test_weighted_scores_by_hand(template, monkeypatch, engine, mechanism):
    """A step of logistic regression on w ℓ + c p, clipped record by record, in numpy."""
    run, tasks = cohort_of(template, MODELS["logistic"], 2, [(30, 30, 0.5, 1)], mechanism=mechanism)
    rows = np.array([0, 2, 3, 7, 29])
    for owner in (draws, opacus):
        monkeypatch.setattr(owner, "batches", lambda run, task: [rows])
    rng = np.random.default_rng(4)
    w, c = rng.uniform(0, 3, 30), rng.normal(0, 5, 30)
    task = replace(tasks[0], weights_N=torch.tensor(w), score_weights_N=torch.tensor(c))
    weight, bias = (np.asarray(p) for p in task.parameters)
    x, y = task.features_ND.numpy()[rows], task.labels_N.numpy()[rows]
    p = 1 / (1 + np.exp(-(x @ weight[0] + bias[0])))
    d = w[rows] * (p - y) + c[rows] * p * (1 - p)
    g = d[:, None] * np.concatenate([x, np.ones((len(rows), 1))], axis=1)
    if mechanism == "clip-only":
        g *= np.minimum(1, 0.5 / (np.linalg.norm(g, axis=1) + 1e-6))[:, None]
    expected = np.append(weight[0], bias[0]) - 0.4 * g.sum(axis=0) / 15.0
    (trained,) = engine().train(run, [task])
    np.testing.assert_allclose(np.concatenate([a.ravel() for a in trained.parameters]), expected, atol=1e-10)


def test_two_logits_have_the_score_of_class_1_as_autograd_says():
    rng = np.random.default_rng(5)
    logits, labels = torch.tensor(rng.normal(size=(1, 9, 2))), torch.tensor(rng.integers(0, 2, (1, 9)))
    c = torch.tensor(rng.normal(size=(1, 9)))
    found = gradients.Weights(score_KB=c).gradient(logits, labels)
    logits.requires_grad_()
    scores = losses.positive(logits.reshape(-1, 2)).reshape(1, 9)
    (losses.per_example(logits.reshape(-1, 2), labels.ravel()).sum() + (c * scores).sum()).backward()
    torch.testing.assert_close(found, logits.grad, atol=1e-12, rtol=0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_records_that_are_not_finite_count_as_absent_in_both_engines(template, bad):
    run, tasks = cohort_of(template, MODELS["mlp"], 2, [(30, 30, 0.7, 4), (40, 40, 0.7, 3)])
    tasks[0].features_ND[::5, 2] = bad
    assert difference(run, tasks) < 1e-10
    assert all(np.isfinite(p).all() for t in CohortEngine().train(run, tasks) for p in t.parameters)


@pytest.mark.parametrize("clip", [1.0, 1e-4, 1e-6])
def test_the_square_of_a_small_gradient_does_not_hide_a_large_activation(template, clip):
    """The gradient of a logit is 2.6e-23, whose square is 0 in float32, times an activation of 1e19."""
    plan = ClientPlan(
        id=0, group="g", size=1, sampling_rate=1.0, batch_size=1.0, steps=1, noise_multiplier=0.0
    )
    run = template.model_copy(
        update={
            **{"model": Model(kind="mlp", hidden=(1,)), "classes": 2, "clip": clip, "learning_rate": 1.0},
            **{"mechanism": "clip-only", "precision": "float32", "clients": (plan,)},
        }
    )
    values = np.zeros((1, 3)), np.array([1e19]), np.zeros((1, 1)), np.array([-52.0])
    start = [value.astype(np.float32) for value in values]
    task = Task(plan, 1, start, torch.zeros(1, 3), torch.zeros(1, dtype=torch.int64))
    for engine in (CohortEngine(), OpacusEngine()):
        (trained,) = engine.train(run, [task])
        moved = [np.abs(a.astype(float) - b).max() for a, b in zip(trained.parameters, start, strict=True)]
        assert moved[2] > 0
        assert moved[2] <= clip * (1 + 1e-6)


def test_training_together_equals_training_alone(template):
    run, tasks = cohort_of(template, MODELS["mlp"], 3, TWENTY)
    together = CohortEngine().train(run, tasks)
    for i in (0, 7, 19):
        (alone,) = CohortEngine().train(run, [tasks[i]])
        for a, b in zip(together[i].parameters, alone.parameters, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-12)


@pytest.mark.usefixtures("unrounded")
@pytest.mark.parametrize(
    ("outlier", "weight", "score"),
    [(1.0, None, None), (1e6, None, None), (1.0, 50.0, None), (1.0, 0.5, -70.0), (1e6, None, 70.0)],
)
@pytest.mark.parametrize("architecture", MODELS)
def test_neighbours_differ_by_at_most_the_clip(template, monkeypatch, architecture, outlier, weight, score):
    """Add or remove a record with the same public size, masks and noise: ‖B·Δw/η‖ ≤ C."""
    ends = []
    for held in (20, 19):
        run, tasks = cohort_of(template, MODELS[architecture], 2, [(20, 20, 0.5, 1), (8, 8, 0.5, 1)])
        features = tasks[0].features_ND.clone()
        features[-1] *= outlier
        monkeypatch.setattr(
            draws,
            "batches",
            lambda run, task, held=held: [np.arange(held if task.plan.id == 0 else 8)],
        )
        task = replace(
            tasks[0],
            features_ND=features[:held],
            labels_N=tasks[0].labels_N[:held],
            weights_N=None if weight is None else torch.full((held,), weight),
            score_weights_N=None if score is None else torch.full((held,), score),
        )
        trained = CohortEngine().train(run, [task, tasks[1]])
        ends.append([np.concatenate([p.ravel() for p in t.parameters]) for t in trained])
    distance = np.linalg.norm(10.0 * (ends[0][0] - ends[1][0]) / 0.4)
    assert distance <= 0.5 * (1 + 1e-9)
    assert distance > 0
    np.testing.assert_array_equal(ends[0][1], ends[1][1])  # the other client is unaffected


@pytest.mark.slow
def test_a_whole_run_agrees_seed_for_seed_in_double_precision():
    overrides = (
        "training.rounds=3",
        "training.local_steps=4",
        'training.precision="float64"',
        'privacy.epsilons=["inf", "clip-only", 2]',
        'strategies=[{name="term", t=2.0}]',
    )
    by_engine = {}
    for name in ("cohort", "opacus"):
        scenario = read("adult-race", [*overrides, f'training.engine="{name}"'], seeds="0:1")
        by_engine[name] = [simulate(run) for run in plan(scenario, "x").runs]
    for a, b in zip(by_engine["cohort"], by_engine["opacus"], strict=True):
        assert set(a["rounds"]["engine"]) == {"cohort"}
        assert set(b["rounds"]["engine"]) == {"opacus"}
        np.testing.assert_allclose(a["predictions"]["score"], b["predictions"]["score"], atol=1e-12)
        np.testing.assert_allclose(a["clients"]["weight"], b["clients"]["weight"], atol=1e-12)
        assert a["ledger"].equals(b["ledger"])


REFUSED = {
    "BatchNorm1d": nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)),
    "Dropout": nn.Sequential(nn.Linear(3, 3), nn.Dropout(), nn.Linear(3, 1)),
    "Softmax": nn.Sequential(nn.Linear(3, 3), nn.Softmax(1), nn.Linear(3, 1)),
    "PReLU": nn.Sequential(nn.Linear(3, 3), nn.PReLU(), nn.Linear(3, 1)),
    "ends in a linear": nn.Sequential(nn.Linear(3, 1), nn.Sigmoid()),
}


@pytest.mark.parametrize("word", REFUSED)
def test_an_unsupported_model_is_refused_with_the_reason(word):
    assert word in refusal(REFUSED[word])


def test_shared_and_frozen_weights_are_refused():
    shared = nn.Linear(3, 3)
    assert refusal(nn.Sequential(shared, nn.ReLU(), shared, nn.Linear(3, 1))) == "layers share weights"
    frozen = nn.Sequential(nn.Linear(3, 1))
    frozen[0].bias.requires_grad_(False)
    assert refusal(frozen) == "some weights are frozen"


def test_the_engine_is_chosen_and_impossible_choices_are_errors(monkeypatch):
    def training(engine, device="auto"):
        return Training(
            rounds=1,
            learning_rate=1.0,
            clip=1.0,
            sampling_rate=0.1,
            local_steps=1,
            engine=engine,
            device=device,
        )

    assert engines.choose(training("auto", "cpu"), Model(), 3, 2) == ("cohort", "cpu")
    assert engines.choose(training("opacus"), Model(), 3, 2) == ("opacus", "cpu")
    monkeypatch.setattr(
        model, "_factory", lambda path: lambda i, o: nn.Sequential(nn.Dropout(), nn.Linear(i, o))
    )
    custom = Model(kind="a:b")
    assert engines.choose(training("auto"), custom, 3, 2) == ("opacus", "cpu")
    with pytest.raises(ScenarioError, match="cannot train here: Dropout is neither"):
        engines.choose(training("cohort"), custom, 3, 2)
    if not torch.cuda.is_available():
        with pytest.raises(ScenarioError, match="no GPU found"):
            engines.choose(training("auto", "cuda"), Model(), 3, 2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("architecture", MODELS)
def test_a_gpu_takes_the_same_steps(template, architecture):
    run, tasks = cohort_of(template, MODELS[architecture], 2, TWENTY, mechanism="clip-only")
    on_gpu, on_cpu = CohortEngine("cuda").train(run, tasks), CohortEngine("cpu").train(run, tasks)
    for a, b in zip(on_gpu, on_cpu, strict=True):
        for x, y in zip(a.parameters, b.parameters, strict=True):
            np.testing.assert_allclose(x, y, atol=1e-10)


# Cached draws.


@pytest.fixture(scope="module")
def alone():
    """The parameters that a new engine returns for a run, by everything that draws depend on."""
    return {}


@pytest.mark.slow
@pytest.mark.parametrize("limit", [0, 400_000, 10**9], ids=["none cached", "some cached", "all cached"])
def test_cached_draws_change_no_bit(template, alone, limit):
    """Compare one engine that caches with new ones, over runs that differ in all that draws depend on."""
    engine = CohortEngine()
    engine._batches.limit = engine._noise.limit = limit
    fewer = [(held - 1, n, q, t) for held, n, q, t in TWENTY]
    rarer = [(held, n, q / 2, t) for held, n, q, t in TWENTY]
    shapes = [(TWENTY, "mlp", "float64"), (fewer, "mlp", "float64"), (rarer, "mlp", "float64")]
    shapes += [(TWENTY, "logistic", "float64"), (TWENTY, "mlp", "float32")]
    for seed, (index, (clients, architecture, precision)) in itertools.product(
        (0, 0, 1, 0), enumerate(shapes)
    ):
        for noise in (1.0, 2.0):
            for round in (1, 2):
                run, tasks = cohort_of(template, MODELS[architecture], 2, clients, precision)
                run = run.model_copy(update={"seed": seed, "noise_seed": seed})
                update = {"noise_multiplier": noise}
                tasks = [replace(t, round=round, plan=t.plan.model_copy(update=update)) for t in tasks]
                if (key := (seed, index, noise, round)) not in alone:
                    alone[key] = CohortEngine().train(run, tasks)
                for a, b in zip(engine.train(run, tasks), alone[key], strict=True):
                    for x, y in zip(a.parameters, b.parameters, strict=True):
                        np.testing.assert_array_equal(x, y)
    assert bool(engine._noise._rounds) == bool(engine._batches._rounds) == (limit > 0)


def test_draws_that_started_under_one_seed_are_not_cached_under_another():
    cache = draws.DrawCache(10**6)
    first = cache.steps(0, "key", 2, lambda step, keep: [torch.tensor([0.0 + step])])
    next(first)
    second = cache.steps(1, "key", 2, lambda step, keep: [torch.tensor([10.0 + step])])
    assert [float(t) for (t,) in second] == [10.0, 11.0]
    assert [float(t) for (t,) in first] == [1.0]
    cached = cache.steps(1, "key", 2, lambda step, keep: pytest.fail("drawn again"))
    assert [float(t) for (t,) in cached] == [10.0, 11.0]


def test_the_memory_of_one_seed_is_reused_for_the_next():
    cache = draws.DrawCache(10**6, reuse=True)
    like, addresses = torch.zeros(3), []
    for seed in (0, 1, 2):
        steps = cache.steps(seed, "key", 2, lambda *_: [cache.empty(like)])
        addresses.append({t.data_ptr() for (t,) in steps})
    assert addresses[0] == addresses[1] == addresses[2]
    assert cache.empty(torch.zeros(4)).shape == (4,)
    (other,) = next(cache.steps(3, "key", 1, lambda *_: [cache.empty(torch.zeros(4))]))
    assert other.shape == (4,)
    assert not cache._spare  # tensors of other shapes are dropped


def test_an_interrupted_round_takes_no_room():
    cache = draws.DrawCache(100)
    for key in range(5):
        next(cache.steps(0, key, 2, lambda step, keep: [torch.zeros(10)]))
    list(cache.steps(0, "whole", 2, lambda step, keep: [torch.zeros(10)]))
    assert list(cache._rounds) == [(0, "whole")]


def test_secret_noise_is_not_shared_by_runs_that_train_together(template):
    job = cohort_of(template, MODELS["logistic"], 2, [(30, 30, 0.5, 2)])
    first, second = CohortEngine(secret=True).train_together([job, job])
    assert not np.array_equal(first[0].parameters[0], second[0].parameters[0])
    same, again = CohortEngine().train_together([job, job])
    np.testing.assert_array_equal(same[0].parameters[0], again[0].parameters[0])
