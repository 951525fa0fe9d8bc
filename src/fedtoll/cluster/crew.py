"""The workers of a sweep on the nodes of a cluster: start them, give them jobs, and replace what dies."""

from __future__ import annotations

import pickle
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from fedtoll.cluster.nodes import Found, difference, inspection, names
from fedtoll.cluster.parcel import Parcel
from fedtoll.scenarios.errors import RunError, one_line

TICK = 2.0
"""Seconds between two looks at the nodes."""

ANSWER_SECONDS = 120.0
"""Seconds that a node may take to say what it has, and a worker to start on a free core."""

START_FAILURES = 3
"""The number of workers in a row that may fail to start on a node before it is left out."""

_ENVIRONMENT = {
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else Ray hides the GPUs from processes that reserve none
}


@dataclass(eq=False)
class _Node:
    """A node: its id, its name for people, and its number of cores.

    ``answer`` is the pending answer to what it has, due at ``deadline``. It is used if it is ``fit``.
    """

    id: str
    name: str
    cores: int
    answer: Any = None
    deadline: float = 0.0
    fit: bool = False
    failures: int = 0


@dataclass(eq=False)
class _Worker:
    """An actor on a node: what it is doing, and until when it may.

    ``position`` is that of its job: ``None`` while it starts or waits, when ``ready`` says which.
    """

    actor: Any
    node: _Node
    answer: Any
    deadline: float
    ready: bool = False
    position: int | None = None
    key: Any = None


class _Actor:
    """The process that does jobs on a node."""

    def __init__(self, work: Callable[[Any], Any], begin: Callable[[], object], parcel: bytes) -> None:
        pickle.loads(parcel).unpack()
        begin()
        self._work = work

    def ready(self) -> bool:
        return True

    def do(self, job: Any) -> Any:
        return self._work(job)


class Crew:
    """Does jobs on the nodes of the Ray that this process is connected to.

    Parameters
    ----------
    send
        Called with ``("done", position, result)``, ``("lost", position, reason)``, ``("note", line)`` or, as
        a sign of life, ``("pulse",)``.
    work, jobs, keys, begin
        The work, the jobs, what each shares with others, and what a worker process does first.
    parcel
        What the nodes need.
    timeout, deaths
        Seconds after which a job is stopped, and how often it may be stopped or lose its worker.
    workers
        The number of jobs at once, by default one per core.
    cluster
        Whether nodes are other machines, which have to be compared with this one first.
    head
        Returns why the head node cannot be reached, or an empty string.
    """

    def __init__(
        self,
        send: Callable[[tuple[Any, ...]], None],
        work: Callable[[Any], Any],
        jobs: Sequence[Any],
        keys: Sequence[Any],
        begin: Callable[[], object],
        parcel: Parcel,
        timeout: float,
        deaths: int,
        *,
        workers: int | None,
        cluster: bool,
        head: Callable[[], str],
    ) -> None:
        import ray

        self._ray: Any = ray
        self._send, self._jobs, self._keys = send, jobs, keys
        self._timeout, self._deaths, self._most = timeout, deaths, workers
        self._cluster, self._head = cluster, head
        self._parcel = ray.put(pickle.dumps(parcel))  # which a node without fedtoll can receive
        self._work, self._begin = ray.put(work), begin
        # Not decorated, because only this file's functions may import Ray.
        self._remote = ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0)(_Actor)
        self._inspect = ray.remote(num_cpus=0, max_retries=0)(inspection())
        self._here: Found = inspection()()[0] if cluster else {}
        self._nodes: dict[str, _Node] = {}
        self._team: list[_Worker] = []
        self._todo = list(range(len(jobs)))
        self._left = len(jobs)
        self._reasons: dict[int, list[str]] = defaultdict(list)
        self._avoid: dict[int, set[str]] = defaultdict(set)
        self._started = False
        self._why_not = ""
        self._looked = 0.0

    def run(self) -> None:
        """Do all jobs.

        Raises
        ------
        RunError
            If the head node is lost, no node can be used, or a node has other versions than this machine.
        """
        while self._left:
            if time.monotonic() >= self._looked + TICK:
                self._look()
                self._looked = time.monotonic()
                self._send(("pulse",))
            if self._started:
                self._hire()
                for worker in self._team:
                    if worker.ready and worker.position is None:
                        self._give(worker)
            answers = [n.answer for n in self._nodes.values() if n.answer is not None]
            answers += [worker.answer for worker in self._team if worker.answer is not None]
            if not answers:
                time.sleep(TICK / 4)
                continue
            for answer in self._ray.wait(answers, num_returns=1, timeout=TICK)[0]:
                for node in self._nodes.values():
                    if node.answer == answer:
                        self._judge(node)
                for worker in list(self._team):
                    if worker.answer == answer:
                        self._hear(worker)

    def _look(self) -> None:
        """Note which nodes are new, gone or silent, and which workers are overdue."""
        if reason := self._head():
            raise RunError(
                f"the head node {reason}; what is stored stays, and the same command resumes once it is back"
            )
        alive = [n for n in self._ray.nodes() if n["Alive"] and n["Resources"].get("CPU", 0) >= 1]
        shown = names(alive)
        for id in self._nodes.keys() - shown.keys():
            self._note(f"node {self._nodes.pop(id).name} is gone")
        for facts in alive:
            if facts["NodeID"] not in self._nodes:
                id = facts["NodeID"]
                node = _Node(id, shown[id], int(facts["Resources"]["CPU"]), fit=not self._cluster)
                self._nodes[id] = node
                if self._cluster:
                    self._ask(node)
        now = time.monotonic()
        for node in self._nodes.values():
            if node.answer is not None and now >= node.deadline:
                self._leave_out(node, f"no answer within {ANSWER_SECONDS:g} s")
        for worker in list(self._team):
            if worker.node.id not in self._nodes:
                self._lose(worker, f"node {worker.node.name} died")
            elif worker.answer is not None and now >= worker.deadline:
                if worker.ready:
                    self._lose(worker, f"not finished after {self._timeout:g} s on node {worker.node.name}")
                worker.deadline = now + ANSWER_SECONDS  # if it waits for a core
                if self._cluster:
                    self._ask(worker.node)  # it may be frozen
        pending = any(node.answer is not None for node in self._nodes.values())
        self._started = self._started or not pending
        if not pending and not any(node.fit for node in self._nodes.values()):
            raise RunError(f"no node can be used{f'; {self._why_not}' if self._why_not else ''}")

    def _ask(self, node: _Node) -> None:
        """Ask a node what it has; until it answers, no worker is started on it."""
        inspect = self._inspect.options(scheduling_strategy=self._on(node))
        node.answer, node.fit = inspect.remote(self._parcel, self._here), False
        node.deadline = time.monotonic() + ANSWER_SECONDS

    def _judge(self, node: _Node) -> None:
        """Decide from a node's answer whether it is used."""
        try:
            found, reason = self._ray.get(node.answer)
        except self._ray.exceptions.RayError as error:
            found, reason = self._here, one_line(f"{type(error).__name__}: {error}")[:300]
        node.answer = None
        if differing := difference(self._here, found):
            line = f"node {node.name} {differing}; install the same versions on all nodes"
            if not self._started:
                raise RunError(line)
            self._leave_out(node, line)
        elif reason:
            self._leave_out(node, reason)
        else:
            node.fit = True

    def _leave_out(self, node: _Node, reason: str) -> None:
        node.answer, node.fit = None, False
        self._why_not = reason if node.name in reason else f"node {node.name}: {reason}"
        self._note(f"{self._why_not}; this node is not used")
        for worker in [w for w in self._team if w.node is node]:
            self._lose(worker, f"node {node.name} stopped answering")

    def _hire(self) -> None:
        """Start workers where cores are free, up to the number of jobs that are left."""
        fit = [node for node in self._nodes.values() if node.fit]
        most = min(self._most or sum(node.cores for node in fit), self._left)
        while len(self._team) < most:
            free = {node: node.cores - sum(w.node is node for w in self._team) for node in fit}
            if max(free.values(), default=0) <= 0:
                return
            node = max(free, key=lambda node: free[node])
            options: dict[str, Any] = {"scheduling_strategy": self._on(node)}
            actor: Any = self._remote.options(runtime_env={"env_vars": _ENVIRONMENT}, **options).remote(
                self._work, self._begin, self._parcel
            )
            self._team.append(_Worker(actor, node, actor.ready.remote(), time.monotonic() + ANSWER_SECONDS))

    def _give(self, worker: _Worker) -> None:
        """Give a worker a job: one that did not fail on its node, then one that shares what it cached."""
        elsewhere = {w.node.id for w in self._team} | {n.id for n in self._nodes.values() if n.fit}
        busy = [w.key for w in self._team if w is not worker and w.position is not None]
        at = worker.node.id
        eligible = [i for i in self._todo if at not in self._avoid[i] or elsewhere <= self._avoid[i]]
        if eligible:
            keys = self._keys
            worker.position = min(eligible, key=lambda i: (keys[i] != worker.key, keys[i] in busy))
            self._todo.remove(worker.position)
            worker.key = keys[worker.position]
            worker.answer = worker.actor.do.remote(self._jobs[worker.position])
            worker.deadline = time.monotonic() + self._timeout

    def _hear(self, worker: _Worker) -> None:
        """Take what a worker answered."""
        name = worker.node.name
        try:
            result = self._ray.get(worker.answer)
        except self._ray.exceptions.RayTaskError as error:  # e.g. a result that cannot be sent
            self._finish(worker, "lost", one_line(f"{error.cause!r} on node {name}")[:300])
        except self._ray.exceptions.RayError as error:
            why = "" if worker.ready else f": {one_line(str(error).splitlines()[-1])[:300]}"
            self._lose(worker, f"its worker process on node {name} died{why}")
        else:
            if worker.ready:
                self._finish(worker, "done", result)
            worker.ready, worker.answer, worker.node.failures = True, None, 0

    def _finish(self, worker: _Worker, kind: str, content: Any) -> None:
        self._send((kind, worker.position, content))
        self._left -= 1
        worker.position = worker.answer = None

    def _lose(self, worker: _Worker, reason: str) -> None:
        """Remove a worker that died or is stopped, and put its job back or give it up."""
        self._team.remove(worker)
        with suppress(self._ray.exceptions.RayError):
            self._ray.kill(worker.actor)
        node, position = worker.node, worker.position
        if not worker.ready:
            node.failures += 1
            if node.failures == START_FAILURES and node.id in self._nodes:
                self._leave_out(node, f"workers keep failing there: {reason}")
        elif position is not None:
            self._reasons[position].append(reason)
            self._avoid[position].add(node.id)
            if len(self._reasons[position]) == self._deaths:
                self._finish(worker, "lost", "; ".join(dict.fromkeys(self._reasons[position])))
            else:
                self._todo.append(position)

    def _on(self, node: _Node) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        return NodeAffinitySchedulingStrategy(node.id, soft=False)

    def _note(self, line: str) -> None:
        self._send(("note", line))
