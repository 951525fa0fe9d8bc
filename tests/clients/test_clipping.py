"""Client-side mechanisms against the published equations, written here again in numpy."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from fedtoll.clients import model
from fedtoll.clients.clipping import registry, steps
from fedtoll.clients.clipping.base import Public
from fedtoll.clients.engines.base import Task
from fedtoll.clients.engines.cohort import CohortEngine
from fedtoll.clients.engines.opacus import OpacusEngine
from fedtoll.clients.engines.sampling import batches
from fedtoll.scenarios.client import MechanismPlan
from fedtoll.scenarios.errors import RunError
from fedtoll.scenarios.run import ClientPlan
from fedtoll.scenarios.scenario import Model
from fedtoll.scenarios.streams import Purpose, step_streams
from tests.clients.test_cohort_engine import INPUTS

CLIP, ETA, Z, SHARE = 0.8, 0.3, 0.9, 0.2
MECHANISMS = {
    "dpsgd-f": {},
    "dp-sgd-global": {"z": 2.5},
    "global-adapt": {"z": 2.5, "rate": 0.3},
    "adaptive-clip": {"quantile": 0.7, "rate": 0.5},
    "bounded-adaptive-clip": {"quantile": 0.1, "rate": 2.0, "lower": 0.6},
}
ENGINES = {"cohort": CohortEngine, "opacus": OpacusEngine}


def plan_of(name, momentum=0.0, share=SHARE, **parameters):
    if name == "dp-sgd":
        return MechanismPlan(name="dp-sgd", momentum=momentum)
    path, digest = registry.resolve(name)
    values = registry.check(registry.load(path), {**MECHANISMS.get(name, {}), **parameters})
    share = share if registry.instantiate(path, values).cells(2) else 0.0
    return MechanismPlan(
        name=name, path=path, parameters=values, digest=digest, statistic_share=share, momentum=momentum
    )


def test_counts_without_a_share_of_the_noise_are_not_released(template):
    """A server could state such a plan to a client that adds no noise of its own accord."""
    with pytest.raises(RunError, match="its counts have no share of the noise"):
        trained(template, "adaptive-clip", share=0.0)


def trained(template, name, engine="cohort", *, mechanism="dp-sgd", public_group=False, steps_=4, **options):
    """Return the run, its tasks and what an engine makes of them: a client of both groups, and one of one."""
    precision = options.pop("precision", "float64")
    planned = plan_of(name, **options)
    noise = Z if mechanism == "dp-sgd" else 0.0
    clients = registry.with_noise(
        tuple(
            ClientPlan(
                id=i,
                group="a" if public_group else "",
                size=n,
                sampling_rate=0.4,
                batch_size=0.4 * n,
                steps=steps_ + i,
                noise_multiplier=noise,
            )
            for i, n in enumerate((40, 25))
        ),
        planned,
    )
    plain = planned.path == "" and not planned.momentum
    run = template.model_copy(
        update={
            "model": Model(kind="mlp", hidden=(5,)),
            "groups": ("a", "b"),
            "classes": 2,
            "learning_rate": ETA,
            "clip": CLIP,
            "mechanism": mechanism,
            "precision": precision,
            "clients": clients,
            "client_mechanism": None if plain else planned,
        }
    )
    rng = np.random.default_rng(3)
    start = [a + 0.3 for a in model.initial(run.model, INPUTS, 2, precision, seed=1)]
    dtype = model.DTYPES[precision]
    tasks = [
        Task(
            p,
            round=2,
            parameters=start,
            features_ND=torch.tensor(rng.normal(size=(p.size, INPUTS)) * rng.exponential(2), dtype=dtype),
            labels_N=torch.tensor(rng.integers(0, 2, p.size)),
            groups_N=torch.tensor(rng.integers(0, 2, p.size) if p.id == 0 else np.zeros(p.size, np.int64)),
        )
        for p in clients
    ]
    return run, tasks, ENGINES[engine]().train(run, tasks)


def gradients(arrays, x, y):
    """Return each record's gradient of the log-loss of a network with one hidden layer of ReLU, flattened."""
    w1, b1, w2, b2 = arrays
    hidden = np.maximum(0.0, x @ w1.T + b1)
    d2 = 1 / (1 + np.exp(-(hidden @ w2.T + b2))) - y[:, None]
    d1 = d2 @ w2 * (hidden > 0)
    parts = d1[:, :, None] * x[:, None, :], d1, d2[:, :, None] * hidden[:, None, :], d2
    return np.concatenate([p.reshape(len(x), -1) for p in parts], axis=1)


def rule(name, norms, groups, state, noise, size):
    """Return the factors, the bound on scaled gradients and the next state, as the papers define them."""
    clip = np.minimum(1, CLIP / (norms + 1e-6))
    if name == "dpsgd-f":
        m = np.array([np.sum((groups == g) & (norms > CLIP)) for g in (0, 1)]) + noise[[0, 2]]
        o = np.array([np.sum((groups == g) & (norms <= CLIP)) for g in (0, 1)]) + noise[[1, 3]]
        m, b = m.clip(0), m.clip(0) + o.clip(0)
        clips = CLIP * (1 + (m / b.clip(1)) / (m.sum() / b.sum()))
        return np.minimum(1, clips[groups] / (norms + 1e-6)), clips.max(), None
    if name == "dp-sgd-global":
        return np.where(norms <= 2.5, CLIP / 2.5, 0), CLIP, None
    if name == "global-adapt":
        z = 2.5 if state is None else state
        above = (np.sum(norms > z) + noise[0]) / size
        return np.where(norms <= z, CLIP / z, clip), CLIP, z * math.exp(-0.3 + above)
    c = CLIP if state is None else state
    below = (np.sum(norms <= c) + noise[0]) / size
    if name == "adaptive-clip":
        return np.minimum(1, c / (norms + 1e-6)), c, c * math.exp(-0.5 * (below - 0.7))
    factors = CLIP * np.minimum(1 / c, 1 / (norms + 1e-6))
    return factors, CLIP, max(0.6, c * math.exp(-2.0 * (below - 0.1)))


def by_hand(run, task, name, momentum=0.0):
    """Return the sum of noiseless steps of a client: the counts have their noise, the gradients none."""
    x, y, groups = (t.numpy() for t in (task.features_ND, task.labels_N, task.groups_N))
    w = [a.astype(float) for a in task.parameters]
    state, velocity, bounds = None, 0.0, []
    cells = {"dpsgd-f": 4, "dp-sgd-global": 0}.get(name, 1)
    sd = task.plan.noise_multiplier / math.sqrt(SHARE)
    streams = step_streams(run.noise_seed, Purpose.BATCH_STATISTIC, task.plan.id, 2, steps=task.plan.steps)
    for rows, stream in zip(batches(run, task), streams, strict=True):
        g = gradients(w, x[rows], y[rows])
        noise = sd * stream.standard_normal(cells)
        factors, bound, state = rule(
            name, np.linalg.norm(g, axis=1), groups[rows], state, noise, task.plan.batch_size
        )
        velocity = momentum * velocity - ETA / task.plan.batch_size * (factors @ g)
        flat = np.concatenate([a.ravel() for a in w]) + velocity
        w = [
            part.reshape(a.shape)
            for part, a in zip(np.split(flat, np.cumsum([a.size for a in w])[:-1]), w, strict=True)
        ]
        bounds.append(bound)
    return w, math.sqrt(np.mean(np.square(bounds)))


@pytest.fixture
def template(runs):
    return runs["fedavg", "dp-sgd"]


@pytest.mark.usefixtures("unrounded")
@pytest.mark.parametrize("momentum", [0.0, 0.7])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", MECHANISMS)
def test_a_mechanism_is_its_published_equation(template, monkeypatch, name, engine, momentum):
    """With noise in the counts and none in the gradients, both engines take the steps of the equation."""
    real = steps.statistic_sd
    monkeypatch.setattr(
        steps, "statistic_sd", lambda run, client: real(run, client.changed(noise_multiplier=Z))
    )
    run, tasks, results = trained(template, name, engine, mechanism="clip-only", momentum=momentum)
    for task, result in zip(tasks, results, strict=True):
        noisy = replace(task, plan=task.plan.changed(noise_multiplier=Z))
        expected, bound = by_hand(run, noisy, name, momentum)
        assert result.bound == pytest.approx(bound, rel=1e-6)
        for a, b in zip(result.parameters, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("name", MECHANISMS)
def test_both_engines_agree_with_noise(template, name, precision):
    _, _, ours = trained(template, name, precision=precision, momentum=0.5)
    _, _, theirs = trained(template, name, "opacus", precision=precision, momentum=0.5)
    for a, b in zip(ours, theirs, strict=True):
        assert a.bound == pytest.approx(b.bound, rel=1e-4)
        for x, y in zip(a.parameters, b.parameters, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-3, atol=2e-4)


def _plain(template, engine, *, clip=CLIP, share=0.0):
    """Return what plain DP-SGD makes of the same tasks with another clip and noise."""
    run, tasks, _ = trained(template, "dp-sgd", engine)
    run = run.model_copy(update={"clip": clip})
    sigma = Z / math.sqrt(1 - share)
    tasks = [replace(t, plan=t.plan.model_copy(update={"noise_multiplier": sigma})) for t in tasks]
    return ENGINES[engine]().train(run, tasks)


@pytest.mark.usefixtures("unrounded")
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("name", "options", "plain"),
    [
        ("dpsgd-f", {"public_group": True}, {"clip": 2 * CLIP, "share": SHARE}),
        ("adaptive-clip", {"rate": 0.0}, {"share": SHARE}),
        ("bounded-adaptive-clip", {"rate": 0.0, "lower": 0.1}, {"share": SHARE}),
        ("bounded-adaptive-clip", {"rate": 9.0, "quantile": 0.0, "lower": 10.0, "normalised": False},
         {"clip": 10.0, "share": SHARE}),
    ],
)  # fmt: skip
def test_degenerate_settings_are_plain_dp_sgd(template, name, options, plain, engine):
    """One group, a rate of 0, or a lower bound above all: the clip is constant."""
    _, _, results = trained(template, name, engine, **options)
    for a, b in zip(results, _plain(template, engine, **plain), strict=True):
        for x, y in zip(a.parameters, b.parameters, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-9)


def test_global_with_a_bound_no_gradient_reaches_only_shortens_the_steps(template):
    """g · C/Z without clipping: plain steps at the learning rate η C/Z."""
    run, tasks, results = trained(template, "dp-sgd-global", mechanism="clip-only", z=50.0)
    plain = run.model_copy(update={"client_mechanism": None, "clip": 50.0, "learning_rate": ETA * CLIP / 50})
    for a, b in zip(results, CohortEngine().train(plain, tasks), strict=True):
        for x, y in zip(a.parameters, b.parameters, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-9)


def test_without_momentum_or_mechanism_nothing_changes(template):
    _, _, plain = trained(template, "dp-sgd")
    assert all(t.mechanism_state is None and t.bound is None for t in plain)
    run, tasks, moved = trained(template, "dp-sgd", momentum=0.9)
    assert not np.array_equal(plain[0].parameters[0], moved[0].parameters[0])
    still = run.model_copy(update={"client_mechanism": MechanismPlan(name="dp-sgd")})
    for a, b in zip(plain, CohortEngine().train(still, tasks), strict=True):
        assert all(np.array_equal(x, y) for x, y in zip(a.parameters, b.parameters, strict=True))


@pytest.mark.parametrize("name", ["dpsgd-f", "adaptive-clip"])
def test_grouping_changes_no_bit(template, name):
    """A client alone has the bits that it has in a cohort, and a run alone those that it has in step."""
    run, tasks, together = trained(template, name)
    other = run.model_copy(update={"client_mechanism": plan_of("global-adapt")})
    both = CohortEngine().train_together([(run, tasks), (other, tasks)])
    for i, task in enumerate(tasks):
        (alone,) = CohortEngine().train(run, [task])
        for result in (alone, both[0][i]):
            assert result.mechanism_state == together[i].mechanism_state
            assert all(
                np.array_equal(x, y) for x, y in zip(result.parameters, together[i].parameters, strict=True)
            )


def test_the_engine_enforces_the_bounds():
    """Rows longer than 1 are shortened, factors reduced, and what is not finite is 0."""
    rows = np.array([[3.0, 4.0], [0.6, 0.0], [np.nan, 0.0]])
    np.testing.assert_allclose(steps.summed(rows, (3, 2)), [1.2, 0.8])
    norms = np.array([0.5, 2.0, 4.0])
    factors = steps.at_most(np.array([5.0, np.inf, 0.1]), norms, 1.0)
    assert (factors * norms <= 1.0).all()
    np.testing.assert_allclose(factors, [2.0, 0.0, 0.1], rtol=1e-5)
    with pytest.raises(ValueError, match="shape"):
        steps.summed(rows, (3, 1))
    with pytest.raises(ValueError, match="shape"):
        steps.at_most(np.ones(2), norms, 1.0)


def test_dpsgd_f_without_a_clipped_gradient_treats_all_groups_alike():
    mechanism = registry.built(plan_of("dpsgd-f"))
    public = Public(clip=2.0, groups=3, batch_size=9.0)
    state = mechanism.update(np.array([-1.0, 5.0, -2.0, 3.0, 0.0, 0.0]), mechanism.init(public), public)
    assert state.tolist() == [4.0, 4.0, 4.0]
