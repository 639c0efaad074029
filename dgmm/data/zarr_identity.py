"""What tells one Zarr array's content from another's, for as little as the store charges."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from zarr.core.sync import sync
from zarr.storage import FsspecStore, LocalStore

from dgmm.data.zarr_layout import ZarrLayout, codecs_of

__all__ = ["identity_of"]

# A stat costs microseconds, a request tens of milliseconds.
_LOCAL_KEYS = 512
_REMOTE_KEYS = 8
_TELLING = ("size", "ETag", "etag", "md5Hash", "generation", "LastModified", "mtime", "created")


def identity_of(array: Any, layout: ZarrLayout) -> list[object]:
    """Shape, dtype, units and codecs, with size and time (or etag) of some stored chunks.

    Looked at are the first and the last of the chunks (or shards) and others spread evenly between
    them: all of them up to 512 for local files, up to 8 for a remote store. Of other stores (in
    memory, zip files) only the metadata count.
    """
    described: list[object] = [layout, array.metadata.zarr_format, *_codec_names(array)]
    if isinstance(array.store, LocalStore):
        keys = list(_some_keys(array, layout, _LOCAL_KEYS))
        return described + [_stat(array.store.root / key) for key in keys]
    if isinstance(array.store, FsspecStore):
        keys = list(_some_keys(array, layout, _REMOTE_KEYS))
        return described + sync(_infos(array.store, keys))
    return described


def _codec_names(array: Any) -> list[object]:
    if array.metadata.zarr_format == 3:
        return [codec["name"] for codec in codecs_of(array)]
    document = array.metadata.to_dict()
    return [str(document.get("compressor")), str(document.get("filters"))]


def _some_keys(array: Any, layout: ZarrLayout, most: int) -> Iterator[str]:
    rows, columns = layout.shard or layout.chunk
    n_rows = len(layout.sizes) if layout.sizes is not None else -(-layout.shape[0] // rows)
    n_columns = -(-layout.shape[1] // columns)
    count = n_rows * n_columns
    for index in np.unique(np.linspace(0, max(count - 1, 0), min(count, most)).astype(np.int64)):
        key = array.metadata.encode_chunk_key(divmod(int(index), n_columns))
        yield f"{array.path}/{key}" if array.path else key


def _stat(path: os.PathLike[str]) -> object:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


async def _infos(store: FsspecStore, keys: list[str]) -> list[object]:
    async def info(key: str) -> object:
        try:
            found = await store.fs._info(f"{store.path.rstrip('/')}/{key}")
        except Exception:  # noqa: BLE001 (a missing chunk, no right to ask: reading will tell)
            return None
        return [str(found.get(name)) for name in _TELLING]

    return list(await asyncio.gather(*map(info, keys)))
