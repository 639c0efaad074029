"""How stored units of rows are joined into blocks.

A block is a run of whole units (chunks, shards), as many as ``block_bytes`` hold and at least one:
a unit is never cut, because it would be decoded once for each of its pieces. The ranges are a
function of the storage, the dtype and ``block_bytes`` alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dgmm.errors import InvalidDataError

__all__ = ["check_two_dimensional", "equal_ranges", "joined_ranges", "units_within"]


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
                f"Found array with 0 feature(s) (shape={shape}) while a minimum of 1 is required."
            )
        return shape[0], shape[1]
    kind = {0: "scalar array", 1: "1D array"}.get(len(shape), f"{len(shape)}D array")
    raise InvalidDataError(
        f"Expected 2D array, got {kind} instead: shape={shape}. Reshape your data: "
        "array.reshape(-1, 1) if it has a single feature, array.reshape(1, -1) if it is a "
        "single sample, array.reshape(n_rows, -1) if it has more than two dimensions."
    )
