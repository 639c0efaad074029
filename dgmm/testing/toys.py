"""Rows, tasks and values for trying engines: their results show in their bits how they were made.

The merges of a :class:`Trace` depend on their order and are written down in it, so that a result
is right only if it was reduced along the one tree; :func:`serial_oracle` says what is right.
"""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dgmm.data.dataset import Block, Dataset, Rows, fingerprint_of
from dgmm.engine.base import BlockTask, Reduced
from dgmm.errors import InvalidDataError, SourceError

__all__ = [
    "MIB",
    "PART_ROWS",
    "SIZES",
    "BadRowTask",
    "FailingTask",
    "SlicedTask",
    "ToyBlock",
    "ToyTask",
    "Trace",
    "Traces",
    "WideTask",
    "serial_oracle",
    "toy",
]

MIB = 2**20

# Rows of each block: several parts in some, one in others, a ragged end, an empty block.
SIZES = (7, 1, 4, 0, 9, 2, 12, 3, 1, 5, 8)
PART_ROWS = 3


@dataclass(frozen=True)
class ToyBlock(Block):
    """Rows that are made when they are read, from the numbers of the rows.

    Parameters
    ----------
    broken : bool
        Reading raises a SourceError.
    resident : bool
        Claim to be in memory already.
    """

    broken: bool = False
    resident: bool = False

    def read(self) -> Rows:
        if self.broken:
            raise SourceError(f"block {self.name} is broken on purpose")
        numbers = np.arange(self.first_row, self.first_row + self.n_rows, dtype=np.float64)
        return Rows(np.stack([numbers, np.sin(numbers + 1)], axis=1), self.first_row)

    @property
    def is_resident(self) -> bool:
        return self.resident


def toy(
    sizes: tuple[int, ...] = SIZES,
    *,
    part_rows: int = PART_ROWS,
    broken: int | None = None,
    resident: bool = False,
) -> Dataset:
    """A dataset of :class:`ToyBlock`, one of them broken if asked for."""
    first = np.concatenate([[0], np.cumsum(sizes)])
    dtype = np.dtype(np.float64)
    blocks = tuple(
        ToyBlock(int(first[i]), size, 2, dtype, broken=i == broken, resident=resident)
        for i, size in enumerate(sizes)
    )
    return Dataset(blocks, 2, dtype, part_rows, fingerprint_of([sizes, broken, resident]))


@dataclass
class Trace:
    """A value that remembers how it was merged.

    Attributes
    ----------
    total : float
        A sum whose bits depend on the order of its terms.
    count : int
        Number of rows.
    shape : str
        The tree: first rows of the parts, merges as parentheses.
    """

    total: float
    count: int
    shape: str

    def merge(self, other: Trace) -> Trace:
        # In place, as a value may: an engine that reuses a value it has handed out is found out.
        self.total += other.total
        self.count += other.count
        self.shape = f"({self.shape} {other.shape})"
        return self


@dataclass(frozen=True)
class ToyTask:
    """Gives a :class:`Trace` of the rows."""

    workspace_bytes: int = 1024
    result_bytes: int = 1024

    def workspace(self) -> Any:
        return np.full(16, np.nan)

    def evaluate(self, rows: Rows, workspace: Any) -> Trace:
        workspace[:2] = rows.x.sum(axis=0) * 1.1
        return Trace(float(workspace[1]), rows.n_rows, str(rows.first_row))


@dataclass(frozen=True)
class FailingTask(ToyTask):
    """Raises a KeyError at one row."""

    row: int = 0

    def evaluate(self, rows: Rows, workspace: Any) -> Trace:
        if rows.first_row == self.row:
            raise KeyError(f"row {self.row}")
        return super().evaluate(rows, workspace)


@dataclass(frozen=True)
class BadRowTask(ToyTask):
    """Refuses one row."""

    row: int = 0

    def evaluate(self, rows: Rows, workspace: Any) -> Trace:
        if rows.first_row <= self.row < rows.first_row + rows.n_rows:
            raise InvalidDataError(f"row {self.row} is bad")
        return super().evaluate(rows, workspace)


@dataclass(frozen=True)
class WideTask(ToyTask):
    """Gives values so wide that no two rows' fit in a piece."""

    value_bytes_per_row: int = 3 * MIB


@dataclass
class Traces:
    """A value for each place of a :class:`SlicedTask`, and who took part.

    Attributes
    ----------
    members : tuple of Trace
    threads : frozenset of (int, int)
        Process and thread of each evaluation. Not compared.
    """

    members: tuple[Trace, ...]
    threads: frozenset[tuple[int, int]] = field(compare=False)

    def merge(self, other: Traces) -> Traces:
        pairs = zip(self.members, other.members, strict=True)
        merged = tuple(mine.merge(theirs) for mine, theirs in pairs)
        return Traces(merged, self.threads | other.threads)


@dataclass(frozen=True)
class SlicedTask(ToyTask):
    """Gives a :class:`Trace` for each of some places, and can be cut between them."""

    places: tuple[int, ...] = (0, 1, 2, 3)

    @property
    def n_slices(self) -> int:
        return len(self.places)

    def slices(self, n: int) -> tuple[SlicedTask, ...]:
        return tuple(replace(self, places=self.places[i::n]) for i in range(n))

    def join(self, slices: Sequence[SlicedTask], values: Sequence[Traces]) -> Traces:
        found = {
            place: member
            for one, value in zip(slices, values, strict=True)
            for place, member in zip(one.places, value.members, strict=True)
        }
        threads = frozenset[tuple[int, int]]().union(*(value.threads for value in values))
        return Traces(tuple(found[place] for place in self.places), threads)

    def evaluate(self, rows: Rows, workspace: Any) -> Any:
        one = super().evaluate(rows, workspace)
        members = tuple(replace(one, total=one.total * (place + 1.1)) for place in self.places)
        return Traces(members, frozenset({(os.getpid(), threading.get_ident())}))


def serial_oracle(
    dataset: Dataset, task: BlockTask[Any], blocks: list[int] | None = None
) -> Reduced[Any]:
    """What every engine must give, by plain recursion over the two stories of the tree."""
    partitions = {}
    for number, block in enumerate(dataset.blocks):
        if block.n_rows and (blocks is None or number in blocks):
            rows, workspace = block.read(), task.workspace()
            parts = [
                task.evaluate(rows.part(part.start, part.stop), workspace)
                for part in dataset.parts
                if part.block == number
            ]
            partitions[number] = _pairwise(parts)
    return Reduced(_pairwise(copy.deepcopy(list(partitions.values()))), partitions)


def _pairwise(values: list[Any]) -> Any:
    while len(values) > 1:
        pairs = zip(values[::2], values[1::2], strict=False)
        odd = values[-1:] if len(values) % 2 else []
        values = [left.merge(right) for left, right in pairs] + odd
    return values[0]
