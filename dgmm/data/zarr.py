"""Zarr arrays, v2 and v3, local or behind a URL, sharded or not, as datasets."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from gzip import BadGzipFile
from typing import Any
from uuid import uuid4

import numpy as np
import zarr
from zarr.buffer.cpu import NDBuffer
from zarr.storage import FsspecStore, LocalStore, MemoryStore

from dgmm.data.arrays import ArrayBlock
from dgmm.data.dataset import Block, Dataset, Rows, check_dtype, fingerprint_of, part_rows
from dgmm.data.location import Location
from dgmm.data.planning import checked_ranges
from dgmm.data.stamps import Stamp, changed, stamp_of
from dgmm.data.zarr_damage import damaged_chunk
from dgmm.data.zarr_identity import (
    all_marks,
    codec_names,
    keys_beyond,
    keys_of,
    marks_of,
    some_keys,
)
from dgmm.data.zarr_layout import ZarrLayout, layout_of
from dgmm.data.zarr_node import group_message, open_node, place_of
from dgmm.data.zarr_store import (
    MissingKeyError,
    StoreFailureError,
    leaves,
    missing_inner_chunk,
    watched,
)
from dgmm.errors import (
    DamagedBlockError,
    DataChangedError,
    DgmmError,
    MissingChunkError,
    SourceError,
    StoreUnavailableError,
)

__all__ = ["ZarrBlock", "ZarrHandle", "open_zarr"]

_OPEN_ARRAYS = 16


@dataclass(frozen=True)
class ZarrHandle:
    """An array to read from, small when pickled; each process opens it once.

    Parameters
    ----------
    location : Location
        Where it is, and how messages call it.
    layout : ZarrLayout
        What it looked like when the dataset was opened.
    strict : bool
        True refuses chunks that were never written, False reads their fill value.
    group_rows : int
        Rows to ask Zarr for at a time.
    overhead_bytes : int
        Most bytes that reading holds beyond the rows themselves.
    token : str
        Tells handles apart.
    given : zarr.Array, optional
        The caller's array, where its store cannot be opened again from ``location``.
    """

    location: Location = field(compare=False)
    layout: ZarrLayout = field(compare=False, repr=False)
    strict: bool = field(compare=False)
    group_rows: int = field(compare=False, repr=False)
    overhead_bytes: int = field(compare=False, repr=False)
    token: str = field(repr=False)
    given: Any = field(default=None, compare=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "_given_array"}

    @property
    def in_memory(self) -> bool:
        """True if the store lives in this process alone."""
        if self.given is not None and isinstance(self.given.store, MemoryStore):
            return True
        return self.location.url.rsplit("::", 1)[-1].startswith("memory://")

    @property
    def array(self) -> Any:
        """The array, watched for missing chunks."""
        return _opened(self) if self.given is None else self._given_array

    @cached_property
    def _given_array(self) -> Any:
        return watched(self.given, strict=self.strict)

    def stamp(self, start: int, stop: int) -> Stamp:
        """What the store says of the chunks of some rows now."""
        array = self.array
        store = getattr(array.store, "_store", array.store)
        keys = list(keys_of(array, self.layout, start, stop))
        return stamp_of(marks_of(store, keys, self.location).items())

    def read(self, start: int, stop: int) -> np.ndarray[Any, Any]:
        """Rows ``start`` to ``stop``, a group at a time into one buffer."""
        array = self.array
        rows = np.empty((stop - start, self.layout.shape[1]), self.layout.dtype)
        for first in range(start, stop, self.group_rows):
            last = min(first + self.group_rows, stop)
            group = self.layout.shaped(rows[first - start : last - start])
            target = NDBuffer.from_numpy_array(group)
            array.get_basic_selection(self.layout.selection(first, last), out=target)
        if self.strict and self.layout.index is not None:
            missing = missing_inner_chunk(array, self.layout, start, stop)
            if missing is not None:
                raise MissingKeyError(f"{missing[0]} in shard {missing[1]}")
        return rows


@dataclass(frozen=True)
class ZarrBlock(Block):
    """Rows of some whole chunks.

    Parameters
    ----------
    handle : ZarrHandle
        The array, shared by all blocks of a dataset.
    stamped : Stamp, optional
        Of its chunks when the dataset was opened.
    """

    handle: ZarrHandle
    stamped: Stamp | None = field(default=None, compare=False, repr=False)

    @property
    def stamp(self) -> Stamp | None:
        return self.stamped

    def __reduce__(self) -> Any:
        if not self.handle.in_memory:
            return ZarrBlock, tuple(vars(self).values())
        # The store would travel whole with every block: send the rows in its place.
        return ArrayBlock, (*list(vars(self).values())[:4], self.read().x)

    @property
    def peak_read_bytes(self) -> int:
        """The rows, and the encoded and decoded chunks in flight."""
        return self.nbytes + self.handle.overhead_bytes

    def read(self) -> Rows:
        try:
            values = self.handle.read(self.first_row, self.first_row + self.n_rows)
        except (DgmmError, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001 (a codec raises what it likes)
            failure = self._failure(error)
            if not isinstance(failure, StoreUnavailableError):
                self._check_unchanged()
            raise failure from self.handle.location.cause(error)
        self._check_unchanged()
        return Rows(values, self.first_row)

    def _check_unchanged(self) -> None:
        if self.stamped is None:
            return
        after = self.handle.stamp(self.first_row, self.first_row + self.n_rows)
        if after != self.stamped:
            raise changed(self.handle.location, self.name, self.stamped, after)

    def _failure(self, error: Exception) -> SourceError:
        location = self.handle.location
        first = next(iter(leaves(error)))
        for leaf in leaves(error):
            if isinstance(leaf, MissingKeyError):
                # Of one value for each row nothing is filled in: it would be a weight of 0, say.
                advice = (
                    "write it"
                    if self.handle.layout.flat
                    else "write it, or pass on_missing_chunk='fill' if the store is sparse on "
                    "purpose"
                )
                return MissingChunkError(
                    f"{location.name}: chunk {leaf} of block {self.name} was never written; "
                    f"{advice}"
                )
            # A codec may raise this OSError; the others come from the store.
            if isinstance(leaf, StoreFailureError | OSError) and not isinstance(leaf, BadGzipFile):
                what = f"cannot read block {self.name} of"
                return location.failure(what, leaf.__cause__ or leaf)
        last = self.first_row + self.n_rows
        where = damaged_chunk(self.handle.array, self.handle.layout, self.first_row, last)
        return DamagedBlockError(
            f"{location.name}: block {self.name} is damaged{where}: its bytes do not pass their "
            f"check or cannot be decoded ({type(first).__name__}: {location.scrub(first)}); "
            "restore it from a copy or write it again"
        )


def open_zarr(
    source: Any,
    block_bytes: int,
    on_missing_chunk: str = "raise",
    *,
    flat: bool = False,
) -> Dataset:
    """A Zarr array.

    Parameters
    ----------
    source : Location or zarr.Array
        What to read.
    block_bytes : int
        Chunks are joined until a block holds so many bytes. A chunk that is larger is a block.
    on_missing_chunk : {'raise', 'fill'}
        What to do about a chunk that was never written: refuse it when its block is read, or take
        its fill value.
    flat : bool
        True for an array of one dimension that holds a value for each row: it becomes a feature.

    Raises
    ------
    SourceError
        If there is no array to read.
    StoreUnavailableError
        If the store could not be reached, or refused.
    InvalidDataError, InvalidDtypeError
        If it does not have two dimensions (one if it is flat), or not real numbers.
    """
    location, given = (source, None) if isinstance(source, Location) else place_of(source)
    node = open_node(location) if given is None else given
    if isinstance(node, zarr.Group):
        raise SourceError(group_message(node, location))
    check_dtype(node.dtype)
    _refuse_pickles(node, location)
    layout = layout_of(node, flat)
    strict = on_missing_chunk == "raise"
    if strict and layout.shard is not None and layout.index is None:
        advice = (
            "write it without"
            if flat
            else "pass on_missing_chunk='fill' if all of them were written"
        )
        raise SourceError(
            f"{location.name} keeps the tables of its shards in a way that does not tell missing "
            f"chunks (shards in shards, or codecs around them); {advice}"
        )
    ranges = checked_ranges(layout.block_ranges(block_bytes), layout.shape)
    _refuse_chunks_beyond(node, layout, location)
    few = some_keys(node, layout)
    keys = list(keys_of(node, layout, 0, layout.shape[0])) if few is None else few
    marks = marks_of(node.store, keys, location) if few else all_marks(node, keys, location)
    described = [layout, node.metadata.zarr_format, *codec_names(node), *sorted(marks.items())]
    identity = fingerprint_of([location.name, *described])
    handle = ZarrHandle(
        location=location,
        layout=layout,
        strict=strict,
        group_rows=layout.group_rows(block_bytes),
        overhead_bytes=layout.overhead_bytes(block_bytes),
        token=_token(location, identity, strict, given),
        given=given,
    )
    stamps = [
        stamp_of((key, marks[key]) for key in keys_of(node, layout, *rows))
        if marks and few is None
        else None
        for rows in ranges
    ]
    return _dataset(handle, block_bytes, identity, list(zip(ranges, stamps, strict=True)))


def _refuse_chunks_beyond(array: Any, layout: ZarrLayout, location: Location) -> None:
    """Refuse an array that holds more than its metadata, which have no checksum, declare."""
    keys = keys_beyond(array, layout)
    if not isinstance(array.store, LocalStore | FsspecStore):
        # A store in memory cannot say, an archive says the same of every name.
        return
    for key, mark in marks_of(array.store, keys, location).items():
        if mark is not None:
            raise SourceError(
                f"{location.name} holds the chunk {key}, which is beyond the shape "
                f"{tuple(array.shape)} that its metadata declare: they are damaged, or the "
                "array was cut without its chunks; put the metadata right, or remove such chunks"
            )


def _refuse_pickles(array: Any, location: Location) -> None:
    """Refuse a codec that would run what the store says (the Pickle filter of Zarr v2)."""
    if any("pickle" in str(name).lower() for name in codec_names(array)):
        raise SourceError(
            f"{location.name} is encoded by pickling, which could run any program; write it with "
            "another codec"
        )


@lru_cache(maxsize=_OPEN_ARRAYS)
def _opened(handle: ZarrHandle) -> Any:
    location = handle.location
    array = open_node(location)
    if isinstance(array, zarr.Group) or layout_of(array, handle.layout.flat) != handle.layout:
        raise DataChangedError(
            f"{location.name} changed its shape, dtype or chunks after the dataset was opened; "
            "open it again"
        )
    return watched(array, strict=handle.strict)


def _dataset(
    handle: ZarrHandle,
    block_bytes: int,
    fingerprint: str,
    ranges: list[tuple[tuple[int, int], Stamp | None]],
) -> Dataset:
    layout = handle.layout
    blocks = tuple(
        ZarrBlock(start, stop - start, layout.shape[1], layout.dtype, handle, stamp)
        for (start, stop), stamp in ranges
    )
    return Dataset(
        blocks=blocks,
        n_features=layout.shape[1],
        dtype=layout.dtype,
        part_rows=part_rows(layout.shape[1], layout.dtype, block_bytes),
        fingerprint=fingerprint,
    )


def _token(location: Location, identity: str, strict: bool, given: Any) -> str:
    options = sorted(map(repr, location.storage_options.items()))
    unique = "" if given is None else uuid4().hex
    return fingerprint_of([location.url, options, identity, strict, unique])
