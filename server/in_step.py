"""Drive the servers of several runs in step: all wait until the clients of every run can train together.

Each server has a thread of its own, but only one thread works at a time, in a fixed order. Servers therefore
need no locks, and results do not depend on timing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Request = TypeVar("Request")
Reply = TypeVar("Reply")
Result = TypeVar("Result")


class _AbandonedError(BaseException):
    """The driver has given up; the server's thread unwinds."""


class _Server(Generic[Request, Reply, Result]):
    """One server in its thread: it works from :meth:`proceed` until it asks or ends."""

    def __init__(self, serve: Callable[[Callable[[Request], Reply]], Result]) -> None:
        self.request: Request | None = None
        self.result: Result | None = None
        self.error: BaseException | None = None
        self.ended = False
        self._serve = serve
        self._reply: Reply | None = None
        self._abandoned = False
        self._mine, self._drivers = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def proceed(self, reply: Reply | None = None) -> None:
        """Let the server work with the reply to its request, until it asks again or ends."""
        self._reply, self.request = reply, None
        self._mine.release()
        self._drivers.acquire()

    def abandon(self) -> None:
        """End the thread wherever it waits."""
        if not self.ended:
            self._abandoned = True
            self._mine.release()
            self._thread.join()

    def _ask(self, request: Request) -> Reply:
        self.request = request
        self._drivers.release()
        self._wait()
        reply, self._reply = self._reply, None
        assert reply is not None
        return reply

    def _wait(self) -> None:
        self._mine.acquire()
        if self._abandoned:
            raise _AbandonedError

    def _work(self) -> None:
        try:
            self._wait()
            self.result = self._serve(self._ask)
        except BaseException as error:  # the driver's to judge
            self.error = error
        finally:
            self.ended = True
            self._drivers.release()


def in_step(
    servers: Sequence[Callable[[Callable[[Request], Reply]], Result]],
    answer: Callable[[Sequence[Request]], Sequence[Reply]],
) -> list[Result | Exception]:
    """Run all servers to their end, and answer what they ask in rounds.

    Parameters
    ----------
    servers
        Functions of ``ask``, which sends a request and returns its reply.
    answer
        Answers the requests of all servers that have not ended, in the order of the servers.

    Returns
    -------
    list
        What each server returned, or the exception that it raised.

    Raises
    ------
    BaseException
        What ``answer`` raises, and what is raised in a server and is no ``Exception``.

    Examples
    --------
    >>> def server(first):
    ...     return lambda ask: [ask(first), ask(10 * first)]
    >>> in_step([server(1), server(2)], lambda numbers: [sum(numbers)] * len(numbers))
    [[3, 30], [3, 30]]
    """
    threads = [_Server(serve) for serve in servers]
    try:
        for thread in threads:
            thread.proceed()
        while asking := [thread for thread in threads if not thread.ended]:
            requests = [thread.request for thread in asking]
            replies = answer([request for request in requests if request is not None])
            for thread, reply in zip(asking, replies, strict=True):
                thread.proceed(reply)
    finally:
        for thread in threads:
            thread.abandon()
    results: list[Result | Exception] = []
    for thread in threads:
        if thread.error is not None and not isinstance(thread.error, Exception):
            raise thread.error
        results.append(thread.error if thread.error is not None else thread.result)  # type: ignore[arg-type]
    return results
