"""CUDA sources compiled for one shape, and the launch of their kernels.

Every argument of a kernel is a pointer or a 64-bit integer, which is all that a launch has to know.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

import numpy as np

__all__ = [
    "TALLY_VALUES",
    "Launch",
    "compiled_kernel",
    "load_module",
    "most_shared",
    "multiprocessors",
    "source_of",
]

# What a kernel may use of shared memory without asking (CUDA Programming Guide, table of compute
# capabilities).
_SHARED_WITHOUT_ASKING = 48 * 1024

# cudaDevAttrMultiProcessorCount and cudaDevAttrMaxSharedMemoryPerBlockOptin. Asked for by number:
# CuPy's own table of a device's attributes asks the driver for all of them, every time.
_MULTIPROCESSORS, _MOST_SHARED = 16, 97

# float64 values of a tally: Σ w log p, Σ w log max r, Σ w, rows, largest log p, first bad row (−1:
# none).
TALLY_VALUES = 6

Definitions = tuple[tuple[str, str], ...]


class Launch(NamedTuple):
    """How many threads run a kernel.

    Attributes
    ----------
    grid : tuple of (int, int)
        Blocks.
    threads : int
        Of a block.
    shared_bytes : int
        Dynamic shared memory of a block.
    """

    grid: tuple[int, int]
    threads: int
    shared_bytes: int = 0


@cache
def source_of(name: str) -> str:
    """The text of a source, with what it shares with others before it.

    Parameters
    ----------
    name : {"fused", "tile", "wide"}
    """
    files = ("common.cuh", "matrix.cuh", f"{name}.cu")
    folder = resources.files("dgmm.cuda") / "sources"
    return "\n".join((folder / file).read_text(encoding="utf-8") for file in files)


def load_module(source: str, definitions: Definitions) -> Any:
    """Compile a source for the current device; anything with ``get_function``."""
    cupy = importlib.import_module("cupy")
    options = tuple(f"-D{name}={value}" for name, value in definitions)
    return cupy.RawModule(code=source_of(source), options=("--std=c++14", *options))


@cache
def _function(source: str, definitions: Definitions, name: str, _device: int) -> Any:
    # CuPy compiles a text once; asked for a kernel again, it would look for both again.
    return load_module(source, definitions).get_function(name)


def compiled_kernel(xp: Any, source: str, name: str, **definitions: object) -> Callable[..., None]:
    """A kernel for the current device: called with a :class:`Launch` and its arguments.

    Parameters
    ----------
    xp : module
        CuPy.
    source : {"fused", "tile", "wide"}
    name : str
    **definitions
        Macros of the source.
    """
    named = tuple(sorted((key, str(value)) for key, value in definitions.items()))
    function = _function(source, named, name, int(xp.cuda.Device().id))

    def launch(how: Launch, *arguments: Any) -> None:
        if how.shared_bytes > _SHARED_WITHOUT_ASKING:
            function.max_dynamic_shared_size_bytes = how.shared_bytes
        function((*how.grid,), (how.threads,), _passed(arguments), shared_mem=how.shared_bytes)

    return launch


def multiprocessors(xp: Any) -> int:
    """Multiprocessors of the current device."""
    return _attribute(xp, _MULTIPROCESSORS)


def most_shared(xp: Any) -> int:
    """Bytes of shared memory that a block of the current device can ask for."""
    return _attribute(xp, _MOST_SHARED)


def _attribute(xp: Any, number: int) -> int:
    return int(xp.cuda.runtime.deviceGetAttribute(number, int(xp.cuda.Device().id)))


def _passed(arguments: Sequence[Any]) -> tuple[Any, ...]:
    """The arguments as a launch takes them: None is a null pointer."""
    return tuple(
        np.uintp(0) if one is None else np.int64(one) if isinstance(one, int) else one
        for one in arguments
    )
