"""Blocks kept in memory between passes.

Passes go over the blocks in the same order again and again. A cache that replaces the least
recently used block has always just dropped the one that comes next, so this one keeps the blocks
that came first and turns away the rest.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakValueDictionary

from dgmm.data.dataset import Rows

__all__ = ["BlockCache", "held_bytes"]


class BlockCache:
    """The first blocks that fit in a budget, by block number. Safe to use from many threads.

    A block that is turned away is found all the same while somebody works on it.

    Parameters
    ----------
    budget : int, default=0
        Most bytes to hold.
    """

    def __init__(self, budget: int = 0) -> None:
        self._budget = budget
        self._rows: dict[int, Rows] = {}
        self._nbytes = 0
        self._lock = threading.Lock()
        self._in_use: WeakValueDictionary[int, Rows] = WeakValueDictionary()
        self._turns: dict[int, threading.Lock] = {}

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self._nbytes

    def __contains__(self, block: int) -> bool:
        return block in self._rows

    def get(self, block: int) -> Rows | None:
        with self._lock:
            rows = self._rows.get(block)
            return self._in_use.get(block) if rows is None else rows

    @contextmanager
    def turn(self, block: int) -> Iterator[None]:
        """While one task reads a block, hold up the others that are about to: they will find it."""
        with self._lock:
            turn = self._turns.setdefault(block, threading.Lock())
        with turn:
            try:
                yield
            finally:
                with self._lock:
                    self._turns.pop(block, None)

    def offer(self, block: int, rows: Rows) -> None:
        """Keep the rows if they fit."""
        size = held_bytes(rows)
        with self._lock:
            self._in_use[block] = rows
            if block not in self._rows and self._nbytes + size <= self._budget:
                self._rows[block] = rows
                self._nbytes += size

    def resize(self, budget: int) -> None:
        """Change the budget, and drop the blocks that came last until the rest fits."""
        with self._lock:
            self._budget = budget
            while self._nbytes > budget:
                _, rows = self._rows.popitem()
                self._nbytes -= held_bytes(rows)

    def clear(self) -> None:
        with self._lock:
            self._rows.clear()
            self._in_use.clear()
            self._nbytes = 0


def held_bytes(rows: Rows) -> int:
    """Bytes that stay allocated while the rows are referenced.

    A view keeps the whole array that it looks into.
    """
    owners = {id(owner): owner for owner in map(_owner, (rows.x, rows.weight, rows.labels))}
    return sum(int(getattr(owner, "nbytes", 0)) for owner in owners.values())


def _owner(array: Any) -> Any:
    while getattr(array, "base", None) is not None and hasattr(array.base, "nbytes"):
        array = array.base
    return array
