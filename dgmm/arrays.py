"""The only place where NumPy and CuPy differ.

Numerical code takes its array namespace from here, as ``xp``, and calls nothing that only one of
the two has. CuPy is imported when a device asks for it, never before.
"""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType
from typing import Any

import numpy as np

from dgmm.errors import InvalidParameterError, MissingDependencyError

__all__ = ["COMPILED", "namespace", "resolve_device", "tile_rows", "to_host"]

# NumPy with compiled loops.
COMPILED = "cpu-compiled"

# Responsibilities of a pass from which compiling, some 4 s in each process, is repaid within the
# iterations of a usual fit: a loop saves 2 to 9 ns of each.
_WORTH_COMPILING = 2**24

# Bytes of one tile's features and responsibilities. Measured on two cores sharing 32 MiB of L3:
# smaller tiles lose to the interpreter's overhead, of which compiled loops have less, larger ones
# to the cache.
_TILE_BYTES = {"numpy": 6 * 2**20, "numba": 3 * 2**20, "fused": 3 * 2**20, "cupy": 24 * 2**20}
_TILE_ROWS = {
    "numpy": (256, 8192),
    "numba": (256, 8192),
    "fused": (1024, 8192),
    "cupy": (4096, 262144),
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
    if ":" in device:
        cupy.cuda.Device(int(device.split(":")[1])).use()
    return cupy


def resolve_device(device: Any, n_responsibilities: int = 0) -> str:
    """The device that ``"auto"`` means here.

    ``"cuda"`` where CuPy finds a GPU; else ``"cpu-compiled"`` where numba is installed and a pass
    has responsibilities enough to repay compiling; else ``"cpu"``.

    Parameters
    ----------
    device : {"auto", "cpu", "cpu-compiled", "cuda", "cuda:N"}
    n_responsibilities : int, default=0
        Rows × components of a pass.

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
        return device
    if _gpu_count() > 0:
        return "cuda"
    worthwhile = n_responsibilities >= _WORTH_COMPILING
    has_numba = importlib.util.find_spec("numba") is not None
    return COMPILED if worthwhile and has_numba else "cpu"


def _gpu_count() -> int:
    if importlib.util.find_spec("cupy") is None:
        return 0
    cupy = importlib.import_module("cupy")
    try:
        return int(cupy.cuda.runtime.getDeviceCount())
    except cupy.cuda.runtime.CUDARuntimeError:
        return 0


def to_host(array: Any) -> np.ndarray[Any, Any]:
    """The array as NumPy."""
    return array.get() if hasattr(array, "get") else np.asarray(array)


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
