"""Zarr arrays to test with."""

from __future__ import annotations

import zarr
from zarr.codecs import Crc32cCodec

CHECKED = {"compressors": (Crc32cCodec(),)}


def write(place, values, **options):
    options.setdefault("chunks", (20, 5))
    array = zarr.create_array(
        place,
        shape=values.shape,
        dtype=values.dtype,
        overwrite=True,
        config={"write_empty_chunks": True},
        **options,
    )
    array[:] = values
    return array
