"""Where rows go: consecutive rows written to a Zarr array, in whole chunks.

A chunk, or a shard, is written once and whole. Two writes to one shard would each rewrite what the
other wrote, and rows would be lost if they ran at the same time.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from dgmm.data.dataset import DEFAULT_BLOCK_BYTES
from dgmm.data.location import Location
from dgmm.data.planning import units_within
from dgmm.errors import InvalidParameterError, SourceError

__all__ = ["ZarrSink", "open_sink"]


class ZarrSink:
    """Writes consecutive rows to a Zarr array, buffering until a chunk (or shard) is full.

    A context manager: leaving it writes the last rows; leaving it by an exception does not.

    Parameters
    ----------
    array : zarr.Array of shape (n_rows,) or (n_rows, n_columns)
        Where to write. Its chunks may be of any size.
    name : str
        How messages call it.
    """

    def __init__(self, array: Any, name: str) -> None:
        # Zarr leaves out a chunk that equals the fill value, and labels are often all 0.
        self.array = array.with_config({"write_empty_chunks": True})
        self.name = name
        self.n_written = 0
        self._unit = int((array.shards or array.chunks)[0])
        self._pending = np.empty((0, *array.shape[1:]), array.dtype)
        self._buffer: np.ndarray[Any, Any] | None = None

    def write(self, values: Any) -> None:
        """Append rows.

        Parameters
        ----------
        values : array of shape (n,) or (n, n_columns)
            The rows that follow those written so far.

        Raises
        ------
        InvalidParameterError
            If they are of the wrong shape, or more than the array holds.
        SourceError
            If the store cannot be written.
        """
        values = np.asarray(values)
        self._check(values)
        start = 0
        if len(self._pending):
            start = min(self._unit - len(self._pending), len(values))
            self._keep(values[:start])
        if len(self._pending) == self._unit:
            self._flush()
        whole = (len(values) - start) // self._unit * self._unit
        if whole:
            self._store(values[start : start + whole])
        if start + whole < len(values):
            self._keep(values[start + whole :])

    def close(self) -> None:
        """Write the rows that are left.

        Raises
        ------
        SourceError
            If fewer rows came than the array holds.
        """
        if len(self._pending):
            self._flush()
        if self.n_written != self.array.shape[0]:
            raise SourceError(
                f"{self.name} holds {self.array.shape[0]} rows and only {self.n_written} were "
                "written"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()

    def _check(self, values: np.ndarray[Any, Any]) -> None:
        if values.shape[1:] != self.array.shape[1:]:
            raise InvalidParameterError(
                f"{self.name} takes rows of shape {self.array.shape[1:]}, got {values.shape[1:]}"
            )
        total = self.n_written + len(self._pending) + len(values)
        if total > self.array.shape[0]:
            raise InvalidParameterError(
                f"{self.name} holds {self.array.shape[0]} rows, got at least {total}"
            )

    def _keep(self, values: np.ndarray[Any, Any]) -> None:
        if self._buffer is None:
            self._buffer = np.empty((self._unit, *self.array.shape[1:]), self.array.dtype)
        used = len(self._pending)
        self._buffer[used : used + len(values)] = values
        self._pending = self._buffer[: used + len(values)]

    def _flush(self) -> None:
        self._store(self._pending)
        self._pending = self._pending[:0]

    def _store(self, values: np.ndarray[Any, Any]) -> None:
        stop = self.n_written + len(values)
        try:
            self.array[self.n_written : stop] = values
        except OSError as error:
            raise SourceError(f"cannot write to {self.name}: {error}") from error
        self.n_written = stop


def open_sink(
    out: Any,
    shape: tuple[int, ...],
    dtype: Any,
    *,
    chunk_rows: int | None = None,
    storage_options: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> ZarrSink:
    """A sink for results, one row for each row of the data.

    Parameters
    ----------
    out : str, path or zarr.Array
        A path or URL makes a Zarr v3 array there, uncompressed with a checksum on every chunk. An
        array is written to as it is.
    shape : tuple of int
        (n_rows,) or (n_rows, n_columns).
    dtype : dtype
        Of the values.
    chunk_rows : int, optional
        Rows in a chunk of a new array; by default as many as 16 MiB hold.
    storage_options : dict, optional
        Options for fsspec, for a URL.
    overwrite : bool, default=False
        Replace an array that is there already. Nothing but an array is ever replaced.

    Returns
    -------
    ZarrSink

    Raises
    ------
    InvalidParameterError
        If something is there already, or the given array is of another shape or dtype.
    SourceError
        If the store cannot be written.
    """
    import zarr

    if isinstance(out, zarr.Array):
        return ZarrSink(_checked(out, shape, np.dtype(dtype)), f"the Zarr array {out.path or '/'}")
    if not isinstance(out, str | os.PathLike):
        raise InvalidParameterError(
            f"out must be a path, a URL or a zarr.Array, got {type(out).__name__}"
        )
    location = Location.of(out, storage_options)
    row_bytes = int(np.prod(shape[1:])) * np.dtype(dtype).itemsize
    rows = chunk_rows or min(units_within(1, row_bytes, DEFAULT_BLOCK_BYTES), max(shape[0], 1))
    return ZarrSink(_created(location, shape, dtype, rows, overwrite), location.name)


def _checked(array: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    if tuple(array.shape) != tuple(shape) or not np.can_cast(dtype, array.dtype, "same_kind"):
        raise InvalidParameterError(
            f"out has shape {array.shape} and dtype {array.dtype}; the result has shape {shape} "
            f"and dtype {dtype}"
        )
    if array.read_only:
        raise InvalidParameterError("out was opened for reading only; open it with mode='r+'")
    return array


def _created(
    location: Location, shape: tuple[int, ...], dtype: Any, rows: int, overwrite: bool
) -> Any:
    import zarr
    from zarr.codecs import Crc32cCodec

    from dgmm.data.zarr_store import open_store

    replaced = _is_there(location)
    if replaced and not overwrite:
        raise InvalidParameterError(f"{location.name} exists; pass overwrite=True to replace it")
    try:
        return zarr.create_array(
            open_store(location, read_only=False),
            shape=shape,
            dtype=dtype,
            chunks=(rows, *shape[1:]),
            compressors=(Crc32cCodec(),),
            filters=None,
            overwrite=replaced,
        )
    except OSError as error:
        raise SourceError(
            f"cannot write to {location.name}: {location.scrub(error)}"
        ) from location.cause(error)


def _is_there(location: Location) -> bool:
    """True if there is an array to replace, False if there is nothing.

    Zarr's own overwrite clears the whole folder or prefix, whatever it holds; so anything but an
    array is refused here.
    """
    import zarr

    from dgmm.data.zarr import open_node

    try:
        is_array = isinstance(open_node(location), zarr.Array)
    except SourceError:
        is_array = False
        path = location.path
        if path is None or not path.exists() or _is_empty_folder(path):
            return False
    if not is_array:
        raise InvalidParameterError(
            f"{location.name} exists and is not a Zarr array; choose another path"
        )
    return True


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())
