"""Models as torch modules: a factory gets the numbers of features and of outputs."""

from __future__ import annotations

from torch import nn


def convolutional(inputs: int, outputs: int) -> nn.Module:
    """Return a small convolutional network for the 8 × 8 images of ``digits``.

    Clients exchange parameters only, so a module must not have buffers: no batch normalisation.
    """
    if inputs != 64:
        raise ValueError(f"{inputs} features: an image has 8 × 8 = 64")
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 8, kernel_size=3, stride=2, padding=1),  # 8 maps of 4 × 4
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(8 * 4 * 4, outputs),
    )
