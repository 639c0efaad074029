"""Where rows go: consecutive rows written to a Zarr array, in whole chunks.

A chunk, or a shard, is written once and whole. Two writes to one shard would each rewrite what the
other wrote, and rows would be lost if they ran at the same time. An array that was made here and
could not be filled is taken away again, so that no result is taken for whole that is not.
"""

from __future__ import annotations

import asyncio
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from dgmm.data.dataset import DEFAULT_BLOCK_BYTES
from dgmm.data.location import Location
from dgmm.data.planning import units_within
from dgmm.errors import DgmmError, InvalidParameterError, SourceError, StoreUnavailableError

__all__ = ["Replacing", "ZarrSink", "open_sink"]

_DELETES_AT_A_TIME = 64

# Rows handed to a sink that are written at once although no chunk is larger, and what Zarr's own
# objects and threads take, as measured.
# Names of files of another format, which would become folders.
_NOT_ZARR = (".npy", ".npz", ".parquet", ".csv")

_PIECE_BYTES = 4 * 2**20
_SLACK = 4 * 2**20


@dataclass(frozen=True)
class Replacing:
    """A place for results, where an array that is there already is replaced.

    It is replaced when the sink is opened, after everything that can be checked has been. Nothing
    but an array is ever replaced.

    Parameters
    ----------
    place : str or path
        A path or URL.
    """

    place: str | os.PathLike[str]


class ZarrSink:
    """Writes consecutive rows to a Zarr array, buffering until a chunk (or shard) is full.

    A context manager: leaving it writes the last rows. Leaving it by an exception does not, and
    deletes the array if it was made for the sink.

    Parameters
    ----------
    array : zarr.Array of shape (n_rows,) or (n_rows, n_columns)
        Where to write. Its chunks may be of any size.
    location : Location
        Where that is, and how messages call it.
    made_here : bool, default=False
        True if nobody else knows the array.
    """

    def __init__(self, array: Any, location: Location, *, made_here: bool = False) -> None:
        # Zarr leaves out a chunk that equals the fill value, and labels are often all 0.
        self.array = array.with_config({"write_empty_chunks": True})
        self.location = location
        self.made_here = made_here
        self.n_written = 0
        self._n_touched = 0
        self._unit = int((array.shards or array.chunks)[0])
        self._pending = np.empty((0, *array.shape[1:]), array.dtype)
        self._buffer: np.ndarray[Any, Any] | None = None

    @property
    def buffer_bytes(self) -> int:
        """Most bytes held while rows are collected and written, above the rows handed in.

        A chunk as it is collected and as its codecs make it. Between the two Zarr copies rows that
        are in a shard, in several chunks side by side, or too few for the last chunk, which it
        makes whole.
        """
        row_bytes = self.array.dtype.itemsize * int(np.prod(self.array.shape[1:]))
        unit = max(self._unit * row_bytes, _PIECE_BYTES)
        apart = self.array.shards is not None or self.array.chunks[1:] != self.array.shape[1:]
        return (3 if apart or self.array.shape[0] % self._unit else 2) * unit + _SLACK

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
        StoreUnavailableError
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
        StoreUnavailableError
            If the store cannot be written.
        """
        if len(self._pending):
            self._flush()
        if self.n_written != self.array.shape[0]:
            raise SourceError(
                f"{self.location.name} holds {self.array.shape[0]} rows and only "
                f"{self.n_written} were written"
            )

    def discard(self) -> None:
        """Delete the array if it was made here: its own keys, nothing else that lies there."""
        if not self.made_here:
            return
        keys = list(self._keys())
        try:
            _delete(self.array.store, keys)
        except Exception as error:  # noqa: BLE001 (each file system has errors of its own)
            warnings.warn(
                f"{self.location.name} is incomplete and could not be deleted "
                f"({self.location.scrub(error)}); delete it",
                RuntimeWarning,
                stacklevel=3,
            )
            return
        if self.location.path is not None:
            _remove_empty_folders(self.location.path, keys)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        whole = False
        try:
            if kind is None:
                self.close()
                whole = True
        finally:
            if not whole:
                self.discard()

    def _keys(self) -> Iterator[str]:
        """The keys that were or may have been written, the one that makes it an array first."""
        yield "zarr.json"
        rest = (0,) * (self.array.ndim - 1)
        for row in range(-(-self._n_touched // self._unit)):
            yield str(self.array.metadata.encode_chunk_key((row, *rest)))

    def _check(self, values: np.ndarray[Any, Any]) -> None:
        if values.shape[1:] != self.array.shape[1:]:
            raise InvalidParameterError(
                f"{self.location.name} takes rows of shape {self.array.shape[1:]}, "
                f"got {values.shape[1:]}"
            )
        total = self.n_written + len(self._pending) + len(values)
        if total > self.array.shape[0]:
            raise InvalidParameterError(
                f"{self.location.name} holds {self.array.shape[0]} rows, got at least {total}"
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
        self._n_touched = stop
        try:
            self.array[self.n_written : stop] = values
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 (each file system has errors of its own)
            raise _not_written(self.location, error) from self.location.cause(error)
        self.n_written = stop


def open_sink(
    out: Any,
    shape: tuple[int, ...],
    dtype: Any,
    *,
    chunk_rows: int | None = None,
    storage_options: Mapping[str, Any] | None = None,
    least: Any = None,
) -> ZarrSink:
    """A sink for results, one row for each row of the data.

    Parameters
    ----------
    out : str, path, Replacing or zarr.Array
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
    least : dtype, optional
        What the dtype of a given array has to hold; by default float32 or int32.

    Returns
    -------
    ZarrSink

    Raises
    ------
    InvalidParameterError
        If something is there already, or the given array is of another shape or dtype.
    SourceError
        If there is no such place.
    StoreUnavailableError
        If the store cannot be reached or written.
    """
    import zarr

    from dgmm.data.zarr_node import place_of

    if isinstance(out, zarr.Array):
        return ZarrSink(_checked(out, shape, np.dtype(dtype), least), place_of(out)[0])
    replacing = isinstance(out, Replacing)
    if isinstance(out, Replacing):
        out = out.place
    if not isinstance(out, str | os.PathLike):
        raise InvalidParameterError(
            f"out must be a path, a URL or a zarr.Array, got {type(out).__name__}"
        )
    location = Location.of(out, storage_options)
    if location.name.lower().endswith(_NOT_ZARR):
        raise InvalidParameterError(
            f"{location.name}: results are written as Zarr arrays; name a place such as result.zarr"
        )
    row_bytes = int(np.prod(shape[1:])) * np.dtype(dtype).itemsize
    rows = chunk_rows or min(units_within(1, row_bytes, DEFAULT_BLOCK_BYTES), max(shape[0], 1))
    array = _created(location, shape, dtype, rows, replacing)
    return ZarrSink(array, location, made_here=True)


def _checked(array: Any, shape: tuple[int, ...], dtype: np.dtype[Any], least: Any) -> Any:
    usual = np.dtype("float32" if dtype.kind == "f" else "int32")
    least = min(usual, dtype, key=lambda one: one.itemsize) if least is None else np.dtype(least)
    fits = np.can_cast(dtype, array.dtype, "same_kind") and np.can_cast(least, array.dtype, "safe")
    if tuple(array.shape) != tuple(shape) or not fits or array.dtype.kind not in "if":
        raise InvalidParameterError(
            f"out has shape {array.shape} and dtype {array.dtype}; the result has shape {shape} "
            f"and dtype {dtype}, and takes at least {least}"
        )
    if array.read_only:
        raise InvalidParameterError("out was opened for reading only; open it with mode='r+'")
    return array


def _created(
    location: Location, shape: tuple[int, ...], dtype: Any, rows: int, replacing: bool
) -> Any:
    import zarr
    from zarr.codecs import Crc32cCodec

    from dgmm.data.zarr_store import open_store

    replaced = _is_there(location)
    if replaced and not replacing:
        raise InvalidParameterError(
            f"{location.name} exists; remove it, or pass an opened zarr.Array to write into "
            "(on the command line: --overwrite)"
        )
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
    except (DgmmError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 (each file system has errors of its own)
        raise _not_written(location, error) from location.cause(error)


def _is_there(location: Location) -> bool:
    """True if there is an array to replace, False if there is nothing.

    Zarr's own overwrite clears the whole folder or prefix, whatever it holds; so anything but an
    array is refused here.
    """
    import zarr

    from dgmm.data.zarr_node import open_node

    try:
        is_array = isinstance(open_node(location), zarr.Array)
    except StoreUnavailableError:
        raise
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


def _not_written(location: Location, error: Exception) -> SourceError:
    from dgmm.data.zarr_store import leaves

    return location.failure("cannot write to", next(iter(leaves(error))))


def _delete(store: Any, keys: list[str]) -> None:
    from zarr.core.sync import sync

    async def delete(some: list[str]) -> None:
        await asyncio.gather(*(store.delete(key) for key in some))

    # The first alone: without its description, what may be left is no array.
    sync(delete(keys[:1]))
    for start in range(1, len(keys), _DELETES_AT_A_TIME):
        sync(delete(keys[start : start + _DELETES_AT_A_TIME]))


def _remove_empty_folders(root: Path, keys: list[str]) -> None:
    folders = {root / folder for key in keys for folder in Path(key).parents}
    for folder in sorted(folders, key=lambda path: len(path.parts), reverse=True):
        with suppress(OSError):
            folder.rmdir()
