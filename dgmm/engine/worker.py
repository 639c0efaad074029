"""What runs in the worker processes of a cluster: ranges of the tree, merges, the cache of blocks.

The functions here are tasks. They are stateless as far as results go: a cache that is lost with
its worker is only filled again.
"""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from dgmm.data.dataset import Block, Rows
from dgmm.engine.allocator import return_freed_blocks
from dgmm.engine.base import BlockTask, Mergeable
from dgmm.engine.blas import single_threaded_blas
from dgmm.engine.cache import BlockCache
from dgmm.engine.dask_heartbeat import PULSE
from dgmm.engine.device_worker import WorkerDevice
from dgmm.engine.feed import Feed, Lease, Reads, evaluate_parts
from dgmm.engine.given import GivenBlock, HeldBlock
from dgmm.engine.processor import processor_here
from dgmm.engine.tree import Shape, TreeReducer, merge_values
from dgmm.engine.work import BlockWork, load
from dgmm.errors import EngineError
from dgmm.portable import portable_errors

__all__ = [
    "GivenBlock",
    "HeldBlock",
    "NodeResult",
    "Range",
    "Settings",
    "close_session",
    "evaluate_blocks",
    "merge_nodes",
    "reduce_range",
    "stop_pass",
]

M = TypeVar("M", bound=Mergeable)

# Sessions whose driver died never close. Two at a time keep their caches, and more only while tasks
# of theirs are at work; the others read again.
_MAX_SESSIONS = 2

# A task that was on its way when its session was closed must not open it again. Those of a thousand
# sessions ago have long ended.
_MOST_CLOSED = 1000


@dataclass(frozen=True)
class Range:
    """The work under one node of the tree.

    Parameters
    ----------
    work : tuple of BlockWork
        Whole blocks. Because the node is aligned, they form the same tree by themselves.
    """

    work: tuple[BlockWork, ...]

    @property
    def shape(self) -> Shape:
        return Shape(tuple(len(item.parts) for item in self.work))

    @property
    def name(self) -> str:
        """How messages call the range."""
        first, last = self.work[0], self.work[-1]
        if first.number == last.number:
            return f"block {first.number} ({first.block.name})"
        return f"blocks {first.number} to {last.number}"


@dataclass(frozen=True)
class Settings:
    """How a worker does its share of a pass.

    Parameters
    ----------
    session : str
        Whose cache to use.
    run : str
        The pass, so that it can be stopped.
    n_threads : int
        Tasks of the session that may compute at once in one process.
    window : int
        Blocks in flight of one task; in a stream, blocks that the process keeps for what follows.
    cache_bytes : int
        Of one process.
    keep : bool
        Keep the result of every block.
    """

    session: str
    run: str
    n_threads: int
    window: int
    cache_bytes: int
    keep: bool = False


@dataclass
class NodeResult(Generic[M]):
    """The value of a node, with what it took to get it.

    Attributes
    ----------
    value : M
    kept : dict of int to M
        Results of blocks by their number in the dataset, if they are kept.
    reads : Reads
    processors : dict of str to str
        A machine of each kind that took part (:mod:`dgmm.engine.processor`).
    """

    value: M
    kept: dict[int, M]
    reads: Reads
    processors: dict[str, str] = field(default_factory=dict)


class RecentBlocks:
    """Blocks that tasks of a stream were at last: other pieces of them may come next.

    Each is read by one task at a time, for all that wait for it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: OrderedDict[int, Rows] = OrderedDict()
        self._reading: dict[int, threading.Lock] = {}

    def rows(self, item: BlockWork, most: int) -> tuple[Rows, Reads]:
        """The rows of a block, and what it took to get them; so many blocks are held after."""
        with self._lock:
            turn = self._reading.setdefault(item.number, threading.Lock())
        with turn:
            with self._lock:
                if item.number in self._rows:
                    self._rows.move_to_end(item.number)
                    return self._rows[item.number], Reads()
                while len(self._rows) >= most:
                    self._reading.pop(self._rows.popitem(last=False)[0], None)
            rows = load(item.block)
            with self._lock:
                self._rows[item.number] = rows
            return rows, Reads(1, item.block.nbytes)

    def clear(self) -> None:
        with self._lock:
            self._rows.clear()


class OneRead(BlockCache):
    """The cache of a session to one task of a stream: what it lacks is read for all tasks at once.

    Attributes
    ----------
    reads : Reads
        What it took.
    """

    def __init__(self, session: WorkerSession, item: BlockWork, most: int) -> None:
        super().__init__()
        self.reads = Reads()
        self._session, self._item, self._most = session, item, most

    def get(self, block: int) -> Rows | None:
        if self._item.block.is_resident:
            return None
        rows = self._session.cache.get(block)
        if rows is None:
            rows, reads = self._session.recent.rows(self._item, self._most)
            self.reads.add(reads)
            self._session.cache.offer(block, rows)
        return rows


class WorkerSession:
    """What a worker process holds for one session."""

    def __init__(self, n_threads: int) -> None:
        return_freed_blocks()
        self.cache = BlockCache()
        self.recent = RecentBlocks()
        self.gate = threading.Semaphore(n_threads)
        self.feeds: dict[Feed, str] = {}
        self.device = WorkerDevice()
        self.n_tasks = 0

    def forget(self) -> None:
        """Let go of all rows, and keep none that come later."""
        self.cache.resize(0)
        self.cache.clear()
        self.recent.clear()
        self.device.forget()


_sessions: OrderedDict[str, WorkerSession] = OrderedDict()
_closed: deque[str] = deque(maxlen=_MOST_CLOSED)
_lock = threading.Lock()


def _session(settings: Settings) -> WorkerSession:
    """What is held for the session; of one that is closed, nothing is."""
    with _lock:
        if settings.session in _closed:
            return WorkerSession(settings.n_threads)
        if settings.session not in _sessions:
            _sessions[settings.session] = WorkerSession(settings.n_threads)
            PULSE.open(settings.session)
        _sessions.move_to_end(settings.session)
        session = _sessions[settings.session]
        session.n_tasks += 1
        _forget_idle()
        session.cache.resize(settings.cache_bytes)
    return session


def _forget_idle() -> None:
    """Sessions beyond those that may stay: first who was away longest, none that is at work."""
    idle = [name for name, one in _sessions.items() if not one.n_tasks]
    for name in idle[: max(0, len(_sessions) - _MAX_SESSIONS)]:
        _sessions.pop(name).forget()
        PULSE.close(name)


@contextmanager
def _at_work(settings: Settings) -> Iterator[WorkerSession]:
    """What is held for the session of a task, from its first step to its last."""
    session = _session(settings)
    try:
        yield session
    finally:
        with _lock:
            session.n_tasks -= 1


async def close_session(name: str) -> None:
    """Forget what is held for a session, for good."""
    with _lock:
        if name not in _closed:
            _closed.append(name)
        session = _sessions.pop(name, None)
    PULSE.close(name)
    if session is not None:
        session.forget()


async def stop_pass(name: str, run: str) -> None:
    """Make the tasks of a pass that are at work end soon, without a result."""
    with _lock:
        session = _sessions.get(name)
    for feed, its_run in list(session.feeds.items()) if session is not None else ():
        if its_run == run:
            feed.fail(EngineError("the pass was given up"))


@portable_errors()
def reduce_range(
    task: BlockTask[M], share: Range, settings: Settings, given: Sequence[Any]
) -> NodeResult[M]:
    """Evaluate a task on a range and merge the results to those of its node.

    Parameters
    ----------
    task : BlockTask
    share : Range
    settings : Settings
    given : sequence of array
        The rows of the blocks, where they come as arguments; else empty.
    """
    with _at_work(settings) as session:
        session.recent.clear()
        there = Range(_with_values(share.work, given))
        return session.device.guard(lambda: _reduce(session, task, there, settings))


def _reduce(
    session: WorkerSession, task: BlockTask[M], share: Range, settings: Settings
) -> NodeResult[M]:
    work, shape = share.work, share.shape
    reducer: TreeReducer[M] = TreeReducer(shape, keep_blocks=settings.keep)

    def deliver(lease: Lease, value: M) -> None:
        reducer.add(shape.leaf(lease.position, lease.part), value)
        feed.finished(lease.number)
        PULSE.beat(settings.session)

    loader = session.device.loader(task, session.cache, work, settings.window)
    with _reading(work, settings, session, session.cache, loader) as feed:
        evaluate_parts(feed, (task,), deliver)
        feed.check()
    kept = {work[position].number: value for position, value in reducer.kept.items()}
    return NodeResult(reducer.result(), kept, feed.reads, processor_here())


@portable_errors()
def evaluate_blocks(
    task: BlockTask[Any], share: Range, settings: Settings, given: Sequence[Any]
) -> NodeResult[Any]:
    """The values of a task on every piece of a range of one block, in order and not merged."""
    (item,) = _with_values(share.work, given)
    with _at_work(settings) as session:
        return session.device.guard(lambda: _evaluate(session, task, item, settings))


def _evaluate(
    session: WorkerSession, task: BlockTask[Any], item: BlockWork, settings: Settings
) -> NodeResult[Any]:
    values: list[Any] = []
    cache = OneRead(session, item, settings.window)

    def deliver(lease: Lease, value: Any) -> None:
        values.append(value)
        feed.finished(lease.number)
        PULSE.beat(settings.session)

    with _reading((item,), settings, session, cache) as feed:
        evaluate_parts(feed, (task,), deliver)
        feed.check()
    return NodeResult(values, {}, cache.reads, processor_here())


def merge_nodes(
    nodes: Sequence[NodeResult[M]], steps: tuple[tuple[int, int], ...]
) -> NodeResult[M]:
    """Merge the nodes of a subtree to its top."""
    # The inputs belong to the cluster, which may hand them out again after a loss.
    values = list(_copies([node.value for node in nodes], steps))
    kept: dict[int, M] = {}
    reads, processors = Reads(), processor_here()
    for node in nodes:
        kept.update(node.kept)
        reads.add(node.reads)
        processors.update(node.processors)
    return NodeResult(merge_values(values, steps), kept, reads, processors)


def _copies(values: Sequence[M], steps: tuple[tuple[int, int], ...]) -> Iterator[M]:
    reused = {left for left, _ in steps}
    for index, value in enumerate(values):
        yield copy.deepcopy(value) if index in reused else value


def _with_values(work: tuple[BlockWork, ...], given: Sequence[Any]) -> tuple[BlockWork, ...]:
    if not given:
        return work
    return tuple(
        item._replace(block=item.block.over(_giver(values)))
        for item, values in zip(work, given, strict=True)
    )


def _giver(values: Any) -> Callable[[Block], Block]:
    return lambda block: replace(block, values=values)  # type: ignore[call-arg]


@contextmanager
def _reading(
    work: tuple[BlockWork, ...],
    settings: Settings,
    session: WorkerSession,
    cache: BlockCache,
    loader: Callable[[BlockWork], tuple[Rows, Reads]] | None = None,
) -> Iterator[Feed]:
    """A feed with its reader at work, when it is this task's turn."""
    # One thread finishes each part before it takes the next.
    feed = Feed(work, window=settings.window, span=1, cache=cache, loader=loader)
    at_work = PULSE.at_work(settings.session)
    with session.gate, at_work, single_threaded_blas(), ThreadPoolExecutor(1) as pool:
        session.feeds[feed] = settings.run
        reader = pool.submit(feed.read_ahead)
        try:
            yield feed
        finally:
            feed.stop()
            wait([reader])
            del session.feeds[feed]
