"""What a stream has to do: blocks cut into pieces whose values stay small.

Nothing of a stream is merged, so its pieces may be smaller than the leaves of the reduction tree.
How they are cut depends on the data and the task alone, never on a limit or a number of threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from dgmm.engine.tree import Shape
from dgmm.engine.work import BlockWork, Selection

__all__ = ["VALUE_BYTES", "cut_finely", "grouped", "most_value_bytes", "value_bytes"]

# Values of one piece. Several wait for their turn in each thread, and a piece of 4 MiB is still
# many tiles of arithmetic.
VALUE_BYTES = 4 * 2**20


def _row_bytes(task: Any) -> int:
    """Bytes of one row's value; 0 if the task does not say."""
    return int(getattr(task, "value_bytes_per_row", 0))


def cut_finely(selection: Selection, task: Any) -> Selection:
    """The same blocks, in pieces of at most :data:`VALUE_BYTES` of values (or of one row)."""
    row_bytes = _row_bytes(task)
    if not row_bytes:
        return selection
    most = max(1, VALUE_BYTES // row_bytes)
    work = tuple(
        item._replace(parts=tuple(piece for part in item.parts for piece in _cut(*part, most)))
        for item in selection.work
    )
    return Selection(work, Shape(tuple(len(item.parts) for item in work)))


def _cut(start: int, stop: int, most: int) -> Iterator[tuple[int, int]]:
    return pairwise([*range(start, stop, most), stop])


def value_bytes(item: BlockWork, task: Any) -> int:
    """Bytes of the values of all pieces."""
    return _row_bytes(task) * (item.parts[-1][1] - item.parts[0][0])


def most_value_bytes(selection: Selection, task: Any) -> int:
    """Bytes of the values of the largest piece."""
    pieces = (piece for item in selection.work for piece in item.parts)
    return _row_bytes(task) * max(stop - start for start, stop in pieces)


def grouped(item: BlockWork, task: Any) -> Iterator[BlockWork]:
    """Consecutive pieces of a block, together as long as their values fit in VALUE_BYTES."""
    row_bytes, first, size = _row_bytes(task), 0, 0
    for index, (start, stop) in enumerate(item.parts):
        more = row_bytes * (stop - start)
        if size + more > VALUE_BYTES and index > first:
            yield item._replace(parts=item.parts[first:index])
            first, size = index, 0
        size += more
    yield item._replace(parts=item.parts[first:])
