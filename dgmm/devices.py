"""What there is of GPUs: how many, of what kind, and what their errors mean.

CuPy is asked where it is installed; nothing here needs it.
"""

from __future__ import annotations

import importlib
import importlib.util
import traceback
from dataclasses import dataclass
from functools import cache
from typing import Any

__all__ = [
    "DeviceFacts",
    "facts_of",
    "gpu_count",
    "has_fast_float64",
    "is_device_array",
    "is_out_of_memory",
    "is_sticky",
    "let_go",
    "why_no_gpu",
]

# cudaDevAttrSingleToDoublePrecisionPerfRatio, which CuPy has no name for.
_SINGLE_TO_DOUBLE = 87

# Data-centre devices do float64 at half of float32's rate, the others at a 32nd or a 64th.
_FAST_RATIO = 4

# cudaErrorMemoryAllocation, and cuBLAS's own for its workspaces.
_OUT_OF_MEMORY, _CUBLAS_OUT_OF_MEMORY = 2, 3

# Errors after which every call of the process to this device fails (CUDA Runtime API, "Error
# handling"): uncorrectable memory, illegal addresses and instructions, launch failures, asserts.
_STICKY = frozenset({214, 220, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721, 999})


@dataclass(frozen=True)
class DeviceFacts:
    """One GPU.

    Parameters
    ----------
    name : str
    n_multiprocessors : int
    single_to_double : int
        How many times faster float32 arithmetic is.
    """

    name: str
    n_multiprocessors: int
    single_to_double: int

    @property
    def has_fast_float64(self) -> bool:
        """True if float64 is no worse than float32 where matrices are multiplied."""
        return self.single_to_double <= _FAST_RATIO


def gpu_count() -> int:
    """GPUs that CuPy finds; 0 without CuPy."""
    return 0 if isinstance(found := _look(), str) else found


def why_no_gpu() -> str:
    """Why :func:`gpu_count` is 0, in a few words; empty if it is not."""
    found = _look()
    return found if isinstance(found, str) else ""


def _look() -> int | str:
    if importlib.util.find_spec("cupy") is None:
        return "CuPy is not installed"
    try:
        runtime = importlib.import_module("cupy").cuda.runtime
    except ImportError as error:
        return f"CuPy cannot be imported ({error})"
    try:
        return int(runtime.getDeviceCount()) or "CuPy finds no GPU"
    except runtime.CUDARuntimeError as error:
        return f"CuPy finds no GPU ({error})"


@cache
def facts_of(number: int) -> DeviceFacts:
    """What the driver says of a GPU."""
    runtime = importlib.import_module("cupy").cuda.runtime
    properties = runtime.getDeviceProperties(number)
    name = properties["name"]
    return DeviceFacts(
        name.decode() if isinstance(name, bytes) else str(name),
        int(properties["multiProcessorCount"]),
        int(runtime.deviceGetAttribute(_SINGLE_TO_DOUBLE, number)),
    )


def has_fast_float64(device: str) -> bool:
    """True if a device (``"cuda"``, ``"cuda:N"``) computes in float64 by default.

    Where none is seen, as in a driver whose workers have them, they are taken to be of a data
    centre.
    """
    number = int(device.partition(":")[2] or 0)
    return number >= gpu_count() or facts_of(number).has_fast_float64


def is_device_array(array: Any) -> bool:
    """True for an array in the memory of a GPU."""
    return hasattr(array, "__cuda_array_interface__")


def is_out_of_memory(error: BaseException) -> bool:
    """True if a device had no memory left; the process can go on with less."""
    if type(error).__name__ == "CUBLASError":
        return getattr(error, "status", None) == _CUBLAS_OUT_OF_MEMORY
    return type(error).__name__ == "OutOfMemoryError" or _status(error) == _OUT_OF_MEMORY


def is_sticky(error: BaseException) -> bool:
    """True if the process cannot use the device any more, whatever it does."""
    return _status(error) in _STICKY


def let_go(error: BaseException) -> None:
    """Free what the frames of an error hold, arrays on a device not least.

    A thread's error is kept by what the thread worked for, which its frames refer to: until the
    garbage collector came by, all of it would stay in memory.
    """
    seen: BaseException | None = error
    while seen is not None:
        traceback.clear_frames(seen.__traceback__)
        seen.__traceback__, seen = None, seen.__context__
    error.__context__ = error.__cause__ = None


def _status(error: BaseException) -> int | None:
    from_cuda = type(error).__name__ in ("CUDARuntimeError", "CUDADriverError")
    return int(getattr(error, "status", 0)) if from_cuda else None
