"""The engine of one process: threads over the parts of blocks that other threads read ahead."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from numbers import Integral
from types import TracebackType
from typing import Any, Self, TypeVar

from dgmm.data.dataset import Dataset
from dgmm.devices import is_out_of_memory, is_sticky
from dgmm.engine.allocator import return_freed_blocks
from dgmm.engine.base import CONSUMER_BYTES, BlockTask, Counters, Mergeable, Reduced
from dgmm.engine.blas import single_threaded_blas
from dgmm.engine.cache import BlockCache
from dgmm.engine.devices import COMPUTING, DevicePasses, devices_of, explained, too_small
from dgmm.engine.feed import Feed, Lease, evaluate_parts
from dgmm.engine.memory import (
    READERS,
    Demand,
    MemoryPlan,
    check_memory,
    demand_of,
    plan_memory,
    resolve_limit,
)
from dgmm.engine.pieces import cut_finely, most_value_bytes
from dgmm.engine.spreading import joined, spread
from dgmm.engine.tree import TreeReducer
from dgmm.engine.work import Selection, check_keep, select
from dgmm.errors import EngineError, InvalidParameterError

__all__ = ["LocalEngine", "LocalSession"]

M = TypeVar("M", bound=Mergeable)


class LocalEngine:
    """Runs passes on threads of this process.

    Parameters
    ----------
    n_threads : int, optional
        Most threads that compute; None: one for each core that the process may use, by its
        affinity and by the CPU quota of its container. A tight memory limit may lead to fewer.
        The results do not depend on it, to the bit.

    Raises
    ------
    InvalidParameterError
        If ``n_threads`` is not a whole number or below 1.
    """

    def __init__(self, n_threads: int | None = None) -> None:
        given: Any = n_threads
        whole = isinstance(given, Integral) and not isinstance(given, bool)
        if given is not None and not (whole and int(given) >= 1):
            raise InvalidParameterError(
                f"n_threads={n_threads!r}; it must be a whole number, at least 1, or None"
            )
        self.n_threads = n_threads

    def session(
        self,
        dataset: Dataset,
        *,
        memory_limit: int | None = None,
        reserved_bytes: int = 0,
        tasks: Sequence[BlockTask[Any]] = (),
    ) -> LocalSession:
        """Open a dataset; see :class:`dgmm.engine.base.Engine`.

        Raises
        ------
        MemoryLimitError
            If not even one block at a time fits in the limit.
        """
        threads = self.n_threads or _n_cores()
        return LocalSession(dataset, threads, resolve_limit(memory_limit), reserved_bytes, tasks)

    def __repr__(self) -> str:
        return f"LocalEngine(n_threads={self.n_threads})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LocalEngine) and self.n_threads == other.n_threads

    def __hash__(self) -> int:
        return hash((LocalEngine, self.n_threads))

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


class LocalSession:
    """A dataset opened on threads; see :class:`dgmm.engine.base.Session`.

    Attributes
    ----------
    dataset : Dataset
    counters : Counters
    plan : MemoryPlan
        Of the latest pass.
    """

    def __init__(
        self,
        dataset: Dataset,
        n_threads: int,
        limit: int,
        reserved_bytes: int,
        tasks: Sequence[BlockTask[Any]] = (),
    ) -> None:
        return_freed_blocks()
        self.dataset = dataset
        self.counters = Counters()
        self._n_threads, self._limit, self._reserved = n_threads, limit, reserved_bytes
        self._everything = select(dataset)
        self._demand = demand_of(dataset.blocks, max(self._everything.shape.parts))
        self._cache = BlockCache()
        self._largest = max((block.nbytes for block in dataset.blocks), default=0)
        self._devices = DevicePasses(self._cache, self._largest, dataset.nbytes)
        self._one_pass = threading.Lock()
        self._ahead: _Ahead | None = None
        # What a GPU needs is its own affair.
        known = [self._demand_of((one,), self._demand) for one in tasks if not devices_of(one)]
        check_memory([self._with_reserved(one) for one in (self._demand, *known)], limit)
        self._pool: ThreadPoolExecutor | None = ThreadPoolExecutor(
            n_threads + READERS, thread_name_prefix="dgmm"
        )
        self.plan = self._make_plan(self._demand)

    def run(
        self,
        task: BlockTask[M],
        *,
        blocks: Sequence[int] | None = None,
        keep: str | None = None,
        again: bool = False,
    ) -> Reduced[M]:
        """Evaluate a task on every part and merge the results; see :class:`Session`.

        An error of a source or of the task stops the pass and is raised as it is; the session can
        be used again. Calls from several threads take turns.
        """
        selection, keep_blocks = self._select(blocks), check_keep(keep)
        if devices := devices_of(task):
            return self._run_on(devices, task, selection, keep_blocks)
        slices = spread(task, selection.shape.n_leaves, self._n_threads)
        reducers: list[TreeReducer[M]] = [
            TreeReducer(selection.shape, keep_blocks=keep_blocks) for _ in slices
        ]

        def deliver(lease: Lease, value: M) -> None:
            reducers[lease.slice].add(selection.shape.leaf(lease.position, lease.part), value)
            feed.finished(lease.number)

        with self._one_pass, single_threaded_blas():
            pool = self._open_pool()
            n_kept = len(selection.work) if keep else 0
            other = {"results kept by block": n_kept * task.result_bytes}
            readers, feed = self._fed(pool, slices, selection, replace(self._demand, other=other))
            # This thread computes as well: waking another costs more than a small part does.
            n_threads = min(self.plan.n_threads, len(slices) * selection.shape.n_leaves)
            others = _compute(pool, n_threads - 1, feed, slices, deliver)
            evaluate_parts(feed, slices, deliver)
            _finish(feed, readers + others)
            self._count(feed)
            feed.check()
            if again and selection is self._everything and feed.n_readers:
                self._ahead = self._begin_to_read(pool, selection, len(slices))
            self.counters.passes += 1
            self.counters.slices = max(self.counters.slices, len(slices))
        total = joined(task, slices, [one.result() for one in reducers])
        if not keep_blocks:
            return Reduced(total)
        kept = {
            item.number: joined(task, slices, [one.kept[place] for one in reducers])
            for place, item in enumerate(selection.work)
        }
        return Reduced(total, kept)

    def stream(
        self, task: BlockTask[Any], *, consumer_bytes: int = CONSUMER_BYTES
    ) -> Iterator[tuple[int, Any]]:
        """``(first_row, value)`` of every piece in the order of the rows; see :class:`Session`.

        The threads stop when the iterator is closed or dropped.
        """
        self._open_pool()
        pieces = cut_finely(self._everything, task)
        demand = replace(
            self._demand,
            block_parts=max(pieces.shape.parts),
            value_bytes=most_value_bytes(pieces, task),
            other={"buffers of the consumer": consumer_bytes},
        )
        devices = devices_of(task)
        # A pool of its own: the consumer may run passes between two values.
        with single_threaded_blas(), ThreadPoolExecutor(self._n_threads + READERS) as pool:
            readers, feed = self._fed(pool, (task,), pieces, demand)
            n = self.plan.n_threads
            threads = readers + _compute(pool, n, feed, (task,), feed.put, devices)
            try:
                yield from feed.values()
            except Exception as error:
                if is_sticky(error):
                    raise explained(error) from error
                if is_out_of_memory(error):
                    raise too_small(task, self._largest, error) from error
                raise
            finally:
                feed.stop()
                _finish(feed, threads)
                self._count(feed)

    def _run_on(
        self, devices: Sequence[str], task: BlockTask[M], selection: Selection, keep_blocks: bool
    ) -> Reduced[M]:
        """The pass on GPUs, which have workspaces of their own."""
        with self._one_pass:
            self._open_pool()
            self._drop_ahead()
            n, n_kept = len(devices), len(selection.work) if keep_blocks else 0
            # Each device goes up the tree from its own share of the parts.
            height = n * (selection.shape.height + COMPUTING)
            uploaded = [item.block for item in selection.work if not item.block.on_device]
            pinned = READERS * n * max((block.nbytes for block in uploaded), default=0)
            other = {"results kept by block": n_kept * task.result_bytes, "pinned memory": pinned}
            self.plan = self._make_plan(
                replace(self._demand, result_bytes=task.result_bytes, height=height, other=other)
            )
            # Blocks that are read again for the devices find those that the profile left here.
            self._cache.resize(self.plan.cache_bytes)
            reduced, reads = self._devices.run(
                task,
                devices,
                selection,
                keep_blocks=keep_blocks,
                window=self.plan.window,
                span=max(COMPUTING, self.plan.span // n),
            )
            self.counters.block_reads += reads.blocks
            self.counters.bytes_read += reads.nbytes
            self.counters.passes += 1
        return reduced

    def close(self) -> None:
        """Stop the threads and forget the cached blocks."""
        pool, self._pool = self._pool, None
        self._drop_ahead()
        self._devices.close()
        if pool is not None:
            pool.shutdown()
        self._cache.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _open_pool(self) -> ThreadPoolExecutor:
        if self._pool is None:
            raise EngineError("the session is closed; open another with engine.session(dataset)")
        return self._pool

    def _select(self, blocks: Sequence[int] | None) -> Selection:
        return self._everything if blocks is None else select(self.dataset, blocks)

    def _fed(
        self,
        pool: ThreadPoolExecutor,
        slices: Sequence[BlockTask[Any]],
        selection: Selection,
        demand: Demand,
    ) -> tuple[list[Future[None]], Feed]:
        """The readers of a pass, which may have begun before it, and what they feed."""
        self._make_plan_of(slices, selection, demand)
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead.serves(selection, self.plan, len(slices)):
            return ahead.readers, ahead.feed
        # What was read ahead would be in memory beside what the plan counts.
        _discard(ahead)
        begun = self._begin_to_read(pool, selection, len(slices))
        return begun.readers, begun.feed

    def _begin_to_read(
        self, pool: ThreadPoolExecutor, selection: Selection, n_slices: int
    ) -> _Ahead:
        plan = self.plan
        self._cache.resize(plan.cache_bytes)
        feed = Feed(
            selection.work,
            window=plan.window,
            span=plan.span,
            cache=self._cache,
            slices=n_slices,
        )
        readers = [pool.submit(feed.read_ahead) for _ in range(feed.n_readers)]
        return _Ahead(selection, plan, n_slices, feed, readers)

    def _drop_ahead(self) -> None:
        ahead, self._ahead = self._ahead, None
        _discard(ahead)

    def _make_plan_of(
        self, slices: Sequence[BlockTask[Any]], selection: Selection, demand: Demand
    ) -> None:
        most_threads = COMPUTING * len(devices_of(slices[0]))
        demand = self._demand_of(slices, demand, selection.shape.height)
        self.plan = self._make_plan(demand, most_threads)

    def _demand_of(
        self, slices: Sequence[BlockTask[Any]], demand: Demand, height: int | None = None
    ) -> Demand:
        """What a pass needs, beside what reading does."""
        libraries = {"compiled loops": getattr(slices[0], "library_bytes", 0)}
        return replace(
            demand,
            block_parts=len(slices) * demand.block_parts,
            workspace_bytes=max(one.workspace_bytes for one in slices),
            # Slices wait in a tree each, but not more bytes of them than of whole values.
            result_bytes=sum(one.result_bytes for one in slices),
            height=self._everything.shape.height if height is None else height,
            other={**demand.other, **libraries},
        )

    def _with_reserved(self, demand: Demand) -> Demand:
        return replace(demand, other={"reserved by the caller": self._reserved, **demand.other})

    def _make_plan(self, demand: Demand, most_threads: int = 0) -> MemoryPlan:
        threads = min(self._n_threads, most_threads or self._n_threads)
        return plan_memory(self._with_reserved(demand), threads, self._limit)

    def _count(self, feed: Feed) -> None:
        self.counters.block_reads += feed.reads.blocks
        self.counters.bytes_read += feed.reads.nbytes


@dataclass(frozen=True)
class _Ahead:
    """A pass whose rows are being read before its task is known."""

    selection: Selection
    plan: MemoryPlan
    n_slices: int
    feed: Feed
    readers: list[Future[None]]

    def serves(self, selection: Selection, plan: MemoryPlan, n_slices: int) -> bool:
        """True if a pass with this plan would have been fed in the same way."""
        mine, other = self.plan, plan
        return (
            self.selection is selection
            and self.n_slices == n_slices
            and (mine.window, mine.span, mine.cache_bytes)
            == (other.window, other.span, other.cache_bytes)
        )


def _discard(ahead: _Ahead | None) -> None:
    if ahead is not None:
        ahead.feed.stop()
        wait(ahead.readers)


def _compute(
    pool: ThreadPoolExecutor,
    n_threads: int,
    feed: Feed,
    slices: Sequence[BlockTask[Any]],
    deliver: Callable[[Lease, Any], None],
    devices: Sequence[str] = (),
) -> list[Future[None]]:
    """Start compute threads of a pass, on the devices in turn; none of them raises."""
    try:
        return [
            pool.submit(evaluate_parts, feed, _on(slices, devices, i), deliver)
            for i in range(n_threads)
        ]
    except BaseException:
        feed.stop()
        raise


def _on(slices: Sequence[Any], devices: Sequence[str], thread: int) -> Sequence[Any]:
    return [one.on(devices[thread % len(devices)]) for one in slices] if devices else slices


def _finish(feed: Feed, threads: list[Future[None]]) -> None:
    """Wait for the threads; if that is interrupted, stop them first."""
    try:
        wait(threads)
    except BaseException:
        feed.stop()
        wait(threads)
        raise


def _n_cores() -> int:
    """Cores that this process may use: those of its affinity, or its control group's quota."""
    from joblib import cpu_count

    return int(cpu_count())
