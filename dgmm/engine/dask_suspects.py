"""Which block kills the workers that evaluate it? Those under suspicion are tried one by one.

When a worker dies, Dask blames all tasks that it had been given, and after some deaths fails them.
That says neither which of many blocks it was, nor that it was any: workers of a cluster that loses
machines die without one. So each suspect is evaluated by itself, in a task that may run on one
worker only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from time import monotonic, sleep
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
# cause ...
_DEATHS_OF_BLOCK = 2

# ... and several blocks at a time, which take longer.
_DEATHS_OF_RANGE = 3

# After a death, workers that do nothing have to live on for so many times what it took, or the
# cluster loses workers for reasons of its own.
_CALM = 10
_CALM_SECONDS = (5.0, 60.0)


class _RestlessError(Exception):
    """A worker was lost that was not at work."""


@dataclass(frozen=True)
class _Trial:
    """What is to be tried, and how."""

    cluster: Cluster
    function: Callable[..., Any]
    task: bytes
    settings: Settings

    def kills(self, share: Share, deaths: int) -> bool:
        """True if evaluating a share by itself kills so many workers and spares none."""
        for _ in range(deaths):
            seconds = self._seconds_to_kill(share)
            if seconds is None:
                return False
            self._check_calm(seconds)
        return True

    def _check_calm(self, seconds: float) -> None:
        least, most = _CALM_SECONDS
        deadline = monotonic() + min(max(_CALM * seconds, least), most)
        here = set(self.cluster.workers())
        while monotonic() < deadline:
            sleep(0.1)
            if here - set(self.cluster.workers()):
                raise _RestlessError

    def _seconds_to_kill(self, share: Share) -> float | None:
        """How long a worker survives a share; None if it outlives it."""
        worker = next(iter(self.cluster.workers()))
        ready, graph = PassGraph(uuid4().hex), PassGraph(uuid4().hex)
        # Imports what the task needs, so that the time in which anything else can kill is short.
        task = ready.add_pickled("task", self.task, worker, nowhere_else=True)
        blocks = ready.add_pickled("alone", dumps(share.range), worker, nowhere_else=True)
        sent = self.cluster.submit(ready, [task, blocks])
        try:
            self.cluster.finish(ready, sent, (worker,))
        except (CancelledError, TasksKilledError) as error:
            self.cluster.give_up(ready, sent, self.settings.session)
            raise _RestlessError from error
        arguments = (*sent, replace(self.settings, run=graph.name))
        key = graph.add_range(self.function, 0, share, worker, arguments, nowhere_else=True)
        begin, futures = monotonic(), self.cluster.submit(graph, [key])
        try:
            self.cluster.finish(graph, futures, (worker,))
        except (CancelledError, TasksKilledError):
            return monotonic() - begin
        finally:
            self.cluster.give_up(graph, futures, self.settings.session)
        return None


def examine(
    cluster: Cluster,
    function: Callable[..., Any],
    task: Any,
    killed: TasksKilledError,
    settings: Settings,
) -> bool:
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

    Returns
    -------
    bool
        True if all of them are innocent, False if nothing can be told because workers die that do
        nothing.

    Raises
    ------
    DeadlyBlockError
        For the first that kills one worker after another.
    """
    trial = _Trial(cluster, function, dumps(task), settings)
    try:
        for share in killed.shares:
            _examine(trial, share)
    except _RestlessError:
        return False
    return True


def _examine(trial: _Trial, share: Share) -> None:
    blocks = list(_blocks(share))
    for block in blocks:
        if trial.kills(block, _DEATHS_OF_BLOCK):
            raise verdict(block.range.name, "every time when it was alone")
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
