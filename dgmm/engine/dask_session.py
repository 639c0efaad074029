"""A dataset opened on a Dask cluster: passes as small graphs, watched until their nodes arrive."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self, TypeVar
from uuid import uuid4

from distributed import CancelledError, Client
from distributed.protocol.pickle import dumps

from dgmm.data.dataset import Dataset
from dgmm.engine.base import CONSUMER_BYTES, BlockTask, Counters, Mergeable, Reduced
from dgmm.engine.dask_attempts import Attempts
from dgmm.engine.dask_calls import steadily
from dgmm.engine.dask_cluster import Cluster, Held, TasksKilledError
from dgmm.engine.dask_graph import (
    ARITY,
    PassGraph,
    Share,
    deal,
    ranges_of_worker,
    remote_rows,
    share_pieces,
)
from dgmm.engine.dask_stream import Ahead
from dgmm.engine.dask_suspects import examine
from dgmm.engine.dask_timeouts import Timeouts
from dgmm.engine.memory import (
    Demand,
    MemoryPlan,
    check_memory,
    demand_of,
    plan_memory,
    resolve_limit,
)
from dgmm.engine.pieces import cut_finely, value_bytes
from dgmm.engine.processor import warn_of_mixed
from dgmm.engine.spreading import joined, lend, spread
from dgmm.engine.tree import Node, TreeReducer
from dgmm.engine.work import BlockWork, Selection, check_keep, select
from dgmm.engine.worker import NodeResult, Settings, close_session, reduce_range
from dgmm.errors import EngineError, MemoryLimitError, SchedulerLostError

__all__ = ["DaskSession"]

M = TypeVar("M", bound=Mergeable)


class DaskSession:
    """A dataset opened on a cluster; see :class:`dgmm.engine.base.Session`.

    Parameters
    ----------
    client : distributed.Client
    dataset : Dataset
    memory_limit : int or None
    reserved_bytes : int
    timeouts : Timeouts
    renew : callable, optional
        Given the client of this cluster when that is lost, gives that of another.

    Attributes
    ----------
    dataset : Dataset
    counters : Counters
    plan : MemoryPlan
        Of a worker, in the latest pass.
    """

    def __init__(
        self,
        client: Client,
        dataset: Dataset,
        *,
        memory_limit: int | None,
        reserved_bytes: int,
        tasks: Sequence[BlockTask[Any]] = (),
        timeouts: Timeouts,
        renew: Callable[[Client], Client] | None = None,
    ) -> None:
        self.dataset = dataset
        self.counters = Counters()
        self._timeouts, self._renew = timeouts, renew
        self._name = uuid4().hex
        self._cluster = Cluster(client, timeouts, self._name)
        self._closed = False
        self._driver_limit = resolve_limit(memory_limit)
        self._reserved = reserved_bytes
        self._everything = select(dataset)
        workers = self._cluster.workers()
        self._seen = set(workers)
        self._worker_limit = memory_limit or steadily(self._cluster.worker_memory) // 2
        self._demand = _worker_demand(dataset, len(workers))
        self._held: Held | None = None
        most = max(workers.values())
        known = [self._worker_demand_of((one,), most, 0) for one in tasks]
        received = max((2 * ARITY * one.result_bytes for one in tasks), default=0)
        here = self._driver_demand({"results received": received})
        if self._driver_limit == self._worker_limit:
            # One number was given for all processes, and has to be enough for each.
            check_memory([self._demand, *known, here], self._worker_limit)
        else:
            check_memory([self._demand, *known], self._worker_limit)
            check_memory([here], self._driver_limit)
        self.plan = plan_memory(self._demand, most, self._worker_limit)

    def run(
        self,
        task: BlockTask[M],
        *,
        blocks: Sequence[int] | None = None,
        keep: str | None = None,
        again: bool = False,
    ) -> Reduced[M]:
        """Evaluate a task on every part and merge the results; see :class:`Session`.

        Workers read nothing for the next pass: their caches hold what fits.

        Raises
        ------
        NoWorkersError, SchedulerLostError, StalledError
            If the cluster has no workers, no scheduler or gets nowhere, for too long.
        DeadlyBlockError
            If a block kills the workers that evaluate it.
        EngineError
            If the pass was lost over and over.
        """
        self._check_open()
        keep_blocks = check_keep(keep)
        selection = self._everything if blocks is None else select(self.dataset, blocks)
        # Each arrives as bytes and as the value made of them.
        n_received = 2 * (ARITY + (len(selection.work) if keep_blocks else 0))
        self._plan_driver({"results received": n_received * task.result_bytes})
        attempts = Attempts()
        while True:
            try:
                found = self._pass(task, selection, keep_blocks, attempts)
            except (CancelledError, TasksKilledError, SchedulerLostError) as error:
                self._recover(task, attempts, error)
            else:
                self.counters.passes += 1
                return found
            self.counters.retries += 1

    def stream(
        self, task: BlockTask[Any], *, consumer_bytes: int = CONSUMER_BYTES
    ) -> Iterator[tuple[int, Any]]:
        """``(first_row, value)`` of every piece in the order of the rows; see :class:`Session`.

        A worker is a few tasks ahead of the consumer. Their values stay with it until they are
        asked for, one task's at a time.
        """
        self._check_open()
        pieces = cut_finely(self._everything, task)
        left = deque(share_pieces(pieces, task))
        most = max(value_bytes(one.range.work[0], task) for _, one in left)
        # They pass through the scheduler, which may live in this process too.
        self._plan_driver({"values received": 4 * most, "buffers of the consumer": consumer_bytes})
        attempts = Attempts()
        while left:
            cluster = self._cluster
            attempts.begin(())
            try:
                yield from self._stream(task, pieces, left, most)
            except SchedulerLostError as error:
                # A pass in between may have moved already.
                if self._cluster is cluster:
                    self._move(attempts, error)
                self.counters.retries += 1

    def _stream(
        self, task: BlockTask[Any], pieces: Selection, left: deque[tuple[int, Share]], most: int
    ) -> Iterator[tuple[int, Any]]:
        """The values of the shares that are left, which are taken away as they come."""
        threads = self._cluster.workers()
        self._plan_workers((task,), max(threads.values()), n_kept=0, value_bytes=most)
        # The consumer may run passes in between, which have plans of their own.
        plan, span = self.plan, self.plan.span
        ahead = Ahead(self._cluster, task, plan, self._name)
        homes = steadily(lambda: self._cluster.homes(pieces))
        near = deal([homes[position] for position, _ in left], list(threads), span)
        todo = deque(zip([share for _, share in left], near, strict=True))
        busy: Counter[str] = Counter()
        try:
            while todo or ahead:
                while todo and busy[todo[0][1]] < span:
                    share, worker = todo.popleft()
                    ahead.begin(share, worker)
                    busy[worker] += 1
                share, worker, result = ahead.take()
                busy[worker] -= 1
                self._count(result)
                left.popleft()
                yield from zip(_first_rows(share.range.work[0]), result.value, strict=True)
        finally:
            ahead.give_up()

    def close(self) -> None:
        """Let the workers forget what they hold for the session."""
        if not self._closed:
            self._closed, self._held = True, None
            self._cluster.tell(close_session, self._name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise EngineError("the session is closed; open another with engine.session(dataset)")

    def _pass(
        self, task: BlockTask[M], selection: Selection, keep: bool, attempts: Attempts
    ) -> Reduced[M]:
        """One pass. At first, ranges ask for the worker that has their blocks in its cache."""
        graph, threads = PassGraph(uuid4().hex), self._workers()
        near = attempts.begin(threads)
        n_kept = len(selection.work) if keep else 0
        self._plan_workers((task,), max(threads.values()), n_kept)
        held = attempts.held = self._hold(selection, threads, attempts.held)
        slices, lent = self._spread(task, selection, held, threads, n_kept, attempts.slices)
        attempts.slices = slices
        window = max(1, self.plan.window // self.plan.n_threads)
        settings = self._settings(graph, self.plan, window, keep=keep)
        names: list[str] = []
        for number, one in enumerate(slices):
            sent = graph.add_task(dumps(one), number)
            keys = [
                graph.add_range(
                    reduce_range,
                    place * len(slices) + number,
                    share,
                    lent[place][number] if near else None,
                    (sent, handle, settings),
                )
                for place, (share, _, handle) in enumerate(held.items())
            ]
            nodes = [share.node for share in held.shares]
            tops, merged = graph.add_merges(selection.shape, nodes, keys, ARITY // len(slices))
            names += merged
        results = attempts.results
        missing = [place for place in range(len(names)) if place not in results]
        futures = self._cluster.submit(graph, [names[place] for place in missing])
        try:
            near_by = [worker for workers in lent for worker in workers] if near else ()
            wanted = dict(zip(missing, futures, strict=True))
            self._cluster.collect(graph, wanted, near_by, results, attempts.still)
        except BaseException:
            self._cluster.give_up(graph, futures, self._name)
            raise
        found = [results[place] for place in range(len(names))]
        return self._merge(task, slices, selection, tops, found, keep)

    def _workers(self) -> dict[str, int]:
        """Threads of the workers that are there; those that were and are not count as lost."""
        workers = self._cluster.workers()
        self.counters.workers_lost += len(self._seen.difference(workers))
        self._seen = set(workers)
        return workers

    def _spread(
        self,
        task: BlockTask[M],
        selection: Selection,
        held: Held,
        threads: Mapping[str, int],
        n_kept: int,
        known: tuple[BlockTask[M], ...],
    ) -> tuple[tuple[BlockTask[M], ...], list[list[str]]]:
        """The slices of a task, and for each range the worker of each slice.

        A block is then read by every worker that evaluates a slice on it. That is why a task is
        cut only where there are fewer blocks than threads. Later attempts keep to the slices of
        the first, of which there may be results, and to no worker.
        """
        whole = (task,), [[worker] for worker in held.workers]
        if known:
            self._plan_workers(known, max(threads.values()), n_kept)
            return known, []
        slots = {worker: min(n, self.plan.n_threads) for worker, n in threads.items()}
        if len(selection.work) >= sum(slots.values()):
            return whole
        slices = spread(task, len(held.shares), sum(slots.values()), ARITY)
        lent = lend(held.workers, len(slices), slots)
        if len(slices) == 1:
            return whole
        try:
            brought = {"rows brought from other workers": held.most_brought(lent)}
            self._plan_workers(slices, max(threads.values()), n_kept, other=brought)
        except MemoryLimitError:
            return whole
        return slices, lent

    def _merge(
        self,
        task: BlockTask[M],
        slices: Sequence[BlockTask[M]],
        selection: Selection,
        tops: list[Node],
        results: list[NodeResult[M]],
        keep: bool,
    ) -> Reduced[M]:
        totals: list[M] = []
        kept: list[dict[int, M]] = []
        for first in range(0, len(results), len(tops)):
            reducer: TreeReducer[M] = TreeReducer(selection.shape)
            partitions: dict[int, M] = {}
            for top, node in zip(tops, results[first : first + len(tops)], strict=True):
                reducer.add(top, node.value)
                partitions.update(node.kept)
                self._count(node)
            totals.append(reducer.result())
            kept.append(partitions)
        self.counters.nodes_received = max(self.counters.nodes_received, len(results))
        self.counters.slices = max(self.counters.slices, len(slices))
        total = joined(task, slices, totals)
        if not keep:
            return Reduced(total)
        numbers = sorted(kept[0])
        return Reduced(total, {n: joined(task, slices, [one[n] for one in kept]) for n in numbers})

    def _recover(self, task: BlockTask[Any], attempts: Attempts, error: BaseException) -> None:
        """See whether there is a point in another attempt; the cluster may fail meanwhile, too."""
        try:
            if isinstance(error, TasksKilledError):
                attempts.killed(error, innocent=self._examine(task, error))
            elif isinstance(error, SchedulerLostError):
                self._move(attempts, error)
            else:
                attempts.lost(error, self._cluster.workers())
        except SchedulerLostError as lost:
            if lost is error:
                raise
            self._move(attempts, lost)
        except CancelledError as again:
            attempts.lost(again, ())

    def _examine(self, task: BlockTask[Any], killed: TasksKilledError) -> bool:
        """See whether a block is to blame for the deaths of workers."""
        settings = self._settings(PassGraph(uuid4().hex), self.plan, 1)
        return examine(self._cluster, reduce_range, task, killed, settings)

    def _move(self, attempts: Attempts, error: SchedulerLostError) -> None:
        """Go on with another cluster, where there can be one."""
        if self._renew is None:
            raise error
        another = self._renew(self._cluster.client)
        self._cluster, self._held = Cluster(another, self._timeouts, self._name), None
        if attempts.held is not None:
            attempts.held = replace(attempts.held)
        attempts.lost(error, self._cluster.workers())

    def _hold(self, selection: Selection, workers: Mapping[str, int], held: Held | None) -> Held:
        """The ranges of a selection; those of the whole dataset are cut and shipped once."""
        if held is not None:
            # Of an earlier attempt, with results of some of them.
            pass
        elif selection is not self._everything:
            held = self._cluster.cut(selection, workers)
        else:
            held = self._held = self._held or self._cluster.cut(selection, workers)
        held.assign(workers)
        self._cluster.ship(held)
        return held

    def _settings(
        self, graph: PassGraph, plan: MemoryPlan, window: int, *, keep: bool = False
    ) -> Settings:
        return Settings(
            self._name,
            graph.name,
            n_threads=plan.n_threads,
            window=window,
            cache_bytes=plan.cache_bytes,
            keep=keep,
        )

    def _plan_workers(
        self,
        slices: Sequence[BlockTask[Any]],
        n_threads: int,
        n_kept: int,
        *,
        value_bytes: int = 0,
        other: Mapping[str, int] | None = None,
    ) -> None:
        demand = self._worker_demand_of(slices, n_threads, n_kept, value_bytes, other)
        self.plan = plan_memory(demand, n_threads, self._worker_limit)

    def _worker_demand_of(
        self,
        slices: Sequence[BlockTask[Any]],
        n_threads: int,
        n_kept: int,
        value_bytes: int = 0,
        other: Mapping[str, int] | None = None,
    ) -> Demand:
        """What a pass needs in a worker, beside what reading does."""
        result_bytes = sum(one.result_bytes for one in slices)
        waiting = (ranges_of_worker(n_threads) + ARITY + n_kept) * result_bytes
        items = {
            **self._demand.other,
            "results sent, merged or kept": waiting,
            "compiled loops": getattr(slices[0], "library_bytes", 0),
            **(other or {}),
        }
        return replace(
            self._demand,
            workspace_bytes=max(one.workspace_bytes for one in slices),
            result_bytes=result_bytes,
            height=self._everything.shape.height,
            value_bytes=value_bytes,
            other=items,
        )

    def _plan_driver(self, received: dict[str, int]) -> None:
        """Refuse a pass whose results the driver cannot take in."""
        plan_memory(self._driver_demand(received), 1, self._driver_limit)

    def _driver_demand(self, received: dict[str, int]) -> Demand:
        return Demand(0, 1, 0, other={"reserved by the caller": self._reserved, **received})

    def _count(self, node: NodeResult[Any]) -> None:
        self.counters.block_reads += node.reads.blocks
        self.counters.bytes_read += node.reads.nbytes
        processors = self.counters.processors
        known = len(processors)
        processors.update(node.processors)
        if len(processors) > max(known, 1):
            warn_of_mixed(processors)


def _worker_demand(dataset: Dataset, n_workers: int) -> Demand:
    """What reading takes in a worker. Rows in the driver's memory are sent to the workers."""
    resident = sum(block.nbytes for block in dataset.blocks if block.is_resident)
    read = [block for block in dataset.blocks if remote_rows(block) is None]
    kept = {"rows kept on workers": -(-resident // n_workers)}
    return replace(demand_of(read, 1), other=kept)


def _first_rows(item: BlockWork) -> list[int]:
    return [item.block.first_row + start for start, _ in item.parts]
