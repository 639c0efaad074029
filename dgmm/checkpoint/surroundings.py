"""What the last bits of a result depend on beside data, seed and arguments."""

from __future__ import annotations

import importlib
from collections.abc import Iterable

import numpy as np

from dgmm import __version__
from dgmm.engine.processor import kind_of_processor

__all__ = ["surroundings"]


def surroundings(device: str = "cpu", processors: Iterable[str] = ()) -> dict[str, str]:
    """The libraries of this process, and the loops that they have chosen for the processor.

    Parameters
    ----------
    device : str, default="cpu"
        Of the passes.
    processors : iterable of str
        Kinds of processor that workers computed on (:mod:`dgmm.engine.processor`).
    """
    from threadpoolctl import threadpool_info

    found = {
        f"{one['internal_api']} {one.get('version')} {one.get('architecture', '')}".strip()
        for one in threadpool_info()
        if one["user_api"] == "blas"
    }
    kinds = {kind_of_processor(), *processors}
    known = {
        "dgmm": __version__,
        "numpy": np.__version__,
        "BLAS": ", ".join(sorted(found)),
        "processors": "; ".join(sorted(kinds)),
    }
    if device.startswith("cuda"):
        known["GPU"] = _gpu(device)
    elif device == "cpu-compiled":
        known["compiler"] = _compiler()
    return known


def _compiler() -> str:
    numba, llvm = importlib.import_module("numba"), importlib.import_module("llvmlite")
    host = importlib.import_module("llvmlite.binding").get_host_cpu_name()
    return f"numba {numba.__version__}, llvmlite {llvm.__version__} for {host}"


def _gpu(device: str) -> str:
    cupy = importlib.import_module("cupy")
    number = int(device.partition(":")[2] or 0)
    name = cupy.cuda.runtime.getDeviceProperties(number)["name"]
    name = name.decode() if isinstance(name, bytes) else str(name)
    return f"CuPy {cupy.__version__}, CUDA {cupy.cuda.runtime.runtimeGetVersion()}, {name}"
