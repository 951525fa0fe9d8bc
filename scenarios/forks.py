"""End forked copies of this process: code that is not fedtoll's may fork, and one process must go on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


def end_if_forked(original: int) -> None:
    """Exit at once, without any clean-up, unless this process has the id ``original``."""
    if os.getpid() != original:
        os._exit(1)


@contextmanager
def forks_end_here() -> Iterator[None]:
    """End a copy of this process that was forked in the block when it leaves the block, by whatever way.

    Otherwise the copy would store runs, answer for its parent or repeat the rest of a command. A copy that
    ends by itself, as those of multiprocessing do, is not affected.
    """
    original = os.getpid()
    try:
        yield
    finally:
        end_if_forked(original)
