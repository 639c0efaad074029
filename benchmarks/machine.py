"""What the numbers were measured on: processor, libraries, BLAS kernel, rates."""

from __future__ import annotations

import functools
import os
import platform
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits

from benchmarks.settings import Settings
from benchmarks.stores import MIB, read_all, write_store
from benchmarks.tables import Table

PACKAGES = ("dgmm", "numpy", "scipy", "numba", "scikit-learn", "dask", "distributed", "zarr")
DTYPES = ("float64", "float32")


def run(settings: Settings) -> list[Table]:
    """The rates that all other numbers are held against."""
    rows, facts = [], describe_line()
    size, repeats = settings.pick((256, 2), (2048, 15))
    with tempfile.TemporaryDirectory() as folder:
        for dtype in DTYPES:
            store = Path(folder) / f"{dtype}.zarr"
            n_bytes = write_store(store, settings.pick(32, 512) * MIB, dtype=dtype)
            seconds, _ = read_all(store)
            rows.append({
                "dtype": dtype,
                "matrix product, GFLOP/s": product_rate(dtype, size, repeats) / 1e9,
                "memory, GB/s": memory_rate(dtype, settings.pick(32, 512) * MIB) / 1e9,
                "Zarr from the page cache, GB/s": n_bytes / seconds / 1e9,
            })  # fmt: skip
    return [Table("machine", "What this machine can do, on all its cores", rows, facts)]


@functools.cache
def describe() -> dict[str, Any]:
    """Facts about this machine that explain its numbers, as they are when this is first called."""
    blas = {
        (one["internal_api"], one["version"], one.get("architecture"))
        for one in threadpool_info()
        if one["user_api"] == "blas"
    }
    return {
        "processor": _processor(),
        "cores": cores(),
        "load": round(os.getloadavg()[0], 2),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "blas": [
            {"library": library, "version": number, "kernels": kernels}
            for library, number, kernels in sorted(blas)
        ],
    }


def describe_line() -> str:
    """The same as a sentence."""
    facts = describe()
    packages = ", ".join(f"{name} {number}" for name, number in facts["packages"].items() if number)
    blas = ", ".join(
        f"{one['library']} {one['version']} ({one['kernels']} kernels)" for one in facts["blas"]
    )
    return (
        f"{facts['cores']} cores of: {facts['processor']}, load {facts['load']} when this began. "
        f"Python {facts['python']}, {packages}. "
        f"BLAS: {blas}."
    )


def cores() -> int:
    """Cores that this process may use."""
    from joblib import cpu_count

    return int(cpu_count())


def product_rate(dtype: str, size: int = 2048, repeats: int = 3) -> float:
    """Operations per second of a large square matrix product on all cores, the best of a few."""
    a = np.random.default_rng(0).random((size, size)).astype(dtype)
    out = np.empty_like(a)
    best = np.inf
    for _ in range(repeats):
        started = time.perf_counter()
        np.matmul(a, a, out=out)
        best = min(best, time.perf_counter() - started)
    return 2.0 * size**3 / best


def memory_rate(dtype: str, n_bytes: int, repeats: int = 5) -> float:
    """Bytes per second of reading memory: inner products of large vectors, a thread per core."""
    n = cores()
    parts = np.array_split(np.ones(n_bytes // np.dtype(dtype).itemsize, dtype), n)
    best = np.inf
    with threadpool_limits(1), ThreadPoolExecutor(n) as pool:
        for _ in range(repeats):
            started = time.perf_counter()
            list(pool.map(lambda part: part @ part, parts))
            best = min(best, time.perf_counter() - started)
    return n_bytes / best


def _processor() -> str:
    try:
        info = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in info if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
