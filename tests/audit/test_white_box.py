"""White-box audits of both engines: bounds are close to the claim, above it only for a broken engine."""

from __future__ import annotations

import math
import tracemalloc
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from fedtoll.audit import statistics
from fedtoll.audit.bounds import sampled_epsilon
from fedtoll.audit.canaries import Canaries, Look, craft, full_batch, releases, without_noise
from fedtoll.audit.statistics import audit_statistics
from fedtoll.audit.subject import FIRST, LAST, ROUND, SAMPLED
from fedtoll.audit.white_box import Bound, audit_step, one_run
from fedtoll.clients import mechanisms
from fedtoll.clients.engines import cohort, draws, gradients, make_engine, opacus, sampling
from fedtoll.privacy.gaussian import gaussian_epsilon
from fedtoll.scenarios.federation import Federation
from fedtoll.scenarios.run import ClientPlan, Run
from tests.server.federation import FEDAVG, single_run

ENGINES = ("cohort", "opacus")
SEEDS = 20


def one_step(run: Run, client: ClientPlan, seed: int, view: str = FIRST, **options: Any) -> Bound:
    return audit_step(view, run, [client], seed, **options)


def full_batch_run(engine: str, sigma: float = 0.5, **changes) -> Run:
    """Return a run whose clients use every record in each step, with noise multiplier ``sigma``."""
    run = single_run(FEDAVG, 2.0, training={"engine": engine, "clip": 0.7, **changes})
    clients = tuple(full_batch(c, batch_size=float(c.size), noise_multiplier=sigma) for c in run.clients)
    return run.changed(clients=clients)


@cache
def sound(engine: str) -> tuple[Run, Canaries, float]:
    """Return a run of σ = 1, its canaries and their bound, cached. Call it before breaking the engine."""
    run = full_batch_run(engine, sigma=1.0)
    crafted = craft(run, run.clients[0])
    return run, crafted, one_step(run, run.clients[0], 5, canaries=crafted, observations=5000).bound


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_canaries_are_as_long_as_the_clip_and_do_not_overlap(engine):
    _, crafted, _ = sound(engine)
    assert crafted.orthogonal
    assert len(crafted) > 90
    assert np.linalg.norm(crafted.directions_MP, axis=1) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_one_step_is_bounded_near_its_claim(engine):
    run = full_batch_run(engine)
    found = one_step(run, run.clients[0], 11, observations=5000)
    assert found.observations >= 5000
    assert 0.8 * found.claim < found.bound < found.claim
    assert found.claim == gaussian_epsilon(2.0, 1e-5)


@pytest.mark.thorough
@pytest.mark.parametrize("engine", ENGINES)
def test_the_mean_of_twenty_audits_is_near_the_claim_and_at_most_one_above_it(engine):
    run = full_batch_run(engine)
    crafted = craft(run, run.clients[0])
    shares = []
    for seed in range(SEEDS):
        found = one_step(run, run.clients[seed % 3], 1000 + seed, canaries=crafted, observations=5000)
        shares.append(found.bound / found.claim)
    assert np.mean(shares) >= 0.85
    assert sum(share > 1 for share in shares) <= 0.05 * SEEDS


@pytest.mark.slow
def test_a_model_whose_canaries_overlap_is_audited_by_one():
    run = single_run(FEDAVG, 2.0, model={"kind": "mlp", "hidden": [8]})
    crafted = craft(run, run.clients[0])
    assert not crafted.orthogonal
    found = one_step(run, run.clients[0], 3, canaries=crafted, observations=400)
    assert (found.canaries, found.observations) == (1, 400)
    assert found.bound < found.claim
    assert (
        one_run(run, run.clients[0], 3, claim=2.0, canaries=crafted).canaries == len(crafted.effective()) > 20
    )


def halved(monkeypatch, engine):
    if engine == "opacus":
        real = opacus._private

        def private(sgd, run, task):
            optimizer = real(sgd, run, task)
            optimizer.noise_multiplier *= 0.5
            return optimizer

        monkeypatch.setattr(opacus, "_private", private)
    else:
        real_normals = draws.normals
        monkeypatch.setattr(
            cohort, "normals", lambda *a: ([0.5 * t for t in step] for step in real_normals(*a))
        )


def unclipped(monkeypatch, engine):
    if engine == "opacus":
        real = opacus._private

        def private(sgd, run, task):
            optimizer = real(sgd, run.model_copy(update={"clip": 1e9}), task)
            optimizer.noise_multiplier *= run.clip / 1e9  # the noise itself is unchanged
            return optimizer

        monkeypatch.setattr(opacus, "_private", private)
    else:
        real_sums: Any = gradients.clipped_sums
        monkeypatch.setattr(gradients, "clipped_sums", lambda *a: real_sums(*a[:-1], None))


def repeated(monkeypatch, engine):
    """Repeat the same noise in every step."""
    if engine == "opacus":
        key = np.arange(3, dtype=np.uint64)
        monkeypatch.setattr(opacus, "begin", lambda generator, _: sampling.begin(generator, key))
    else:
        real_normals = draws.normals

        def normals(run, tasks, parameters, kept):
            for step in real_normals(run, tasks, parameters, kept):
                yield [t[:1].expand_as(t) * 0 + _fixed(t) for t in step]

        monkeypatch.setattr(cohort, "normals", normals)


def _fixed(like: torch.Tensor) -> torch.Tensor:
    return torch.randn(like.shape[1:], generator=torch.Generator().manual_seed(5), dtype=like.dtype)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("broken", [halved, unclipped, repeated])
def test_a_broken_mechanism_shows_more_than_it_claims(engine, broken, monkeypatch):
    run, crafted, bound = sound(engine)
    assert bound < 4.5
    broken(monkeypatch, engine)
    found = one_step(run, run.clients[0], 5, canaries=crafted, observations=5000)
    assert found.bound > 1.1 * found.claim
    again = one_step(run, run.clients[0], 5, observations=2000)  # also with canaries from the broken engine
    assert again.bound > 1.05 * again.claim


def test_one_run_is_loose_and_not_above_its_claim():
    run = single_run(FEDAVG, 8.0, training={"sampling_rate": 0.05, "rounds": 10})
    for seed in range(5):
        found = one_run(run, run.clients[0], seed, claim=8.0)
        assert found.counted == 2 * (found.canaries // 4)
        assert found.bound < 8.0
        assert found.p > 0.05


def test_one_run_sees_that_there_is_no_noise():
    run = single_run(FEDAVG, 8.0, training={"sampling_rate": 0.05, "rounds": 20, "local_steps": 10})
    quiet = run.changed(clients=(full_batch(run.clients[0], sampling_rate=0.05, noise_multiplier=0.05),))
    found = one_run(quiet, quiet.clients[0], 0, claim=2.0)
    assert (found.false_positives, found.false_negatives) == (0, 0)
    assert found.bound > 2.0
    assert found.p < 0.05


def rounds_run(engine: str) -> Run:
    """Return a run of four steps in three rounds, with σ = 1."""
    run = single_run(
        FEDAVG,
        2.0,
        training={"engine": engine, "clip": 0.7, "rounds": 3, "local_steps": 4, "sampling_rate": 0.02},
    )
    quiet = (full_batch(c, sampling_rate=c.sampling_rate, noise_multiplier=1.0) for c in run.clients)
    return run.changed(clients=tuple(quiet))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_every_view_is_bounded_near_its_claim(engine):
    run = rounds_run(engine)
    crafted = craft(run, run.clients[0])
    tight = {FIRST: 0.75, LAST: 0.75, ROUND: 0.75, SAMPLED: 0.0}
    for view, share in tight.items():
        found = one_step(run, run.clients[0], 7, view, canaries=crafted, observations=4000)
        assert found.view == view
        assert found.observations >= 4000
        assert share * found.claim <= found.bound < found.claim, view
        assert found.p > 0.05
    step = gaussian_epsilon(1.0, 1e-5)
    claims = [one_step(run, run.clients[0], 7, v, canaries=crafted, observations=100).claim for v in tight]
    assert claims == pytest.approx(
        [step, step, gaussian_epsilon(2.0, 1e-5), sampled_epsilon(0.02, 1.0, 1e-5)]
    )


def late(monkeypatch, engine, silent):
    """Multiply the noise of the steps and rounds that ``silent`` selects by a hundredth."""
    if engine == "opacus":
        real = opacus._private

        def private(sgd, run, task):
            optimizer = real(sgd, run, task)
            count, sigma, add = [0], optimizer.noise_multiplier, optimizer.add_noise

            def add_noise():
                optimizer.noise_multiplier = sigma * (0.01 if silent(task.round, count[0]) else 1.0)
                count[0] += 1
                add()

            optimizer.add_noise = add_noise
            return optimizer

        monkeypatch.setattr(opacus, "_private", private)
    else:
        real_normals = draws.normals

        def normals(run, tasks, parameters, kept):
            for step, noise in enumerate(real_normals(run, tasks, parameters, kept)):
                scale = torch.tensor([0.01 if silent(t.round, step) else 1.0 for t in tasks])
                yield [x * scale[: len(x)].view(-1, *(1,) * (x.dim() - 1)) for x in noise]

        monkeypatch.setattr(cohort, "normals", normals)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("view", "silent"),
    [
        (LAST, lambda round, step: step > 0),
        (LAST, lambda round, step: step == 3),
        (ROUND, lambda round, step: round == 3),
        (ROUND, lambda round, step: step > 0),
    ],
    ids=[
        "noise in the first step only",
        "no noise in the last step",
        "none in the last round",
        "one a round",
    ],
)
def test_a_late_step_without_noise_is_seen_there_and_not_in_the_first(engine, view, silent, monkeypatch):
    run = rounds_run(engine)
    crafted = craft(run, run.clients[0])
    late(monkeypatch, engine, silent)
    found = one_step(run, run.clients[0], 7, view, canaries=crafted, observations=2000)
    assert found.bound > 1.2 * found.claim
    assert found.p < 1e-9
    if view == LAST:
        first = one_step(run, run.clients[0], 7, canaries=crafted, observations=2000)
        assert first.bound < first.claim


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_batches_of_all_records_are_seen_in_a_sampled_step(engine, monkeypatch):
    run = rounds_run(engine)
    crafted = craft(run, run.clients[0])
    monkeypatch.setattr(sampling, "poisson", lambda rng, count, rate: np.arange(count))
    found = one_step(run, run.clients[0], 7, SAMPLED, canaries=crafted, observations=2000)
    assert found.bound > 5 * found.claim
    assert found.p < 1e-9


@pytest.mark.slow
def test_a_statistic_without_noise_is_seen(monkeypatch):
    run = single_run({"name": "tests.server.asks:Everything"}, 2.0, training={"rounds": 3})
    client, federation = run.clients[0], Federation.of(run)
    crafted = craft(run, client, federation)
    views = [f"{which} {s.name}" for s in run.statistics for which in ("first", "last")]

    def bounds():
        return audit_statistics(run, client, 1, federation=federation, canaries=crafted)

    sound = bounds()
    assert [b.view for b in sound] == views
    assert len(views) == 12
    assert all(b.claim == gaussian_epsilon(0.01, 1e-5) and b.bound <= b.claim and b.p > 1e-3 for b in sound)
    real = mechanisms.release

    def unnoised(plan, records, *, round, **key):
        quiet = plan.model_copy(update={"noise_multiplier": 1e-6}) if round == 3 else plan
        return real(quiet, records, round=round, **key)

    monkeypatch.setattr(mechanisms, "release", unnoised)
    monkeypatch.setattr(statistics, "OBSERVATIONS", 300)
    for bound in bounds():
        assert (bound.p < 1e-9) == bound.view.startswith("last"), bound.view


def test_an_audit_never_asks_an_engine_for_a_run_that_contradicts_itself():
    """A plan without noise under dp-sgd is rejected, as in every run."""
    run = rounds_run("cohort")
    crafted = craft(run, run.clients[0])
    silent = full_batch(run.clients[0], noise_multiplier=0.0)
    look = Look(silent, 1, 1, crafted.records(np.arange(len(crafted)) < 2))
    with pytest.raises(ValidationError, match="does not go with"):
        releases(run, [look], crafted.start)
    assert without_noise(run).mechanism == "clip-only"


@pytest.mark.slow
def test_an_mlp_is_audited_in_little_memory():
    """The releases of all steps at once would be several arrays of 2,000 by 5,953 doubles."""
    run = single_run(FEDAVG, 2.0, model={"kind": "mlp", "hidden": [64]}, training={"rounds": 50})
    crafted = craft(run, run.clients[0])
    assert crafted.directions_MP.shape[1] > 5000
    trainer: Any = make_engine(run.engine, run.device)
    cached = trainer._noise._used
    tracemalloc.start()
    found = one_step(run, run.clients[0], 3, canaries=crafted, observations=2000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert trainer._noise._used == cached  # their noise is not cached either
    assert found.observations == 2000
    assert peak < 0.25 * 2000 * crafted.directions_MP.shape[1] * 8
    assert found.bound < found.claim


def ignoring(crafted, which):
    """Return canaries some of which the model ignores: records of zeros, which have short gradients."""
    features = crafted.features_MD.clone()
    features[which] = 0.0
    directions = crafted.directions_MP.copy()
    directions[which] *= 0.3
    return Canaries(features, crafted.labels_M, directions, False, crafted.start)


@pytest.mark.slow
def test_a_canary_that_the_model_ignores_is_not_the_one_that_audits():
    run = full_batch_run("cohort", rounds=50)
    crafted = craft(run, run.clients[0])
    found = one_step(run, run.clients[0], 3, canaries=ignoring(crafted, [0]), observations=2000)
    assert found.canaries == 1
    assert 0.7 * found.claim < found.bound < found.claim


def test_the_audit_is_undefined_if_every_canary_is_ignored():
    run = full_batch_run("cohort")
    crafted = ignoring(craft(run, run.clients[0]), slice(None))
    found = one_step(run, run.clients[0], 3, canaries=crafted, observations=2000)
    assert math.isnan(found.bound)
    assert (found.observations, found.canaries) == (0, 0)
    assert math.isnan(one_run(run, run.clients[0], 3, claim=2.0, canaries=crafted).bound)
