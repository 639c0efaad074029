"""How stored units of rows are joined into blocks.

A block is a run of whole units (chunks, shards), as many as ``block_bytes`` hold and at least one:
a unit is never cut, because it would be decoded once for each of its pieces. The ranges are a
function of the storage, the dtype and ``block_bytes`` alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from dgmm.errors import InvalidDataError

__all__ = [
    "check_two_dimensional",
    "checked_ranges",
    "equal_ranges",
    "joined_ranges",
    "resident_block_bytes",
    "units_within",
]

# Blocks of 16 MiB would be 64 TiB.
_MOST_BLOCKS = 2**22


def resident_block_bytes(nbytes: int) -> int:
    """Of a block of rows that are in memory and cost nothing to read.

    About 1 MiB. Less where that would leave threads with unequal shares of few blocks, more where
    there are hundreds: each costs about 0.1 ms beyond its arithmetic.

    Parameters
    ----------
    nbytes : int
        Of all rows.
    """
    few, many = min(nbytes // 8, 2**20), min(nbytes // 128, 2**22)
    return max(few, many, 2**19)


def units_within(unit_rows: int, row_bytes: int, size: int) -> int:
    """Rows in as many whole units as ``size`` bytes hold, at least one unit."""
    return max(1, size // (unit_rows * max(1, row_bytes))) * unit_rows


def equal_ranges(
    start: int, stop: int, unit_rows: int, row_bytes: int, block_bytes: int
) -> Iterator[tuple[int, int]]:
    """Ranges of rows for units that all have ``unit_rows`` rows; the last one may be cut off."""
    step = units_within(unit_rows, row_bytes, block_bytes)
    for first in range(start, stop, step):
        yield first, min(first + step, stop)


def joined_ranges(
    sizes: Iterable[int], row_bytes: int, block_bytes: int
) -> Iterator[tuple[int, int]]:
    """Ranges of rows for consecutive units of the given numbers of rows."""
    start = stop = 0
    for size in sizes:
        if stop > start and (stop - start + size) * row_bytes > block_bytes:
            yield start, stop
            start = stop
        stop += size
    if stop > start:
        yield start, stop


def checked_ranges(
    ranges: Iterable[tuple[int, int]], shape: tuple[int, int]
) -> list[tuple[int, int]]:
    """The ranges, if a manifest can hold them.

    Raises
    ------
    InvalidDataError
        If there are more than four million: what a file declares costs nothing to write.
    """
    rest = iter(ranges)
    found = list(islice(rest, 1))
    # By the first, before the others are made, which would take a while.
    too_many = bool(found) and shape[0] > _MOST_BLOCKS * (found[0][1] - found[0][0])
    found += [] if too_many else islice(rest, _MOST_BLOCKS)
    if too_many or len(found) > _MOST_BLOCKS:
        raise InvalidDataError(
            f"the data declares shape {shape}, which are more than {_MOST_BLOCKS} blocks; open it "
            "with a larger block_bytes if it is right, write it anew if it is not"
        )
    return found


def check_two_dimensional(shape: tuple[int, ...]) -> tuple[int, int]:
    """The number of rows and of features.

    Raises
    ------
    InvalidDataError
        If there are not two dimensions, or no column.
    """
    if len(shape) == 2:
        if shape[1] == 0:
            raise InvalidDataError(
                f"Found array with 0 feature(s) (shape={shape}) while a minimum of 1 is required. "
                "Pass data with at least one column."
            )
        return shape[0], shape[1]
    kind = {0: "scalar array", 1: "1D array"}.get(len(shape), f"{len(shape)}D array")
    raise InvalidDataError(
        f"Expected 2D array, got {kind} instead: shape={shape}. Reshape your data: "
        "array.reshape(-1, 1) if it has a single feature, array.reshape(1, -1) if it is a "
        "single sample, array.reshape(n_rows, -1) if it has more than two dimensions."
    )
