"""Models: shapes, initial parameters, and refused factories."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedtoll.clients import losses, model
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.scenario import Model


def test_logistic_regression_starts_at_zero_with_one_logit_for_two_classes():
    weight, bias = model.initial(Model(), 7, 2, "float32", seed=0)
    assert (weight.shape, bias.shape) == ((1, 7), (1,))
    assert not weight.any()
    assert model.initial(Model(), 7, 3, "float32", seed=0)[0].shape == (3, 7)


def test_the_number_of_parameters_of_an_mlp():
    arrays = model.initial(Model(kind="mlp", hidden=(64, 32)), 104, 2, "float64", seed=0)
    assert sum(a.size for a in arrays) == 104 * 64 + 64 + 64 * 32 + 32 + 32 + 1
    assert all(a.dtype == np.float64 for a in arrays)


def test_initial_parameters_depend_on_the_seed_alone_and_leave_torchs_generator_untouched():
    mlp = Model(kind="mlp", hidden=(4,))
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    a, b, c = (model.initial(mlp, 3, 2, "float32", seed=s) for s in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
    assert not any(np.array_equal(x, y) for x, y in zip(a, c, strict=True))


def test_put_and_get_round_trip():
    module = model.build(Model(kind="mlp", hidden=(4,)), 3, 2)
    arrays = [np.full(a.shape, i, dtype=np.float32) for i, a in enumerate(model.get(module))]
    model.put(module, arrays)
    assert all(np.array_equal(x, y) for x, y in zip(model.get(module), arrays, strict=True))


@pytest.fixture
def importable(monkeypatch, tmp_path):
    (tmp_path / "my_models.py").write_text(
        "from torch import nn\n"
        "def bn(i, o): return nn.Sequential(nn.Linear(i, o), nn.BatchNorm1d(o))\n"
        "def none(i, o): return None\n"
        "def tanh(i, o): return nn.Sequential(nn.Linear(i, 3), nn.Tanh(), nn.Linear(3, o))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("my_models:bn", "buffers"),
        ("my_models:none", "did not return a torch module"),
        ("my_models:tan", "did you mean 'tanh'"),
        ("my_modelz:tanh", "cannot be imported"),
    ],
)
def test_a_bad_factory_is_refused_in_one_line(importable, kind, message):
    with pytest.raises(ScenarioError, match=message):
        model.build(Model(kind=kind), 3, 2)


def test_a_users_factory(importable):
    spec = Model(kind="my_models:tanh")
    assert model.build(spec, 5, 2)(torch.zeros(2, 5)).shape == (2, 1)
    assert len(model.digest(spec)) == 64
    assert model.digest(Model()) == ""


def test_a_factory_in_a_file(importable, tmp_path, monkeypatch):
    by_module, by_file = Model(kind="my_models:tanh"), Model(kind=f"{tmp_path}/my_models.py:tanh")
    assert model.build(by_file, 5, 2)(torch.zeros(2, 5)).shape == (2, 1)
    assert model.digest(by_file) == model.digest(by_module)
    monkeypatch.chdir(tmp_path)
    assert model.located(Model(kind="my_models.py:tanh")) == by_file
    assert model.located(by_module) == by_module
    before = model.digest(Model(kind="my_models.py:tanh"))
    (tmp_path / "my_models.py").write_text("from torch import nn\ndef tanh(i, o): return nn.Linear(i, o)\n")
    assert model.digest(Model(kind="my_models.py:tanh")) != before
    assert isinstance(model.build(by_file, 5, 2), torch.nn.Linear)
    missing = f"no such file: '{tmp_path / 'none.py'}'"
    for kind, message in (("none.py:tanh", missing), ("my_models.py:tan", "did you mean 'tanh'")):
        with pytest.raises(ScenarioError, match=message):
            model.build(Model(kind=kind), 3, 2)


def test_losses_and_probabilities_agree():
    logits = torch.tensor([[0.3], [-2.0]], dtype=torch.float64)
    labels = torch.tensor([1, 0])
    chosen = losses.probabilities(logits)[torch.arange(2), labels]
    torch.testing.assert_close(losses.per_example(logits, labels), -torch.log(chosen))
    scores = torch.randn(5, 4, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 3, 0])
    chosen = losses.probabilities(scores)[torch.arange(5), labels]
    torch.testing.assert_close(losses.per_example(scores, labels), -torch.log(chosen))
