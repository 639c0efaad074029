"""The memory of a pass, projected before it runs.

Everything that a pass allocates is an item with a name and a size. What the limit shrinks is the
number of threads and of blocks in flight (the slab), never the parts: results keep their bits.
What it leaves goes to the cache of blocks.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from dgmm.data.dataset import Block
from dgmm.errors import MemoryLimitError
from dgmm.sizes import format_bytes as in_units

__all__ = [
    "Demand",
    "MemoryMeter",
    "MemoryPlan",
    "available_memory",
    "check_memory",
    "demand_of",
    "plan_memory",
    "resolve_limit",
    "rss",
]

MIB = 2**20

# What OpenBLAS packs panels into, per thread that calls it: 0.4 to 0.6 MiB were touched by products
# of 2,048 x 256 and 2,145 x 2,048 in float64 on Haswell kernels; other kernels have larger panels.
BLAS_BYTES = 2 * MIB

# What the process grows by besides the arrays: modules imported late (readers, codecs), stacks of
# threads, pages that the allocator keeps after a free.
ALLOWANCE_BYTES = 24 * MIB

# Blocks being read while others are computed on. More than one read at a time helps where reading
# means decompressing.
READERS = 2

# Parts begun beyond the first unfinished one, per thread: enough that a thread which was held up
# for a moment holds up no other, or fewer where memory is tight.
SPANS_PER_THREAD = (4, 2, 1)

# Between two looks of a meter: shorter than it takes to fill what would break a limit.
SAMPLING_SECONDS = 0.02


@dataclass(frozen=True)
class Demand:
    """What a pass needs, in bytes each.

    Parameters
    ----------
    block_bytes : int
        Most held while a block is read.
    block_parts : int
        Most parts in a block; threads share the parts of one block.
    dataset_bytes : int
        What a cache of all blocks would hold.
    workspace_bytes, result_bytes : int
        As the task declares them.
    height : int
        Levels of the reduction tree.
    value_bytes : int
        Most bytes of a value that waits for the consumer of a stream.
    other : dict of str to int
        Further items by name, independent of threads and blocks.
    """

    block_bytes: int
    block_parts: int
    dataset_bytes: int
    workspace_bytes: int = 0
    result_bytes: int = 0
    height: int = 0
    value_bytes: int = 0
    other: dict[str, int] = field(default_factory=dict)

    def items(self, n_threads: int, window: int, span: int) -> dict[str, int]:
        """Sizes by name, with so many threads, blocks in flight and parts begun."""
        nodes = self.height + span
        return {
            "blocks in flight": window * self.block_bytes,
            "workspaces of threads": n_threads * self.workspace_bytes,
            "results waiting in the tree": (nodes + n_threads) * self.result_bytes,
            # One more is with the consumer, and one on its way there.
            "values waiting for the consumer": (span + 2) * self.value_bytes,
            "BLAS buffers": n_threads * BLAS_BYTES,
            "interpreter and libraries": ALLOWANCE_BYTES,
            **self.other,
        }

    def computing(self, n_threads: int) -> int:
        """Blocks that so many threads work on at once."""
        return min(n_threads, 1 + -(-(n_threads - 1) // self.block_parts))

    def choices(self, n_threads: int) -> Iterator[tuple[int, int, int]]:
        """Threads, blocks in flight and parts begun, the best choice first."""
        for threads in range(n_threads, 0, -1):
            computing = self.computing(threads)
            # A thread that has to wait for its block to be read is worth less than none.
            least = computing + 1 if threads > 1 else 1
            for window in range(computing + READERS, least - 1, -1):
                for per_thread in SPANS_PER_THREAD:
                    yield threads, window, per_thread * threads


@dataclass(frozen=True)
class MemoryPlan:
    """How a pass runs within its limit.

    Attributes
    ----------
    n_threads : int
        Threads that compute.
    window : int
        Blocks in flight: being read, waiting or computed on.
    span : int
        Most parts between the first unfinished and the last begun.
    cache_bytes : int
        For blocks kept between passes.
    limit : int
        Bytes that the process may grow by.
    items : dict of str to int
        Projected bytes by name, the cache not included.
    """

    n_threads: int
    window: int
    span: int
    cache_bytes: int
    limit: int
    items: dict[str, int]

    @property
    def projected(self) -> int:
        """Bytes that the process is projected to grow by, at most."""
        return sum(self.items.values()) + self.cache_bytes


def demand_of(blocks: Iterable[Block], block_parts: int) -> Demand:
    """The demand of reading these blocks, before it is known what to compute."""
    read = [block for block in blocks if not block.is_resident]
    return Demand(
        block_bytes=max((block.peak_read_bytes for block in read), default=0),
        block_parts=max(1, block_parts),
        dataset_bytes=sum(block.nbytes for block in read),
    )


def check_memory(demands: Iterable[Demand], limit: int) -> None:
    """Refuse what does not fit, by the demand that asks for most.

    Raises
    ------
    MemoryLimitError
        If one thread with one block in flight does not fit.
    """
    items = max((one.items(1, 1, 1) for one in demands), key=lambda one: sum(one.values()))
    if sum(items.values()) > limit:
        raise MemoryLimitError(_too_small(items, limit))


def plan_memory(demand: Demand, n_threads: int, limit: int) -> MemoryPlan:
    """The most threads, blocks in flight, parts begun, and then the largest cache that fit.

    Raises
    ------
    MemoryLimitError
        If one thread with one block in flight does not fit.
    """
    for threads, window, span in demand.choices(n_threads):
        items = demand.items(threads, window, span)
        left = limit - sum(items.values())
        if left >= 0:
            cache = min(left, demand.dataset_bytes)
            return MemoryPlan(threads, window, span, cache, limit, items)
    raise MemoryLimitError(_too_small(demand.items(1, 1, 1), limit))


_REMEDIES = {
    "blocks in flight": "rewrite the data in smaller chunks or open it with a smaller block_bytes",
    "workspaces of threads": "use fewer components or restarts at a time",
    "results waiting in the tree": "use fewer components or restarts at a time",
    "values waiting for the consumer": "ask for labels or densities instead of responsibilities",
    "buffers of the consumer": "write to smaller chunks",
    "rows kept on workers": "write the rows to a Zarr store, or use LocalEngine",
}


def _too_small(items: dict[str, int], limit: int) -> str:
    least, name = sum(items.values()), max(items, key=lambda item: items[item])
    sizes = ", ".join(f"{key} {format_bytes(size)}" for key, size in items.items() if size)
    remedy = _REMEDIES.get(name)
    return (
        f"memory_limit is {in_units(limit)}, and one thread with one block in flight is "
        f"projected to need {format_bytes(least)} ({sizes}); raise memory_limit to at least that"
        + (f", or {remedy}" if remedy else "")
    )


def format_bytes(size: int) -> str:
    """In MiB, rounded up, so that what a message asks for is enough."""
    return f"{-(-size // MIB)} MiB"


def available_memory() -> int:
    """Bytes that this process can still get, by the system and by its control group."""
    import psutil

    free = int(psutil.virtual_memory().available)
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
    except (OSError, ValueError):
        return free
    return free if limit == "max" else max(0, min(free, int(limit) - used))


def resolve_limit(limit: int | None) -> int:
    """The limit asked for, or half of what is available."""
    return available_memory() // 2 if limit is None else limit


def rss() -> int:
    """Resident bytes of this process."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        import psutil

        return int(psutil.Process().memory_info().rss)
    import resource

    return pages * resource.getpagesize()


class MemoryMeter:
    """Measures how far the process grows above where it was when the meter was made.

    A context manager: in it, a thread looks every 20 ms, so that a peak shorter than that may go
    unseen. The kernel's own mark of the peak is left alone: it belongs to the whole process.
    """

    def __init__(self) -> None:
        self.baseline = rss()
        self._most = self.baseline
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def peak(self) -> int:
        """Most bytes above the baseline that were seen so far."""
        self._look()
        return self._most - self.baseline

    def __enter__(self) -> Self:
        self._closed.clear()
        self._thread = threading.Thread(target=self._watch, name="dgmm-memory", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._look()
        self._closed.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _watch(self) -> None:
        while not self._closed.wait(SAMPLING_SECONDS):
            self._look()

    def _look(self) -> None:
        self._most = max(self._most, rss())
