"""A Dask cluster as a session sees it: who is there, what they hold, what became of the tasks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Any
from uuid import uuid4

import dask
from distributed import CancelledError, Client, Future, KilledWorker, wait
from distributed.comm.core import CommClosedError
from distributed.core import RPCClosed
from distributed.protocol.pickle import dumps

from dgmm.engine.dask_graph import (
    PassGraph,
    Share,
    assign,
    home_of,
    ranges_of_worker,
    remote_rows,
    share_out,
)
from dgmm.engine.memory import available_memory
from dgmm.engine.work import Selection
from dgmm.engine.worker import Range, stop_pass
from dgmm.errors import DgmmError, EngineError

__all__ = ["Cluster", "Held"]

# Between two looks at whether the cluster still has workers.
WATCH_SECONDS = 1.0

# Futures in these states stay in them; those that are "lost" are being computed again.
_GONE = ("cancelled", "error")


@dataclass
class Held:
    """The ranges of a selection, and what workers hold of them between passes.

    Attributes
    ----------
    shares : list of Share
    workers : list of str or None
        The worker that each range is asked of.
    handles : list of Future or None
        The blocks of each range (for blocks in the driver's memory: their rows), shipped once.
    """

    shares: list[Share]
    workers: list[Any]
    handles: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.handles = [None] * len(self.shares)

    def items(self) -> Iterator[tuple[Share, str, Any]]:
        return zip(self.shares, self.workers, self.handles, strict=True)

    def assign(self, workers: Iterable[str]) -> None:
        """Find new workers for the ranges whose worker is gone."""
        weights = [sum(len(item.parts) for item in one.range.work) for one in self.shares]
        self.workers = list(assign(weights, list(workers), self.workers))


class Cluster:
    """The calls that a session makes to a cluster, with a deadline and typed errors behind them.

    Parameters
    ----------
    client : distributed.Client
    no_workers_timeout : float
        Seconds that the cluster may be without workers.
    """

    def __init__(self, client: Client, no_workers_timeout: float) -> None:
        self._client = client
        self._timeout = no_workers_timeout

    def workers(self) -> dict[str, int]:
        """Threads by worker address, sorted. Waits for the first worker.

        Raises
        ------
        EngineError
            If none appears in time.
        """
        found = self._threads()
        if not found:
            with self._reached(), suppress(TimeoutError):
                self._client.wait_for_workers(1, timeout=self._timeout)
            found = self._threads()
        if not found:
            raise self._deserted()
        return dict(sorted(found.items()))

    def worker_memory(self) -> int:
        """Bytes of memory that every worker may have."""
        with self._reached():
            info = self._client.scheduler_info(n_workers=-1)["workers"].values()
        limits = [one["memory_limit"] for one in info if one.get("memory_limit")]
        return int(min(limits)) if limits else available_memory() // max(1, len(info))

    def cut(self, selection: Selection, workers: Mapping[str, int]) -> Held:
        """Cut a selection into ranges, each near the worker that holds most of its blocks.

        ``workers`` are their threads by address.
        """
        homes = self.homes(selection)
        shares = share_out(selection, sum(map(ranges_of_worker, workers.values())), homes)
        held = Held(shares, [_home_of_range(selection, homes, one) for one in shares])
        held.assign(workers)
        return held

    def homes(self, selection: Selection) -> list[Any]:
        """The worker that holds each block, or most of what it is made from; None for others."""
        remotes = [
            [] if remote_rows(item.block) is None else list(item.block.futures)  # type: ignore[attr-defined]
            for item in selection.work
        ]
        futures = [future for several in remotes for future in several]
        if not futures:
            return [None] * len(remotes)
        self._watch(futures)
        with self._reached():
            where = self._client.who_has(futures)
        held = [[min(where.get(one.key, ()), default=None) for one in some] for some in remotes]
        return [home_of(some, [1] * len(some)) for some in held]

    def ship(self, held: Held) -> None:
        """Bring the handles of the blocks to the workers, unless they are there."""
        graph, new = PassGraph(uuid4().hex), {}
        for place, (share, worker, handle) in enumerate(held.items()):
            if handle is not None and handle.status not in _GONE:
                continue
            if any(item.block.is_resident for item in share.range.work) and not share.given:
                held.handles[place] = self._send(share.range, worker)
            else:
                new[place] = graph.add_pickled(f"blocks-{place}", dumps(share.range))
        if new:
            for place, future in zip(new, self.submit(graph, list(new.values())), strict=True):
                held.handles[place] = future

    def submit(self, graph: PassGraph, keys: list[str]) -> list[Future[Any]]:
        """Start a graph. The futures are those of the keys."""
        # Parameters of many mixtures may well exceed Dask's idea of a large graph.
        quiet = dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 TiB"})
        with quiet, self._reached():
            futures: list[Future[Any]] = self._client.get(graph.graph(), keys, sync=False)
        return futures

    def collect(
        self, graph: PassGraph, futures: list[Future[Any]], workers: Collection[str]
    ) -> list[Any]:
        """Wait for results and fetch them.

        Parameters
        ----------
        graph : PassGraph
        futures : list of Future
        workers : collection of str
            Those that tasks of the graph asked for.

        Raises
        ------
        EngineError
            If the cluster has no workers for too long, or a task killed its workers.
        distributed.CancelledError
            If data was lost with the only worker that held it, or all workers were replaced.
        Exception
            What a task raised, as it is.
        """
        self._watch(futures, workers)
        failed = [future for future in futures if future.status in _GONE]
        if failed:
            raise self._explain(graph, failed[0])
        with self._reached():
            return list(self._client.gather(futures))

    def give_up(self, graph: PassGraph, futures: list[Future[Any]], session: str) -> None:
        """Cancel tasks, those that are at work included."""
        # What goes wrong here must not hide the error that led here.
        with suppress(Exception):
            self._client.cancel(futures)
        self.tell(stop_pass, session, graph.name)

    def tell(self, function: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        """Run a coroutine in every worker process that can be reached; do not wait for it."""
        with suppress(Exception):
            self._client.run(function, *arguments, wait=False, on_error="ignore")

    def _threads(self) -> dict[str, int]:
        with self._reached():
            return dict(self._client.nthreads())

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """Every call to the cluster goes through here: one that is gone fails in many ways."""
        try:
            self._check_client()
            yield
        except (DgmmError, CancelledError):
            self._check_client()
            raise
        except Exception as error:
            self._check_client(error)
            # What a task raised, say, which is its own affair.
            if not isinstance(error, CommClosedError | RPCClosed | ConnectionError):
                raise
            raise self._lost(error) from error

    def _check_client(self, cause: BaseException | None = None) -> None:
        status = self._client.status
        if status == "running":
            return
        if status in ("closed", "closing"):
            raise EngineError(
                "the Dask client is closed; make a new one (or engine) and fit again"
            ) from cause
        raise self._lost(cause or status) from cause

    def _lost(self, what: object) -> EngineError:
        return EngineError(
            f"the Dask scheduler cannot be reached ({what}); its cluster may have been closed: "
            "start one, make a new client for it and fit again"
        )

    def _send(self, blocks: Range, worker: str) -> Future[Any]:
        # Not a task: the scheduler would keep a copy of the rows to make it again.
        with self._reached():
            (future,) = self._client.scatter([blocks], workers=[worker], hash=False)
        return future

    def _watch(self, futures: Sequence[Future[Any]], workers: Collection[str] = ()) -> None:
        """Wait until all have finished or one has failed."""
        seen = monotonic()
        while not any(one.status in _GONE for one in futures):
            # One that finished may be pending again: its worker died, another makes it anew.
            pending = [one for one in futures if one.status != "finished"]
            if not pending:
                return
            try:
                with self._reached(), self._client.as_current():
                    wait(pending, WATCH_SECONDS, "FIRST_COMPLETED")
                continue
            except TimeoutError as error:
                _let_go(error)
            now = self._threads()
            seen = monotonic() if now else seen
            if monotonic() - seen > self._timeout:
                raise self._deserted()
            if now and workers and not set(workers) & set(now):
                # A task that asks for a worker, while there is none at all, is forgotten by the
                # scheduler when other workers come, in spite of allow_other_workers.
                raise CancelledError("all workers were replaced")

    def _explain(self, graph: PassGraph, future: Future[Any]) -> BaseException:
        if future.status == "cancelled":
            # The tasks of a client that is closed are cancelled too.
            with self._reached():
                return CancelledError(future.key)
        with self._reached():
            error: BaseException = future.exception()
        if isinstance(error, KilledWorker):
            what = graph.ranges.get(str(error.task), "a merge of results")
            return EngineError(
                f"{what}: the task lost its worker {error.allowed_failures + 1} times, the last "
                f"was {error.last_worker.address}; the worker may be short of memory (lower "
                "memory_limit or the number of components), or reading the blocks may crash it"
            )
        return error

    def _deserted(self) -> EngineError:
        return EngineError(
            f"the cluster has had no workers for {self._timeout:g} seconds; start workers, or "
            "raise no_workers_timeout of DaskEngine"
        )


def _let_go(error: BaseException) -> None:
    """Free the frames that an error of distributed's ``sync`` holds.

    One of them holds the error, and others hold futures: until the garbage collector came by, the
    results of a pass would stay on the workers.
    """
    error.__traceback__ = error.__context__ = error.__cause__ = None


def _home_of_range(selection: Selection, homes: Sequence[Any], share: Share) -> Any:
    blocks = selection.shape.blocks(share.node)
    inside = slice(blocks.start, blocks.stop)
    return home_of(homes[inside], [item.block.n_rows for item in selection.work[inside]])
