"""Parquet files as datasets: chosen columns, row groups as blocks, checksums verified.

The driver reads footers alone. A block is a run of whole row groups, over the ends of files too; a
row group that is larger than ``block_bytes`` is a block of its own and is never cut, because it
would be decoded once for each of its pieces.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dgmm.data.dataset import Block, Dataset, Rows, fingerprint_of, part_rows
from dgmm.data.location import Location
from dgmm.data.parquet_files import ParquetPath, find_files, open_parquet_file, require_pyarrow
from dgmm.data.parquet_schema import (
    Column,
    Footer,
    check_agreement,
    choose_columns,
    failure_of,
    read_footer,
)
from dgmm.data.stamps import Stamp, changed, stamp_of
from dgmm.errors import DgmmError, InvalidDataError, InvalidDtypeError

__all__ = ["ParquetBlock", "ParquetPiece", "open_parquet"]

Array = np.ndarray[Any, Any]

# Requests for footers at a time, where each of them waits for a network.
_REQUESTS = 16
# What pyarrow's own objects, the pages in hand and the code first run take, as measured.
_SLACK = 5 * 2**20


@dataclass(frozen=True)
class ParquetPiece:
    """Row groups of one file that follow each other.

    Parameters
    ----------
    file : ParquetPath
    groups : tuple of (int, int)
        Number of each row group in the file, and its rows.
    """

    file: ParquetPath
    groups: tuple[tuple[int, int], ...]

    @property
    def n_rows(self) -> int:
        return sum(rows for _, rows in self.groups)


@dataclass(frozen=True)
class ParquetBlock(Block):
    """Some columns of some whole row groups.

    Parameters
    ----------
    columns : tuple of Column
    pieces : tuple of ParquetPiece
        Together as long as the block.
    overhead_bytes : int
        Most bytes that reading holds beyond the rows themselves.
    nulls : {'raise', 'mark'}
        What to do about a value that is null: raise, or mark its row as bad.
    """

    columns: tuple[Column, ...]
    pieces: tuple[ParquetPiece, ...] = field(compare=False)
    overhead_bytes: int = field(compare=False, repr=False)
    nulls: str = "raise"

    @property
    def peak_read_bytes(self) -> int:
        """The rows, and what a column of a row group takes while it is decoded."""
        return self.nbytes + self.overhead_bytes

    @property
    def stamp(self) -> Stamp:
        return stamp_of((piece.file.name, piece.file.mark) for piece in self.pieces)

    def select(self, columns: Sequence[int]) -> ParquetBlock:
        """The same rows of some of the columns alone."""
        kept = tuple(self.columns[index] for index in columns)
        return replace(self, n_features=len(kept), dtype=_joint_dtype(kept), columns=kept)

    def marking_nulls(self, marking: bool = True) -> ParquetBlock:
        """The same block, for which a null is a bad row, or an error."""
        return replace(self, nulls="mark" if marking else "raise")

    def read(self) -> Rows:
        # By column, as they are stored: in rows, each value would be a cache line of its own.
        values = np.empty((self.n_features, self.n_rows), self.dtype)
        bad = np.zeros(self.n_rows, bool) if self.nulls == "mark" else None
        first = 0
        for piece in self.pieces:
            last = first + piece.n_rows
            marks = None if bad is None else bad[first:last]
            try:
                self._read_piece(piece, values[:, first:last], marks, self.first_row + first)
            except (DgmmError, MemoryError):
                raise
            except Exception as error:  # noqa: BLE001 (a decoder raises what it likes)
                self._check_unchanged()
                what = f"{piece.file.name}: block {self.name} is damaged: its bytes do not pass "
                what += "their check or cannot be decoded"
                cause = piece.file.location.cause(error)
                raise failure_of(piece.file, error, what) from cause
            first = last
        _return_freed_memory()
        self._check_unchanged()
        return Rows(values.T, self.first_row, bad=bad)

    def _read_piece(
        self, piece: ParquetPiece, values: Array, bad: Array | None, first_row: int
    ) -> None:
        stored = [column for column in self.columns if not column.is_partition]
        first = 0
        with open_parquet_file(piece.file) as opened:
            for number, n_rows in piece.groups:
                last = first + n_rows
                group = _Group(piece.file, number, first_row + first)
                # One request for all columns of a remote file, one column of a local one at a time.
                sets = [[c] for c in stored] if piece.file.is_local else [stored] * bool(stored)
                for names in sets:
                    table = opened.read_row_group(
                        number, columns=[c.name for c in names], use_threads=False
                    )
                    for column in names:
                        target = values[self.columns.index(column), first:last]
                        marks = None if bad is None else bad[first:last]
                        _fill(target, table.column(column.name), marks, group, column.name)
                first = last
        for place, column in enumerate(self.columns):
            if column.is_partition:
                values[place] = _partition_value(piece.file, column.name)

    def _check_unchanged(self) -> None:
        before = self.stamp
        after = stamp_of((piece.file.name, piece.file.current_mark()) for piece in self.pieces)
        if after != before:
            raise changed(self.pieces[0].file.location, self.name, before, after)


def _return_freed_memory() -> None:
    """Pyarrow's pool would keep it, and the process seem to need it."""
    import pyarrow as pa

    pa.default_memory_pool().release_unused()


@dataclass(frozen=True)
class _Group:
    """Where values come from, for messages."""

    file: ParquetPath
    number: int
    first_row: int


def _fill(target: Array, column: Any, bad: Array | None, group: _Group, name: str) -> None:
    if len(column) != len(target):
        raise OSError(f"row group {group.number} has {len(column)} rows, not {len(target)}")
    if column.null_count:
        nulls = np.concatenate(
            [_values(chunk, np.dtype(bool)) for chunk in column.is_null().chunks]
        )
        if bad is None:
            row = int(np.argmax(nulls))
            raise InvalidDataError(
                f"{group.file.name}: row group {group.number}, row {row} (row "
                f"{group.first_row + row} of the dataset), column {name!r} is null, as "
                f"{column.null_count - 1} more values of it there; fill or drop such rows, choose "
                "other columns, or open it with on_bad_rows='skip'"
            )
        bad |= nulls
        column = column.fill_null(False if target.dtype.kind == "b" else 0)
    first = 0
    for chunk in column.chunks:
        target[first : first + len(chunk)] = _values(chunk, np.dtype(chunk.type.to_pandas_dtype()))
        first += len(chunk)


def _values(chunk: Any, dtype: np.dtype[Any]) -> Array:
    """A view of an Arrow array without nulls. Its own ``to_numpy`` imports pandas, 40 MB of it."""
    values = chunk.buffers()[1]
    if values is None or not len(chunk):
        return np.empty(0, dtype)
    if dtype.kind == "b":
        bits = np.unpackbits(np.frombuffer(values, np.uint8), bitorder="little")
        return bits[chunk.offset : chunk.offset + len(chunk)].astype(bool)
    return np.frombuffer(values, dtype, len(chunk), chunk.offset * dtype.itemsize)


def open_parquet(
    location: Location, block_bytes: int, columns: Sequence[str] | None = None
) -> Dataset:
    """Parquet files: one, those of a folder, or those that match a pattern.

    Parameters
    ----------
    location : Location
    block_bytes : int
        Row groups are joined until a block holds so many bytes.
    columns : sequence of str, optional
        The columns to read, in this order; by default all but those that pandas takes for an index.
        Columns which folders name (``year=2024``) are read if they are asked for.

    Raises
    ------
    SourceError, DamagedBlockError
        If there is no file, or one is not Parquet.
    InvalidDataError
        If files differ in their columns.
    InvalidDtypeError
        If a column is not of real numbers.
    InvalidParameterError
        If a column is asked for that is not there.
    MissingDependencyError
        If pyarrow, or what a URL needs, is not installed.
    """
    require_pyarrow()
    files = find_files(location)
    first = read_footer(files[0])
    chosen = choose_columns(first, columns, files[0].partitions)
    footers = [first, *_read_footers(files[1:])]
    for footer in footers:
        check_agreement(footer, first, chosen, every=columns is None)
        for column in chosen:
            if column.is_partition:
                _partition_value(footer.file, column.name)
    return _dataset(location, footers, chosen, block_bytes)


def _read_footers(files: list[ParquetPath]) -> list[Footer]:
    if not files or files[0].is_local:
        return [read_footer(file) for file in files]
    with ThreadPoolExecutor(_REQUESTS) as pool:
        return list(pool.map(read_footer, files))


def _dataset(
    location: Location, footers: list[Footer], columns: tuple[Column, ...], block_bytes: int
) -> Dataset:
    dtype = _joint_dtype(columns)
    row_bytes = len(columns) * dtype.itemsize
    overhead = max((_overhead(footer, columns) for footer in footers), default=0)
    blocks: list[Block] = []
    first_row = 0
    for pieces in _joined(footers, row_bytes, block_bytes):
        n_rows = sum(piece.n_rows for piece in pieces)
        blocks.append(
            ParquetBlock(first_row, n_rows, len(columns), dtype, columns, pieces, overhead)
        )
        first_row += n_rows
    described = [(footer.file.name, tuple(footer.file.mark), footer.groups) for footer in footers]
    return Dataset(
        blocks=tuple(blocks),
        n_features=len(columns),
        dtype=dtype,
        part_rows=part_rows(len(columns), dtype, block_bytes),
        fingerprint=fingerprint_of(["parquet", location.name, columns, *described]),
        feature_names=tuple(column.name for column in columns),
    )


def _joined(
    footers: list[Footer], row_bytes: int, block_bytes: int
) -> Iterator[tuple[ParquetPiece, ...]]:
    """The pieces of each block: row groups in their order, as many as ``block_bytes`` hold."""
    pieces: list[ParquetPiece] = []
    held = 0
    for footer in footers:
        for number, n_rows in enumerate(footer.groups):
            size = n_rows * row_bytes
            if held and held + size > block_bytes:
                yield tuple(pieces)
                pieces, held = [], 0
            if not size:
                continue
            held += size
            if pieces and pieces[-1].file is footer.file:
                last = pieces.pop()
                pieces.append(replace(last, groups=(*last.groups, (number, n_rows))))
            else:
                pieces.append(ParquetPiece(footer.file, ((number, n_rows),)))
    if pieces:
        yield tuple(pieces)


def _overhead(footer: Footer, columns: tuple[Column, ...]) -> int:
    """Bytes that decoding a row group of a file holds at once, beyond the rows.

    Of each column its pages, encoded and not, of at most a quarter more than the values as Parquet
    stores them; and the values twice with their marks of nulls, as decoded and as an array.
    """
    rows = max(footer.groups, default=0)
    widths = [column.dtype.itemsize for column in columns if not column.is_partition]
    sizes = [int(rows * (2.5 * max(width, 4) + 2 * (width + 1))) for width in widths]
    # A local file is read by the column, a remote one by the row group.
    return (max(sizes, default=0) if footer.file.is_local else sum(sizes)) + _SLACK


def _joint_dtype(columns: tuple[Column, ...]) -> np.dtype[Any]:
    return np.result_type(*(column.dtype for column in columns))


def _partition_value(file: ParquetPath, name: str) -> float:
    text = dict(file.partitions)[name]
    try:
        return float(text)
    except ValueError:
        raise InvalidDtypeError(
            f"{file.name}: the folder {name}={text} does not hold a number; leave the column out"
        ) from None
