"""The E-step and its sums in one kernel that writes neither features nor responsibilities.

Worth it where the sums of a mixture fit in the registers of a warp: 16 components of 16 features
with full covariances, say. Per row, 16 components and F coefficients take 64 F operations of the
matrix unit and the reading of the row, where the products of tiles write and read Φ from memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from dgmm.cuda.modules import TALLY_VALUES, Launch, compiled_kernel
from dgmm.cuda.tiles import readable
from dgmm.features import Layout

__all__ = ["FusedShape", "FusedSums", "most_shared"]

Array = np.ndarray[Any, Any]

# float64 values that a lane keeps in registers, of sums and joint densities together. At 88 the
# compiler spills at most 16 bytes for compute capabilities 8.0 and 9.0, at 96 hundreds.
_MOST_KEPT = 88

# Of shared memory, what the largest devices give to a block (compute capability 9.0).
_MOST_SHARED = 227 * 1024

# Blocks that are made room for in a projection: more multiprocessors than any device has.
_MOST_BLOCKS = 256

_WARPS = 8
_ROWS = 16
_STRIDE = 20

# Groups of rows to a warp, below which more blocks would cost more to merge than they save.
_LEAST_GROUPS = 2

_VALUES = {"float32": "float", "float64": "double"}


@dataclass(frozen=True)
class FusedShape:
    """What a kernel is compiled for.

    Parameters
    ----------
    n_features, n_components : int
    n_coefficients : int
        One of the sizes of the :class:`~dgmm.features.Layout`.
    """

    n_features: int
    n_components: int
    n_coefficients: int

    @cached_property
    def layout(self) -> Layout:
        return Layout(self.n_features)

    @property
    def has_norm(self) -> bool:
        """True if the squared norm is a feature of its own, not the sum of others."""
        return self.n_coefficients == self.layout.scalar

    @cached_property
    def columns(self) -> Array:
        """Places in the layout of the features that are computed, products row by row."""
        layout, size = self.layout, self.n_coefficients
        rows, columns = layout.upper
        kept = np.arange(size)
        if size >= layout.diagonal:
            kept = kept[kept != layout.norm]
        pairs = np.lexsort((columns, rows)) + layout.diagonal
        kept[kept >= layout.diagonal] = pairs[: max(0, size - layout.diagonal)]
        return kept

    @cached_property
    def pairs(self) -> Array:
        """For each of them its two factors in the row ``1, z_1 … z_D, ‖z‖²``, in 16 bits each."""
        layout = self.layout
        left, right = np.zeros(layout.full, np.uint32), np.zeros(layout.full, np.uint32)
        right[layout.means] = np.arange(1, self.n_features + 1)
        right[layout.norm] = self.n_features + 1
        left[layout.scalar :], right[layout.scalar :] = (1 + one for one in layout.factors)
        packed = np.zeros(self.padded_coefficients, np.uint32)
        packed[: len(self.columns)] = (left | right << np.uint32(16))[self.columns]
        return packed

    @property
    def padded_components(self) -> int:
        return -(-self.n_components // 16) * 16

    @property
    def padded_coefficients(self) -> int:
        return -(-len(self.columns) // 16) * 16

    @property
    def shared_bytes(self) -> int:
        """Coefficients, rows of each warp, the origin and the table of pairs."""
        rows = _WARPS * ((self.n_features + 2) * _STRIDE + _ROWS)
        values = self.padded_components * self.padded_coefficients + rows + self.n_features
        return 8 * values + 4 * self.padded_coefficients

    def fits(self, shared_bytes: int = _MOST_SHARED) -> bool:
        """True if registers and so much shared memory hold what has to stay there."""
        # Before the table of pairs is made, which of a thousand features is large.
        size = self.n_coefficients - (self.n_coefficients >= self.layout.diagonal)
        kept = (self.padded_components // 16) * (8 * -(-size // 16) + 8)
        return kept <= _MOST_KEPT and self.shared_bytes <= shared_bytes

    @property
    def workspace_bytes(self) -> int:
        """Bytes of :class:`FusedSums` on a device, at most."""
        size = self.padded_components * self.padded_coefficients
        small = self.n_features + self.padded_coefficients + 64
        return 8 * ((_MOST_BLOCKS + 1) * (size + TALLY_VALUES) + size + small)

    @property
    def definitions(self) -> dict[str, object]:
        return {
            "D": self.n_features,
            "COMPONENTS": self.padded_components,
            "F": self.padded_coefficients,
            "WARPS": _WARPS,
            "NORM": int(self.has_norm),
        }

    def coefficients(self, theta: Array) -> Array:
        """Θ (n_components, n_coefficients) in float64 as the kernel takes it, filled up."""
        padded = np.zeros((self.padded_components, self.padded_coefficients))
        # Without weight: a row far from all components must not fall to one of these.
        padded[:, 0] = -np.inf
        padded[: self.n_components, : len(self.columns)] = theta[:, self.columns]
        return padded

    def moments(self, sums: Array) -> Array:
        """Sums (n_components, n_coefficients) in the layout, from those of the kernel."""
        layout = self.layout
        moments = np.zeros((self.n_components, self.n_coefficients))
        moments[:, self.columns] = sums[: self.n_components, : len(self.columns)]
        if self.n_coefficients >= layout.diagonal:
            moments[:, layout.norm] = moments[:, layout.squares].sum(axis=1)
        return moments

    def blocks(self, n_rows: int, n_multiprocessors: int) -> int:
        """Blocks that share some rows: one for each multiprocessor, if there are rows enough.

        A function of the rows and the kind of device, so that the same device gives the same bits.
        """
        groups = -(-n_rows // (_ROWS * _WARPS * _LEAST_GROUPS))
        return max(1, min(n_multiprocessors, groups))


def most_shared(xp: Any) -> int:
    """Bytes of shared memory that a block of the current device can ask for."""
    return int(xp.cuda.Device().attributes["MaxSharedMemoryPerBlockOptin"])


class FusedSums:
    """The kernel for one mixture, with its parameters and buffers on the current device.

    Parameters
    ----------
    xp : module
        CuPy.
    shape : FusedShape
    theta : array of shape (n_components, n_coefficients)
        Coefficients in float64, in the layout's order.
    origin : array of shape (n_features,)
        In float64; subtracted from every row.
    """

    def __init__(self, xp: Any, shape: FusedShape, theta: Array, origin: Array) -> None:
        self._xp, self._shape = xp, shape
        self._theta = xp.asarray(shape.coefficients(theta))
        self._origin = xp.asarray(np.ascontiguousarray(origin, dtype=np.float64))
        self._pairs = xp.asarray(shape.pairs)
        self._multiprocessors = int(xp.cuda.Device().attributes["MultiProcessorCount"])
        self._size = shape.padded_components * shape.padded_coefficients
        self._partial = xp.empty(self._multiprocessors * (self._size + TALLY_VALUES))
        self._result = xp.empty(self._size + TALLY_VALUES)

    def evaluate(self, x: Any, weights: Any) -> tuple[Array, Array]:
        """:meth:`launch`, then :meth:`collect`."""
        self.launch(x, weights)
        return self.collect()

    def launch(self, x: Any, weights: Any) -> None:
        """Start on some rows, and wait for nothing.

        Parameters
        ----------
        x : array of shape (n_rows, n_features)
            On the device.
        weights : array of shape (n_rows,) or None
            In float64 on the device. Rows of weight zero may hold anything.
        """
        xp, shape, size = self._xp, self._shape, self._size
        x = readable(xp, x)
        n_rows, blocks = int(x.shape[0]), shape.blocks(int(x.shape[0]), self._multiprocessors)
        sums, tallies = self._partial[: blocks * size], self._partial[blocks * size :]
        made = shape.definitions | {"VALUE": _VALUES[x.dtype.name]}
        run = compiled_kernel(xp, "fused", "fused", **made)
        merge = compiled_kernel(xp, "fused", "merge_blocks", **made)
        how = Launch((blocks, 1), 32 * _WARPS, shape.shared_bytes)
        inputs = x, weights, n_rows, self._origin, self._theta, self._pairs
        run(how, *inputs, sums, tallies)
        result, tally = self._result[:size], self._result[size:]
        merge(Launch((-(-size // 128), 1), 128), sums, tallies, blocks, result, tally)

    def collect(self) -> tuple[Array, Array]:
        """Moments (n_components, n_coefficients) and tally (6,) of the rows, on the host."""
        shape, size = self._shape, self._size
        # One copy, which waits for the kernels.
        found = self._result.get() if hasattr(self._result, "get") else self._result.copy()
        padded = found[:size].reshape(shape.padded_components, shape.padded_coefficients)
        return shape.moments(padded), found[size:]
