"""The ranges of a stream that workers are at, a few ahead of the consumer."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from distributed import CancelledError, Future
from distributed.protocol.pickle import dumps

from dgmm.engine.dask_attempts import Attempts
from dgmm.engine.dask_cluster import Cluster, TasksKilledError
from dgmm.engine.dask_graph import PassGraph, Share
from dgmm.engine.dask_suspects import examine
from dgmm.engine.memory import MemoryPlan
from dgmm.engine.worker import NodeResult, Settings, evaluate_blocks

__all__ = ["Ahead"]


@dataclass
class _Begun:
    """A range that workers are at, or were when they died."""

    share: Share
    worker: str
    attempts: Attempts = field(default_factory=Attempts)
    graph: PassGraph = field(default_factory=lambda: PassGraph(uuid4().hex))
    futures: list[Future[Any]] = field(default_factory=list)
    near: bool = True


class Ahead:
    """A queue of ranges.

    Parameters
    ----------
    cluster : Cluster
    task : BlockTask
    plan : MemoryPlan
        Of a worker.
    session : str
    """

    def __init__(self, cluster: Cluster, task: Any, plan: MemoryPlan, session: str) -> None:
        self._cluster, self._task, self._plan, self._session = cluster, task, plan, session
        self._begun: deque[_Begun] = deque()
        self._sent: Any = None

    def __bool__(self) -> bool:
        return bool(self._begun)

    def begin(self, share: Share, worker: str) -> None:
        """Have a range evaluated, by this worker if that can be."""
        begun = _Begun(share, worker)
        self._submit(begun)
        self._begun.append(begun)

    def take(self) -> tuple[Share, str, NodeResult[Any]]:
        """The first range, the worker that it was asked of, and what came of it."""
        begun = self._begun[0]
        while True:
            asked = (begun.worker,) if begun.near else ()
            try:
                found: dict[int, NodeResult[Any]] = {}
                futures = dict(enumerate(begun.futures))
                self._cluster.collect(begun.graph, futures, asked, found, begun.attempts.still)
            except CancelledError as error:
                begun.attempts.lost(error, self._cluster.workers())
            except TasksKilledError as killed:
                settings = self._settings(begun.graph)
                innocent = examine(self._cluster, evaluate_blocks, self._task, killed, settings)
                begun.attempts.killed(killed, innocent)
            else:
                self._begun.popleft()
                return begun.share, begun.worker, found[0]
            # The task itself may have been lost as well.
            self._sent = None
            self._submit(begun)

    def give_up(self) -> None:
        """Cancel what was begun and is not taken."""
        for one in self._begun:
            self._cluster.give_up(one.graph, one.futures, self._session)

    def _submit(self, begun: _Begun) -> None:
        while True:
            try:
                self._try_to_submit(begun)
            except CancelledError as error:
                # The client had to connect again, and what it had sent is gone.
                begun.attempts.lost(error, self._cluster.workers())
                self._sent = None
            else:
                return

    def _try_to_submit(self, begun: _Begun) -> None:
        if self._sent is None:
            first = PassGraph(uuid4().hex)
            key = first.add_pickled("task", dumps(self._task))
            (self._sent,) = self._cluster.submit(first, [key])
        graph = begun.graph = PassGraph(uuid4().hex)
        begun.near = begun.attempts.begin(self._cluster.workers() if begun.futures else ())
        blocks = graph.add_pickled("blocks", dumps(begun.share.range))
        arguments = (self._sent, blocks, self._settings(graph))
        worker = begun.worker if begun.near else None
        key = graph.add_range(evaluate_blocks, 0, begun.share, worker, arguments)
        begun.futures = self._cluster.submit(graph, [key])

    def _settings(self, graph: PassGraph) -> Settings:
        plan = self._plan
        kept = max(1, plan.window - plan.n_threads + 1)
        return Settings(
            self._session,
            graph.name,
            n_threads=plan.n_threads,
            window=kept,
            cache_bytes=plan.cache_bytes,
        )
