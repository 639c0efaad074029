"""Rows on disk, in a Zarr array with checksums, and how fast they can be read."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

MIB = 2**20


def write_store(path: Path, n_bytes: int, n_features: int = 32, dtype: str = "float32") -> int:
    """A checksummed Zarr array of about that size, written in chunks of 16 MiB; its true size."""
    import zarr

    itemsize = np.dtype(dtype).itemsize
    n_rows = 16 * MIB // (itemsize * n_features)
    n_chunks = max(2, n_bytes // (16 * MIB))
    array = zarr.create_array(
        store=str(path),
        shape=(n_chunks * n_rows, n_features),
        chunks=(n_rows, n_features),
        dtype=dtype,
        compressors=[zarr.codecs.Crc32cCodec()],
        config={"write_empty_chunks": True},
    )
    rng = np.random.default_rng(0)
    for i in range(n_chunks):
        centres = rng.integers(-3, 4, size=(n_rows, 1)) * 2.0
        piece = rng.standard_normal((n_rows, n_features)) + centres
        array[i * n_rows : (i + 1) * n_rows] = piece.astype(dtype)
    return int(n_chunks * n_rows * n_features * itemsize)


@dataclass(frozen=True)
class Count:
    """A number of rows."""

    n_rows: int

    def merge(self, other: Self) -> Self:
        return type(self)(self.n_rows + other.n_rows)


class CountRows:
    """A task that wants the rows read, and computes nothing."""

    workspace_bytes = 0
    result_bytes = 64

    def workspace(self) -> None:
        return None

    def evaluate(self, rows: Any, workspace: Any) -> Count:
        return Count(len(rows.x))


def read_all(path: Path, repeats: int = 3, limit: int = 256 * MIB) -> tuple[float, float]:
    """Seconds, and CPU seconds, of a pass of dgmm over a store that does nothing but read it.

    Under a memory limit, without which it would keep what it has read: fresh pages cost more than
    the reading.
    """
    import dgmm
    from dgmm.data.opening import open_dataset

    best = (np.inf, np.inf)
    for _ in range(repeats):
        dataset = open_dataset(str(path))
        with dgmm.LocalEngine().session(dataset, memory_limit=limit) as session:
            wall, cpu = time.perf_counter(), time.process_time()
            found = session.run(CountRows()).total
            took = (time.perf_counter() - wall, time.process_time() - cpu)
        assert found.n_rows == dataset.n_rows
        best = min(best, took)
    return best
