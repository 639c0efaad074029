"""A task cut into slices where a pass has fewer ranges of rows than threads to evaluate them.

The slices of a task (the mixtures of a batch, by their kernels) are evaluated on every range and
merged along the same tree, each by itself; what they give is put side by side at the end. So every
slice has the bits that it has in the whole task, and how many there are is free to follow from the
number of threads or workers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

from dgmm.engine.base import BlockTask, Mergeable

__all__ = ["SliceableTask", "joined", "lend", "spread"]

M = TypeVar("M", bound=Mergeable)


class SliceableTask(BlockTask[M], Protocol[M]):
    """A task that can be cut."""

    @property
    def n_slices(self) -> int:
        """Most slices that it can be cut into."""
        ...

    def slices(self, n: int) -> tuple[BlockTask[M], ...]:
        """At most ``n`` tasks that do the work of this one together, of about the same size.

        Each gives the bits that it would have given in any other division.
        """
        ...

    def join(self, slices: Sequence[Any], values: Sequence[M]) -> M:
        """The value of this task, from those of its slices on the same rows."""
        ...


def spread(task: Any, n_ranges: int, n_threads: int, most: int = 2**31) -> tuple[Any, ...]:
    """The slices of a task for so many ranges and threads: itself alone, if that is best.

    Parameters
    ----------
    task : BlockTask
        Cut only if it is a :class:`SliceableTask`.
    n_ranges : int
        Ranges of rows, each of which one thread evaluates.
    n_threads : int
        Of all processes.
    most : int, optional
        Slices.
    """
    limit = min(getattr(task, "n_slices", 1), n_threads, most)
    if n_ranges >= n_threads or limit < 2:
        return (task,)

    # Equal slices of equal ranges, in rounds of one for each thread; the fewer the better.
    def duration(n: int) -> float:
        return -(-n_ranges * n // n_threads) / n

    best = min(range(1, limit + 1), key=duration)
    return (task,) if best == 1 else tuple(task.slices(best))


def joined(task: Any, slices: Sequence[Any], values: Sequence[M]) -> M:
    """The value of a task from those of what :func:`spread` made of it."""
    if len(slices) == 1:
        return values[0]
    value: M = task.join(slices, values)
    return value


def lend(homes: Sequence[str], n_slices: int, threads: Mapping[str, int]) -> list[list[str]]:
    """A worker for each slice of each range.

    A range stays with its home while that has threads to spare, then goes where it went before,
    then to the worker with the most to spare: each further worker reads it once more.

    Parameters
    ----------
    homes : sequence of str
        The worker of each range.
    n_slices : int
    threads : mapping of str to int
        Of each worker.
    """
    rounds = -(-len(homes) * n_slices // sum(threads.values()))
    room = {worker: rounds * threads[worker] for worker in sorted(threads)}
    found: list[list[str]] = [[] for _ in homes]
    for _ in range(n_slices):
        for home, workers in zip(homes, found, strict=True):
            if room.get(home, 0) > 0:
                workers.append(home)
                room[home] -= 1
    for workers in found:
        while len(workers) < n_slices:
            known = [worker for worker in workers if room.get(worker, 0) > 0]
            worker = known[-1] if known else max(room, key=lambda one: room[one])
            workers.append(worker)
            room[worker] -= 1
    return found
