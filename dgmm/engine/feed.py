"""Blocks read ahead, and given out part by part in the order of their rows.

Reader threads fill a window of blocks; compute threads take parts from its front. Both go through
the blocks in order, so the window bounds the memory and at most ``span`` parts lie between the
first one unfinished and the last one begun, which bounds the nodes that wait in the tree (and the
values of a stream). Where the task is cut into slices (:mod:`dgmm.engine.spreading`), a part is
given out once for each and read once for all. A feed serves one pass. Its readers may start before
the pass does: nothing but the window limits how far ahead they are. Blocks that are in memory
already need none: whoever takes their first part opens them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from dgmm.data.dataset import Rows
from dgmm.engine.cache import BlockCache
from dgmm.engine.memory import READERS
from dgmm.engine.work import BlockWork, load
from dgmm.errors import InvalidDataError

__all__ = ["Feed", "Lease", "Reads", "evaluate_parts"]


class Lease(NamedTuple):
    """A part that a thread has taken on, for one slice of the task.

    Attributes
    ----------
    number : int
        Place of the lease in the pass.
    position, part : int
        The block's place in the pass, and the part's place in the block's work.
    slice : int
        Which slice of the task to evaluate.
    """

    number: int
    position: int
    part: int
    slice: int = 0


@dataclass
class Reads:
    """Blocks, and their bytes, that were read from the source."""

    blocks: int = 0
    nbytes: int = 0

    def add(self, other: Reads) -> None:
        self.blocks += other.blocks
        self.nbytes += other.nbytes


class Feed:
    """One pass over some blocks.

    Parameters
    ----------
    work : sequence of BlockWork
        What to read and to give out.
    window : int
        Most blocks in memory at a time, those being read included; cached blocks aside.
    span : int
        Most leases between the first unfinished and the last begun.
    cache : BlockCache
        Consulted before a block is read, offered the block afterwards.
    slices : int, default=1
        How often each part is given out: once for each slice of the task.
    loader : callable, optional
        Gives the rows of a :class:`BlockWork` and what was read for them, in place of the cache
        and the block.
    """

    def __init__(
        self,
        work: Sequence[BlockWork],
        *,
        window: int,
        span: int,
        cache: BlockCache,
        slices: int = 1,
        loader: Callable[[BlockWork], tuple[Rows, Reads]] | None = None,
    ) -> None:
        self.reads = Reads()
        self._loader = loader
        self._slices = slices
        self._work = work
        self._window, self._span, self._cache = window, span, cache
        self._changed = threading.Condition()
        self._rows: dict[int, Rows] = {}
        self._unevaluated: dict[int, int] = {}
        self._unfinished: set[int] = set()
        self._values: dict[int, Any] = {}
        self._to_read = 0
        self._next = Lease(0, 0, 0)
        self._stopped = False
        self._error: BaseException | None = None
        self._is_resident = loader is None and all(item.block.is_resident for item in work)

    @property
    def n_readers(self) -> int:
        """Threads that it has work for."""
        return 0 if self._is_resident else min(READERS, self._window)

    def read_ahead(self) -> None:
        """Read until all is read or the feed is stopped: the body of a reader thread."""
        while (position := self._claim()) is not None:
            try:
                rows = self._load(position)
            except BaseException as error:  # noqa: BLE001  raised again by check(), in the caller
                self.fail(error)
                return
            with self._changed:
                self._rows[position] = rows
                self._changed.notify_all()

    def take(self) -> Lease | None:
        """The next part, as soon as it is read; None when there is none or the feed is stopped."""
        with self._changed:
            self._changed.wait_for(self._may_take)
            if self._stopped or self._next.position == len(self._work):
                return None
            lease = self._next
            if lease.position not in self._rows:
                self._open(lease.position)
            self._unfinished.add(lease.number)
            self._advance()
            return lease

    def _open(self, position: int) -> None:
        """Make a block that is in memory ready to be given out."""
        item = self._work[position]
        self._rows[position] = load(item.block)
        self._unevaluated[position] = self._slices * len(item.parts)

    def rows(self, lease: Lease) -> Rows:
        """The rows of a part, as views into its block."""
        start, stop = self._work[lease.position].parts[lease.part]
        return self._rows[lease.position].part(start, stop)

    @contextmanager
    def named(self, lease: Lease) -> Iterator[None]:
        """Let an error about the rows say which block they are in: a task does not know."""
        try:
            yield
        except InvalidDataError as error:
            item = self._work[lease.position]
            first = item.block.first_row
            last = first + item.block.n_rows - 1
            error.args = (f"{error}, in block {item.number} (rows {first} to {last})",)
            raise

    def evaluated(self, lease: Lease) -> None:
        """The rows of the part are no longer needed."""
        with self._changed:
            self._unevaluated[lease.position] -= 1
            if self._unevaluated[lease.position] == 0:
                del self._rows[lease.position], self._unevaluated[lease.position]
                self._changed.notify_all()

    def finished(self, number: int) -> None:
        """The value of the part has been merged or handed on."""
        with self._changed:
            self._unfinished.discard(number)
            self._changed.notify_all()

    def put(self, lease: Lease, value: Any) -> None:
        """Leave the value of a part to be fetched by :meth:`values`."""
        with self._changed:
            self._values[lease.number] = value
            self._changed.notify_all()

    def values(self) -> Iterator[tuple[int, Any]]:
        """``(first_row, value)`` of every part that is put, in the order of the rows."""
        number = 0
        for item in self._work:
            for start, _ in item.parts:
                yield item.block.first_row + start, self._fetch(number)
                self.finished(number)
                number += 1

    def stop(self) -> None:
        """Give out and begin to read nothing more."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """Stop because of an error; the first one counts."""
        with self._changed:
            self._error = self._error or error
            self._stopped = True
            self._changed.notify_all()

    @property
    def has_failed(self) -> bool:
        """True if an error stopped it."""
        return self._error is not None

    def check(self) -> None:
        """Raise the error that stopped the feed, if one did."""
        if self._error is not None:
            raise self._error

    def _fetch(self, number: int) -> Any:
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or number in self._values)
            self.check()
            return self._values.pop(number)

    def _claim(self) -> int | None:
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._stopped
                    or self._to_read == len(self._work)
                    or len(self._unevaluated) < self._window
                )
            )
            if self._stopped or self._to_read == len(self._work):
                return None
            position = self._to_read
            self._to_read += 1
            self._unevaluated[position] = self._slices * len(self._work[position].parts)
            return position

    def _load(self, position: int) -> Rows:
        item = self._work[position]
        if self._loader is not None:
            loaded, reads = self._loader(item)
            with self._changed:
                self.reads.add(reads)
            return loaded
        if item.block.is_resident:
            return load(item.block)
        rows = self._cache.get(item.number)
        if rows is None:
            with self._cache.turn(item.number):
                rows = self._cache.get(item.number)
                if rows is None:
                    rows = load(item.block)
                    self._cache.offer(item.number, rows)
                    with self._changed:
                        self.reads.add(Reads(1, item.block.nbytes))
        return rows

    def _may_take(self) -> bool:
        lease = self._next
        if self._stopped or lease.position == len(self._work):
            return True
        oldest = min(self._unfinished, default=lease.number)
        is_there = self._is_resident or lease.position in self._rows
        return is_there and lease.number - oldest < self._span

    def _advance(self) -> None:
        number, position, part, current = self._next
        if current + 1 < self._slices:
            self._next = Lease(number + 1, position, part, current + 1)
        elif part + 1 < len(self._work[position].parts):
            self._next = Lease(number + 1, position, part + 1)
        else:
            self._next = Lease(number + 1, position + 1, 0)


def evaluate_parts(
    feed: Feed, slices: Sequence[Any], deliver: Callable[[Lease, Any], None]
) -> None:
    """Evaluate parts until there are no more: the body of a compute thread.

    Errors stop the feed and are kept there.

    Parameters
    ----------
    feed : Feed
    slices : sequence of BlockTask
        The slices of the task; the task alone, if it is not cut.
    deliver : callable
        Called with each lease and its value.
    """
    try:
        current, workspace = -1, None
        while (lease := feed.take()) is not None:
            task = slices[lease.slice]
            if lease.slice != current:
                # The memory of one workspace is what is projected for a thread.
                workspace = None
                current, workspace = lease.slice, task.workspace()
            with feed.named(lease):
                value = task.evaluate(feed.rows(lease), workspace)
            feed.evaluated(lease)
            deliver(lease, value)
    except BaseException as error:  # noqa: BLE001  raised again by check(), in the caller
        feed.fail(error)
