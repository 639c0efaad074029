"""The parts of the benchmark: each gives rows of a table, as dictionaries."""

from __future__ import annotations

import importlib
import subprocess
import sys
from typing import Any

import numpy as np

import dgmm
from benchmarks.gpu import measuring
from dgmm.backend import CudaBackend
from dgmm.data.device import open_device_array
from dgmm.devices import facts_of
from dgmm.fused_cuda import WideOnDevice
from dgmm.guard import Level

__all__ = ["billion", "checks", "device", "fused", "roofline", "streamed", "tiles", "wide"]

Row = dict[str, Any]
GIGA = 1e9
TERA = 1e12


def device(xp: Any, _scale: float) -> list[Row]:
    """What was measured on."""
    facts, runtime = facts_of(0), xp.cuda.runtime
    return [
        {
            "name": facts.name,
            "multiprocessors": facts.n_multiprocessors,
            "float32 : float64": facts.single_to_double,
            "GiB": round(runtime.memGetInfo()[1] / 2**30, 1),
            "driver": runtime.driverGetVersion(),
            "runtime": runtime.runtimeGetVersion(),
            "cupy": xp.__version__,
            "dgmm": dgmm.__version__,
        }
    ]


def checks(_xp: Any, _scale: float) -> list[Row]:
    """The tests that need a GPU."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/gpu", "tests/numerics"]
    done = subprocess.run(  # noqa: S603  our own tests
        [*command, "-p", "no:cacheprovider"],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    lines = done.stdout.strip().splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return [{"exit status": done.returncode, "summary": lines[-1] if lines else "", "bad": failed}]


def roofline(xp: Any, scale: float) -> list[Row]:
    """Rates that bound the others, as this device gives them today."""
    n = max(64, int(8192 * scale))
    rows = []
    for dtype in ("float64", "float32"):
        a, b = (xp.random.standard_normal((n, n), dtype=dtype) for _ in range(2))
        out = xp.empty((n, n), dtype)
        seconds = measuring.seconds_of(xp, lambda a=a, b=b, out=out: xp.matmul(a, b, out=out))
        what = f"product of {n} x {n}, {dtype}"
        rows.append({"what": what, "rate": 2 * n**3 / seconds / TERA, "unit": "TFLOP/s"})
    size = max(2**12, int(2**31 * scale))
    source, target = xp.zeros(size, "uint8"), xp.empty(size, "uint8")
    seconds = measuring.seconds_of(xp, lambda: xp.copyto(target, source))
    rows.append({"what": "device memory, read + written", "rate": 2 * size / seconds / GIGA})
    pinned = np.frombuffer(xp.cuda.alloc_pinned_memory(size), np.uint8, size)
    stream = xp.cuda.Stream(non_blocking=True)
    seconds = measuring.seconds_of(xp, lambda: target.set(pinned, stream=stream))
    rows.append({"what": "pinned memory to device", "rate": size / seconds / GIGA})
    for row in rows[2:]:
        row["unit"] = "GB/s"
    return rows


def _row(mixture: Any, n_rows: int, dtype: str, seconds: float) -> Row:
    return {
        "family": mixture.covariance_type,
        "D": mixture.n_features,
        "K": mixture.n_components,
        "dtype": dtype,
        "rows": n_rows,
        "ms": seconds * 1e3,
        "rows/s": n_rows / seconds,
        "TFLOP/s": measuring.operations(mixture) * n_rows / seconds / TERA,
        "GB/s read": n_rows * mixture.n_features * np.dtype(dtype).itemsize / seconds / GIGA,
    }


FUSED = (
    ("full", 16, 16), ("full", 8, 16), ("full", 32, 32), ("full", 16, 64), ("diag", 16, 16),
    ("spherical", 16, 8),
)  # fmt: skip

# D, K and millions of rows.
WIDE = ((64, 64, 4.0), (32, 64, 8.0), (24, 64, 8.0), (64, 128, 2.0), (128, 16, 2.0))


def fused(xp: Any, scale: float) -> list[Row]:
    """Passes by the fused kernel, rows on the device."""
    n_rows, rows = max(100, int(5e7 * scale)), []
    for family, d, k in FUSED:
        mixture = measuring.mixture_of(family, k, d)
        for dtype in ("float32", "float64"):
            x = measuring.cloud(xp, n_rows, mixture, dtype)
            dataset, task = open_device_array(x), measuring.pass_of(mixture)
            seconds, _ = measuring.seconds_run(dataset, task, 3)
            rows.append(_row(mixture, n_rows, dtype, min(seconds)))
            del x, dataset
    return rows


def wide(xp: Any, scale: float) -> list[Row]:
    """Passes by products that never write features."""
    rows = []
    for d, k, millions in WIDE:
        mixture, n_rows = measuring.mixture_of("full", k, d), max(100, int(1e6 * millions * scale))
        dataset = open_device_array(measuring.cloud(xp, n_rows, mixture, "float32"))
        seconds, _ = measuring.seconds_run(dataset, measuring.pass_of(mixture), 3)
        rows.append(_row(mixture, n_rows, "float32", min(seconds)))
    return rows


def tiles(xp: Any, scale: float) -> list[Row]:
    """Passes by tiles with features, of several sizes, at a shape that other ways are taken for."""
    n_rows, rows = max(100, int(4e6 * scale)), []
    mixture = measuring.mixture_of("full", 64, 64)
    x = measuring.cloud(xp, n_rows, mixture, "float32")
    usual, served = CudaBackend.tile_rows, WideOnDevice.serves
    WideOnDevice.serves = staticmethod(lambda *_: False)
    try:
        for level in (Level.FLOAT64, Level.FLOAT32):
            task = measuring.pass_of(mixture, level)
            for size in (None, 8192, 131_072):
                CudaBackend.tile_rows = usual if size is None else lambda *_, size=size: size
                used = task.kernels[0].tile_rows(CudaBackend(xp))
                seconds, _ = measuring.seconds_run(open_device_array(x), task, 2)
                row = _row(mixture, n_rows, "float32", min(seconds))
                rows.append({"products": level.dtype, "tile": used, "usual": size is None, **row})
    finally:
        CudaBackend.tile_rows = usual
        WideOnDevice.serves = staticmethod(served)
    return rows


def billion(xp: Any, scale: float) -> list[Row]:
    """A billion rows of 16 float32 features on the device, 16 components: or as many as fit."""
    free = xp.cuda.runtime.memGetInfo()[0]
    n_rows = int(min(1e9 * scale, (free - 3 * 2**30) / 64)) if scale == 1 else int(1000 * scale)
    mixture = measuring.mixture_of("full", 16, 16)
    n_rows = max(n_rows, 100)
    x = measuring.cloud(xp, n_rows, mixture, "float32")
    seconds, found = measuring.seconds_run(open_device_array(x), measuring.pass_of(mixture), 5)
    again, other = measuring.seconds_run(open_device_array(x), measuring.pass_of(mixture), 1)
    same = bool(np.array_equal(found.moments, other.moments))
    row = _row(mixture, n_rows, "float32", min(seconds))
    return [{**row, "all seconds": [*seconds, *again], "same bits again": same}]


def streamed(xp: Any, scale: float) -> list[Row]:
    """Rows in pinned memory of the host, none of which the device may keep."""
    d, n_rows = 16, max(100, int(1.5e8 * scale))
    mixture = measuring.mixture_of("full", 16, d)
    memory = xp.cuda.alloc_pinned_memory(n_rows * d * 4)
    x = np.frombuffer(memory, np.float32, n_rows * d).reshape(n_rows, d)
    x[...] = measuring.cloud(xp, n_rows, mixture, "float32").get()
    xp.get_default_memory_pool().free_all_blocks()
    rows = []
    for block in ("16MiB", "64MiB", "256MiB"):
        dataset, task = dgmm.open_dataset(x, block_bytes=block), measuring.pass_of(mixture)
        seconds, _ = measuring.seconds_run(dataset, task, 3, kept_bytes=0)
        rows.append({"block": block, **_row(mixture, n_rows, "float32", min(seconds))})
    kept, _ = measuring.seconds_run(dgmm.open_dataset(x, block_bytes="256MiB"), task, 3)
    return [*rows, {"block": "kept on the device", **_row(mixture, n_rows, "float32", min(kept))}]


def peers(_xp: Any, scale: float) -> list[Row]:
    """Iterations of other programs, in the order of :mod:`benchmarks.gpu.peers`."""
    return importlib.import_module("benchmarks.gpu.peers").run(scale)
