"""The memory of a pass, projected before it runs.

Everything that a pass allocates is an item with a name and a size. What the limit shrinks is the
number of threads and of blocks in flight (the slab), never the parts: results keep their bits.
What it leaves goes to the cache of blocks.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from dgmm.data.dataset import Block
from dgmm.errors import MemoryLimitError

__all__ = [
    "Demand",
    "MemoryMeter",
    "MemoryPlan",
    "available_memory",
    "demand_of",
    "peak_above_baseline",
    "peak_rss",
    "plan_memory",
    "resolve_limit",
    "rss",
    "span",
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
# for a moment holds up no other.
SPAN_PER_THREAD = 4


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
    other : dict of str to int
        Further items by name, independent of threads and blocks.
    """

    block_bytes: int
    block_parts: int
    dataset_bytes: int
    workspace_bytes: int = 0
    result_bytes: int = 0
    height: int = 0
    other: dict[str, int] = field(default_factory=dict)

    def items(self, n_threads: int, window: int) -> dict[str, int]:
        """Sizes by name, with so many threads and blocks in flight."""
        nodes = self.height + span(n_threads)
        return {
            "blocks in flight": window * self.block_bytes,
            "workspaces of threads": n_threads * self.workspace_bytes,
            "results waiting in the tree": (nodes + n_threads) * self.result_bytes,
            "BLAS buffers": n_threads * BLAS_BYTES,
            "interpreter and libraries": ALLOWANCE_BYTES,
            **self.other,
        }

    def computing(self, n_threads: int) -> int:
        """Blocks that so many threads work on at once."""
        return min(n_threads, 1 + -(-(n_threads - 1) // self.block_parts))


@dataclass(frozen=True)
class MemoryPlan:
    """How a pass runs within its limit.

    Attributes
    ----------
    n_threads : int
        Threads that compute.
    window : int
        Blocks in flight: being read, waiting or computed on.
    cache_bytes : int
        For blocks kept between passes.
    limit : int
        Bytes that the process may grow by.
    items : dict of str to int
        Projected bytes by name, the cache not included.
    """

    n_threads: int
    window: int
    cache_bytes: int
    limit: int
    items: dict[str, int]

    @property
    def projected(self) -> int:
        """Bytes that the process is projected to grow by, at most."""
        return sum(self.items.values()) + self.cache_bytes


def span(n_threads: int) -> int:
    """Most parts between the first unfinished and the last begun."""
    return SPAN_PER_THREAD * n_threads


def demand_of(blocks: Iterable[Block], block_parts: int) -> Demand:
    """The demand of reading these blocks, before it is known what to compute."""
    read = [block for block in blocks if not block.is_resident]
    return Demand(
        block_bytes=max((block.peak_read_bytes for block in read), default=0),
        block_parts=max(1, block_parts),
        dataset_bytes=sum(block.nbytes for block in read),
    )


def plan_memory(demand: Demand, n_threads: int, limit: int) -> MemoryPlan:
    """The most threads, then the most blocks in flight, then the largest cache that fit.

    Raises
    ------
    MemoryLimitError
        If one thread with one block in flight does not fit.
    """
    for threads in range(n_threads, 0, -1):
        computing = demand.computing(threads)
        # A thread that has to wait for its block to be read is worth less than none.
        least = computing + 1 if threads > 1 else 1
        for window in range(computing + READERS, least - 1, -1):
            items = demand.items(threads, window)
            left = limit - sum(items.values())
            if left >= 0:
                cache = min(left, demand.dataset_bytes)
                return MemoryPlan(threads, window, cache, limit, items)
    raise MemoryLimitError(_too_small(demand.items(1, 1), limit))


_REMEDIES = {
    "blocks in flight": "rewrite the data in smaller chunks or open it with a smaller block_bytes",
    "workspaces of threads": "use fewer components or restarts at a time",
    "results waiting in the tree": "use fewer components or restarts at a time",
    "rows kept on workers": "write the rows to a Zarr store, or use LocalEngine",
}


def _too_small(items: dict[str, int], limit: int) -> str:
    least, name = sum(items.values()), max(items, key=lambda item: items[item])
    sizes = ", ".join(f"{key} {format_bytes(size)}" for key, size in items.items() if size)
    remedy = _REMEDIES.get(name)
    return (
        f"memory_limit is {format_bytes(limit)}, and one thread with one block in flight is "
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


def peak_rss() -> int:
    """Most resident bytes of this process so far.

    Linux keeps the peak of a parent in ``ru_maxrss`` across ``exec``, so it is read from the
    process's own status there.
    """
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


_IMPORTED = rss()


def peak_above_baseline() -> int:
    """Most bytes that this process has held above what it held when dgmm was imported."""
    return max(0, peak_rss() - _IMPORTED)


class MemoryMeter:
    """Measures how far the process grows above where it was when the meter was made."""

    def __init__(self) -> None:
        _forget_peak()
        self.baseline = rss()

    def peak(self) -> int:
        """Most bytes above the baseline so far."""
        return max(0, peak_rss() - self.baseline)


def _forget_peak() -> None:
    # Only Linux can start the peak anew; elsewhere it may be one from before the meter.
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
