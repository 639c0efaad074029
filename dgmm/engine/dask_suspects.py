"""Which block kills the workers that evaluate it? Those under suspicion are tried one by one.

When a worker dies, Dask blames all tasks that it had been given, and after some deaths fails them.
That says neither which of many blocks it was, nor that it was any: workers of a cluster that loses
machines die without one. So each suspect is evaluated by itself, in a task that may run on one
worker only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any
from uuid import uuid4

from distributed import CancelledError
from distributed.protocol.pickle import dumps

from dgmm.engine.dask_cluster import Cluster, TasksKilledError
from dgmm.engine.dask_graph import PassGraph, Share
from dgmm.engine.worker import Range, Settings
from dgmm.errors import DeadlyBlockError

__all__ = ["examine", "verdict"]

# Workers that a block has to kill by itself before it is held to be the cause.
_DEATHS = 2


def examine(
    cluster: Cluster,
    function: Callable[..., Any],
    task: Any,
    killed: TasksKilledError,
    settings: Settings,
) -> None:
    """Evaluate each block of some ranges alone.

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
        For the first one that kills one worker after another.
    """
    for share in _blocks(killed.shares):
        # Each has a worker to itself, and another one the next time.
        if not any(_outlived(cluster, function, task, share, settings) for _ in range(_DEATHS)):
            raise verdict(share.range.name, f"{_DEATHS} times out of {_DEATHS} when it was alone")


def verdict(what: str, when: str) -> DeadlyBlockError:
    """The error that names what killed its workers."""
    return DeadlyBlockError(
        f"{what} lost its worker, {when}: reading or evaluating it crashes the process, or takes "
        "more memory than the worker has (give workers more, lower memory_limit or the number of "
        "components, or see what is in it)"
    )


def _blocks(shares: Sequence[Share]) -> Iterator[Share]:
    for share in shares:
        given = share.given or (None,) * len(share.range.work)
        for item, rows in zip(share.range.work, given, strict=True):
            yield replace(share, range=Range((item,)), given=() if rows is None else (rows,))


def _outlived(
    cluster: Cluster, function: Callable[..., Any], task: Any, share: Share, settings: Settings
) -> bool:
    """True if the worker that evaluates a block is there afterwards."""
    graph, worker = PassGraph(uuid4().hex), next(iter(cluster.workers()))
    alone = replace(settings, run=graph.name)
    arguments = (graph.add_task(dumps(task)), graph.add_pickled("alone", dumps(share.range)), alone)
    key = graph.add_range(function, 0, share, worker, arguments, nowhere_else=True)
    futures = cluster.submit(graph, [key])
    try:
        cluster.finish(graph, futures, (worker,))
    except (CancelledError, TasksKilledError):
        return False
    finally:
        cluster.give_up(graph, futures, settings.session)
    return True
