"""The reference engine: steps computed by hand, neighbouring data sets, and noise."""

from __future__ import annotations

import traceback

import numpy as np
import pytest
import torch

from fedtoll.clients import engines, losses, mechanisms, model
from fedtoll.clients.engines import opacus, sampling
from fedtoll.clients.engines.base import Task
from fedtoll.clients.engines.opacus import OpacusEngine
from fedtoll.clients.engines.sampling import poisson
from fedtoll.scenarios.errors import RunError, ScenarioError
from fedtoll.scenarios.run import ClientPlan
from fedtoll.scenarios.scenario import Model, Training

INPUTS = 6
LOGISTIC, MLP = Model(kind="logistic"), Model(kind="mlp", hidden=(5, 4))
RATE, CLIP = 0.7, 0.5


@pytest.fixture
def template(runs):
    return runs["fedavg", "dp-sgd"]


def prepare(
    template, architecture=LOGISTIC, classes=2, sigma=1.0, mechanism="dp-sgd", steps=1, size=20, q=0.5
):
    plan = ClientPlan(
        id=3, group="g", size=size, sampling_rate=q, batch_size=q * size, steps=steps, noise_multiplier=sigma
    )
    run = template.model_copy(
        update={
            "model": architecture,
            "classes": classes,
            "learning_rate": RATE,
            "clip": None if mechanism == "none" else CLIP,
            "mechanism": mechanism,
            "precision": "float64",
            "clients": (plan,),
        }
    )
    return run, plan


def task(run, plan, records, round=1, mu=0.0):
    features, labels = records
    start = model.initial(run.model, features.shape[1], run.classes, "float64", seed=11)
    start = [a + 0.1 for a in start]
    return Task(plan, round, start, torch.as_tensor(features), torch.as_tensor(labels), mu)


def data(n, classes=2, seed=0, inputs=INPUTS):
    rng = np.random.default_rng(seed)
    return 3 * rng.normal(size=(n, inputs)), rng.integers(0, classes, n)


def flat(arrays):
    return np.concatenate([np.asarray(a).ravel() for a in arrays])


def gradients(run, work, rows):
    """Return the clipped per-example gradients, with one autograd call per example."""
    module = model.build(run.model, work.features_ND.shape[1], run.classes, "float64")
    model.put(module, work.parameters)
    found = []
    for i in rows:
        module.zero_grad()
        logits = module(work.features_ND[i : i + 1])
        if run.classes == 2:
            y = work.labels_N[i].double()
            loss = torch.nn.functional.softplus(logits[0, 0]) - y * logits[0, 0]
        else:
            loss = -torch.log_softmax(logits, 1)[0, work.labels_N[i]]
        loss.backward()
        g = flat([p.grad for p in module.parameters()])
        found.append(g * min(1.0, CLIP / (np.linalg.norm(g) + 1e-6)))
    return np.array(found).reshape(len(rows), -1)


def inject(monkeypatch, rows):
    monkeypatch.setattr(sampling, "poisson", lambda rng, held, rate: np.array(rows, dtype=np.int64))


@pytest.mark.parametrize(("architecture", "classes"), [(LOGISTIC, 2), (MLP, 2), (LOGISTIC, 3), (MLP, 4)])
def test_a_step_is_clipped_sum_over_the_public_batch_size(template, monkeypatch, architecture, classes):
    run, plan = prepare(template, architecture, classes, sigma=0.0)
    work = task(run, plan, data(20, classes))
    inject(monkeypatch, [0, 3, 4, 9, 19])
    (trained,) = OpacusEngine().train(run, [work])
    expected = flat(work.parameters) - RATE * gradients(run, work, [0, 3, 4, 9, 19]).sum(0) / 10.0
    np.testing.assert_allclose(flat(trained.parameters), expected, atol=1e-12)


@pytest.mark.usefixtures("unrounded")
@pytest.mark.parametrize(("architecture", "classes"), [(LOGISTIC, 2), (MLP, 2), (LOGISTIC, 3), (MLP, 4)])
@pytest.mark.parametrize("outlier", [1.0, 1e6])
def test_neighbours_differ_by_at_most_the_clip(template, monkeypatch, architecture, classes, outlier):
    """Add or remove a record with the same public size, masks and noise: ‖B·Δw/η‖ ≤ C."""
    run, plan = prepare(template, architecture, classes, sigma=1.3)
    features, labels = data(20, classes)
    features[-1] *= outlier
    start = task(run, plan, (features, labels))
    module = model.build(run.model, INPUTS, classes, "float64")
    model.put(module, start.parameters)
    scores = losses.probabilities(module(start.features_ND[-1:]))[0]
    labels[-1] = int(scores.argmin())  # an unlikely label, so that the gradient is not small
    ends = []
    for held in (20, 19):
        inject(monkeypatch, range(held))
        (trained,) = OpacusEngine().train(run, [task(run, plan, (features[:held], labels[:held]))])
        ends.append(flat(trained.parameters))
    distance = np.linalg.norm(plan.batch_size * (ends[0] - ends[1]) / RATE)
    assert distance <= CLIP * (1 + 1e-9)
    assert distance > 0.1 * CLIP  # the record has an effect, so the test can fail


def test_q_t_and_b_come_from_the_public_size_and_not_from_the_records_held(template, monkeypatch):
    asked = []

    def spy(rng, held, rate):
        asked.append((held, rate))
        return np.arange(0)

    monkeypatch.setattr(sampling, "poisson", spy)
    run, plan = prepare(template, sigma=1.0, steps=4)
    full, short = (task(run, plan, data(n)) for n in (20, 3))
    a, b = OpacusEngine().train(run, [full, short])
    assert asked == [(20, 0.5)] * 4 + [(3, 0.5)] * 4
    assert a.steps == b.steps == 4
    # No record was drawn: the updates are noise alone, scaled by the same B, and so equal.
    np.testing.assert_array_equal(flat(a.parameters), flat(b.parameters))


@pytest.mark.parametrize("held", [0, 20])
def test_an_empty_batch_is_noised_stepped_and_counted(template, monkeypatch, held):
    run, plan = prepare(template, sigma=1.0, steps=3)
    work = task(run, plan, data(held))
    inject(monkeypatch, [])
    (trained,) = OpacusEngine().train(run, [work])
    moved = flat(trained.parameters) - flat(work.parameters)
    assert trained.steps == 3
    assert np.isfinite(moved).all()
    assert (moved != 0).all()


def test_the_noise_has_the_standard_deviation_that_the_ledger_charges(template, monkeypatch):
    sigma, inputs = 1.7, 24_999
    run, plan = prepare(template, sigma=sigma)
    inject(monkeypatch, [])
    draws = []
    for round in range(4):
        work = task(run, plan, data(1, inputs=inputs), round)
        (trained,) = OpacusEngine().train(run, [work])
        draws.append((flat(trained.parameters) - flat(work.parameters)) * plan.batch_size / RATE)
    noise = np.array(draws)
    assert noise.size == 100_000
    assert noise.std() == pytest.approx(sigma * CLIP, rel=0.011)
    fresh = np.corrcoef(noise) - np.eye(4)
    assert np.abs(fresh).max() < 0.04  # each round has its own noise


def test_noise_is_fresh_for_every_seed_client_round_and_step(template, monkeypatch):
    inject(monkeypatch, [])

    def first(seed=0, client=3, round=1, steps=1):
        run, plan = prepare(template, steps=steps)
        run = run.model_copy(update={"noise_seed": seed})
        work = task(run, plan.model_copy(update={"id": client}), data(5), round)
        (trained,) = OpacusEngine().train(run, [work])
        return flat(trained.parameters) - flat(work.parameters)

    base = first()
    np.testing.assert_array_equal(first(), base)
    others = [first(seed=1), first(client=4), first(round=2), first(steps=2) - base]
    for i, a in enumerate([base, *others]):
        for b in others[i:]:
            assert not np.isclose(a, b).any()


def test_a_record_that_is_not_finite_counts_as_absent(template, monkeypatch):
    run, plan = prepare(template, MLP, sigma=1.0)
    features, labels = data(20)
    features[7, 2] = np.nan
    features[8, 1] = np.inf
    inject(monkeypatch, range(20))
    (bad,) = OpacusEngine().train(run, [task(run, plan, (features, labels))])
    inject(monkeypatch, [i for i in range(20) if i not in {7, 8}])
    (without,) = OpacusEngine().train(run, [task(run, plan, (features, labels))])
    assert np.isfinite(flat(bad.parameters)).all()
    np.testing.assert_allclose(flat(bad.parameters), flat(without.parameters), atol=1e-12)


def test_the_reference_neither_clips_nor_noises(template, monkeypatch):
    run, plan = prepare(template, sigma=0.0, mechanism="none")
    work = task(run, plan, data(20))
    inject(monkeypatch, range(20))
    (trained,) = OpacusEngine().train(run, [work])
    x, y = work.features_ND.numpy(), work.labels_N.numpy()
    weight, bias = work.parameters
    error = 1 / (1 + np.exp(-(x @ weight[0] + bias[0]))) - y
    expected = np.append(weight[0] - RATE * error @ x / 10, bias[0] - RATE * error.sum() / 10)
    np.testing.assert_allclose(flat(trained.parameters), expected, atol=1e-12)


@pytest.mark.parametrize("mechanism", ["none", "dp-sgd"])
def test_fedprox_adds_its_term_after_the_noise(template, monkeypatch, mechanism):
    run, plan = prepare(template, sigma=2.0, mechanism=mechanism, steps=1)
    inject(monkeypatch, [])
    one, two = (
        OpacusEngine().train(run, [task(run, plan.model_copy(update={"steps": s}), data(5), 1, 0.4)])[0]
        for s in (1, 2)
    )
    plain = OpacusEngine().train(run, [task(run, plan.model_copy(update={"steps": 2}), data(5))])[0]
    start = flat(task(run, plan, data(5)).parameters)
    pulled = flat(plain.parameters) - RATE * 0.4 * (flat(one.parameters) - start)
    np.testing.assert_allclose(flat(two.parameters), pulled, atol=1e-12)


def test_poisson_samples_are_poisson():
    held, rate, draws = 50, 0.2, 20_000
    rng = np.random.default_rng(0)
    hits = np.zeros((draws, held))
    for i in range(draws):
        hits[i, poisson(rng, held, rate)] = 1
    sizes = hits.sum(1)
    assert sizes.mean() == pytest.approx(held * rate, abs=0.1)
    assert sizes.var() == pytest.approx(held * rate * (1 - rate), rel=0.05)  # shuffled batches have 0
    np.testing.assert_allclose(hits.mean(0), rate, atol=0.015)
    pairs = np.corrcoef(hits.T) - np.eye(held)
    assert np.abs(pairs).max() < 0.04
    lag = np.corrcoef(sizes[:-1], sizes[1:])[0, 1]
    assert abs(lag) < 0.03


def test_poisson_needs_no_records_and_takes_all_at_rate_one():
    rng = np.random.default_rng(0)
    assert len(poisson(rng, 0, 0.3)) == 0
    assert len(poisson(rng, 0, 1.0)) == 0
    np.testing.assert_array_equal(poisson(rng, 4, 1.0), range(4))
    assert any(len(poisson(rng, 3, 0.01)) == 0 for _ in range(20))


# Noise keys.


def test_a_generator_set_to_a_key_equals_numpys_own_with_that_seed():
    """numpy seeds SFC64 with three words, sets its counter to 1 and discards twelve numbers."""

    class Words(np.random.bit_generator.ISeedSequence):
        def generate_state(self, n_words, dtype=np.uint32):
            return np.arange(7, 7 + n_words, dtype=dtype)

    generator = sampling.noise_generator()
    generator.standard_normal(5)  # whatever it did before
    key = Words().generate_state(3, np.uint64)
    sampling.begin(generator, key)
    drawn = generator.standard_normal(400)
    numpys = np.random.SFC64(Words())  # type: ignore[arg-type]
    np.testing.assert_array_equal(drawn, np.random.Generator(numpys).standard_normal(400))


def test_no_two_of_many_steps_share_a_key(template):
    run, plan = prepare(template, steps=250)
    keys = [
        sampling.noise_keys(run, task(run, plan.model_copy(update={"id": client}), data(3), round=round))
        for client in range(4)
        for round in range(1, 11)
    ]
    words = np.concatenate(keys)
    assert words.shape == (10_000, 3)
    assert all(len(np.unique(column)) == 10_000 for column in words.T)


# Custom models: refused or accepted.


class Centred(torch.nn.Module):
    """A linear layer whose input is centred over the batch."""

    def __init__(self, outputs=1):
        super().__init__()
        self.linear = torch.nn.Linear(INPUTS, outputs)

    def forward(self, x):
        return self.linear(x - x.mean(0))


class CentredInTraining(Centred):
    def forward(self, x):
        return super().forward(x) if self.training else self.linear(x)


class Patches(torch.nn.Module):
    """A linear layer over pieces of a record, as examples of their own."""

    def __init__(self, inputs=INPUTS, outputs=1, pieces=2):
        super().__init__()
        self.pieces, self.linear = pieces, torch.nn.Linear(inputs // pieces, outputs)

    def forward(self, x):
        pieces = self.linear(x.reshape(len(x) * self.pieces, x.shape[1] // self.pieces))
        return pieces.reshape(len(x), self.pieces, pieces.shape[1]).sum(1)


class TimeFirst(Patches):
    """The same with the batch in the second place, as torch's recurrent layers have it."""

    def forward(self, x):
        return self.linear(x.reshape(len(x), self.pieces, x.shape[1] // self.pieces).transpose(0, 1)).sum(0)


class BatchFirst(Patches):
    """The same with the batch in the first place, where Opacus expects it."""

    def forward(self, x):
        return self.linear(x.reshape(len(x), self.pieces, x.shape[1] // self.pieces)).sum(1)


class Mixup(torch.nn.Module):
    """Mixes pairs of records in training."""

    def forward(self, x):
        return 0.7 * x + 0.3 * x[torch.randperm(len(x))] if self.training else x


class PerRecord(torch.nn.Module):
    """Multiplies the records by their number."""

    def forward(self, x):
        return x * len(x) if self.training else x


class NeverEmpty(torch.nn.Linear):
    """A linear layer that cannot do without an example."""

    def forward(self, x):
        return super().forward(x.reshape(len(x), -1))


class Unused(BatchFirst):
    """A module with a layer that it does not use."""

    def __init__(self):
        super().__init__()
        self.more = torch.nn.Linear(2, 2)


def with_dropout(*first):
    """A module that is random in training, after others."""
    return torch.nn.Sequential(
        *first, torch.nn.Linear(INPUTS, 4), torch.nn.Dropout(0.1), torch.nn.Linear(4, 1)
    )


MIXES = {
    "batch norm": torch.nn.Sequential(
        torch.nn.Linear(INPUTS, 4),
        torch.nn.BatchNorm1d(4, affine=False, track_running_stats=False),
        torch.nn.Linear(4, 1),
    ),
    "centred": Centred(),
    "centred in training": CentredInTraining(),
    "centred in training, and random": with_dropout(CentredInTraining(INPUTS)),
    "mixed up, and random": with_dropout(Mixup()),
    "as many times, and random": with_dropout(PerRecord()),
    "pieces": Patches(),
    "time first": TimeFirst(),
    "time first, as many steps as records": TimeFirst(6 * INPUTS, pieces=6),
    "never empty": NeverEmpty(INPUTS, 1),
    "not used": Unused(),
}


@pytest.mark.parametrize("name", MIXES)
def test_a_model_that_mixes_the_examples_of_a_batch_is_refused(name, monkeypatch):
    inputs = 6 * INPUTS if "as many steps" in name else INPUTS
    monkeypatch.setattr(model, "_factory", lambda path: lambda i, o: MIXES[name])
    training = Training(rounds=1, learning_rate=1.0, clip=1.0, sampling_rate=0.1, local_steps=1)
    with pytest.raises(ScenarioError, match="DP-SGD cannot train it") as caught:
        engines.choose(training, Model(kind="a:b"), inputs, 2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("module", [BatchFirst(), with_dropout(), torch.nn.Linear(INPUTS, 3)])
def test_a_model_that_treats_each_record_on_its_own_is_accepted(module):
    assert opacus.refusal(module, INPUTS) == ""


@pytest.mark.parametrize("made", [Patches, TimeFirst])
def test_gradients_of_pieces_of_records_are_not_clipped_instead_of_theirs(made, template, monkeypatch):
    monkeypatch.setattr(model, "_factory", lambda path: made)
    run, plan = prepare(template, Model(kind="a:b"), sigma=1.0, steps=1)
    with pytest.raises(RunError, match="a gradient is not that of one record"):
        OpacusEngine().train(run, [task(run, plan, data(20))])


def test_a_step_formats_no_call_stack(template, monkeypatch):
    """``torch.manual_seed`` does, at every step, for every kind of GPU that is not in use."""

    def formats(*a, **k):
        raise AssertionError("formats the call stack")

    run, plan = prepare(template, Model(kind="logistic"), sigma=1.0, steps=3)
    monkeypatch.setattr(traceback, "format_stack", formats)
    OpacusEngine().train(run, [task(run, plan, data(20))])


def test_seeding_gives_the_bits_of_torch():
    with torch.random.fork_rng(devices=[]):
        model.seed_torch(2**40 + 1)
        ours = torch.rand(9)
        torch.manual_seed(2**40 + 1)
        assert torch.equal(ours, torch.rand(9))


def drops(inputs, outputs):
    return torch.nn.Sequential(torch.nn.Linear(inputs, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, outputs))


def test_dropout_is_accepted_seeded_and_off_in_evaluation(template, monkeypatch):
    monkeypatch.setattr(model, "_factory", lambda path: drops)
    spec = Model(kind="a:b")
    assert opacus.refusal(drops(INPUTS, 1), INPUTS) == ""
    run, plan = prepare(template, spec, sigma=0.0, steps=3)
    ends: list[np.ndarray] = []
    for round in (1, 1, 2):
        torch.manual_seed(len(ends))  # whatever came before in this process
        torch.rand(7)
        before = torch.get_rng_state()
        (trained,) = OpacusEngine().train(run, [task(run, plan, data(20), round=round)])
        assert torch.equal(torch.get_rng_state(), before)
        ends.append(flat(trained.parameters))
    np.testing.assert_array_equal(ends[0], ends[1])
    assert not np.array_equal(ends[0], ends[2])
    module = drops(INPUTS, 1).double()
    zeros = torch.zeros(30, dtype=torch.int64)
    records = torch.as_tensor(data(30)[0]), zeros, zeros
    first, again = (mechanisms.evaluate(module, *records, size=30, groups=1, classes=2) for _ in range(2))
    np.testing.assert_array_equal(first.losses_N, again.losses_N)
