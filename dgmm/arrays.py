"""The only place where NumPy and CuPy differ.

Numerical code takes its array namespace from here, as ``xp``, and calls nothing that only one of
the two has. CuPy is imported when a device asks for it, never before.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from types import ModuleType
from typing import Any

import numpy as np

from dgmm.devices import facts_of, gpu_count, is_device_array, why_no_gpu
from dgmm.errors import InvalidParameterError, MissingDependencyError

__all__ = [
    "COMPILED",
    "aligned_empty",
    "explain_device",
    "make_current",
    "namespace",
    "resolve_device",
    "tile_rows",
    "to_host",
]

# NumPy with compiled loops.
COMPILED = "cpu-compiled"

# Bytes of a line of the cache, or of the widest vector.
_LINE = 64

# Responsibilities of a pass from which compiling is repaid within 30 iterations: it takes some 4 s
# of a core in each process, twice that where float32 rows go to float64 kernels, and a loop saves 2
# to 9 ns of each.
_WORTH_COMPILING = 2**27

# Bytes of one tile's features and responsibilities. Measured on two cores sharing 32 MiB of L3:
# smaller tiles lose to the interpreter's overhead, of which compiled loops have less, larger ones
# to the cache. On a GPU, small tiles cost launches and leave products with less than its
# multiprocessors can take: 512 MiB are 32,768 rows of 64 features, full covariances.
_TILE_BYTES = {"numpy": 6 * 2**20, "numba": 3 * 2**20, "fused": 3 * 2**20, "cupy": 512 * 2**20}
_TILE_ROWS = {
    "numpy": (256, 8192),
    "numba": (256, 8192),
    "fused": (1024, 8192),
    "cupy": (1024, 262144),
}


def namespace(device: str) -> ModuleType:
    """NumPy for ``"cpu"`` and ``"cpu-compiled"``, CuPy for ``"cuda"`` and ``"cuda:N"``.

    Raises
    ------
    MissingDependencyError
        If a GPU is asked for and CuPy is not installed.
    """
    if device in ("cpu", COMPILED):
        return np
    try:
        cupy = importlib.import_module("cupy")
    except ImportError as error:
        raise MissingDependencyError(
            f"device={device!r} needs CuPy, which is not installed: "
            'pip install "dgmm[cuda12]" or "dgmm[cuda13]", or pass device="cpu"'
        ) from error
    return cupy


def make_current(device: str) -> None:
    """Let this thread's arrays be made on ``"cuda:N"``; other names leave it where it is.

    For threads that compute. Of the caller's thread the current device is none of our business.
    """
    if ":" in device:
        namespace(device).cuda.Device(int(device.partition(":")[2])).use()


def resolve_device(device: Any, n_responsibilities: int = 0) -> str:
    """The device that ``"auto"`` means here; see :func:`explain_device`."""
    return explain_device(device, n_responsibilities)[0]


def explain_device(device: Any, n_responsibilities: int = 0) -> tuple[str, str]:
    """The device that ``"auto"`` means here, and why.

    ``"cuda"`` where CuPy finds a GPU; else ``"cpu-compiled"`` where numba is installed and a pass
    has responsibilities enough to repay compiling; else ``"cpu"``.

    Parameters
    ----------
    device : {"auto", "cpu", "cpu-compiled", "cuda", "cuda:N"}
    n_responsibilities : int, default=0
        Rows × components of a pass.

    Returns
    -------
    device, reason : str

    Raises
    ------
    InvalidParameterError
        If ``device`` is none of these.
    """
    name, _, number = device.partition(":") if isinstance(device, str) else ("", "", "")
    known = name in ("auto", "cpu", COMPILED, "cuda")
    if not known or (number and (name != "cuda" or not number.isdigit())):
        raise InvalidParameterError(
            f"device={device!r} is not known; use 'auto', 'cpu', 'cpu-compiled', 'cuda' or 'cuda:N'"
        )
    if device != "auto":
        return device, "asked for"
    if _gpu_count() > 0:
        return "cuda", f"found {_gpus()}"
    why = why_no_gpu() or "no GPU"
    if importlib.util.find_spec("numba") is None:
        return "cpu", f"{why}, and numba is not installed"
    if n_responsibilities < _WORTH_COMPILING:
        return "cpu", f"{why}, and too few rows to repay compiling loops"
    return COMPILED, f"{why}, and rows enough to repay compiling loops"


def _gpu_count() -> int:
    return gpu_count()


def _gpus() -> str:
    names = [facts_of(number).name for number in range(_gpu_count())]
    return ", ".join(names) if len(set(names)) > 1 else f"{len(names)} × {names[0]}"


def to_host(array: Any) -> np.ndarray[Any, Any]:
    """The array as NumPy."""
    if not is_device_array(array):
        return np.asarray(array)
    # CuPy's own has a way to the host; tensors of other libraries go through it.
    there = array if hasattr(array, "get") else namespace("cuda").asarray(array)
    return np.asarray(there.get())


def aligned_empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
    """An array of NumPy's that begins where a line of the cache does, its values undefined.

    NumPy begins large arrays 16 bytes behind one, so that every second vector of 32 bytes, and
    every one of 64, is read from two lines: a loop over a tile takes up to 1.4 times as long.

    Parameters
    ----------
    shape : tuple of int
    dtype : data-type
    """
    dtype = np.dtype(dtype)
    nbytes = math.prod(shape) * dtype.itemsize
    held = np.empty(nbytes + _LINE, np.uint8)
    start = -held.ctypes.data % _LINE
    return held[start : start + nbytes].view(dtype).reshape(shape)


def tile_rows(values_per_row: int, itemsize: int, library: str) -> int:
    """Rows of a tile: a power of two such that ``values_per_row`` of them stay in the cache.

    A function of its arguments alone, and never of memory, threads or workers, because the bits of
    a result depend on it.

    Parameters
    ----------
    values_per_row, itemsize : int
    library : {"numpy", "numba", "fused", "cupy"}
        ``"fused"`` is a compiled loop that holds a few numbers a row.
    """
    least, most = _TILE_ROWS[library]
    rows = _TILE_BYTES[library] // max(1, values_per_row * itemsize)
    return max(least, min(most, 1 << max(0, rows.bit_length() - 1)))
