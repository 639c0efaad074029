"""A Dask cluster as a session sees it: who is there, what they hold, what became of the tasks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from time import monotonic, sleep
from typing import Any
from uuid import uuid4

import dask
from distributed import CancelledError, Client, Future, KilledWorker
from distributed.protocol.pickle import dumps
from distributed.scheduler import NoValidWorkerError

from dgmm.engine.dask_calls import WATCH_SECONDS, Calls, steadily
from dgmm.engine.dask_graph import (
    PassGraph,
    Share,
    assign,
    home_of,
    ranges_of_worker,
    remote_rows,
    share_out,
)
from dgmm.engine.dask_local import Supervisor
from dgmm.engine.dask_progress import Stillness
from dgmm.engine.dask_timeouts import Timeouts
from dgmm.engine.dask_watch import Vigil, deserted, given_up
from dgmm.engine.memory import available_memory
from dgmm.engine.work import Selection
from dgmm.engine.worker import Range, stop_pass

__all__ = ["Cluster", "Held", "TasksKilledError"]

# Futures in these states stay in them; those that are "lost" are being computed again.
_GONE = ("cancelled", "error")

# Between two questions for a first worker.
_ASK_SECONDS = 0.1

_LARGE = "distributed.admin.large-graph-warning-threshold"
_configuring = Lock()


class _NotTakenError(Exception):
    """A worker did not take what it was sent."""


class TasksKilledError(Exception):
    """Workers died over and over while they were at some tasks; not an error that users see.

    Attributes
    ----------
    shares : list of Share
        What the tasks were to evaluate. The guilty one may be one of others on the same workers.
    names : str
        What messages call them.
    """

    def __init__(self, shares: list[Share], names: str, how: str) -> None:
        super().__init__(how)
        self.shares, self.names = shares, names


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

    def most_brought(self, lent: Sequence[Sequence[str]]) -> int:
        """Most bytes of rows in memory that a worker is sent as it is lent ranges of others."""
        brought: Counter[str] = Counter()
        for (share, home, _), workers in zip(self.items(), lent, strict=True):
            rows = sum(item.block.nbytes for item in share.range.work if item.block.is_resident)
            for worker in set(workers) - {home}:
                brought[worker] += rows
        return max(brought.values(), default=0)

    def assign(self, workers: Iterable[str]) -> None:
        """Find new workers for the ranges whose worker is gone."""
        weights = [sum(len(item.parts) for item in one.range.work) for one in self.shares]
        self.workers = list(assign(weights, list(workers), self.workers))


class Cluster:
    """The calls that a session makes to a cluster, with a deadline and typed errors behind them.

    Parameters
    ----------
    client : distributed.Client
    timeouts : Timeouts
    session : str
        Whose work in the workers' heartbeats is watched.

    Attributes
    ----------
    client : distributed.Client
    """

    def __init__(self, client: Client, timeouts: Timeouts, session: str) -> None:
        self.client = client
        self._client, self._timeouts, self._session = client, timeouts, session
        self._calls = Calls(client, timeouts)
        self._supervisor = Supervisor(getattr(client, "cluster", None))

    def workers(self) -> dict[str, int]:
        """Threads by worker address, sorted. Waits for the first worker.

        Raises
        ------
        NoWorkersError
            If none appears in time.
        """
        return steadily(self._find_workers)

    def _find_workers(self) -> dict[str, int]:
        found = self._threads()
        if not found:
            deadline = monotonic() + self._timeouts.no_workers_timeout
            # An adaptive cluster starts workers for tasks that wait for one.
            with self._calls.reached():
                bid = self._client.submit(int, pure=False)
            while not found and monotonic() < deadline:
                sleep(_ASK_SECONDS)
                found = self._threads()
            del bid
        if not found:
            raise deserted(self._timeouts)
        return dict(sorted(found.items()))

    def worker_memory(self) -> int:
        """Bytes of memory that every worker may have."""
        info = self._calls.ask(self._calls.scheduler.identity, n_workers=-1)["workers"].values()
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
        self._watch(None, futures)
        where = self._calls.ask(self._client.who_has, futures)
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
        with self._calls.reached(), _large_graphs():
            futures: list[Future[Any]] = self._client.get(graph.graph(keys), keys, sync=False)
        return futures

    def collect(
        self,
        graph: PassGraph,
        futures: Mapping[int, Future[Any]],
        workers: Collection[str],
        found: dict[int, Any],
        still: Stillness,
    ) -> None:
        """Wait for results and fetch them, those that are done already if others take long.

        Parameters
        ----------
        graph : PassGraph
        futures : mapping of int to Future
        workers : collection of str
            Those that tasks of the graph asked for.
        found : dict of int to result
            Where they go, by the keys of ``futures``: what is there when an error is raised need
            not be computed again.
        still : Stillness
            Of the pass so far.

        Raises
        ------
        EngineError
            Of the kinds that :class:`Vigil` raises.
        TasksKilledError
            If some tasks lost their workers, again and again.
        distributed.CancelledError
            If data was lost with the only worker that held it, or all workers were replaced.
        Exception
            What a task raised, as it is.
        """
        left = dict(futures)
        # A future that is released counts as cancelled: it must not be waited for any more.
        waited = list(left.values())

        def fetch() -> None:
            done = [place for place, one in left.items() if one.status == "finished"]
            some = [left[place] for place in done]
            vigil = self._vigil(graph, some, workers, still)
            gather = self._client.gather
            try:
                values = self._calls.follow(vigil.look, gather, some, asynchronous=True)
            except (KilledWorker, NoValidWorkerError):
                # One was lost again and failed in the end: the state of its future says so.
                return
            found.update(zip(done, values, strict=True))
            if done:
                still.arrive()
            for place in done:
                # Still wanted, it would be made again when its worker dies.
                waited.remove(future := left.pop(place))
                future.release()

        while left:
            self.finish(graph, waited, workers, fetch, still)
            fetch()

    def finish(
        self,
        graph: PassGraph,
        futures: list[Future[Any]],
        workers: Collection[str],
        meanwhile: Callable[[], None] | None = None,
        still: Stillness | None = None,
    ) -> None:
        """Wait for results, and leave them where they are; see :meth:`collect`.

        ``meanwhile`` is called about every second that it takes.
        """
        self._watch(graph, futures, workers, meanwhile, still)
        failed = [future for future in futures if future.status in _GONE]
        if failed:
            raise self._explain(graph, failed)

    def give_up(self, graph: PassGraph, futures: list[Future[Any]], session: str) -> None:
        """Cancel tasks, those that are at work included."""
        # What goes wrong here must not hide the error that led here.
        self._calls.tell(self._client.cancel, futures)
        self.tell(stop_pass, session, graph.name)

    def tell(self, function: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        """Run a coroutine in every worker process that can be reached; do not wait for it."""
        run = self._client.run
        self._calls.tell(run, function, *arguments, wait=False, on_error="ignore")

    def _threads(self) -> dict[str, int]:
        threads = dict(self._calls.ask(self._client.nthreads))
        self._supervisor.look(len(threads))
        return threads

    def _send(self, blocks: Range, worker: str) -> Future[Any]:
        # Not a task: the scheduler would keep a copy of the rows to make it again.
        look = self._vigil(None, (), (worker,)).look

        async def scatter() -> Any:
            options = {"workers": [worker], "hash": False, "asynchronous": True}
            try:
                return await self._client.scatter([blocks], **options)
            except (KeyError, OSError) as error:
                # The worker died, or takes nothing more: what scatter raises says neither.
                raise _NotTakenError(repr(error)) from error

        try:
            (future,) = self._calls.follow(look, scatter)
        except _NotTakenError as error:
            # A scheduler that is gone says so here.
            self._calls.ask(self._client.nthreads)
            raise CancelledError(f"{worker} did not take its rows: {error}") from error
        return future

    def _vigil(
        self,
        graph: PassGraph | None,
        futures: Sequence[Future[Any]],
        workers: Collection[str],
        still: Stillness | None = None,
    ) -> Vigil:
        watched = self._session, graph, futures, workers, still
        return Vigil(self._calls, self._supervisor, self._timeouts, *watched)

    def _watch(
        self,
        graph: PassGraph | None,
        futures: Sequence[Future[Any]],
        workers: Collection[str] = (),
        meanwhile: Callable[[], None] | None = None,
        still: Stillness | None = None,
    ) -> None:
        """Wait until all have finished or one has failed."""
        vigil = self._vigil(graph, futures, workers, still)
        looked = monotonic()
        while not any(one.status in _GONE for one in futures):
            # One that finished may be pending again: its worker died, another makes it anew.
            pending = [one for one in futures if one.status != "finished"]
            if not pending:
                return
            self._calls.wait_for_one(pending)
            if monotonic() - looked > WATCH_SECONDS:
                looked = monotonic()
                vigil.look()
                if meanwhile is not None:
                    meanwhile()

    def _explain(self, graph: PassGraph, failed: Sequence[Future[Any]]) -> BaseException:
        errors = [self._error(future) for future in failed]
        killed = [error for error in errors if isinstance(error, KilledWorker)]
        other = next((error for error in errors if not isinstance(error, KilledWorker)), None)
        # What a task raised is a better reason than what befell the others meanwhile.
        if other is not None and not isinstance(other, CancelledError):
            return given_up(other) if isinstance(other, NoValidWorkerError) else other
        if not killed:
            return other or CancelledError(str(failed[0].key))
        keys = dict.fromkeys(str(error.task) for error in killed)
        names = dict.fromkeys(graph.ranges.get(key, "a merge of results") for key in keys)
        return TasksKilledError(
            [graph.shares[key] for key in keys if key in graph.shares],
            ", ".join(names),
            f"{killed[0].allowed_failures + 1} times, the last was {killed[0].last_worker.address}",
        )

    def _error(self, future: Future[Any]) -> BaseException:
        if future.status == "cancelled":
            # The tasks of a client that is closed are cancelled too.
            with self._calls.reached():
                return CancelledError(future.key)
        error: BaseException = self._calls.ask(future.exception)
        return error


@contextmanager
def _large_graphs() -> Iterator[None]:
    """Parameters of many mixtures may well exceed Dask's idea of a large graph.

    Its configuration is that of all threads: of two that change it at once, each would restore
    what the other had set.
    """
    with _configuring, dask.config.set({_LARGE: "1 TiB"}):
        yield


def _home_of_range(selection: Selection, homes: Sequence[Any], share: Share) -> Any:
    blocks = selection.shape.blocks(share.node)
    inside = slice(blocks.start, blocks.stop)
    return home_of(homes[inside], [item.block.n_rows for item in selection.work[inside]])
