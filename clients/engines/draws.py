"""The draws of a block of clients, step by step: padded Poisson batches, and standard normals.

They depend on the seed and neither on the strategy nor on ε, so runs of one seed share them: what fits
in memory is kept until another seed comes. Kept or drawn anew, the bits are the same.

Shape suffixes as in ``cohort.py``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedtoll.clients.engines.base import Task
from fedtoll.clients.engines.sampling import Key, batches, begin, noise_keys
from fedtoll.scenarios.run import Run

Tensors = list[torch.Tensor]

BATCHES = 64 * 2**20
"""Bytes that an engine gives to the batches of the seed at hand."""


def noise_bytes(device: torch.device) -> int:
    """Return what an engine gives to the noise of the seed at hand.

    A sixteenth of what this process's machine, container or GPU has, over as many engines as there are
    cores, and at most 1 GiB each.
    """
    if device.type == "cuda":
        return min(2**30, torch.cuda.mem_get_info(device)[0] // 16)
    memory = 2**34
    with suppress(AttributeError, ValueError, OSError):  # a system that does not tell
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(ValueError, OSError):  # no container, or "max"
        memory = min(memory, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(2**30, memory // (16 * (os.cpu_count() or 1)))


class Kept:
    """The draws of one seed, round by round, as many as fit: the first come stay, for every run begins there.

    Parameters
    ----------
    limit
        In bytes.
    again
        Whether the last seed's memory is drawn into again where :meth:`empty` asks for it: a system takes
        its time to give new memory, up to a tenth of a round.
    """

    def __init__(self, limit: int, *, again: bool = False) -> None:
        self.limit = limit
        self._again = again
        self._spare: dict[tuple[torch.Size, torch.dtype], Tensors] = {}
        self._seed = -1
        self._used = 0
        self._rounds: dict[Any, list[Tensors]] = {}

    def steps(
        self, seed: int, key: Any, count: int, draw: Callable[[int, bool], Tensors]
    ) -> Iterator[Tensors]:
        """Yield ``draw(step, keep)`` for each step, from memory where it is kept.

        ``keep`` says whether what is drawn must outlive the step.
        """
        if seed != self._seed:
            self._seed, self._used = seed, 0
            self._spare.clear()
            if self._again:
                for tensor in (t for steps in self._rounds.values() for drawn in steps for t in drawn):
                    self._spare.setdefault((tensor.shape, tensor.dtype), []).append(tensor)
            self._rounds.clear()
        if (seed, key) in self._rounds:
            yield from self._rounds[seed, key]
            return
        made: list[Tensors] = []
        size, keep = 0, True
        for step in range(count):
            keep = keep and self._used + size < self.limit
            drawn = draw(step, keep)
            if keep:
                made.append(drawn)
                size += sum(t.nbytes for t in drawn)
                if len(made) == count and seed == self._seed:
                    self._rounds[seed, key] = made
                    self._used += size
            yield drawn

    def empty(self, like: torch.Tensor) -> torch.Tensor:
        """Return memory for what outlives its step."""
        if spare := self._spare.get((like.shape, like.dtype)):
            return spare.pop()
        self._spare.clear()  # of other shapes, or not enough: it would only lie beside the new
        return torch.empty_like(like)


def padded_batches(
    run: Run, tasks: Sequence[Task], offsets_K: Sequence[int], padding: int, like: torch.Tensor, kept: Kept
) -> Iterator[Tensors]:
    """Yield, for each step, pool indices and a 0/1 mask of the active clients, ``[K, B]``.

    Parameters
    ----------
    run, tasks
        Tasks sorted by steps, most first, so that the active ones are a prefix.
    offsets_K
        Where each client's records begin in the pool.
    padding
        The pool's row of zeros.
    like
        A tensor of the precision and device that the mask should have.
    kept
        What keeps them.
    """
    key = tuple(
        (t.plan.id, t.round, t.plan.sampling_rate, t.plan.steps, len(t.labels_N), start)
        for t, start in zip(tasks, offsets_K, strict=True)
    )
    rows: list[list[np.ndarray]] = []

    def draw(step: int, keep: bool) -> Tensors:
        if not rows:
            rows.extend(batches(run, t) for t in tasks)
        index_KB, mask_KB = _pad([r[step] for r in rows if step < len(r)], offsets_K, padding)
        return [torch.from_numpy(index_KB).to(like.device), torch.from_numpy(mask_KB).to(like)]

    return kept.steps(run.seed, (key, like.dtype), tasks[0].plan.steps, draw)


def _pad(rows: Sequence[np.ndarray], offsets_K: Sequence[int], padding: int) -> tuple[np.ndarray, np.ndarray]:
    """Return pool indices and a 0/1 mask, B the longest batch rounded up to 8."""
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
    run: Run, tasks: Sequence[Task], parameters: Sequence[torch.Tensor], kept: Kept
) -> Iterator[Tensors]:
    """Yield, for each step, standard normals for every parameter of the active clients, ``[K, ...]``.

    They come from the streams of (client, round, step), parameter by parameter, as Opacus draws them.
    A step's tensors may be drawn into anew by the next.
    """
    key = tuple((t.plan.id, t.round, t.plan.steps) for t in tasks)
    shapes = tuple(p.shape[1:] for p in parameters)
    generator = torch.Generator(parameters[0].device)
    buffers: Tensors = []
    keys: list[list[Key]] = []

    def draw(step: int, keep: bool) -> Tensors:
        if not keys:
            keys.extend(noise_keys(run, t) for t in tasks)
            buffers.extend(torch.empty_like(p) for p in parameters)
        active = sum(step < len(k) for k in keys)
        noise = [kept.empty(b[:active]) if keep else b[:active] for b in buffers]
        for k in range(active):
            begin(generator, keys[k][step])
            for tensor in noise:
                tensor[k].normal_(generator=generator)
        return noise

    return kept.steps(run.noise_seed, (key, shapes, parameters[0].dtype), tasks[0].plan.steps, draw)
