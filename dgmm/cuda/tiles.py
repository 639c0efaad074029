"""Kernels for what a tile needs besides the products of matrices: features, softmax, tallies."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from dgmm.cuda.modules import TALLY_VALUES, Launch, compiled_kernel
from dgmm.features import Layout

__all__ = [
    "TileTally",
    "centre",
    "expectation",
    "fill_features",
    "is_readable",
    "load_features",
    "readable",
    "softmax",
]

_NAMES = {"float32": "float", "float64": "double"}
_PLAIN = {"VALUE": "double", "REAL": "double", "DIFFERENCE": "double"}
_SQUARE, _SLICES = 32, 8
_THREADS = _SQUARE * _SLICES

# Blocks in a grid over features: enough to fill a device where there are few rows.
_MOST_SLICES = 64

# Of shared memory, for rows whose features are made in one launch.
_MOST_SHARED = 48 * 1024

# Blocks that leave a tally each: eight, as many as it runs, for each multiprocessor of the largest
# devices of today.
_TALLIES = 1056


def softmax(xp: Any, log_joint: Any) -> tuple[Any, Any]:
    """As :meth:`dgmm.backend.Backend.softmax` does."""
    k, n = log_joint.shape
    top, total = xp.empty(n, log_joint.dtype), xp.empty(n, log_joint.dtype)
    run = _kernel(xp, "softmax", log_joint.dtype, log_joint.dtype)
    run(Launch((-(-n // _SQUARE), 1), _THREADS), log_joint, n, k, top, total)
    return top, total


def expectation(xp: Any, log_joint: Any, weights: Any, tallies: Any) -> None:
    """Weighted responsibilities in place of joint densities, and their tallies, in one launch.

    Parameters
    ----------
    log_joint : array of shape (n_components, n_rows)
    weights : array of shape (n_rows,), float64, or None
    tallies : array of shape (1056, 6), float64
    """
    k, n = log_joint.shape
    run = _kernel(xp, "expectation", log_joint.dtype, log_joint.dtype)
    run(Launch((_TALLIES, 1), _THREADS), log_joint, n, k, weights, tallies)


def load_features(xp: Any, x: Any, origin: Any, features: Any, size: int, layout: Layout) -> None:
    """Features 1 … size of rows x about an origin: in one launch, if shared memory holds 32 rows.

    Parameters
    ----------
    x : array of shape (n_rows, n_features)
    origin : array of shape (n_features,), float64
    features : array of shape (>= size, n_rows)
    """
    n, d = x.shape
    shared = (d + 2) * (_SQUARE + 1) * features.dtype.itemsize
    x = readable(xp, x)
    if shared > _MOST_SHARED:
        centre(xp, x, origin, features[layout.means])
        fill_features(xp, features, size, layout)
        return
    run = _kernel(xp, "load_features", x.dtype, features.dtype)
    slices = min(_MOST_SLICES, -(-(size - 1) // (4 * _SLICES)))
    how = Launch((-(-n // _SQUARE), slices), _THREADS, shared)
    run(how, x, n, d, _origin(x, origin, features), _pairs(xp, layout), size, features)


def centre(xp: Any, x: Any, origin: Any, out: Any) -> None:
    """``(x − origin)ᵀ``, for rows of float32 or float64 without gaps."""
    n, d = x.shape
    how = Launch((-(-n // _SQUARE), -(-d // _SQUARE)), _THREADS)
    _kernel(xp, "centre", x.dtype, out.dtype)(how, x, n, d, _origin(x, origin, out), out)


def fill_features(xp: Any, features: Any, size: int, layout: Layout) -> None:
    """As :func:`dgmm.features.fill_features` does."""
    if size <= layout.linear:
        return
    n = int(features.shape[1])
    run = _kernel(xp, "fill_features", features.dtype, features.dtype)
    slices = min(_MOST_SLICES, max(1, size - layout.scalar))
    how = Launch((-(-n // _THREADS), slices), _THREADS)
    run(how, features, n, layout.n_features, _pairs(xp, layout), size)


def is_readable(x: Any) -> bool:
    """True for rows that kernels read as they are."""
    return x.dtype.name in _NAMES and bool(x.flags.c_contiguous)


def readable(xp: Any, x: Any) -> Any:
    """The rows as kernels read them: without gaps, in float32 or float64, which lose nothing."""
    if x.dtype.name in _NAMES:
        return xp.ascontiguousarray(x)
    return x.astype(np.float32 if x.dtype.name == "float16" else np.float64, order="C")


class TileTally:
    """Tallies of many tiles, summed when all are done: nothing waits for the device before.

    Parameters
    ----------
    xp : module
        CuPy.
    """

    def __init__(self, xp: Any) -> None:
        self._xp = xp
        self._tallies: list[Any] = []

    def new(self) -> Any:
        """Where the tallies of the next tile go."""
        self._tallies.append(self._xp.empty((_TALLIES, TALLY_VALUES)))
        return self._tallies[-1]

    def add(self, log_density: Any, log_assignment: Any, weights: Any) -> None:
        """Tally the rows of a tile."""
        run = _kernel(self._xp, "tally_rows", log_density.dtype, log_density.dtype)
        n = int(log_density.shape[0])
        how = Launch((_TALLIES, 1), 32)
        run(how, log_density, log_assignment, weights, n, self.new())

    def totals(self) -> np.ndarray[Any, Any]:
        """A tally for each tile, on the host."""
        if not self._tallies:
            return np.empty((0, TALLY_VALUES))
        merged = self._xp.empty((len(self._tallies), TALLY_VALUES))
        run = compiled_kernel(self._xp, "tile", "merge_tallies", **_PLAIN)
        run(Launch((len(merged), 1), 32), self._xp.stack(self._tallies), _TALLIES, merged)
        return merged.get() if hasattr(merged, "get") else merged


def _kernel(xp: Any, name: str, stored: Any, dtype: Any) -> Any:
    narrow = stored.name == dtype.name == "float32"
    return compiled_kernel(
        xp,
        "tile",
        name,
        VALUE=_NAMES[stored.name],
        REAL=_NAMES[dtype.name],
        DIFFERENCE="float" if narrow else "double",
    )


def _origin(x: Any, origin: Any, out: Any) -> Any:
    narrow = x.dtype.name == out.dtype.name == "float32"
    return origin.astype(np.float32 if narrow else np.float64)


def _pairs(xp: Any, layout: Layout) -> Any:
    return _device_pairs(xp, layout, int(xp.cuda.Device().id))


@cache
def _device_pairs(xp: Any, layout: Layout, _device: int) -> Any:
    left, right = np.zeros(layout.full, np.uint32), np.zeros(layout.full, np.uint32)
    right[layout.means] = np.arange(1, layout.n_features + 1)
    right[layout.norm] = layout.n_features + 1
    left[layout.scalar :], right[layout.scalar :] = (1 + one for one in layout.factors)
    pairs = xp.asarray(left | right << np.uint32(16))
    # Copied on this thread's stream, and read on those of others as soon as it is returned.
    xp.cuda.runtime.deviceSynchronize()
    return pairs
