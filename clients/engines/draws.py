"""The random draws of a block of clients, step by step: padded Poisson batches and standard normals.

They depend on the seed and on neither the strategy nor ε, so the runs of one seed share them. A cache holds
as many as fit until a run with another seed. Cached and fresh draws have the same bits.

Shape suffixes as in ``cohort.py``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedtoll.clients.engines.base import Task
from fedtoll.clients.engines.sampling import Key, batches, begin, noise_generator, noise_keys
from fedtoll.clients.noise import secret_normals
from fedtoll.scenarios.run import Run

Tensors = list[torch.Tensor]

BATCHES = 64 * 2**20
"""Bytes that an engine may use to cache batches."""


def noise_bytes(device: torch.device) -> int:
    """Return the bytes that an engine may use to cache noise.

    On a GPU: an eighth of its free memory. Otherwise: an eighth of the memory of the machine or container,
    divided by the number of cores. At most 2 GiB.
    """
    if device.type == "cuda":
        return min(2**31, torch.cuda.mem_get_info(device)[0] // 8)
    memory = 2**34
    with suppress(AttributeError, ValueError, OSError):  # not available on this system
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(ValueError, OSError):  # no container, or no limit ("max")
        memory = min(memory, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(2**31, memory // (8 * (os.cpu_count() or 1)))


class DrawCache:
    """Caches one seed's draws up to a byte limit, earliest rounds first, because every run starts there.

    Parameters
    ----------
    limit
        In bytes.
    reuse
        Whether :meth:`empty` may return tensors of the previous seed. Allocating new memory can take a
        tenth of a round.
    """

    def __init__(self, limit: int, *, reuse: bool = False) -> None:
        self.limit = limit
        self._reuse = reuse
        self._spare: dict[tuple[torch.Size, torch.dtype], Tensors] = {}
        self._seed = -1
        self._used = 0
        self._rounds: dict[Any, list[Tensors]] = {}

    def steps(
        self, seed: int, key: Any, count: int, draw: Callable[[int, bool], Tensors]
    ) -> Iterator[Tensors]:
        """Yield ``draw(step, keep)`` for each step, or the cached draws of this seed and key.

        ``keep`` tells ``draw`` whether its tensors will be cached and so must outlive the step.
        """
        if seed != self._seed:
            self._seed, self._used = seed, 0
            self._spare.clear()
            if self._reuse:
                for tensor in (t for steps in self._rounds.values() for drawn in steps for t in drawn):
                    self._spare.setdefault((tensor.shape, tensor.dtype), []).append(tensor)
            self._rounds.clear()
        if (seed, key) in self._rounds:
            yield from self._rounds[seed, key]
            return
        cached: list[Tensors] = []
        size, keep = 0, True
        for step in range(count):
            keep = keep and self._used + size < self.limit
            drawn = draw(step, keep)
            if keep:
                cached.append(drawn)
                size += sum(t.nbytes for t in drawn)
                if len(cached) == count and seed == self._seed:
                    self._rounds[seed, key] = cached
                    self._used += size
            yield drawn

    def empty(self, like: torch.Tensor) -> torch.Tensor:
        """Return an uninitialised tensor for draws that will be cached."""
        if spare := self._spare.get((like.shape, like.dtype)):
            return spare.pop()
        self._spare.clear()  # they have other shapes or are used up: keeping them wastes memory
        return torch.empty_like(like)


def padded_batches(
    run: Run,
    tasks: Sequence[Task],
    offsets_K: Sequence[int],
    padding: int,
    like: torch.Tensor,
    cache: DrawCache,
) -> Iterator[Tensors]:
    """Yield, for each step, the pool indices and 0/1 mask of the active clients, both ``[K, B]``.

    Parameters
    ----------
    run, tasks
        Tasks sorted by decreasing steps, so that the active ones are a prefix.
    offsets_K
        Index of each client's first record in the pool.
    padding
        Index of the pool's row of zeros.
    like
        A tensor with the mask's precision and device.
    cache
        Where batches are cached.
    """
    key = tuple(
        (t.plan.id, t.round, t.plan.sampling_rate, t.plan.steps, t.own, len(t.labels_N), start)
        for t, start in zip(tasks, offsets_K, strict=True)
    )
    rows: list[list[np.ndarray]] = []

    def draw(step: int, keep: bool) -> Tensors:
        if not rows:
            rows.extend(batches(run, t) for t in tasks)
        index_KB, mask_KB = _pad([r[step] for r in rows if step < len(r)], offsets_K, padding)
        return [torch.from_numpy(index_KB).to(like.device), torch.from_numpy(mask_KB).to(like)]

    return cache.steps(run.seed, (key, like.dtype), tasks[0].plan.steps, draw)


def _pad(rows: Sequence[np.ndarray], offsets_K: Sequence[int], padding: int) -> tuple[np.ndarray, np.ndarray]:
    """Return pool indices and a 0/1 mask; B is the longest batch rounded up to a multiple of 8."""
    longest = max(len(r) for r in rows)
    width = max(8, -(-longest // 8) * 8)
    index_KB = np.full((len(rows), width), padding, dtype=np.int32)
    mask_KB = np.zeros((len(rows), width), dtype=np.float32)
    for k, r in enumerate(rows):
        index_KB[k, : len(r)] = r
        index_KB[k, : len(r)] += offsets_K[k]
        mask_KB[k, : len(r)] = 1.0
    return index_KB, mask_KB


def normals(
    run: Run, tasks: Sequence[Task], parameters: Sequence[torch.Tensor], cache: DrawCache
) -> Iterator[Tensors]:
    """Yield, for each step, float64 standard normals for every parameter of the active clients, ``[K, ...]``.

    They come from the streams of (client, round, step), parameter by parameter. On a GPU its own generator
    draws them: the keys are the same as on a processor, the bits are not. The next step may overwrite the
    tensors of a step.
    """
    key = tuple((t.plan.id, t.round, t.plan.steps, t.own) for t in tasks)
    shapes = tuple(p.shape[1:] for p in parameters)
    device = parameters[0].device
    buffers: Tensors = []
    keys: list[list[Key]] = []
    generator = noise_generator()

    def draw(step: int, keep: bool) -> Tensors:
        if not keys:
            keys.extend(noise_keys(run, t) for t in tasks)
            buffers.extend(torch.empty_like(p, dtype=torch.float64) for p in parameters)
        active = sum(step < len(k) for k in keys)
        noise = [cache.empty(b[:active]) if keep else b[:active] for b in buffers]
        for k in range(active):
            if device.type == "cpu":
                begin(generator, keys[k][step])
                for tensor in noise:
                    generator.standard_normal(out=tensor[k].numpy())
            else:
                seeded = torch.Generator(device).manual_seed(int(keys[k][step][0].view(np.int64)))
                for tensor in noise:
                    tensor[k].normal_(generator=seeded)
        return noise

    return cache.steps(run.noise_seed, (key, shapes), tasks[0].plan.steps, draw)


def unpredictable_normals(
    run: Run, tasks: Sequence[Task], parameters: Sequence[torch.Tensor], cache: DrawCache
) -> Iterator[Tensors]:
    """Yield what :func:`normals` yields, from the operating system's cryptographic generator."""
    for step in range(tasks[0].plan.steps):
        active = sum(step < t.plan.steps for t in tasks)
        shapes = [(active, *p.shape[1:]) for p in parameters]
        yield [torch.from_numpy(secret_normals(math.prod(s)).reshape(s)) for s in shapes]
