"""Passes on GPUs: blocks are copied to a device while those before them are computed on.

Each device has its share of the blocks, its own readers and two computing threads. A reader brings
a block into pinned memory and from there, on a stream of its own, to the device, and hands it over
when it has arrived; what a device keeps between passes is not read again. The two computing threads
have a stream each, so that one's kernels run while the other waits for a result. Results are merged
along the tree of all engines, so neither the number of devices nor what they keep changes a bit.

What a device is short of memory for shrinks in this order: the blocks it keeps, the threads, the
blocks in flight. Parts and tiles never do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np

from dgmm.arrays import namespace
from dgmm.data.dataset import Rows
from dgmm.devices import (
    gpu_count,
    is_device_array,
    is_out_of_memory,
    is_sticky,
    let_go,
    why_no_gpu,
)
from dgmm.engine.base import BlockTask, Mergeable, Reduced
from dgmm.engine.cache import BlockCache
from dgmm.engine.feed import Feed, Lease, Reads, evaluate_parts
from dgmm.engine.memory import READERS
from dgmm.engine.tree import TreeReducer
from dgmm.engine.upload import upload
from dgmm.engine.work import BlockWork, Selection, load
from dgmm.errors import EngineError, MemoryLimitError, MissingDependencyError

__all__ = ["DevicePasses", "DeviceStore", "devices_of", "explained", "found_devices", "too_small"]

M = TypeVar("M", bound=Mergeable)

# Computing threads of a device: one whose kernels run, one that waits for results or prepares.
COMPUTING = 2

# Of the memory that is free: the driver's own needs and what allocations lose to rounding are not
# in any projection.
_SHARE = 0.9


def devices_of(task: Any) -> tuple[str, ...]:
    """The devices that a task runs on, by name; none if it runs on processors.

    Raises
    ------
    MissingDependencyError
        If it needs a GPU and there is none.
    """
    return found_devices(str(getattr(task, "device", "cpu")))


def found_devices(device: str) -> tuple[str, ...]:
    """As :func:`devices_of`, for a task with ``device``."""
    if not device.startswith("cuda"):
        return ()
    count, number = gpu_count(), int(device.partition(":")[2] or 0)
    if number >= count:
        found = why_no_gpu() or f"there are {count}, numbered from 0"
        raise MissingDependencyError(
            f"device={device!r} needs an NVIDIA GPU with its driver and CuPy "
            f'(pip install "dgmm[cuda12]" or "dgmm[cuda13]"): {found}; or pass device="cpu"'
        )
    return (device,) if ":" in device else tuple(f"cuda:{i}" for i in range(count))


class DeviceStore:
    """One device: its streams, and the blocks that it keeps.

    Parameters
    ----------
    device : str
        ``"cuda:N"``, or ``"cuda"`` for the current one.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.cache = BlockCache()
        # Not by the device's name, which would make it this thread's current one.
        self._xp = namespace("cuda")
        self._streams: deque[Any] = deque()

    @contextmanager
    def stream(self) -> Iterator[Any]:
        """Make the device and a stream of it this thread's own.

        Streams are used again: CuPy keeps freed memory for the stream that it was allocated on.
        """
        number = int(self.device.partition(":")[2] or 0)
        with self._xp.cuda.Device(number):
            try:
                stream = self._streams.pop()
            except IndexError:
                stream = self._xp.cuda.Stream(non_blocking=True)
            try:
                with stream:
                    yield stream
            finally:
                self._streams.append(stream)

    def keep(self, most: int, spoken_for: int) -> None:
        """Keep as many blocks as the free memory leaves, at most ``most`` bytes.

        Parameters
        ----------
        most : int
        spoken_for : int
            Bytes of blocks in flight, workspaces and results.
        """
        with self.stream():
            # Rows that are on the device already may still be in the making, on streams that those
            # of a pass do not wait for.
            self._xp.cuda.runtime.deviceSynchronize()
            free = self._free_bytes() + self.cache.nbytes
        self.cache.resize(max(0, min(most, int(_SHARE * free) - spoken_for)))

    def shrink(self) -> None:
        """Give back what nobody uses."""
        with self.stream():
            self._xp.get_default_memory_pool().free_all_blocks()

    def _free_bytes(self) -> int:
        pool = self._xp.get_default_memory_pool()
        free = int(self._xp.cuda.runtime.memGetInfo()[0]) + int(pool.free_bytes())
        limit = int(pool.get_limit())
        return min(free, limit - int(pool.used_bytes())) if limit else free

    def loader(self, host: BlockCache) -> Callable[[BlockWork], tuple[Rows, Reads]]:
        """What a feed loads blocks with: from here, from a cache of the host, from the source.

        Blocks that find no place on the device are offered to the host.
        """

        def load_block(item: BlockWork) -> tuple[Rows, Reads]:
            rows, reads = self.cache.get(item.number), Reads()
            if rows is not None:
                return rows, reads
            rows = host.get(item.number)
            if rows is None:
                rows = load(item.block)
                if not item.block.is_resident:
                    reads = Reads(1, item.block.nbytes)
            from_device = is_device_array(rows.x)
            with self.stream() as stream:
                if from_device and not item.block.is_resident:
                    # Made just now, as a chunk of a Dask array is, on a stream of its own.
                    self._xp.cuda.runtime.deviceSynchronize()
                there = replace(rows, x=upload(rows.x, self._xp, stream))
            if there.x is rows.x:
                return there, reads
            self.cache.offer(item.number, there)
            if item.number not in self.cache and not item.block.is_resident and not from_device:
                host.offer(item.number, rows)
            return there, reads

        return load_block


@dataclass
class _Slab:
    """What shrinks when a device is out of memory."""

    kept_bytes: int = 2**62
    computing: int = COMPUTING
    window: int = 2**31

    def smaller(self, kept: int, window: int) -> _Slab | None:
        """The next smaller one, given bytes that are kept and blocks in flight; None if none is."""
        if kept:
            return replace(self, kept_bytes=kept // 2)
        if self.computing > 1:
            return replace(self, kept_bytes=0, computing=self.computing - 1)
        if min(self.window, window) > 1:
            return replace(self, kept_bytes=0, window=min(self.window, window) // 2)
        return None


class DevicePasses:
    """Runs the passes of a session that are for GPUs.

    Parameters
    ----------
    host : BlockCache
        Blocks that the host keeps.
    block_bytes, dataset_bytes : int
        Of the largest block, and of all.
    """

    def __init__(
        self,
        host: BlockCache,
        block_bytes: int,
        dataset_bytes: int,
    ) -> None:
        self._host, self._block_bytes, self._dataset_bytes = host, block_bytes, dataset_bytes
        self._stores: dict[str, DeviceStore] = {}
        self._slab = _Slab()
        self._pool: ThreadPoolExecutor | None = None
        self._n_threads = 0

    @property
    def kept_bytes(self) -> int:
        """Bytes of blocks that the devices keep."""
        return sum(store.cache.nbytes for store in self._stores.values())

    def run(
        self,
        task: BlockTask[M],
        devices: Sequence[str],
        selection: Selection,
        *,
        keep_blocks: bool = False,
        window: int,
        span: int,
    ) -> tuple[Reduced[M], Reads]:
        """Evaluate a task on every part and merge the results, on devices.

        Raises
        ------
        MemoryLimitError
            If not even one part at a time fits on a device.
        EngineError
            If a device cannot be used any more.
        """
        while True:
            one = _Pass(task, selection, keep_blocks)
            try:
                return self._attempt(one, devices, window, span)
            except Exception as error:
                if is_sticky(error):
                    raise explained(error) from error
                if not is_out_of_memory(error):
                    raise
                smaller = self._slab.smaller(self.kept_bytes, window)
                if smaller is None:
                    raise too_small(task, self._block_bytes, error) from error
                self._slab = smaller
                let_go(error)
            self._give_back()

    def close(self) -> None:
        """Forget all blocks, and let the threads go."""
        for store in self._stores.values():
            store.cache.clear()
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown()

    def _open_pool(self, n_threads: int) -> ThreadPoolExecutor:
        """The threads of the passes before: each has a handle of cuBLAS, which is dear to make."""
        if self._pool is None or self._n_threads < n_threads:
            if self._pool is not None:
                self._pool.shutdown()
            self._pool, self._n_threads = ThreadPoolExecutor(n_threads, "dgmm-gpu"), n_threads
        return self._pool

    def _give_back(self) -> None:
        for store in self._stores.values():
            store.cache.resize(min(store.cache.nbytes, self._slab.kept_bytes // len(self._stores)))
            store.shrink()

    def _attempt(
        self, one: _Pass, devices: Sequence[str], window: int, span: int
    ) -> tuple[Reduced[Any], Reads]:
        window = min(window, self._slab.window)
        lanes = [
            _Lane(self._store(device, one.task, window), share, offset, window, span, self._host)
            for device, (offset, share) in zip(devices, one.shares(len(devices)), strict=False)
        ]
        pool = self._open_pool(len(lanes) * (READERS + COMPUTING))
        threads: list[Future[None]] = []
        try:
            for lane in lanes:
                threads += lane.start(pool, one, self._slab.computing)
            for _ in as_completed(threads):
                if any(lane.feed.has_failed for lane in lanes):
                    one.stop(lanes)
        except BaseException:
            one.stop(lanes)
            raise
        finally:
            wait(threads)
        for lane in lanes:
            lane.feed.check()
        reads = Reads()
        for lane in lanes:
            reads.add(lane.feed.reads)
        return one.result(), reads

    def _store(self, device: str, task: Any, window: int) -> DeviceStore:
        if device not in self._stores:
            self._stores[device] = DeviceStore(device)
        store = self._stores[device]
        own = self._slab.computing * (task.device_bytes + task.result_bytes)
        store.keep(
            min(self._dataset_bytes, self._slab.kept_bytes), own + window * self._block_bytes
        )
        return store


class _Pass:
    """A task, the blocks it is for, and where its results go."""

    def __init__(self, task: BlockTask[Any], selection: Selection, keep_blocks: bool) -> None:
        self.task = task
        self._selection, self._keep = selection, keep_blocks
        self._reducer: TreeReducer[Any] = TreeReducer(selection.shape, keep_blocks=keep_blocks)

    def shares(self, n: int) -> list[tuple[int, tuple[BlockWork, ...]]]:
        """Neighbouring blocks for each of ``n`` devices, about as many rows each."""
        work = self._selection.work
        rows = np.cumsum([0, *(item.block.n_rows for item in work)])
        cuts = np.searchsorted(rows, [rows[-1] * i / n for i in range(n + 1)])
        edges = [0, *(int(cut) for cut in cuts[1:-1]), len(work)]
        return [(start, work[start:stop]) for start, stop in pairwise(edges)]

    def add(self, position: int, part: int, value: Any) -> None:
        self._reducer.add(self._selection.shape.leaf(position, part), value)

    def stop(self, lanes: Sequence[_Lane]) -> None:
        for lane in lanes:
            lane.feed.stop()

    def result(self) -> Reduced[Any]:
        total = self._reducer.result()
        if not self._keep:
            return Reduced(total)
        work = self._selection.work
        return Reduced(total, {work[i].number: one for i, one in self._reducer.kept.items()})


class _Lane:
    """A device's share of a pass."""

    def __init__(
        self,
        store: DeviceStore,
        work: Sequence[BlockWork],
        offset: int,
        window: int,
        span: int,
        host: BlockCache,
    ) -> None:
        self._store, self._offset = store, offset
        self._window = window
        self.feed = Feed(
            work, window=window, span=span, cache=store.cache, loader=store.loader(host)
        )

    def start(self, pool: ThreadPoolExecutor, one: _Pass, computing: int) -> list[Future[None]]:
        readers = [pool.submit(self.feed.read_ahead) for _ in range(min(READERS, self._window))]
        return readers + [pool.submit(self._compute, one) for _ in range(computing)]

    def _compute(self, one: _Pass) -> None:
        def deliver(lease: Lease, value: Any) -> None:
            one.add(self._offset + lease.position, lease.part, value)
            self.feed.finished(lease.number)

        task: Any = one.task
        try:
            with self._store.stream():
                evaluate_parts(self.feed, (task.on(self._store.device),), deliver)
        except BaseException as error:  # noqa: BLE001  raised again by check(), in the caller
            self.feed.fail(error)


def explained(error: BaseException) -> BaseException:
    """The error to raise for one of a pass: a device that is lost says what that means."""
    if not is_sticky(error):
        return error
    return EngineError(
        f"the GPU reported an error after which this process cannot use it any more ({error}); "
        "start a new process: a fit with checkpoint= goes on from its last iteration"
    )


def too_small(task: Any, block_bytes: int, error: BaseException) -> MemoryLimitError:
    """The error to raise where nothing is left that a device could give up."""
    return MemoryLimitError(
        f"the GPU is out of memory with one block of {block_bytes} bytes in flight and "
        f"{task.device_bytes} bytes of workspace ({error}); use fewer components or restarts "
        "at a time, open the data with a smaller block_bytes, or free memory of the GPU"
    )
