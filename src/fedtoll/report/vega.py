"""Run Vega in a background process, since it holds Python's interpreter lock while it works.

The process is not one of :mod:`fedtoll.sweep.workers`: those import torch and block the driver until a job
ends, while this one imports nothing of fedtoll and answers through futures. This file is its program, too.
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

_PNG_SCALE = 2.0  # pixels per point, for print


def bundle(script: str) -> Future[str]:
    """Start to bundle Vega, Vega-Lite, vega-embed and a script that uses them; the bundle is cached."""
    process = _process()
    if script not in process.bundles:
        process.bundles[script] = process.submit("bundle", script)
    return process.bundles[script]


def draw(spec: dict[str, Any]) -> Future[tuple[str, bytes]]:
    """Start to draw a Vega-Lite specification as SVG and PNG, without access to any address.

    The future raises ``ValueError`` if the specification cannot be drawn, and
    :class:`~fedtoll.scenarios.errors.RunError` if the process died. This function raises ``RunError`` if
    the process cannot be started.
    """
    return _process().submit("draw", spec)


def pdf(svg: str) -> Future[bytes]:
    """Start to convert a drawn SVG to PDF. The picture is always the same, but not the order of its bytes."""
    return _process().submit("pdf", svg)


def warm_up() -> None:
    """Start to load Vega, so that the first drawing need not wait for it; later calls do nothing."""
    process = _process()
    if not process.warmed_up:
        process.warmed_up = True
        process.submit(
            "draw", {"$schema": "https://vega.github.io/schema/vega-lite/v6.json", "mark": "point"}
        )


def _process() -> _Process:
    """Return this process's Vega process: started at the first call, after a fork, or after it died."""
    with _LOCK:
        process = _PROCESSES.get(os.getpid())
        if process is None or process.died():
            process = _PROCESSES[os.getpid()] = _Process()
        return process


class _Process:
    """A Vega process and the thread that talks to it; it ends when its parent does."""

    def __init__(self) -> None:
        from fedtoll.scenarios.errors import RunError

        try:
            self._pipe, self._child = _start()
        except OSError as error:
            reason = error.strerror or error
            raise RunError(f"cannot start the process that draws the charts: {reason}") from None
        self.bundles: dict[str, Future[str]] = {}
        self.warmed_up = False
        self._closed = False
        self._lock = Lock()
        self._tasks: SimpleQueue[tuple[Future[Any], str, Any] | None] = SimpleQueue()
        atexit.register(self._kill)
        Thread(target=self._exchange, daemon=True).start()  # daemon: exiting must not wait for a drawing

    def submit(self, task: str, content: Any) -> Future[Any]:
        """Queue a task of :data:`_TASKS`, and return its future."""
        future: Future[Any] = Future()
        with self._lock:
            if self._closed:
                future.set_exception(_death())
            else:
                self._tasks.put((future, task, content))
        return future

    def died(self) -> bool:
        """Return whether the process died; if it did, its thread ends as well."""
        if self._child.poll() is None:
            return False
        self._tasks.put(None)
        return True

    def _exchange(self) -> None:
        """Pass on one task after the other until the process dies; then fail the remaining ones."""
        failed: list[Future[Any]] = []
        while item := self._tasks.get():
            future, task, content = item
            try:
                self._pipe.send((task, content))
                success, result = self._pipe.recv()
            except (EOFError, OSError):
                failed.append(future)
                break
            except Exception as error:  # the content cannot be pickled
                future.set_exception(error)
                continue
            if success:
                future.set_result(result)
            else:
                future.set_exception(ValueError(result))
        with self._lock:
            self._closed = True  # no task is queued after this
        self._pipe.close()
        self._kill()
        atexit.unregister(self._kill)
        with _LOCK:
            if _PROCESSES.get(os.getpid()) is self:
                del _PROCESSES[os.getpid()]
        while not self._tasks.empty():
            if item := self._tasks.get():
                failed.append(item[0])
        for future in failed:
            future.set_exception(_death())

    def _kill(self) -> None:
        self._child.kill()
        self._child.wait()


_LOCK = Lock()  # so that two threads start only one process
_PROCESSES: dict[int, _Process] = {}
"""Vega processes by the process id of their parent: a fork must not share the pipe."""


def _start() -> tuple[Connection, subprocess.Popen[bytes]]:
    """Start the process; on failure, leave no process and no open pipe behind."""
    pipe, child_end = Pipe()
    child = None
    try:
        with child_end:
            # Run by path, so that neither fedtoll nor pandas is imported.
            child = subprocess.Popen(
                [sys.executable, "-P", __file__, str(child_end.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[child_end.fileno()],
                start_new_session=True,  # so that a terminal's interrupt reaches only the parent
            )
        pipe.send(sys.path)
    except OSError:
        pipe.close()
        if child is not None:
            child.kill()
            child.wait()
        raise
    return pipe, child


def _death() -> Exception:
    from fedtoll.scenarios.errors import RunError

    return RunError("the process that draws the charts died (killed, or out of memory?)")


def _bundle(script: str) -> str:
    import vl_convert

    return str(vl_convert.javascript_bundle(script))


def _draw(spec: dict[str, Any]) -> tuple[str, bytes]:
    import vl_convert

    no_urls: list[str] = []
    svg = vl_convert.vegalite_to_svg(spec, allowed_base_urls=no_urls)
    return svg, vl_convert.svg_to_png(svg, scale=_PNG_SCALE)  # the SVG has marks and text, and no addresses


def _pdf(svg: str) -> bytes:
    import vl_convert

    return bytes(vl_convert.svg_to_pdf(svg))


_TASKS: dict[str, Callable[[Any], Any]] = {"bundle": _bundle, "draw": _draw, "pdf": _pdf}


def _serve(pipe: Connection) -> None:
    """Do tasks until the parent closes the pipe."""
    sys.path[:] = pipe.recv()
    while True:
        task, content = pipe.recv()
        try:
            answer = True, _TASKS[task](content)
        except Exception as error:  # from Vega
            answer = False, str(error)
        pipe.send(answer)


if __name__ == "__main__":
    try:
        _serve(Connection(int(sys.argv[1])))
    except (EOFError, OSError):  # the parent is gone
        sys.exit()
