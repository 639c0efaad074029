"""One number for each row (a weight, a label) from anything that holds such a column.

A column is opened as a dataset of one feature, so that it is read piece by piece like the rows it
belongs to, whatever its own chunks are.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from dgmm.arrays import to_host
from dgmm.data.arrays import is_npy, map_npy, open_array
from dgmm.data.dataset import (
    DEFAULT_BLOCK_BYTES,
    Block,
    Dataset,
    Rows,
    check_dtype,
    fingerprint_of,
)
from dgmm.data.location import Location
from dgmm.data.parquet_files import is_parquet_name
from dgmm.data.planning import units_within
from dgmm.data.stamps import Stamp, changed, stamp_of
from dgmm.errors import DgmmError, InvalidDataError, SourceError

__all__ = ["Piece", "open_column", "pieces_of", "read_pieces"]

Array = np.ndarray[Any, Any]

# Of a block of a column that has to be read. Rows are wider than their weights: many blocks of rows
# would share a large one, and each would read all of it.
_COLUMN_BYTES = DEFAULT_BLOCK_BYTES // 16


@dataclass(frozen=True)
class Piece:
    """Rows ``start`` to ``stop`` of a block of a column, counted within that block."""

    block: Block
    start: int
    stop: int


def pieces_of(column: Dataset, first_row: int, n_rows: int) -> tuple[Piece, ...]:
    """The pieces of a column that belong to some rows, in their order."""
    stop = first_row + n_rows
    return tuple(
        Piece(
            block,
            max(first_row, block.first_row) - block.first_row,
            min(stop, block.first_row + block.n_rows) - block.first_row,
        )
        for block in column.blocks
        if block.first_row < stop and block.first_row + block.n_rows > first_row
    )


def read_pieces(pieces: tuple[Piece, ...], dtype: str, *, copy: bool) -> Array:
    """The values of pieces, joined, in the given dtype: shape (n_rows,).

    With ``copy`` they are no views, which would keep all that they look into alive.
    """
    parts = [
        to_host(piece.block.read().x)[piece.start : piece.stop, 0].astype(dtype, copy=copy)
        for piece in pieces
    ]
    return parts[0] if len(parts) == 1 else np.concatenate(parts or [np.empty(0, dtype)])


def open_column(source: Any, argument: str) -> Dataset:
    """A column as a dataset of one feature, without reading it where it is stored.

    Parameters
    ----------
    source : array_like, Dask array, zarr.Array, path or URL, or Dataset
        Shape (n_rows,) or (n_rows, 1). A Dask array whose chunks are held by a cluster is brought
        to this process, 8 bytes a row.
    argument : str
        What messages call it.

    Raises
    ------
    InvalidDataError
        If it has another shape.
    InvalidDtypeError, SourceError
        If it does not hold real numbers, or cannot be opened.
    """
    try:
        column = _opened(source)
    except DgmmError as error:
        raise type(error)(f"{argument}: {error}") from error
    if column.n_features != 1:
        raise InvalidDataError(
            f"{argument} has {column.n_features} columns; pass one value for each row"
        )
    return column


def _opened(source: Any) -> Dataset:
    if isinstance(source, Dataset):
        return source
    if isinstance(source, str | os.PathLike):
        if is_parquet_name(Location.of(source, None)):
            from dgmm.data.opening import open_dataset

            return open_dataset(source)
        path = Path(source)
        if path.is_file() and is_npy(path):
            return open_array(_two_dimensional(map_npy(path)), DEFAULT_BLOCK_BYTES)
        return _open_zarr(Location.of(source, None))
    if hasattr(source, "__dask_graph__"):
        return _open_dask(source)
    if type(source).__module__.split(".")[0] == "zarr" and hasattr(source, "store"):
        return _open_zarr(source)
    return open_array(_two_dimensional(_in_memory(source)), DEFAULT_BLOCK_BYTES)


def _in_memory(source: Any) -> Any:
    if isinstance(source, np.ndarray):
        return source
    try:
        return to_host(source)
    except (ValueError, TypeError) as error:
        raise InvalidDataError(f"the values do not make an array of numbers: {error}") from error


def _two_dimensional(values: Any) -> Any:
    if values.ndim == 1:
        return values.reshape(-1, 1) if isinstance(values, np.ndarray) else values[:, None]
    if values.ndim == 2:
        return values
    raise InvalidDataError(f"expected one value for each row, got shape {tuple(values.shape)}")


def _open_dask(source: Any) -> Dataset:
    from dgmm.data.dask import open_dask

    column = open_dask(_two_dimensional(source), _COLUMN_BYTES)
    if not any(getattr(block, "futures", ()) for block in column.blocks):
        return column
    # A worker's task must not wait for another task, which joining a cluster's chunks would be.
    return open_array(_two_dimensional(np.asarray(source.compute())), DEFAULT_BLOCK_BYTES)


# ------------------------------------------------------------------------------------------- Zarr


@dataclass(frozen=True)
class ZarrColumnBlock(Block):
    """Rows of some whole chunks of a one-dimensional Zarr array.

    Parameters
    ----------
    location : Location
        Where the array is, and how messages call it.
    given : zarr.Array, optional
        The caller's array, where its store cannot be opened again from ``location``.
    """

    location: Location = field(compare=False)
    given: Any = field(default=None, compare=False, repr=False)
    stamped: Stamp | None = field(default=None, compare=False, repr=False)

    @property
    def stamp(self) -> Stamp | None:
        return self.stamped

    @property
    def peak_read_bytes(self) -> int:
        """The values, encoded, decoded and joined."""
        return 3 * self.nbytes

    def read(self) -> Rows:
        array = _node(self.location) if self.given is None else self.given
        try:
            values = _watched(array)[self.first_row : self.first_row + self.n_rows]
        except (DgmmError, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001 (a codec raises what it likes)
            raise SourceError(
                f"{self.location.name}: cannot read {self.name}: {type(error).__name__}: "
                f"{self.location.scrub(error)}; a chunk may be damaged or was never written"
            ) from self.location.cause(error)
        after = None if self.stamped is None else _column_stamp(array, self)
        if self.stamped is not None and after is not None and after != self.stamped:
            raise changed(self.location, self.name, self.stamped, after)
        return Rows(np.asarray(values).reshape(-1, 1), self.first_row)


def _column_stamp(array: Any, block: Block) -> Stamp | None:
    """What the store says of the chunks of some rows; None if it cannot say."""
    from dgmm.data.zarr_identity import marks_of

    unit = (getattr(array, "shards", None) or array.chunks)[0]
    stop = block.first_row + block.n_rows
    numbers = range(block.first_row // unit, -(-stop // unit))
    keys = (array.metadata.encode_chunk_key((number,)) for number in numbers)
    prefix = f"{array.path}/" if array.path else ""
    store = getattr(array.store, "_store", array.store)
    marks = marks_of(store, [f"{prefix}{key}" for key in keys])
    return stamp_of(marks.items()) if marks else None


def _watched(array: Any) -> Any:
    # A chunk that was never written would give every row the fill value, a weight of 0 say.
    from dgmm.data.zarr_store import watched

    return watched(array, strict=True)


def _node(location: Location) -> Any:
    from dgmm.data.zarr import open_node

    return open_node(location)


def _open_zarr(source: Any) -> Dataset:
    from dgmm.data.zarr import open_node, open_zarr

    node = open_node(source) if isinstance(source, Location) else source
    if getattr(node, "ndim", 2) != 1:
        return open_zarr(source, DEFAULT_BLOCK_BYTES)
    check_dtype(node.dtype)
    if type(node.store).__name__ == "MemoryStore":
        # Such a store lives in this process alone, and would travel whole with every block.
        return open_array(np.asarray(node[:]).reshape(-1, 1), DEFAULT_BLOCK_BYTES)
    blocks = tuple(_zarr_blocks(source, node))
    stamps = [block.stamp for block in blocks]
    identity = fingerprint_of(["column", str(source), node.shape, node.dtype, stamps])
    return Dataset(blocks, 1, node.dtype, max(1, DEFAULT_BLOCK_BYTES // 8), identity)


def _zarr_blocks(source: Any, node: Any) -> Iterator[Block]:
    from dgmm.data.zarr import place_of

    location, given = (source, None) if isinstance(source, Location) else place_of(source)
    unit = (getattr(node, "shards", None) or node.chunks)[0]
    step = units_within(unit, node.dtype.itemsize, _COLUMN_BYTES)
    for start in range(0, node.shape[0], step):
        count = min(step, node.shape[0] - start)
        block = ZarrColumnBlock(start, count, 1, node.dtype, location, given)
        yield replace(block, stamped=_column_stamp(node, block))
