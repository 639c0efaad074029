"""Stores that say what is missing, where Zarr itself is silent.

Zarr reads a chunk that is not in the store as the fill value. :class:`WatchedStore` stands between
Zarr and the store and raises instead, at the very request that found nothing: no listing, no
request more, and the same on every version of Zarr 3. The chunks inside a shard are not keys of the
store; :func:`missing_inner_chunk` looks them up in the shard's own table.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import ByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import FsspecStore, LocalStore, StorePath, WrapperStore, ZipStore

from dgmm.data.location import Location
from dgmm.data.stamps import mark_of_path
from dgmm.data.zarr_layout import ZarrLayout
from dgmm.errors import MissingDependencyError

__all__ = [
    "MissingKeyError",
    "StoreFailureError",
    "WatchedStore",
    "leaves",
    "missing_inner_chunk",
    "open_store",
    "open_watched",
    "watched",
]

_NO_CHUNK = 2**64 - 1


class MissingKeyError(Exception):
    """A chunk's key is not in the store."""


class StoreFailureError(Exception):
    """The store failed, as opposed to what it holds."""


class WatchedStore(WrapperStore[Any]):
    """A store that raises where a key is missing, and tells its own failures from bad data.

    Parameters
    ----------
    store : zarr.abc.store.Store
        The store to read from.
    strict : bool
        False lets missing keys pass.
    """

    def __init__(self, store: Any, strict: bool = True) -> None:
        super().__init__(store)
        self.strict = strict

    async def get(
        self, key: str, prototype: Any = None, byte_range: ByteRequest | None = None
    ) -> Any:
        prototype = prototype or default_buffer_prototype()
        self._refuse_special(key)
        try:
            found = await self._store.get(key, prototype, byte_range)
        except Exception as error:
            raise StoreFailureError(key) from error
        return self._present(key, found)

    def get_sync(self, key: str, *, prototype: Any = None, byte_range: Any = None) -> Any:
        """The synchronous path that newer versions of Zarr take for local stores."""
        self._refuse_special(key)
        try:
            found = self._store.get_sync(key, prototype=prototype, byte_range=byte_range)
        except Exception as error:
            raise StoreFailureError(key) from error
        return self._present(key, found)

    def _refuse_special(self, key: str) -> None:
        """Refuse a pipe in the place of a chunk, which would be waited for without end."""
        if isinstance(self._store, LocalStore):
            mark_of_path(self._store.root / key)

    def _present(self, key: str, found: Any) -> Any:
        if found is None and self.strict:
            raise MissingKeyError(key)
        return found


def open_store(location: Location, *, read_only: bool = True) -> Store:
    """The store at a location.

    Raises
    ------
    MissingDependencyError
        If fsspec, or the package that it needs for the URL, is not installed.
    SourceError
        If the URL is not one that fsspec knows.
    StoreUnavailableError
        If the store refuses.
    """
    path = location.path
    if path is not None:
        if path.suffix == ".zip" and read_only:
            return ZipStore(path, mode="r", read_only=True)
        return LocalStore(path, read_only=read_only)
    try:
        return FsspecStore.from_url(
            location.url, storage_options=dict(location.storage_options), read_only=read_only
        )
    except ImportError as error:
        raise MissingDependencyError(
            f"{location.name} needs a package that is not installed: {location.scrub(error)}"
        ) from location.cause(error)
    except Exception as error:  # noqa: BLE001 (each file system has errors of its own)
        raise location.failure("cannot open", error) from location.cause(error)


def watched(array: Any, *, strict: bool) -> Any:
    """The same ``zarr.Array``, read through a :class:`WatchedStore`."""
    return _placed(array, WatchedStore(array.store, strict))


def open_watched(store: Store) -> Any:
    """The ``zarr.Array`` or ``zarr.Group`` in a store, to read.

    Raises
    ------
    StoreFailureError
        If the store failed. Anything else that is raised is about what the store holds.
    """
    node = zarr.open(store=WatchedStore(store, strict=False), mode="r")
    return node if isinstance(node, zarr.Group) else _placed(node, store)


def _placed(array: Any, store: Store) -> Any:
    place = StorePath(store, array.path)
    return zarr.Array(zarr.AsyncArray(array.metadata, place, array.async_array.config))


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The exceptions of a group, or the one given."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error


def missing_inner_chunk(
    array: Any, layout: ZarrLayout, start: int, stop: int
) -> tuple[tuple[int, ...], str] | None:
    """A chunk that its shard's table says was never written, among those of some rows.

    Parameters
    ----------
    array : zarr.Array
        A sharded array whose store raises on missing keys.
    layout : ZarrLayout
        Its layout, with an index.
    start, stop : int
        The rows.

    Returns
    -------
    tuple or None
        The chunk's place in the grid of chunks, and the key of its shard.
    """
    shards = list(_shards(layout, start, stop))
    keys = [_key(array, layout.place(*shard)) for shard in shards]
    tables = sync(_tables(array.store, keys, layout))
    for shard, key, table in zip(shards, keys, tables, strict=True):
        missing = _first_missing(table, shard, layout, start, stop)
        if missing is not None:
            return layout.place(*missing), key
    return None


def _shards(layout: ZarrLayout, start: int, stop: int) -> Iterator[tuple[int, int]]:
    assert layout.shard is not None
    rows, columns = layout.shard
    for row in range(start // rows, -(-stop // rows)):
        for column in range(-(-layout.shape[1] // columns)):
            yield row, column


def _key(array: Any, coordinates: tuple[int, ...]) -> str:
    key = str(array.metadata.encode_chunk_key(coordinates))
    return f"{array.path}/{key}" if array.path else key


async def _tables(store: Any, keys: list[str], layout: ZarrLayout) -> list[Any]:
    index = layout.index
    assert index is not None
    request: ByteRequest = (
        SuffixByteRequest(index.nbytes) if index.at_end else RangeByteRequest(0, index.nbytes)
    )
    prototype = default_buffer_prototype()
    found = await asyncio.gather(*(store.get(key, prototype, request) for key in keys))
    # A server that knows no ranges sends the whole shard.
    table = slice(-index.nbytes, None) if index.at_end else slice(index.nbytes)
    return [buffer.to_bytes()[table] for buffer in found]


def _first_missing(
    table: bytes, shard: tuple[int, int], layout: ZarrLayout, start: int, stop: int
) -> tuple[int, int] | None:
    assert layout.shard is not None
    grid = tuple(outer // inner for outer, inner in zip(layout.shard, layout.chunk, strict=True))
    entries = np.frombuffer(table, "<u8", count=2 * grid[0] * grid[1]).reshape(*grid, 2)
    for row, column in np.argwhere(entries[..., 0] == _NO_CHUNK):
        at = int(row) + shard[0] * grid[0], int(column) + shard[1] * grid[1]
        first = at[0] * layout.chunk[0]
        # Chunks beyond the edge of the array need not be written.
        inside = first < layout.shape[0] and at[1] * layout.chunk[1] < layout.shape[1]
        if inside and first < stop and first + layout.chunk[0] > start:
            return at
    return None
