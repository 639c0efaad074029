"""Clusters of processes on this machine: how they are started, and kept at their size.

A nanny starts its worker again when it dies, but gives up when the new one dies while it starts;
the cluster then counts a worker that is not there, for ever. Killed often enough, it has none left.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from time import monotonic
from typing import TYPE_CHECKING, Any

from distributed import LocalCluster, Nanny, SpecCluster, Worker
from distributed.core import Status

from dgmm.engine.dask_security import encryption

if TYPE_CHECKING:
    from distributed import Security

__all__ = ["Supervisor", "close_cluster", "start_cluster"]

# How long a worker may be missing without a process, which its nanny would have started by now ...
DEAD_SECONDS = 3.0

# ... and with one, which may well be slow to import what it needs.
STARTING_SECONDS = 60.0

# How long a scheduler may take to let its cluster go: one that is gone does not answer.
_LEAVE_SECONDS = 3.0

# What a terminal or a batch system sends to a whole group of processes, to end a fit in good order.
_FOR_THE_DRIVER = ("SIGINT", "SIGUSR1")


def start_cluster(
    n_workers: int | None = None, *, security: Security | bool | None = None, **options: Any
) -> LocalCluster:
    """A cluster of processes, for this machine alone.

    Parameters
    ----------
    n_workers : int, optional
        By default one for each core.
    security : distributed.Security or True, optional
        See :func:`dgmm.engine.dask_security.encryption`, and what it raises.
    **options
        Further ones of :class:`distributed.LocalCluster`.
    """
    given: dict[str, Any] = {
        "n_workers": n_workers,
        "threads_per_worker": 1,
        "host": "127.0.0.1",
        # The scheduler always starts a web server: on any free port then, and without the pages
        # that nobody asked for.
        "dashboard_address": "127.0.0.1:0",
        "scheduler_kwargs": {"dashboard": False},
        # Without one, a process that is stopped while it starts would hold up all others.
        "death_timeout": STARTING_SECONDS,
        **encryption(security),
    }
    with _signals_kept_from_children():
        return LocalCluster(**given | options)


def close_cluster(cluster: Any) -> None:
    """End the processes of a cluster, also of one whose scheduler is gone."""
    if (comm := getattr(cluster, "scheduler_comm", None)) is not None:
        comm.timeout = _LEAVE_SECONDS
    try:
        cluster.close()
    except OSError:
        # Nobody let its workers go.
        for worker in list(cluster.workers.values()):
            cluster.sync(_close, worker)


@contextmanager
def _signals_kept_from_children() -> Iterator[None]:
    """Processes that are started in between, or by threads that are, never see some signals.

    A thread inherits what its parent blocks, and so does a process: also one that a nanny starts
    much later, from the cluster's thread. A signal for this process waits until the end.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # Its start would unblock them where a worker's process is about to be made.
    resource_tracker.ensure_running()
    numbers = {getattr(signal, name) for name in _FOR_THE_DRIVER}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Supervisor:
    """Replaces workers on this machine that nobody else replaces.

    Those of a :class:`distributed.LocalCluster`, or of another cluster whose nannies live in this
    process. Clusters of other kinds are left to their own managers.

    Parameters
    ----------
    cluster : object, optional
        What the client was made from.
    """

    def __init__(self, cluster: object) -> None:
        self._cluster = cluster if isinstance(cluster, SpecCluster) else None
        self._missing: dict[Any, float] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def look(self, n_workers: int) -> None:
        """See whether there are as many workers as there should be; do not wait for any."""
        cluster = self._cluster
        if cluster is None or cluster.status != Status.running:
            return
        if n_workers < len(cluster.worker_spec) or self._missing:
            loop: Any = cluster.loop
            with suppress(RuntimeError):  # it has just been closed
                loop.add_callback(self._replace)

    def _replace(self) -> None:
        cluster = self._cluster
        if cluster is None or cluster.status != Status.running:
            return
        if not all(isinstance(one, Nanny | Worker) for one in cluster.workers.values()):
            return
        here, now = cluster.observed, monotonic()
        self._missing = {k: since for k, since in self._missing.items() if k in cluster.workers}
        for name, worker in list(cluster.workers.items()):
            if name in here or name not in cluster.worker_spec:
                self._missing.pop(name, None)
                continue
            missing = now - self._missing.setdefault(name, now)
            if missing > (STARTING_SECONDS if _has_process(worker) else DEAD_SECONDS):
                del cluster.workers[name], self._missing[name]
                closing = asyncio.ensure_future(_close(worker))
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)
        # It opens what it plans for and has not.
        if set(cluster.worker_spec) - set(cluster.workers):
            cluster.scale(len(cluster.worker_spec))


def _has_process(worker: Any) -> bool:
    alive = getattr(worker, "is_alive", None)
    if worker.status in (Status.closed, Status.failed):
        return False
    return alive is None or bool(alive())


async def _close(worker: Any) -> None:
    # It has failed in one way or another, and may fail to be closed.
    with suppress(Exception):
        await worker.close(timeout=5)
