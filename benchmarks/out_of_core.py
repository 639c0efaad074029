"""Seconds of a pass over a store on disk, beside the least that reading and computing allow."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import cores
from benchmarks.settings import Settings
from benchmarks.stores import MIB, read_all, write_store
from benchmarks.tables import Row, Table
from benchmarks.timing import Iterations, per_pass

# Family, dtype, components: from bound by computing to bound by reading.
CASES = [
    ("full", "float64", 16),
    ("full", "float32", 16),
    ("full", "float32", 2),
    ("diag", "float32", 16),
    ("spherical", "float64", 2),
    ("spherical", "float32", 2),
]
N_FEATURES = 32


def run(settings: Settings) -> list[Table]:
    """One row of the table for each case."""
    # Compiled loops take 240 MiB of the larger limit.
    size, limit = settings.pick((32, 112), (1024, 432))
    cases = settings.pick(CASES[-1:], CASES)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        stores = {}
        for dtype in dict.fromkeys(dtype for _, dtype, _ in cases):
            stores[dtype] = Path(folder) / f"{dtype}.zarr"
            write_store(stores[dtype], size * MIB, N_FEATURES, dtype)
        for family, dtype, k in cases:
            rounds = settings.pick(1, 2)
            rows.append(_row(stores[dtype], family, k, limit * MIB, rounds, settings.device))
    note = (
        f"Bound: the largest of computing alone, reading alone and the CPU seconds of both over "
        f"{cores()} cores, each from the same run; D = {N_FEATURES}, {size} MiB in chunks of 16 MiB"
        f" with CRC-32C, read from the page cache under a limit of {limit} MiB, which leaves room "
        f'to keep some blocks: reading counts by the share "read". '
        f'device="{settings.device}".'
    )
    return [Table("io", "Seconds of a pass over a store", rows, note)]


def _row(store: Path, family: str, k: int, limit: int, rounds: int, device: str) -> Row:
    import zarr

    x = np.asarray(zarr.open_array(str(store), mode="r")[:])
    computing, passes, reading = [], [], []
    for _ in range(rounds):
        computing.append(per_pass(_model(family, k, x, device=device), x))
        reading.append(read_all(store, repeats=1))
        outside = _model(family, k, x, device=device, memory_limit=limit)
        passes.append(per_pass(outside, str(store)))
    alone, read, found = min(computing, key=_wall), min(reading), min(passes, key=_wall)
    share = _share_read(found, x)
    cpu = (alone.cpu_seconds + share * read[1]) / cores()
    bound = max(alone.seconds, share * read[0], cpu)
    return {
        "family": family, "dtype": x.dtype.name, "K": k, "rows": len(x),
        "pass s": found.seconds, "computing s": alone.seconds, "reading s": read[0],
        "CPU / cores s": cpu, "read": share, "of the bound": found.seconds / bound,
    }  # fmt: skip


def _wall(found: Iterations) -> float:
    return found.seconds


def _share_read(found: Iterations, x: Any) -> float:
    """The part of the store that a pass reads again: the first pass of all reads the whole."""
    record = found.record
    later = (record.bytes_read / x.nbytes - 1.0) / max(1, record.passes - 1)
    return float(min(1.0, max(0.0, later)))


def _model(family: str, k: int, x: Any, **options: Any) -> Any:
    import dgmm

    rng = np.random.default_rng(0)
    start = x[rng.choice(len(x), k, replace=False)].astype(np.float64)
    return dgmm.GaussianMixture(
        k, covariance_type=family, means_init=start, random_state=0,
        init_params="random_from_data", **options,
    )  # fmt: skip
