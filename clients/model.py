"""The torch modules that clients train: logistic regression, an MLP or the user's own."""

from __future__ import annotations

import hashlib
import importlib
import inspect
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedtoll.scenarios import shipped
from fedtoll.scenarios.errors import ScenarioError, nearest
from fedtoll.scenarios.foreign import contained, require
from fedtoll.scenarios.scenario import Model
from fedtoll.scenarios.streams import Purpose, torch_seeds

DTYPES = {"float32": torch.float32, "float64": torch.float64}


def build(model: Model, inputs: int, classes: int, precision: str = "float32") -> nn.Module:
    """Return a fresh module.

    Parameters
    ----------
    model
        ``logistic``: one linear layer. ``mlp``: ``hidden`` layers with ReLU. Otherwise
        ``file.py:factory`` or ``package.module:factory``, called as ``factory(inputs, outputs)``.
    inputs
        Number of features.
    classes
        Number of classes C. The module has one logit for two classes and C logits for more.
    precision
        ``float32`` or ``float64``.

    Raises
    ------
    ScenarioError
        If a factory cannot be found, or its module has buffers. Clients exchange parameters only;
        buffers, such as the running statistics of BatchNorm, would be released without noise.
    """
    outputs = 1 if classes == 2 else classes
    module: nn.Module
    if model.kind == "logistic":
        module = nn.Sequential(nn.Linear(inputs, outputs))
    elif model.kind == "mlp":
        layers: list[nn.Module] = []
        for width_in, width_out in pairwise((inputs, *model.hidden)):
            layers += [nn.Linear(width_in, width_out), nn.ReLU()]
        module = nn.Sequential(*layers, nn.Linear((inputs, *model.hidden)[-1], outputs))
    else:
        try:
            factory = _factory(model.kind)
            with contained():
                module = factory(inputs, outputs)
        except ScenarioError:
            raise
        except (Exception, SystemExit) as error:
            raise ScenarioError(f"model.kind = {model.kind!r}: raises {error!r}") from None
        if not isinstance(module, nn.Module):
            raise ScenarioError(f"model.kind = {model.kind!r}: did not return a torch module")
        if any(True for _ in module.buffers()):
            raise ScenarioError(
                f"model.kind = {model.kind!r}: has buffers, which would be released without noise"
            )
    return module.to(DTYPES[precision])


def located(model: Model) -> Model:
    """Return a model whose file, if its factory is in one, has an absolute path."""
    module, _, name = model.kind.rpartition(":")
    return model.changed(kind=f"{_absolute(module)}:{name}") if module.endswith(".py") else model


def _absolute(file: str) -> Path:
    """Return the absolute path of a file of the user's; one that was sent to this process is absolute."""
    if shipped.received(Path(file)):
        return Path(file)
    try:
        return Path(file).expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:  # too long, a symlink loop, a NUL byte
        raise ScenarioError(f"model.kind: {file[:200]!r}: not a file: {error}") from None


def digest(model: Model) -> str:
    """Return the SHA-256 of a factory's source file; an empty string for built-in models."""
    if ":" not in model.kind:
        return ""
    try:
        factory, module = _factory(model.kind), model.kind.rpartition(":")[0]
        file = _absolute(module) if module.endswith(".py") else Path(inspect.getfile(factory))
        return hashlib.sha256(shipped.read_bytes(file)).hexdigest()
    except (OSError, TypeError) as error:
        raise ScenarioError(f"model.kind = {model.kind!r}: its source cannot be read: {error}") from None


def _factory(path: str) -> Callable[[int, int], nn.Module]:
    module, _, name = path.rpartition(":")
    file = _absolute(module) if module.endswith(".py") else None
    if file is not None and not (shipped.received(file) or file.is_file()):
        raise ScenarioError(f"model.kind = {path!r}: no such file: {str(file)!r}")
    require(module)
    try:
        with contained():
            loaded = importlib.import_module(module) if file is None else shipped.load(file, "model")
    except ImportError as error:
        raise ScenarioError(f"model.kind = {path!r}: cannot be imported: {error}") from None
    except (Exception, SystemExit) as error:
        raise ScenarioError(f"model.kind = {path!r}: raises when imported: {error!r}") from None
    if not callable(factory := getattr(loaded, name, None)):
        known = nearest(name, vars(loaded))
        raise ScenarioError(f"model.kind = {path!r}: {module} has no factory of this name{known}")
    found: Callable[[int, int], nn.Module] = factory
    return found


def initial(model: Model, inputs: int, classes: int, precision: str, seed: int) -> list[NDArray[np.floating]]:
    """Return the initial parameters: zeros for logistic regression, else the module's own, seeded."""
    with torch.random.fork_rng(devices=[]):
        seed_torch(torch_seeds(seed, Purpose.INITIAL_WEIGHTS, steps=1)[0])
        module = build(model, inputs, classes, precision)
    if model.kind == "logistic":
        for parameter in module.parameters():
            nn.init.zeros_(parameter)
    return get(module)


def seed_torch(seed: int) -> None:
    """Seed torch's default generator of the processor, with the same bits as ``torch.manual_seed``.

    On a machine without a GPU that function also formats the call stack once for every kind of GPU, to queue
    a call for it, which takes over a hundred times longer.
    """
    torch.default_generator.manual_seed(seed)


def get(module: nn.Module) -> list[NDArray[np.floating]]:
    """Return copies of a module's parameters, in order."""
    return [p.detach().numpy().copy() for p in module.parameters()]


def put(module: nn.Module, arrays: Sequence[NDArray[np.floating]]) -> None:
    """Write arrays into a module's parameters, in order."""
    with torch.no_grad():
        for parameter, array in zip(module.parameters(), arrays, strict=True):
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(array)))
