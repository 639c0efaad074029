"""What the numbers were measured on: processor, libraries, BLAS kernel, product peak."""

from __future__ import annotations

import functools
import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from threadpoolctl import threadpool_info

PACKAGES = ("numpy", "scipy", "dask", "distributed", "zarr", "scikit-learn")


def describe() -> dict[str, Any]:
    """Facts about this machine that explain its numbers."""
    blas = [one for one in threadpool_info() if one["user_api"] == "blas"]
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "blas": [{key: one.get(key) for key in ("internal_api", "version", "architecture")}
                 for one in blas],
        "product_peak": {dtype: product_peak(dtype) for dtype in ("float64", "float32")},
    }  # fmt: skip


@functools.cache
def product_peak(dtype: str, size: int = 2048, repeats: int = 15) -> float:
    """Operations per second of a large square matrix product on all cores, the best of a few."""
    a = np.random.default_rng(0).random((size, size)).astype(dtype)
    out = np.empty_like(a)
    best = np.inf
    for _ in range(repeats):
        started = time.perf_counter()
        np.matmul(a, a, out=out)
        best = min(best, time.perf_counter() - started)
    return 2.0 * size**3 / best


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as info:
            names = [line.split(":", 1)[1].strip() for line in info if "model name" in line]
        return names[0]
    except (OSError, IndexError):
        return platform.processor()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
