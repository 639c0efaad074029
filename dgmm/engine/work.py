"""What a pass has to do: the chosen blocks, their parts, and the tree over them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from time import sleep
from typing import NamedTuple

from dgmm.data.dataset import Block, Dataset, Rows
from dgmm.engine.tree import Node, Shape
from dgmm.errors import (
    InvalidDataError,
    InvalidParameterError,
    SourceError,
    StoreUnavailableError,
)

__all__ = ["BlockWork", "Selection", "check_keep", "load", "select"]


_log = logging.getLogger("dgmm.engine")

# Seconds between attempts to read from a store that is unavailable.
_WAITS = (0.1, 0.4, 2.0)


class BlockWork(NamedTuple):
    """A block and its parts.

    Attributes
    ----------
    number : int
        The block's place in the dataset.
    block : Block
    parts : tuple of (int, int)
        First row of each part and the row after its last, counted within the block.
    """

    number: int
    block: Block
    parts: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Selection:
    """The blocks of a pass in the order of their rows, and the tree over their parts."""

    work: tuple[BlockWork, ...]
    shape: Shape

    def under(self, node: Node) -> tuple[BlockWork, ...]:
        """The work below a node above the blocks."""
        blocks = self.shape.blocks(node)
        return self.work[blocks.start : blocks.stop]


def select(dataset: Dataset, blocks: Sequence[int] | None = None) -> Selection:
    """Choose blocks of a dataset; those without rows are left out.

    Raises
    ------
    InvalidParameterError
        For a block that is not in the dataset, or named twice.
    InvalidDataError
        If no rows are left.
    """
    wanted = _check_blocks(len(dataset.blocks), blocks)
    work = tuple(
        BlockWork(number, dataset.blocks[number], tuple((part.start, part.stop) for part in parts))
        for number, parts in groupby(dataset.parts, key=lambda part: part.block)
        if number in wanted
    )
    if not work:
        raise InvalidDataError("there are no rows in the blocks that were asked for")
    return Selection(work, Shape(tuple(len(item.parts) for item in work)))


def _check_blocks(n_blocks: int, blocks: Sequence[int] | None) -> range | set[int]:
    if blocks is None:
        return range(n_blocks)
    wanted = set(blocks)
    if len(wanted) != len(blocks):
        raise InvalidParameterError("blocks names a block twice")
    for number in sorted(wanted):
        if not 0 <= number < n_blocks:
            raise InvalidParameterError(f"there is no block {number}: the data has {n_blocks}")
    return wanted


def check_keep(keep: str | None) -> bool:
    """Whether results are kept by block."""
    if keep not in (None, "partition"):
        raise InvalidParameterError(f"keep={keep!r}; it must be None or 'partition'")
    return keep is not None


def load(block: Block, wait: Callable[[float], object] = sleep) -> Rows:
    """Read a block, and refuse rows that are not the ones it promised.

    A store that is unavailable is asked again, three times within two seconds and a half: what
    lasts longer is for the client library of the store, and for a checkpoint.

    Raises
    ------
    StoreUnavailableError
        If it is so still.
    SourceError
        If the rows are not those of the block.
    """
    for seconds in _WAITS:
        try:
            return _checked(block.read(), block)
        except StoreUnavailableError as error:
            _log.info("%s; trying again in %g seconds", error, seconds)
            wait(seconds)
    return _checked(block.read(), block)


def _checked(rows: Rows, block: Block) -> Rows:
    if rows.x.shape != (block.n_rows, block.n_features) or rows.first_row != block.first_row:
        raise SourceError(
            f"block {block.name}: expected an array of shape {(block.n_rows, block.n_features)} "
            f"starting at row {block.first_row}, read {tuple(rows.x.shape)} starting at row "
            f"{rows.first_row}; the source may have changed since it was opened"
        )
    return rows
