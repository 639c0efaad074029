"""What tells one Zarr array's content from another's, for as little as the store charges."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from itertools import accumulate, islice
from typing import Any

from zarr.core.sync import sync
from zarr.storage import FsspecStore, LocalStore, ZipStore

from dgmm.data.location import Location
from dgmm.data.stamps import FileMark, mark_of, mark_of_path, tells_content
from dgmm.data.zarr_layout import ZarrLayout, codecs_of

__all__ = ["all_marks", "codec_names", "keys_beyond", "keys_of", "marks_of", "some_keys"]

# Requests at a time: more would only wait for each other.
_REQUESTS = 64
# Chunks that are looked at when an array is opened, or else so many of them.
_MOST_LOOKED_AT = 2**20
_SPREAD = 512

Marks = dict[str, FileMark | None]


def codec_names(array: Any) -> list[object]:
    """Names of the codecs, filters included."""
    if array.metadata.zarr_format == 3:
        return [codec["name"] for codec in codecs_of(array)]
    document = array.metadata.to_dict()
    return [str(document.get("compressor")), str(document.get("filters"))]


def keys_of(array: Any, layout: ZarrLayout, start: int, stop: int) -> Iterator[str]:
    """Keys of the chunks (or shards) that hold some rows."""
    rows, columns = layout.shard or layout.chunk
    n_columns = -(-layout.shape[1] // columns)
    if layout.sizes is None:
        first, last = start // rows, -(-stop // rows)
    else:
        ends = list(accumulate(layout.sizes))
        first = sum(end <= start for end in ends)
        last = 1 + sum(end < stop for end in ends)
    for row in range(first, last):
        for column in range(n_columns):
            key = array.metadata.encode_chunk_key(layout.place(row, column))
            yield f"{array.path}/{key}" if array.path else key


def keys_beyond(array: Any, layout: ZarrLayout) -> list[str]:
    """Keys that the first chunk below the last row, and right of the last column, would have."""
    if layout.sizes is not None:
        return []
    rows, columns = layout.shard or layout.chunk
    below, right = -(-layout.shape[0] // rows), -(-layout.shape[1] // columns)
    beside = [] if layout.flat else [(0, right)]
    places = [layout.place(below, 0), *beside]
    names = [array.metadata.encode_chunk_key(place) for place in places]
    return [f"{array.path}/{name}" if array.path else name for name in names]


def some_keys(array: Any, layout: ZarrLayout) -> list[str] | None:
    """Keys of chunks spread over an array that has too many to look at all; None if it has not."""
    rows, columns = layout.shard or layout.chunk
    count = -(-layout.shape[0] // rows) * -(-layout.shape[1] // columns)
    if count <= _MOST_LOOKED_AT:
        return None
    spread = range(0, layout.shape[0], -(-layout.shape[0] // _SPREAD))
    return [key for row in spread for key in islice(keys_of(array, layout, row, row + 1), 8)]


def all_marks(array: Any, keys: Sequence[str], location: Location) -> Marks:
    """What the store says of all chunks of an array, by a listing where it can list.

    Empty for a store that cannot say (one in memory).
    """
    if not isinstance(array.store, FsspecStore):
        return marks_of(array.store, keys)
    return _guarded(_listed(array.store, array.path, keys), location)


def marks_of(store: Any, keys: Sequence[str], location: Location | None = None) -> Marks:
    """What the store says of some chunks now; None for one that is not there.

    Raises
    ------
    StoreUnavailableError
        If the store does not answer.
    """
    if isinstance(store, LocalStore):
        return {key: mark_of_path(store.root / key) for key in keys}
    if isinstance(store, ZipStore):
        mark = mark_of_path(store.path)
        return dict.fromkeys(keys, mark)
    if isinstance(store, FsspecStore):
        return _guarded(_asked(store, keys), location)
    return {}


def _guarded(work: Any, location: Location | None) -> Marks:
    try:
        found: Marks = sync(work)
        return found
    except Exception as error:
        if location is None:
            raise
        raise location.failure("cannot look at chunks of", error) from location.cause(error)


async def _listed(store: FsspecStore, path: str, keys: Sequence[str]) -> Marks:
    root = store.path.rstrip("/")
    try:
        store.fs.invalidate_cache()
        found = await store.fs._find(f"{root}/{path}".rstrip("/"), detail=True)
    except Exception:  # noqa: BLE001 (no right to list, or nothing to list: each can be asked for)
        found = {}
    if not found or not all(tells_content(info) for info in found.values()):
        return await _asked(store, keys)
    infos = {str(name).removeprefix(root).strip("/"): info for name, info in found.items()}
    return {key: mark_of(infos[key]) if key in infos else None for key in keys}


async def _asked(store: FsspecStore, keys: Sequence[str]) -> Marks:
    turn = asyncio.Semaphore(_REQUESTS)
    store.fs.invalidate_cache()

    async def ask(key: str) -> FileMark | None:
        async with turn:
            try:
                return mark_of(await store.fs._info(f"{store.path.rstrip('/')}/{key}"))
            # A store that may not be listed calls a missing chunk forbidden.
            except (FileNotFoundError, PermissionError):
                return None

    return dict(zip(keys, await asyncio.gather(*map(ask, keys)), strict=True))
