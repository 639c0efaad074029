"""A dataset opened on a Dask cluster: passes as small graphs, watched until their nodes arrive."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self, TypeVar, cast
from uuid import uuid4

from distributed import CancelledError, Client, Future
from distributed.protocol.pickle import dumps

from dgmm.data.dataset import Dataset
from dgmm.engine.base import CONSUMER_BYTES, BlockTask, Counters, Mergeable, Reduced
from dgmm.engine.dask_cluster import Cluster, Held
from dgmm.engine.dask_graph import (
    ARITY,
    PassGraph,
    Share,
    deal,
    ranges_of_worker,
    remote_rows,
    share_pieces,
)
from dgmm.engine.memory import Demand, MemoryPlan, demand_of, plan_memory, resolve_limit
from dgmm.engine.pieces import cut_finely, value_bytes
from dgmm.engine.processor import warn_of_mixed
from dgmm.engine.spreading import joined, lend, spread
from dgmm.engine.tree import Node, TreeReducer
from dgmm.engine.work import BlockWork, Selection, check_keep, select
from dgmm.engine.worker import NodeResult, Settings, close_session, evaluate_blocks, reduce_range
from dgmm.errors import EngineError, MemoryLimitError

__all__ = ["DaskSession"]

M = TypeVar("M", bound=Mergeable)

# Times that a pass is begun again because data that only one worker held went with it.
ATTEMPTS = 4


class DaskSession:
    """A dataset opened on a cluster; see :class:`dgmm.engine.base.Session`.

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
        no_workers_timeout: float,
    ) -> None:
        self.dataset = dataset
        self.counters = Counters()
        self._cluster = Cluster(client, no_workers_timeout)
        self._name = uuid4().hex
        self._closed = False
        self._driver_limit = resolve_limit(memory_limit)
        self._reserved = reserved_bytes
        self._everything = select(dataset)
        workers = self._cluster.workers()
        self._worker_limit = memory_limit or self._cluster.worker_memory() // 2
        self._demand = _worker_demand(dataset, len(workers))
        self._held: Held | None = None
        self.plan = plan_memory(self._demand, max(workers.values()), self._worker_limit)

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
        EngineError
            If the cluster has no workers for too long, or a range of blocks kills its workers.
        """
        self._check_open()
        keep_blocks = check_keep(keep)
        selection = self._everything if blocks is None else select(self.dataset, blocks)
        # Each arrives as bytes and as the value made of them.
        n_received = 2 * (ARITY + (len(selection.work) if keep_blocks else 0))
        self._plan_driver({"results received": n_received * task.result_bytes})
        for attempt in range(ATTEMPTS):
            try:
                found = self._pass(task, selection, keep_blocks, near=attempt == 0)
            except CancelledError as error:
                lost = str(error)
                continue
            self.counters.passes += 1
            return found
        raise EngineError(
            f"the cluster dropped the tasks of a pass {ATTEMPTS} times ({lost}); its scheduler or "
            "the workers that held the rows are gone"
        )

    def stream(
        self, task: BlockTask[Any], *, consumer_bytes: int = CONSUMER_BYTES
    ) -> Iterator[tuple[int, Any]]:
        """``(first_row, value)`` of every piece in the order of the rows; see :class:`Session`.

        A worker is a few tasks ahead of the consumer. Their values stay with it until they are
        asked for, one task's at a time.
        """
        self._check_open()
        pieces = cut_finely(self._everything, task)
        shares = share_pieces(pieces, task)
        most = max(value_bytes(one.range.work[0], task) for _, one in shares)
        # They pass through the scheduler, which may live in this process too.
        self._plan_driver({"values received": 4 * most, "buffers of the consumer": consumer_bytes})
        threads = self._cluster.workers()
        self._plan_workers((task,), max(threads.values()), n_kept=0, value_bytes=most)
        # The consumer may run passes in between, which have plans of their own.
        plan, span = self.plan, self.plan.span
        first = PassGraph(uuid4().hex)
        (sent,) = self._cluster.submit(first, [first.add_pickled("task", dumps(task))])
        homes = self._cluster.homes(pieces)
        near = deal([homes[position] for position, _ in shares], list(threads), span)
        todo = deque(zip([share for _, share in shares], near, strict=True))
        begun: deque[_Begun] = deque()
        busy: Counter[str] = Counter()
        try:
            while todo or begun:
                while todo and busy[todo[0][1]] < span:
                    share, worker = todo.popleft()
                    begun.append(self._begin(plan, share, sent, worker))
                    busy[worker] += 1
                result = self._end(begun[0], sent)
                done = begun.popleft()
                busy[done.workers[0]] -= 1
                yield from zip(_first_rows(done.share.range.work[0]), result.value, strict=True)
        finally:
            for one in begun:
                self._cluster.give_up(one.graph, [one.future], self._name)

    def close(self) -> None:
        """Let the workers forget what they hold for the session."""
        if not self._closed:
            self._closed, self._held = True, None
            self._cluster.tell(close_session, self._name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise EngineError("the session is closed; open another with engine.session(dataset)")

    def _pass(self, task: BlockTask[M], selection: Selection, keep: bool, near: bool) -> Reduced[M]:
        """One pass. With ``near``, ranges ask for the worker that has their blocks in its cache."""
        graph, threads = PassGraph(uuid4().hex), self._cluster.workers()
        n_kept = len(selection.work) if keep else 0
        self._plan_workers((task,), max(threads.values()), n_kept)
        held = self._hold(selection, threads)
        slices, lent = self._spread(task, selection, held, threads, n_kept)
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
        futures = self._cluster.submit(graph, names)
        try:
            near_by = [worker for workers in lent for worker in workers] if near else ()
            results = self._cluster.collect(graph, futures, near_by)
        except BaseException:
            self._cluster.give_up(graph, futures, self._name)
            raise
        return self._merge(task, slices, selection, tops, results, keep)

    def _spread(
        self,
        task: BlockTask[M],
        selection: Selection,
        held: Held,
        threads: Mapping[str, int],
        n_kept: int,
    ) -> tuple[tuple[BlockTask[M], ...], list[list[str]]]:
        """The slices of a task, and for each range the worker of each slice.

        A block is then read by every worker that evaluates a slice on it. That is why a task is
        cut only where there are fewer blocks than threads.
        """
        whole = (task,), [[worker] for worker in held.workers]
        slots = {worker: min(n, self.plan.n_threads) for worker, n in threads.items()}
        if len(selection.work) >= sum(slots.values()):
            return whole
        slices = spread(task, len(held.shares), sum(slots.values()), ARITY)
        lent = lend(held.workers, len(slices), slots)
        if len(slices) == 1:
            return whole
        try:
            brought = {"rows brought from other workers": _most_brought(held, lent)}
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

    def _begin(
        self, plan: MemoryPlan, share: Share, sent: Future[Any], worker: str | None
    ) -> _Begun:
        graph = PassGraph(uuid4().hex)
        kept = max(1, plan.window - plan.n_threads + 1)
        settings = self._settings(graph, plan, kept)
        arguments = (sent, graph.add_pickled("blocks", dumps(share.range)), settings)
        key = graph.add_range(evaluate_blocks, 0, share, worker, arguments)
        (future,) = self._cluster.submit(graph, [key])
        return _Begun(plan, share, graph, future, () if worker is None else (worker,))

    def _end(self, begun: _Begun, sent: Future[Any]) -> NodeResult[Any]:
        try:
            (result,) = self._cluster.collect(begun.graph, [begun.future], begun.workers)
        except CancelledError:
            again = self._begin(begun.plan, begun.share, sent, None)
            (result,) = self._cluster.collect(again.graph, [again.future], ())
        self._count(result)
        return cast(NodeResult[Any], result)

    def _hold(self, selection: Selection, workers: Mapping[str, int]) -> Held:
        """The ranges of a selection; those of the whole dataset are cut and shipped once."""
        if selection is not self._everything:
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
        result_bytes = sum(one.result_bytes for one in slices)
        waiting = (ranges_of_worker(n_threads) + ARITY + n_kept) * result_bytes
        items = {
            **self._demand.other,
            "results sent, merged or kept": waiting,
            "compiled loops": getattr(slices[0], "library_bytes", 0),
            **(other or {}),
        }
        demand = replace(
            self._demand,
            workspace_bytes=max(one.workspace_bytes for one in slices),
            result_bytes=result_bytes,
            height=self._everything.shape.height,
            value_bytes=value_bytes,
            other=items,
        )
        self.plan = plan_memory(demand, n_threads, self._worker_limit)

    def _plan_driver(self, received: dict[str, int]) -> None:
        """Refuse a pass whose results the driver cannot take in."""
        other = {"reserved by the caller": self._reserved, **received}
        plan_memory(Demand(0, 1, 0, other=other), 1, self._driver_limit)

    def _count(self, node: NodeResult[Any]) -> None:
        self.counters.block_reads += node.reads.blocks
        self.counters.bytes_read += node.reads.nbytes
        processors = self.counters.processors
        known = len(processors)
        processors.update(node.processors)
        if len(processors) > max(known, 1):
            warn_of_mixed(processors)


@dataclass
class _Begun:
    """A range of a stream that workers are at."""

    plan: MemoryPlan
    share: Share
    graph: PassGraph
    future: Future[Any]
    workers: tuple[str, ...]


def _worker_demand(dataset: Dataset, n_workers: int) -> Demand:
    """What reading takes in a worker. Rows in the driver's memory are sent to the workers."""
    resident = sum(block.nbytes for block in dataset.blocks if block.is_resident)
    read = [block for block in dataset.blocks if remote_rows(block) is None]
    kept = {"rows kept on workers": -(-resident // n_workers)}
    return replace(demand_of(read, 1), other=kept)


def _most_brought(held: Held, lent: Sequence[Sequence[str]]) -> int:
    """Most bytes of rows in memory that a worker is sent because it is lent ranges of others."""
    brought: Counter[str] = Counter()
    for (share, home, _), workers in zip(held.items(), lent, strict=True):
        rows = sum(item.block.nbytes for item in share.range.work if item.block.is_resident)
        for worker in set(workers) - {home}:
            brought[worker] += rows
    return max(brought.values(), default=0)


def _first_rows(item: BlockWork) -> list[int]:
    return [item.block.first_row + start for start, _ in item.parts]
