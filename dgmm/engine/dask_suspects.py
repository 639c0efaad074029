"""Which block kills the workers that evaluate it? Those under suspicion are tried one by one.

When a worker dies, Dask blames all tasks that it had been given, and after some deaths fails them.
That says neither which of many blocks it was, nor that it was any: workers of a cluster that loses
machines die without one. So each suspect is evaluated by itself, in a task that may run on one
worker only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

from distributed import CancelledError
from distributed.protocol.pickle import dumps

from dgmm.engine.dask_cluster import Cluster, TasksKilledError
from dgmm.engine.dask_graph import PassGraph, Share
from dgmm.engine.worker import Range, Settings
from dgmm.errors import DeadlyBlockError

__all__ = ["examine", "verdict"]

# Workers that a block has to kill by itself, without surviving once, before it is held to be the
# cause: where machines come and go, one may be lost at any moment.
_DEATHS_OF_BLOCK = 3

# The same for several blocks at a time, which take longer.
_DEATHS_OF_RANGE = 5


@dataclass(frozen=True)
class _Trial:
    """What is to be tried, and how."""

    cluster: Cluster
    function: Callable[..., Any]
    task: bytes
    settings: Settings

    def kills(self, share: Share, deaths: int) -> bool:
        """True if evaluating a share by itself kills so many workers and spares none."""
        died = 0
        # A worker that was lost before it began says nothing.
        for _ in range(3 * deaths):
            outlived = self._once(share)
            if outlived:
                return False
            died += outlived is not None
            if died == deaths:
                return True
        return False

    def _once(self, share: Share) -> bool | None:
        """Whether a worker outlives a share; None if it was lost before it began with it."""
        worker = next(iter(self.cluster.workers()))
        ready, graph = PassGraph(uuid4().hex), PassGraph(uuid4().hex)
        # Imports what the task needs, so that the time in which anything else can kill is short.
        task = ready.add_pickled("task", self.task, worker, nowhere_else=True)
        blocks = ready.add_pickled("alone", dumps(share.range), worker, nowhere_else=True)
        sent = self.cluster.submit(ready, [task, blocks])
        try:
            self.cluster.finish(ready, sent, (worker,))
        except (CancelledError, TasksKilledError):
            self.cluster.give_up(ready, sent, self.settings.session)
            return None
        arguments = (*sent, replace(self.settings, run=graph.name))
        key = graph.add_range(self.function, 0, share, worker, arguments, nowhere_else=True)
        futures = self.cluster.submit(graph, [key])
        try:
            self.cluster.finish(graph, futures, (worker,))
        except (CancelledError, TasksKilledError):
            return False
        finally:
            self.cluster.give_up(graph, futures, self.settings.session)
        return True


def examine(
    cluster: Cluster,
    function: Callable[..., Any],
    task: Any,
    killed: TasksKilledError,
    settings: Settings,
) -> None:
    """Evaluate each block of some ranges alone, then each range.

    Parameters
    ----------
    cluster : Cluster
    function : callable
        What the tasks of the pass call.
    task : BlockTask
    killed : TasksKilledError
    settings : Settings
        Of the pass.

    Raises
    ------
    DeadlyBlockError
        For the first that kills one worker after another.
    """
    trial = _Trial(cluster, function, dumps(task), settings)
    for share in killed.shares:
        blocks = list(_blocks(share))
        for block in blocks:
            if trial.kills(block, _DEATHS_OF_BLOCK):
                raise verdict(block.range.name, f"{_DEATHS_OF_BLOCK} of {_DEATHS_OF_BLOCK} times")
        if len(blocks) > 1 and trial.kills(share, _DEATHS_OF_RANGE):
            raise verdict(share.range.name, "every time, and none of the blocks alone does so")


def verdict(what: str, when: str) -> DeadlyBlockError:
    """The error that names what killed its workers."""
    return DeadlyBlockError(
        f"{what} lost its worker, {when}: reading or evaluating it crashes the process, or takes "
        "more memory than the worker has (give workers more, lower memory_limit or the number of "
        "components, or see what is in it)"
    )


def _blocks(share: Share) -> Iterator[Share]:
    given = share.given or (None,) * len(share.range.work)
    for item, rows in zip(share.range.work, given, strict=True):
        yield replace(share, range=Range((item,)), given=() if rows is None else (rows,))
