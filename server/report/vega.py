"""Vega, in a process of its own: it holds Python up while it works, so that no thread could work beside it.

This file is that process's program as well: it imports nothing of ours, and takes one task after the other.
"""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future
from functools import cache
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Thread
from typing import Any

_PNG_SCALE = 2.0  # pixels a point, for print


def bundle(script: str) -> Future[str]:
    """Begin to bundle Vega, Vega-Lite, vega-embed and a script that uses them into one script, once."""
    beside = _process(os.getpid())
    if script not in beside.bundled:
        beside.bundled[script] = beside.begin("bundle", script)
    return beside.bundled[script]


def draw(spec: dict[str, Any]) -> Future[tuple[str, bytes]]:
    """Begin to draw a Vega-Lite specification, as SVG and as PNG; it may read no address.

    Its result raises ``ValueError`` if the specification cannot be drawn, and
    :class:`~fedtoll.scenarios.errors.RunError` if the process died.
    """
    return _process(os.getpid()).begin("draw", spec)


def warm() -> None:
    """Begin to load Vega, which the first drawing would wait for."""
    draw({"$schema": "https://vega.github.io/schema/vega-lite/v6.json", "mark": "point"})


@cache
def _process(parent: int) -> _Process:
    """Return the process beside this one; a fork of this one has another."""
    return _Process()


class _Process:
    """Begun at the first task; it ends with this process, or is begun anew if it died."""

    def __init__(self) -> None:
        self._pipe, there = Pipe()
        with there:
            # By its path, so that no package of ours (and pandas with it) is imported for it.
            self._beside = subprocess.Popen(
                [sys.executable, "-P", __file__, str(there.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[there.fileno()],
            )
        self.bundled: dict[str, Future[str]] = {}
        self._tasks: SimpleQueue[tuple[Future[Any], str, Any]] = SimpleQueue()
        self._pipe.send(sys.path)
        Thread(target=self._talk, daemon=True).start()  # it only waits; nobody waits for it at the end
        atexit.register(self._end)

    def begin(self, task: str, content: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._tasks.put((future, task, content))
        return future

    def _talk(self) -> None:
        while True:
            future, task, content = self._tasks.get()
            try:
                future.set_result(self._do(task, content))
            except Exception as error:
                future.set_exception(error)

    def _do(self, task: str, content: Any) -> Any:
        from fedtoll.scenarios.errors import RunError

        try:
            self._pipe.send((task, content))
            done, result = self._pipe.recv()
        except (EOFError, OSError):
            _process.cache_clear()
            raise RunError("the process that draws the charts died (killed, or out of memory?)") from None
        if not done:
            raise ValueError(result)
        return result

    def _end(self) -> None:
        self._beside.kill()
        self._beside.wait()


def _bundle(script: str) -> str:
    import vl_convert

    return str(vl_convert.javascript_bundle(script))


def _draw(spec: dict[str, Any]) -> tuple[str, bytes]:
    import vl_convert

    nothing: list[str] = []  # no address may be read
    svg = vl_convert.vegalite_to_svg(spec, allowed_base_urls=nothing)
    return svg, vl_convert.svg_to_png(svg, scale=_PNG_SCALE)  # drawn from marks and text: it names no address


_TASKS: dict[str, Callable[[Any], Any]] = {"bundle": _bundle, "draw": _draw}


def _serve(pipe: Connection) -> None:
    """Do tasks until the other side is gone."""
    sys.path[:] = pipe.recv()
    while True:
        task, content = pipe.recv()
        try:
            answer = True, _TASKS[task](content)
        except Exception as error:  # Vega's own
            answer = False, str(error)
        pipe.send(answer)


if __name__ == "__main__":
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # an interrupt is told by the other side
    try:
        _serve(Connection(int(sys.argv[1])))
    except (EOFError, OSError):  # the other side is gone
        sys.exit()
