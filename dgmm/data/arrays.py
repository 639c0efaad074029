"""NumPy arrays, memory maps, ``.npy`` files and tables as datasets.

Rows in memory become views. Rows of a file are read into a fresh buffer, not mapped: mapped pages
stay resident as long as the system likes and count as the process's memory.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from dataclasses import dataclass, field, replace
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np

from dgmm.data.columns import column_names
from dgmm.data.dataset import (
    DEFAULT_BLOCK_BYTES,
    Block,
    Dataset,
    Rows,
    check_dtype,
    fingerprint_of,
    part_rows,
)
from dgmm.data.location import Location
from dgmm.data.objects import real_numbers
from dgmm.data.planning import check_two_dimensional, equal_ranges, resident_block_bytes
from dgmm.data.stamps import FileMark, Stamp, changed, mark_of_path, stamp_of
from dgmm.errors import DamagedBlockError, InvalidDataError, InvalidDtypeError, SourceError

__all__ = ["ArrayBlock", "FileBlock", "is_npy", "map_npy", "open_array", "open_npy", "open_table"]

_MAGIC = b"\x93NUMPY"
# Hashing all of an array in memory would cost a good part of a pass.
_FINGERPRINT_ROWS = 256


@dataclass(frozen=True)
class ArrayBlock(Block):
    """Rows in memory: a view, which pickles as its own rows alone.

    Parameters
    ----------
    values : numpy.ndarray of shape (n_rows, n_features)
        The rows.
    """

    values: np.ndarray[Any, Any] = field(compare=False, repr=False)

    def read(self) -> Rows:
        return Rows(self.values, self.first_row)

    @property
    def peak_read_bytes(self) -> int:
        """0: reading copies nothing."""
        return 0

    @property
    def is_resident(self) -> bool:
        return True


@dataclass(frozen=True)
class FileBlock(Block):
    """Rows of a file that holds one array without compression.

    Parameters
    ----------
    path : str
        Absolute path of the file.
    offset : int
        Byte at which row 0 of the dataset starts.
    column_stride : int or None
        Bytes from a column to the next where columns are contiguous (Fortran order), None where
        rows are.
    mark : FileMark, optional
        What the file was when it was opened; a file that differs is refused.
    """

    path: str
    offset: int
    column_stride: int | None = None
    mark: FileMark | None = field(default=None, compare=False)

    @property
    def stamp(self) -> Stamp:
        return stamp_of([(self.path, self.mark)])

    def read(self) -> Rows:
        mark_of_path(self.path)
        try:
            with open(self.path, "rb", buffering=0) as file:
                rows = Rows(self._values(file), self.first_row)
        except OSError as error:
            self._check_unchanged()
            if isinstance(error, SourceError):
                raise
            raise Location(self.path).failure(f"cannot read {self.name} of", error) from error
        self._check_unchanged()
        return rows

    def _check_unchanged(self) -> None:
        after = stamp_of([(self.path, mark_of_path(self.path))])
        if self.mark is not None and after != self.stamp:
            raise changed(Location(self.path), self.name, self.stamp, after)

    def _values(self, file: FileIO) -> np.ndarray[Any, Any]:
        if self.column_stride is None:
            rows = np.empty((self.n_rows, self.n_features), self.dtype)
            row_bytes = self.n_features * self.dtype.itemsize
            self._fill(file, rows, self.offset + self.first_row * row_bytes)
            return rows
        columns = np.empty((self.n_features, self.n_rows), self.dtype)
        first = self.offset + self.first_row * self.dtype.itemsize
        for index, column in enumerate(columns):
            self._fill(file, column, first + index * self.column_stride)
        return columns.T

    def _fill(self, file: FileIO, target: np.ndarray[Any, Any], position: int) -> None:
        buffer = target.reshape(-1).view(np.uint8).data
        while buffer:
            file.seek(position)
            count = file.readinto(buffer)
            if not count:
                raise DamagedBlockError(
                    f"{self.path} ends within {self.name}: {len(buffer)} bytes are missing at "
                    f"byte {position}; the file was truncated after it was opened"
                )
            buffer, position = buffer[count:], position + count


def open_array(
    source: Any, block_bytes: int | None, names: tuple[str, ...] | None = None
) -> Dataset:
    """An array, or anything that NumPy makes one of.

    Parameters
    ----------
    source : array_like of shape (n_rows, n_features)
        A memory map of a file is read through the file, block by block. The others are kept as
        views; their fingerprint covers shape, dtype and 256 rows spread over the array.
    block_bytes : int or None
        Bytes of rows in a block; None: what suits rows in memory.
    names : tuple of str, optional
        Names of the columns.

    Raises
    ------
    InvalidDataError, InvalidDtypeError
        If it is not a two-dimensional array of real numbers, or is masked.
    """
    if isinstance(source, np.ma.MaskedArray):
        raise InvalidDataError(
            "a masked array would be read with its masked values; fill them, or drop their rows"
        )
    array = _as_array(source)
    if array.dtype == object:
        array = real_numbers(array)
    check_dtype(array.dtype)
    check_two_dimensional(array.shape)
    mapped = _mapped_file(source)
    if mapped is not None:
        size = block_bytes or DEFAULT_BLOCK_BYTES
        return replace(_file_dataset(array, *mapped, size), origin=source)
    rows = np.asarray(array)
    block_bytes = block_bytes or resident_block_bytes(rows.nbytes)
    blocks = tuple(
        ArrayBlock(start, stop - start, rows.shape[1], rows.dtype, rows[start:stop])
        for start, stop in _ranges(rows, block_bytes)
    )
    return _dataset(rows, blocks, block_bytes, _content(rows), names=names, origin=source)


def open_table(source: Any, block_bytes: int | None) -> Dataset:
    """A data frame: anything with ``columns`` and ``to_numpy()``; see :func:`open_array`.

    Raises
    ------
    InvalidDtypeError
        If a column does not hold real numbers.
    """
    names = column_names(source.columns)
    try:
        return open_array(np.asarray(source.to_numpy()), block_bytes, names)
    except InvalidDtypeError as error:
        listed = ", ".join(str(name) for name in list(source.columns)[:20])
        raise type(error)(
            f"the columns do not make one numeric array: {error}; select the numeric ones and fill "
            f"what is missing (columns: {listed})"
        ) from error


def is_npy(path: Path) -> bool:
    """True if the file starts as a ``.npy`` file does.

    Raises
    ------
    SourceError, StoreUnavailableError
        If it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError as error:
        raise Location(str(path)).failure("cannot open", error) from error


def open_npy(path: Path, block_bytes: int) -> Dataset:
    """A ``.npy`` file, in C or Fortran order.

    The fingerprint covers the path, size, time of change, shape and dtype.

    Raises
    ------
    SourceError, StoreUnavailableError, DamagedBlockError
        If the file cannot be opened, or is shorter than its header says.
    InvalidDataError, InvalidDtypeError
        If it is not a two-dimensional array of real numbers.
    """
    return replace(open_array(map_npy(path), block_bytes), origin=None)


def map_npy(path: Path) -> np.ndarray[Any, Any]:
    """The array of a ``.npy`` file, mapped. Nothing in the file is run.

    Raises
    ------
    SourceError, StoreUnavailableError, DamagedBlockError
        If the file cannot be opened, makes no sense, or is shorter than its header says.
    InvalidDtypeError
        If it holds objects.
    """
    try:
        mapped: np.ndarray[Any, Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        return mapped
    except OSError as error:
        raise Location(str(path)).failure("cannot open", error) from error
    except Exception as error:
        if "object" in str(error).lower():
            raise InvalidDtypeError(
                "the file has dtype object, which is not a real number; save it with a floating "
                "or integer dtype"
            ) from error
        raise DamagedBlockError(
            f"{path} is truncated or not a .npy file: {Location(str(path)).scrub(error)}"
        ) from error


def _as_array(source: Any) -> np.ndarray[Any, Any]:
    try:
        array = np.asanyarray(source)
    except (ValueError, TypeError) as error:
        raise InvalidDataError(
            f"the data do not make a rectangular array of numbers: {error}"
        ) from error
    return array


def _ranges(rows: np.ndarray[Any, Any], block_bytes: int) -> list[tuple[int, int]]:
    row_bytes = rows.shape[1] * rows.itemsize
    return list(equal_ranges(0, rows.shape[0], 1, row_bytes, block_bytes))


def _mapped_file(source: Any) -> tuple[str, int] | None:
    """The file behind a memory map and the byte of its first element, if its rows can be read."""
    filename = getattr(source, "filename", None)
    mapping = getattr(source, "_mmap", None)
    if not isinstance(source, np.memmap) or filename is None or mapping is None:
        return None
    # A copy-on-write map may differ from its file.
    if source.mode == "c" or source.size == 0 or _column_stride(source) == 0:
        return None
    if source.flags.writeable:
        source.flush()
    # `offset` is that of the map, not of a slice: the address tells where a slice starts.
    start = source.offset - source.offset % mmap.ALLOCATIONGRANULARITY
    base = np.frombuffer(mapping, np.uint8).ctypes.data
    return os.path.abspath(filename), start + source.ctypes.data - base


def _column_stride(rows: np.ndarray[Any, Any]) -> int | None:
    """None in C order, the bytes between columns in Fortran order, 0 in neither."""
    if rows.flags.c_contiguous:
        return None
    by_column = rows.strides[0] == rows.itemsize
    return rows.strides[1] if by_column and rows.strides[1] >= rows.shape[0] * rows.itemsize else 0


def _file_dataset(rows: np.ndarray[Any, Any], path: str, offset: int, block_bytes: int) -> Dataset:
    stride = _column_stride(rows)
    mark = mark_of_path(path)
    blocks = tuple(
        FileBlock(start, stop - start, rows.shape[1], rows.dtype, path, offset, stride, mark)
        for start, stop in _ranges(rows, block_bytes)
    )
    identity = ("file", path, *(mark or ()), offset, stride)
    return _dataset(rows, blocks, block_bytes, identity)


def _dataset(
    rows: np.ndarray[Any, Any],
    blocks: tuple[Block, ...],
    block_bytes: int,
    identity: tuple[object, ...],
    **known: Any,
) -> Dataset:
    return Dataset(
        blocks=blocks,
        n_features=rows.shape[1],
        dtype=rows.dtype,
        part_rows=part_rows(rows.shape[1], rows.dtype, block_bytes),
        fingerprint=fingerprint_of([rows.shape, rows.dtype.str, *identity]),
        feature_names=known.get("names"),
        origin=known.get("origin"),
    )


def _content(rows: np.ndarray[Any, Any]) -> tuple[object, ...]:
    count = min(rows.shape[0], _FINGERPRINT_ROWS)
    sample = np.linspace(0, max(rows.shape[0] - 1, 0), count).astype(np.int64)
    return "array", hashlib.sha256(np.ascontiguousarray(rows[sample]).tobytes()).hexdigest()
