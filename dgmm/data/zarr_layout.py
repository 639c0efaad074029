"""What the metadata of a Zarr array tells: the units that can be read, and what reading them takes.

Nothing here does I/O. The readable unit is the chunk, or in a sharded array the chunk inside the
shard.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dgmm.data.planning import check_two_dimensional, equal_ranges, joined_ranges, units_within
from dgmm.errors import SourceError

__all__ = ["ShardIndex", "ZarrLayout", "codecs_of", "layout_of"]

# A quarter of a block in flight keeps several requests going without doubling the memory.
_IN_FLIGHT = 4
# What Zarr's own objects and threads take, as measured.
_SLACK = 2**20
# Codecs that decode to a view of what was read.
_COPYLESS = {"bytes", "crc32c"}


@dataclass(frozen=True)
class ShardIndex:
    """Where a shard keeps the table of its chunks.

    Parameters
    ----------
    nbytes : int
        Size of the table with its checksum.
    at_end : bool
        True if the table ends the shard, False if it starts it.
    """

    nbytes: int
    at_end: bool


@dataclass(frozen=True)
class ZarrLayout:
    """The units of a Zarr array of rows, or of one value for each row.

    Parameters
    ----------
    shape : tuple of int
        Rows and features.
    dtype : numpy.dtype
        The stored dtype.
    chunk : tuple of int
        Rows and columns of a readable unit; the largest one where they differ.
    shard : tuple of int or None
        Rows and columns of a shard, None if the array is not sharded.
    index : ShardIndex or None
        None if the array is not sharded, or if its table cannot be read on its own.
    sizes : tuple of int or None
        Rows of each unit where they differ (rectilinear chunks).
    copies : int
        Buffers that decoding holds for each byte in flight.
    flat : bool
        True for an array of one dimension, which is read as one column: shapes here are those of
        rows of one feature.
    """

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    chunk: tuple[int, int]
    shard: tuple[int, int] | None = None
    index: ShardIndex | None = None
    sizes: tuple[int, ...] | None = None
    copies: int = 2
    # Not shown: fingerprints, which checkpoints hold, are made of what is.
    flat: bool = field(default=False, repr=False)

    def place(self, row: int, column: int) -> tuple[int, ...]:
        """A chunk of the grid as the array counts its dimensions."""
        return (row,) if self.flat else (row, column)

    def selection(self, start: int, stop: int, columns: slice = slice(None)) -> tuple[slice, ...]:
        """Some rows as the array is indexed."""
        return (slice(start, stop),) if self.flat else (slice(start, stop), columns)

    def shaped(self, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """A view of rows with the array's dimensions."""
        return rows[:, 0] if self.flat else rows

    @property
    def row_bytes(self) -> int:
        return self.shape[1] * self.dtype.itemsize

    def block_ranges(self, block_bytes: int) -> Iterator[tuple[int, int]]:
        """Rows of each block: whole shards where they fit, whole chunks elsewhere."""
        n_rows = self.shape[0]
        if self.sizes is not None:
            yield from joined_ranges(self.sizes, self.row_bytes, block_bytes)
        elif self.shard is None or self._shard_fits(block_bytes):
            unit = self.chunk[0] if self.shard is None else self.shard[0]
            yield from equal_ranges(0, n_rows, unit, self.row_bytes, block_bytes)
        else:
            for start in range(0, n_rows, self.shard[0]):
                stop = min(start + self.shard[0], n_rows)
                yield from equal_ranges(start, stop, self.chunk[0], self.row_bytes, block_bytes)

    def group_rows(self, block_bytes: int) -> int:
        """Rows to ask for at a time: they bound what is in flight while a block is read."""
        if self.sizes is not None:
            return max(self.shape[0], 1)
        # A shard that is read as a whole takes one request, by the chunk one for each.
        if self.shard is not None and self._shard_fits(block_bytes):
            return self.shard[0]
        return units_within(self.chunk[0], self.row_bytes, block_bytes // _IN_FLIGHT)

    def overhead_bytes(self, block_bytes: int) -> int:
        """Most bytes that reading a block holds beyond the block's own rows."""
        rows = self.group_rows(block_bytes)
        if self.sizes is not None:
            rows = max((b - a for a, b in self.block_ranges(block_bytes)), default=1)
        rows = max(self.chunk[0], min(rows, -(-self.shape[0] // self.chunk[0]) * self.chunk[0]))
        width = self.chunk[1] if self.shard is None else self.shard[1]
        columns = -(-self.shape[1] // width) * width
        group = rows * columns * self.dtype.itemsize
        # Between two groups, the buffers of the first may stay with the allocator's threads.
        copies = self.copies + (self.shape[0] > rows and group <= block_bytes // _IN_FLIGHT)
        # Encoded data can be a little longer than what they decode to.
        return int(group * copies * 1.01) + _SLACK

    def _shard_fits(self, block_bytes: int) -> bool:
        return self.shard is not None and self.shard[0] * self.row_bytes <= block_bytes


def layout_of(array: Any, flat: bool = False) -> ZarrLayout:
    """The layout of a ``zarr.Array``.

    Parameters
    ----------
    array : zarr.Array
    flat : bool
        True if it has one dimension and holds a value for each row.

    Raises
    ------
    InvalidDataError
        If it has another number of dimensions.
    """
    shape = check_two_dimensional(_as_column(array.shape, flat))
    codecs = codecs_of(array)
    names = [codec["name"] for codec in codecs]
    if "sharding_indexed" in names:
        return _sharded(array, shape, codecs, flat)
    copies = 1 if codecs and set(names) <= _COPYLESS else 2
    sizes, chunk = _chunks(array, flat)
    return ZarrLayout(shape, array.dtype, chunk, sizes=sizes, copies=copies, flat=flat)


def _as_column(shape: Any, flat: bool) -> tuple[int, ...]:
    return (*shape, 1) if flat and len(shape) == 1 else tuple(shape)


def codecs_of(array: Any) -> list[dict[str, Any]]:
    """The codecs of a v3 array as its metadata lists them; empty for v2."""
    document = array.metadata.to_dict()
    return [dict(codec) for codec in document.get("codecs", ())]


def _chunks(array: Any, flat: bool) -> tuple[tuple[int, ...] | None, tuple[int, int]]:
    try:
        rows, columns = _as_column(array.chunks, flat)
    except NotImplementedError:
        sizes = array.read_chunk_sizes
        width = 1 if flat else max(sizes[1])
        return tuple(sizes[0]), (max(sizes[0], default=1), width)
    if rows < 1 or columns < 1:
        raise SourceError(
            f"the metadata declares chunks of shape {(rows, columns)}, which hold nothing; restore "
            "it from a copy or write the array again"
        )
    return None, (int(rows), int(columns))


def _sharded(
    array: Any, shape: tuple[int, int], codecs: list[dict[str, Any]], flat: bool
) -> ZarrLayout:
    try:
        shard: Any = _as_column(array.shards, flat)
        chunk: Any = _as_column(array.chunks, flat)
    except NotImplementedError as error:
        raise SourceError(
            "shards of different sizes are not supported; write the array with equal ones"
        ) from error
    if len(codecs) > 1:
        # Other codecs around the shard: it can only be read as a whole.
        return ZarrLayout(shape, array.dtype, shard, shard=shard, copies=4, flat=flat)
    inner = [codec["name"] for codec in codecs[0]["configuration"]["codecs"]]
    copies = 2 if set(inner) <= _COPYLESS else 3
    index = None if "sharding_indexed" in inner else _index(codecs[0], shard, chunk)
    return ZarrLayout(shape, array.dtype, chunk, shard, index, copies=copies, flat=flat)


def _index(codec: dict[str, Any], shard: tuple[int, ...], chunk: tuple[int, ...]) -> Any:
    configuration = codec["configuration"]
    names = [dict(step)["name"] for step in configuration["index_codecs"]]
    if names not in (["bytes"], ["bytes", "crc32c"]):
        return None
    n_chunks = int(np.prod([outer // inner for outer, inner in zip(shard, chunk, strict=True)]))
    at_end = configuration.get("index_location", "end") == "end"
    return ShardIndex(16 * n_chunks + 4 * (len(names) - 1), at_end)
