"""The model and the data of the app."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import nn
from torch.utils.data import TensorDataset


def net(inputs: int) -> nn.Module:
    """Return the MLP that every client trains."""
    return nn.Sequential(nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1))


@lru_cache(maxsize=1)
def read(path: str) -> dict[str, np.ndarray]:
    """Return all arrays of the file; read once a process."""
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


@lru_cache(maxsize=64)
def partition(path: str, client: int) -> TensorDataset:
    """Return the records of one client; of -1, the held-out ones."""
    arrays = read(path)
    rows = arrays["client"] == client
    labels = torch.from_numpy(arrays["labels"][rows]).float()
    return TensorDataset(torch.from_numpy(arrays["features"][rows]), labels)


@lru_cache(maxsize=1)
def held_out_groups(path: str) -> np.ndarray:
    """Return the group of every held-out record."""
    arrays = read(path)
    return arrays["group"][arrays["client"] == -1]
