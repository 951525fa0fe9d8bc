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
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any

_PNG_SCALE = 2.0  # pixels a point, for print


def bundle(script: str) -> Future[str]:
    """Begin to bundle Vega, Vega-Lite, vega-embed and a script that uses them into one script, once."""
    beside = _process()
    if script not in beside.bundled:
        beside.bundled[script] = beside.begin("bundle", script)
    return beside.bundled[script]


def draw(spec: dict[str, Any]) -> Future[tuple[str, bytes]]:
    """Begin to draw a Vega-Lite specification, as SVG and as PNG; it may read no address.

    Its result raises ``ValueError`` if the specification cannot be drawn, and
    :class:`~fedtoll.scenarios.errors.RunError` if the process died; so does this if none can be begun.
    """
    return _process().begin("draw", spec)


def warm() -> None:
    """Begin to load Vega, which the first drawing would wait for; once."""
    beside = _process()
    if not beside.warmed:
        beside.warmed = True
        beside.begin("draw", {"$schema": "https://vega.github.io/schema/vega-lite/v6.json", "mark": "point"})


def _process() -> _Process:
    """Return the process beside this one, begun anew if it died; a fork of this one has another."""
    with _LOCK:
        beside = _BEGUN.get(os.getpid())
        if beside is None or beside.died():
            beside = _BEGUN[os.getpid()] = _Process()
        return beside


class _Process:
    """Begun at the first task; it ends with this process, or is begun anew if it died."""

    def __init__(self) -> None:
        from fedtoll.scenarios.errors import RunError

        try:
            self._pipe, self._beside = _start()
        except OSError as error:
            why = error.strerror or error
            raise RunError(f"the process that draws the charts cannot be begun: {why}") from None
        self.bundled: dict[str, Future[str]] = {}
        self.warmed = False
        self._ended = False
        self._lock = Lock()
        self._tasks: SimpleQueue[tuple[Future[Any], str, Any] | None] = SimpleQueue()
        atexit.register(self._end)
        Thread(target=self._talk, daemon=True).start()  # it only waits; nobody waits for it at the end

    def begin(self, task: str, content: Any) -> Future[Any]:
        future: Future[Any] = Future()
        with self._lock:
            if self._ended:
                future.set_exception(_death())
            else:
                self._tasks.put((future, task, content))
        return future

    def died(self) -> bool:
        """Say whether it died; its thread ends then."""
        if self._beside.poll() is None:
            return False
        self._tasks.put(None)
        return True

    def _talk(self) -> None:
        """Hand over one task after the other until the process dies, and fail what is left then."""
        left: list[Future[Any]] = []
        while asked := self._tasks.get():
            future, task, content = asked
            try:
                self._pipe.send((task, content))
                done, result = self._pipe.recv()
            except (EOFError, OSError):
                left.append(future)
                break
            except Exception as error:  # a content that cannot be sent
                future.set_exception(error)
                continue
            if done:
                future.set_result(result)
            else:
                future.set_exception(ValueError(result))
        with self._lock:
            self._ended = True  # nothing is put any more
        self._pipe.close()
        self._end()
        atexit.unregister(self._end)
        with _LOCK:
            if _BEGUN.get(os.getpid()) is self:
                del _BEGUN[os.getpid()]
        while not self._tasks.empty():
            if asked := self._tasks.get():
                left.append(asked[0])
        for future in left:
            future.set_exception(_death())

    def _end(self) -> None:
        self._beside.kill()
        self._beside.wait()


_LOCK = Lock()  # two threads begin one process
_BEGUN: dict[int, _Process] = {}


def _start() -> tuple[Connection, subprocess.Popen[bytes]]:
    """Start the process; what fails leaves nothing behind."""
    pipe, there = Pipe()
    beside = None
    try:
        with there:
            # By its path, so that no package of ours (and pandas with it) is imported for it.
            beside = subprocess.Popen(
                [sys.executable, "-P", __file__, str(there.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[there.fileno()],
                start_new_session=True,  # an interrupt of a terminal is for this side alone
            )
        pipe.send(sys.path)
    except OSError:
        pipe.close()
        if beside is not None:
            beside.kill()
            beside.wait()
        raise
    return pipe, beside


def _death() -> Exception:
    from fedtoll.scenarios.errors import RunError

    return RunError("the process that draws the charts died (killed, or out of memory?)")


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
    try:
        _serve(Connection(int(sys.argv[1])))
    except (EOFError, OSError):  # the other side is gone
        sys.exit()
