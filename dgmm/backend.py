"""How the arithmetic of a tile is done: array calls of NumPy or CuPy, or compiled loops.

A backend is an array namespace and the few operations for which one array call after another
leaves much of a machine unused. Kernels and policies ask it for those and do the rest with
:attr:`Backend.xp`. Two backends agree to a few roundings, not to the bit, so that one is chosen
for a whole pass, before it begins.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
from threadpoolctl import threadpool_info

from dgmm import compiled
from dgmm.arrays import COMPILED, aligned_empty, namespace, tile_rows
from dgmm.cuda import tiles
from dgmm.features import Layout, fill_features

__all__ = ["Backend", "CompiledBackend", "CudaBackend", "backend_of"]

_COMPILED = ("float32", "float64")

# Components that are few rows to a product of matrices.
_FEW = 32

# Rows of a tile in float32 on a GPU: four times those on processors, for the price of launches.
_MOST_NARROW = 32768

# OpenBLAS's names of the processors whose kernels use AVX-512.
_WIDE = frozenset({"SkylakeX", "Cooperlake", "SapphireRapids"})


@dataclass(frozen=True)
class Backend:
    """Array calls alone.

    Parameters
    ----------
    xp : module
        NumPy or CuPy.
    """

    xp: ModuleType

    @property
    def library_bytes(self) -> int:
        """Memory that its libraries take once in a process, beyond what dgmm always imports."""
        return 0

    def tile_rows(self, values_per_row: int, itemsize: int) -> int:
        """Rows of a tile of which ``values_per_row`` values are held."""
        return tile_rows(values_per_row, itemsize, self.xp.__name__)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """A buffer, its values undefined."""
        return aligned_empty(shape, dtype)

    def prefers_transposed(self, n_stacked: int, dtype: str) -> bool:
        """True if Φ aᵀ is faster than a Φᵀ for so many components.

        OpenBLAS, measured with 16 components: in float32 it is by up to 1.2 times; in float64 by
        up to 2 times with the kernels for AVX-512, which lose with few rows on the left, and with
        those for AVX2 slower by as much as float32's gain.
        """
        return dtype == "float32" or (n_stacked <= _FEW and _has_wide_kernels())

    def softmax(self, log_joint: Any) -> tuple[Any, Any]:
        """Turn log joint densities into responsibilities, in place.

        Parameters
        ----------
        log_joint : array of shape (n_components, n_rows)

        Returns
        -------
        top, total : array of shape (n_rows,)
            The largest of a row, and the sum of the exponentials of what the others are short of
            it: log p(x) is ``top + log(total)``.
        """
        xp = self.xp
        top = log_joint.max(axis=0)
        log_joint -= top
        xp.exp(log_joint, out=log_joint)
        total = log_joint.sum(axis=0)
        log_joint *= 1.0 / total
        return top, total

    def centre(self, x: Any, origin: Any, out: Any) -> None:
        """Write ``(x − origin)ᵀ``.

        Parameters
        ----------
        x : array of shape (n_rows, n_features)
        origin : array of shape (n_features,)
        out : array of shape (n_features, n_rows)
            The difference is taken in float32 if both this and ``x`` are that narrow, otherwise in
            float64: wider or integer rows lose nothing before the origin is off.
        """
        dtype = _difference_dtype(x, out)
        self.xp.subtract(x.T, origin.astype(dtype)[:, None], out=out, dtype=dtype, casting="unsafe")

    def fill_features(self, features: Any, size: int, layout: Layout) -> None:
        """Complete a tile as :func:`dgmm.features.fill_features` does."""
        fill_features(features, size, layout, self.xp)

    def load_features(self, x: Any, origin: Any, features: Any, size: int, layout: Layout) -> None:
        """Features of the rows x about an origin, but for the constant, which is in its place."""
        self.centre(x, origin, features[layout.means])
        self.fill_features(features, size, layout)


class CompiledBackend(Backend):
    """NumPy, with loops that numba compiled (:mod:`dgmm.compiled`)."""

    @property
    def library_bytes(self) -> int:
        return compiled.LIBRARY_BYTES

    def tile_rows(self, values_per_row: int, itemsize: int) -> int:
        return tile_rows(values_per_row, itemsize, "numba")

    def softmax(self, log_joint: Any) -> tuple[Any, Any]:
        if not log_joint.flags.c_contiguous:
            return super().softmax(log_joint)
        top, total = np.empty((2, log_joint.shape[1]), log_joint.dtype)
        compiled.softmax_loop(log_joint.dtype.name)(log_joint, top, total)
        return top, total

    def centre(self, x: Any, origin: Any, out: Any) -> None:
        stored = x.dtype.name
        plain = x.dtype.isnative and x.flags.c_contiguous and x.flags.aligned
        if stored not in _COMPILED or not plain:
            super().centre(x, origin, out)
            return
        loop = compiled.centre_loop(stored, out.dtype.name)
        loop(x, origin.astype(_difference_dtype(x, out)), out)

    def fill_features(self, features: Any, size: int, layout: Layout) -> None:
        if size <= layout.linear or not features.flags.c_contiguous:
            super().fill_features(features, size, layout)
            return
        rows, columns = layout.first_factors(size - layout.scalar)
        fill = compiled.products_loop(features.dtype.name)
        norm, products = features[layout.norm], features[layout.scalar : size]
        fill(features[layout.means], rows, columns, norm, products)


class CudaBackend(Backend):
    """CuPy, with kernels of our own for what is not a product of matrices (:mod:`dgmm.cuda`)."""

    def tile_rows(self, values_per_row: int, itemsize: int) -> int:
        rows = super().tile_rows(values_per_row, itemsize)
        # Sums over a tile are in the dtype of its products.
        return min(rows, _MOST_NARROW) if itemsize <= 4 else rows

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        return self.xp.empty(shape, dtype)

    def prefers_transposed(self, n_stacked: int, dtype: str) -> bool:
        return False

    def softmax(self, log_joint: Any) -> tuple[Any, Any]:
        if not log_joint.flags.c_contiguous:
            return super().softmax(log_joint)
        return tiles.softmax(self.xp, log_joint)

    def fill_features(self, features: Any, size: int, layout: Layout) -> None:
        tiles.fill_features(self.xp, features, size, layout)

    def load_features(self, x: Any, origin: Any, features: Any, size: int, layout: Layout) -> None:
        tiles.load_features(self.xp, x, origin, features, size, layout)


@cache
def _has_wide_kernels() -> bool:
    return any(one.get("architecture") in _WIDE for one in threadpool_info())


def _difference_dtype(x: Any, out: Any) -> type[np.floating[Any]]:
    narrow = out.dtype == np.float32 and x.dtype.kind == "f" and x.dtype.itemsize <= 4
    return np.float32 if narrow else np.float64


def backend_of(device: str) -> Backend:
    """The backend of a device that :func:`dgmm.arrays.resolve_device` gave.

    Raises
    ------
    MissingDependencyError
        If CuPy or numba is needed and not installed here.
    """
    if device == COMPILED:
        compiled.require()
        return CompiledBackend(np)
    xp = namespace(device)
    return Backend(xp) if xp is np else CudaBackend(xp)
