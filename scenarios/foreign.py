"""Contain code that is not fedtoll's, which may fork and print."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout


def end_if_forked(original: int) -> None:
    """Exit at once, without any clean-up, unless this process has the id ``original``."""
    if os.getpid() != original:
        os._exit(1)


@contextmanager
def contained() -> Iterator[None]:
    """Send what the block prints to stderr, because stdout is for results, and end copies of this process.

    A copy that was forked in the block ends when it leaves the block, by whatever way. Otherwise it would
    store runs, answer for its parent or repeat the rest of a command. A copy that ends by itself, as those of
    multiprocessing do, is not affected.
    """
    original = os.getpid()
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        end_if_forked(original)
