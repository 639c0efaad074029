"""One number for each row (a weight, a label) from anything that holds such a column.

A column is opened as a dataset of one feature, so that it is read piece by piece like the rows it
belongs to, whatever its own chunks are.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dgmm.arrays import to_host
from dgmm.data.arrays import is_npy, map_npy, open_array
from dgmm.data.dataset import DEFAULT_BLOCK_BYTES, Block, Dataset
from dgmm.data.location import Location
from dgmm.data.parquet_files import is_parquet_name
from dgmm.errors import DgmmError, InvalidDataError

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


def open_column(source: Any, argument: str, n_rows: int) -> Dataset:
    """A column as a dataset of one feature, without reading it where it is stored.

    Parameters
    ----------
    source : array_like, Dask array, zarr.Array, path or URL, or Dataset
        Shape (n_rows,) or (n_rows, 1). A Dask array whose chunks are held by a cluster is brought
        to this process, 8 bytes a row.
    argument : str
        What messages call it.
    n_rows : int
        Of the rows that the values are for.

    Raises
    ------
    InvalidDataError
        If it has another shape.
    InvalidDtypeError, SourceError
        If it does not hold real numbers, or cannot be opened.
    """
    try:
        column = _opened(source, n_rows)
        _check_count(column.n_rows, n_rows)
        if column.n_features == 1:
            column = _brought(column)
    except DgmmError as error:
        raise type(error)(f"{argument}: {error}") from error
    if column.n_features != 1:
        raise InvalidDataError(
            f"{argument} has {column.n_features} columns; pass one value for each row"
        )
    return column


def _check_count(n_values: int, n_rows: int) -> None:
    if n_values != n_rows:
        raise InvalidDataError(
            f"there are {n_values} values for {n_rows} rows; pass one for each row"
        )


def _opened(source: Any, n_rows: int) -> Dataset:
    if isinstance(source, Dataset):
        return source
    if isinstance(source, str | os.PathLike):
        if is_parquet_name(Location.of(source, None)):
            from dgmm.data.opening import open_dataset

            return open_dataset(source)
        path = Path(source)
        if path.is_file() and is_npy(path):
            return open_array(_two_dimensional(map_npy(path)), DEFAULT_BLOCK_BYTES)
        return _open_zarr(Location.of(source, None), n_rows)
    if hasattr(source, "__dask_graph__"):
        return _open_dask(source)
    if type(source).__module__.split(".")[0] == "zarr" and hasattr(source, "store"):
        return _open_zarr(source, n_rows)
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

    return open_dask(_two_dimensional(source), _COLUMN_BYTES)


def _brought(column: Dataset) -> Dataset:
    """The column in this process if a cluster holds it.

    A worker's task must not wait for another task, which joining a cluster's chunks would be.
    """
    if not any(getattr(block, "futures", ()) for block in column.blocks):
        return column
    # Each block asks the client that its chunks belong to, which need not be the default one.
    values = np.empty((column.n_rows, 1), column.dtype)
    for block in column.blocks:
        values[block.first_row : block.first_row + block.n_rows] = to_host(block.read().x)
    return open_array(values, DEFAULT_BLOCK_BYTES)


def _open_zarr(source: Any, n_rows: int) -> Dataset:
    from dgmm.data.zarr import open_zarr
    from dgmm.data.zarr_node import open_node

    node = open_node(source) if isinstance(source, Location) else source
    # A group has no shape; it is refused with the names of what is in it.
    shape = getattr(node, "shape", ())
    if shape:
        # By what it declares, before each of its chunks is looked at.
        _check_count(shape[0], n_rows)
    return open_zarr(source, _COLUMN_BYTES, flat=len(shape) == 1)
