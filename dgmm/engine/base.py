"""What an engine is: it evaluates a task on every block of a dataset and merges the results.

An engine knows blocks, threads, workers and monoids. What a task computes is none of its business.
The results are merged in a binary tree over the parts (leaves) of the dataset, whose shape depends
on nothing but their number, so that every engine gives the same bits (:mod:`dgmm.engine.tree`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

from dgmm.data.dataset import Dataset, Rows

__all__ = ["CONSUMER_BYTES", "BlockTask", "Counters", "Engine", "Mergeable", "Reduced", "Session"]


# What the consumer of a stream holds, if it does not say: a chunk of 16 MiB that it collects, its
# copy on the way through a codec, and what the store takes to write it.
CONSUMER_BYTES = 36 * 2**20


class Mergeable(Protocol):
    """A value of a commutative monoid: what a task gives for some rows."""

    def merge(self, other: Self) -> Self:
        """The value for both sets of rows. May reuse the memory of ``self``, never of ``other``."""
        ...


M = TypeVar("M", bound=Mergeable)
M_co = TypeVar("M_co", covariant=True)


class BlockTask(Protocol[M_co]):
    """What to compute from rows. Picklable; called from many threads at once."""

    @property
    def workspace_bytes(self) -> int:
        """Bytes of one thread's scratch memory."""
        ...

    @property
    def result_bytes(self) -> int:
        """Most bytes of one result, of any number of rows."""
        ...

    # A task may have ``library_bytes``: what the libraries that it calls take once in a process.
    # A task that streams also has ``value_bytes_per_row``: bytes of one row's value. Without it
    # (0), a stream gives whole parts and takes their values to be small. One that can be cut for
    # threads that would otherwise be idle is a dgmm.engine.spreading.SliceableTask.

    def workspace(self) -> Any:
        """Scratch memory for one thread, handed to every :meth:`evaluate` of that thread."""
        ...

    def evaluate(self, rows: Rows, workspace: Any) -> M_co:
        """The value for these rows. Must not depend on what the workspace held before."""
        ...


@dataclass
class Counters:
    """What a session has done so far.

    Attributes
    ----------
    passes : int
        Number of :meth:`Session.run` calls.
    block_reads, bytes_read : int
        Blocks (and their bytes) read from their source; blocks found in a cache or in memory
        already do not count.
    nodes_received : int
        Most tree nodes that the driver received in one pass.
    slices : int
        Most slices that a task was cut into for threads or workers that its ranges of rows would
        have left idle (:mod:`dgmm.engine.spreading`).
    retries : int
        Times that a pass was begun again because workers, or what they held, were lost.
    workers_lost : int
        Workers of a cluster that were gone when the next pass began, whyever they left. The
        cluster may have given their work to others without a pass being begun again.
    processors : dict of str to str
        Of a cluster: a machine of each kind that took part (:mod:`dgmm.engine.processor`).
    """

    passes: int = 0
    block_reads: int = 0
    bytes_read: int = 0
    nodes_received: int = 0
    slices: int = 1
    retries: int = 0
    workers_lost: int = 0
    processors: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Reduced(Generic[M]):
    """The result of a pass.

    Attributes
    ----------
    total : M
        Over all blocks that were asked for.
    partitions : dict of int to M, or None
        By block index, if they were asked for (``keep="partition"``).
    """

    total: M
    partitions: dict[int, M] | None = None


class Session(Protocol):
    """An open dataset on an engine: threads started, caches warm. A context manager."""

    dataset: Dataset
    counters: Counters

    def run(
        self,
        task: BlockTask[M],
        *,
        blocks: Sequence[int] | None = None,
        keep: str | None = None,
        again: bool = False,
    ) -> Reduced[M]:
        """Evaluate ``task`` on every part of the blocks (all by default) and merge the results.

        Parameters
        ----------
        task : BlockTask
        blocks : sequence of int, optional
        keep : {"partition"}, optional
            Keep the value of each block as well.
        again : bool, default=False
            A hint that a pass over all blocks is likely to follow: an engine may begin to read
            for it while the caller works on the result.
        """
        ...

    def stream(
        self, task: BlockTask[Any], *, consumer_bytes: int = CONSUMER_BYTES
    ) -> Iterator[tuple[int, Any]]:
        """``(first_row, value)`` of every piece, in the order of the rows, nothing merged.

        A piece is a part, or some rows of one where ``task.value_bytes_per_row`` says that its
        values would be large. Only a bounded number of values is alive at any time.

        Parameters
        ----------
        task : BlockTask
        consumer_bytes : int
            What the caller holds of the values itself, part of what ``memory_limit`` limits.

        Raises
        ------
        MemoryLimitError
            If the values of one piece, one block and ``consumer_bytes`` do not fit in the limit.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class Engine(Protocol):
    """Where passes run."""

    def session(
        self,
        dataset: Dataset,
        *,
        memory_limit: int | None = None,
        reserved_bytes: int = 0,
        tasks: Sequence[BlockTask[Any]] = (),
    ) -> Session:
        """Open a dataset.

        Parameters
        ----------
        dataset : Dataset
            What will be read.
        memory_limit : int, optional
            Bytes that each process (the driver, each worker) may use above what it used when
            dgmm had been imported. None: half of the memory that is free.
        reserved_bytes : int, default=0
            Bytes of the driver that the caller uses for its own purposes during the session.
        tasks : sequence of BlockTask, optional
            Of passes to come. If one of them cannot fit in the limit, that is said now, before
            anything is read, with what the largest of them needs.
        """
        ...
