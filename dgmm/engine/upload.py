"""Rows of the host, copied to a device through pinned memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from dgmm.devices import is_device_array

__all__ = ["upload"]

# cudaMemoryTypeHost (CUDA Runtime API, "Data types"): memory of the host that CUDA has pinned.
_PINNED = 1


def upload(x: Any, xp: Any, stream: Any) -> Any:
    """Rows of the host in the memory of the current device; waits until they are there.

    They go through pinned memory, from which a device copies several times faster than from pages
    that the system could move, unless that is where they are.
    """
    if is_device_array(x):
        if x.device.id == xp.cuda.Device().id:
            return x
        there = x.copy()
        stream.synchronize()
        return there
    if x.dtype.itemsize > 8:
        # NumPy's widest numbers are none of a device's.
        x = x.astype(np.float64)
    target = xp.empty(x.shape, x.dtype.newbyteorder("="))
    if x.size:
        source = x if _is_pinned(x, xp) else _pinned_copy(x, target.dtype, xp)
        target.set(source, stream=stream)
        # The pool may hand out the pinned memory again as soon as nobody refers to it.
        stream.synchronize()
    return target


def _is_pinned(x: np.ndarray[Any, Any], xp: Any) -> bool:
    if not (x.flags.c_contiguous and x.dtype.isnative):
        return False
    runtime = xp.cuda.runtime
    try:
        return bool(runtime.pointerGetAttributes(x.ctypes.data).type == _PINNED)
    except runtime.CUDARuntimeError:
        return False


def _pinned_copy(x: np.ndarray[Any, Any], dtype: Any, xp: Any) -> np.ndarray[Any, Any]:
    # CuPy keeps freed pinned memory in a pool: allocating it anew would cost more than the copy.
    memory = xp.cuda.alloc_pinned_memory(x.size * dtype.itemsize)
    staged = np.frombuffer(memory, dtype, x.size).reshape(x.shape)
    np.copyto(staged, x)
    return staged
