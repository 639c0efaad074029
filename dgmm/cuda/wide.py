"""The products of a tile without its features, for sums that no block of threads can keep.

Two launches a tile: log joint densities (K, n), and sums (K, F). Each multiplies features from rows
in shared memory while it takes their product, so that what would be 8 F bytes a row, written once
and read twice, are 8 (D + K). What comes between the two, a softmax or another posterior, is not
theirs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dgmm.cuda.modules import Launch, compiled_kernel, multiprocessors
from dgmm.cuda.shapes import ProductShape

__all__ = ["WideShape", "WideSums"]

Array = np.ndarray[Any, Any]

_MOST_SHARED = 227 * 1024

# Multiprocessors that are made room for in a projection: more than any device has.
_MOST_MULTIPROCESSORS = 256

# Rows that a warp, or a block in `sums`, holds at a time, and their distance in shared memory.
_CHUNK = 32
_STRIDE = 36

# Warps of a block, where shared memory holds the rows of so many.
_WARPS = (8, 4, 2)

# Of 16 by 8 values, what a warp may keep: 64 float64 registers of a lane.
_MOST_KEPT = 16
_MOST_M, _MOST_N = 4, 8

# Blocks of `joint` of each multiprocessor, one after another, in a tile.
_WAVES = 2

# Waves of blocks, at most, that rows are cut into slices for.
_MOST_SLICED = 3

# Where so much of the last wave of blocks is busy, no more slices of the rows are tried.
_BUSY = 0.95


# Where tiles with features are slower, as measured on an H100 for D of 16 to 300, K of 4 to 256 and
# diagonal and full covariances: components to a warp, features, features to the numbers of a row.
_MOST_COMPONENTS, _LEAST_FEATURES, _LEAST_RATIO = 16, 300, 8


@dataclass(frozen=True)
class WideShape(ProductShape):
    """What the kernels are compiled for and launched with."""

    @property
    def component_blocks(self) -> int:
        """Blocks of components."""
        return -(-self.n_components // (16 * _MOST_M))

    @property
    def m_tiles(self) -> int:
        """Of 16 components, what a block of them has."""
        return -(-self.n_components // (16 * self.component_blocks))

    @property
    def n_tiles(self) -> int:
        """Of 8 features, what a warp sums: as many as may be, but where fewer fill up F better."""
        most = min(_MOST_N, _MOST_KEPT // self.m_tiles)

        def cost(n: int) -> float:
            # What is read of shared memory for a product, above what its operations take.
            return -(-self.n_made // (64 * n)) * n * (1.0 + 1.0 / n)

        return min(range(most, 0, -1), key=cost)

    @property
    def padded_components(self) -> int:
        return 16 * self.m_tiles * self.component_blocks

    @property
    def feature_blocks(self) -> int:
        return -(-self.n_made // (8 * _WARPS[0] * self.n_tiles))

    @property
    def width(self) -> int:
        """Features of all blocks."""
        return 8 * _WARPS[0] * self.n_tiles * self.feature_blocks

    @property
    def steps(self) -> int:
        """Of 16 features."""
        return -(-self.n_made // 16)

    def joint_bytes(self, n_warps: int) -> int:
        """Bytes of shared memory of a block of `joint`."""
        return 8 * n_warps * (self.n_features + 2) * _STRIDE

    @property
    def sums_bytes(self) -> int:
        """Bytes of shared memory of a block of `sums`."""
        return 2 * 8 * (self.n_features + 2 + 16 * self.m_tiles) * _STRIDE

    def warps(self, shared_bytes: int) -> int:
        """Warps of a block of `joint`; 0 if shared memory holds the rows of none."""
        return next((n for n in _WARPS if self.joint_bytes(n) <= shared_bytes), 0)

    def fits(self, shared_bytes: int = _MOST_SHARED) -> bool:
        """True if so much shared memory holds what has to be there."""
        return self.warps(shared_bytes) > 0 and self.sums_bytes <= shared_bytes

    def pays(self, shared_bytes: int = _MOST_SHARED) -> bool:
        """True if it fits, and tiles with features written to memory would be slower.

        Those do more for each feature written the more components there are, and features are
        cheap to write where they are hardly more than the numbers of a row.
        """
        few = self.n_components <= _MOST_COMPONENTS * self.warps(shared_bytes)
        many = self.n_made >= max(_LEAST_FEATURES, _LEAST_RATIO * self.n_features)
        return few and many and self.fits(shared_bytes)

    @staticmethod
    def most_rows() -> int:
        """Rows of a tile on any device."""
        return _WAVES * _MOST_MULTIPROCESSORS * _CHUNK * _WARPS[0]

    def slices(self, n_multiprocessors: int) -> int:
        """Slices of the rows, summed side by side, so that every multiprocessor has work."""
        each = self.component_blocks * self.feature_blocks

        def busy(n: int) -> float:
            return n * each / (-(-n * each // n_multiprocessors) * n_multiprocessors)

        tried = range(1, max(2, 1 + _MOST_SLICED * n_multiprocessors // each))
        return next((n for n in tried if busy(n) >= _BUSY), max(tried, key=busy))

    @property
    def workspace_bytes(self) -> int:
        """Bytes of :class:`WideSums` on a device, at most."""
        each = self.component_blocks * self.feature_blocks
        slices = max(1, _MOST_SLICED * _MOST_MULTIPROCESSORS // each)
        sums = (1 + slices) * self.padded_components * self.width
        parameters = self.padded_components * 16 * self.steps + 256 + self.width
        # Joint densities of the tile before are held until those of the next are there.
        return 8 * (2 * self.most_rows() * self.n_components + sums + parameters)

    def parameters(self, theta: Array) -> Array:
        """Θ (n_components, n_coefficients) in float64, fragment by fragment as lanes take it."""
        padded = self.coefficients(theta, self.padded_components, 16 * self.steps)
        # Components: block, tile, h, g; coefficients: step, s, t.
        shape = (self.component_blocks, self.m_tiles, 2, 8, self.steps, 4, 4)
        fragments = padded.reshape(shape).transpose(0, 4, 1, 5, 3, 6, 2)
        # One more, which is fetched and not used.
        return np.concatenate([fragments.ravel(), np.zeros(256)])


class WideSums:
    """The kernels for one mixture, with its parameters and sums on the current device.

    Parameters
    ----------
    xp : module
        CuPy.
    shape : WideShape
    theta : array of shape (n_components, n_coefficients)
        Coefficients in float64, in the layout's order.
    shared_bytes : int
        Of shared memory, what a block of the device may have.
    """

    def __init__(self, xp: Any, shape: WideShape, theta: Array, shared_bytes: int) -> None:
        self._xp, self._shape = xp, shape
        self._warps = shape.warps(shared_bytes)
        self._theta = xp.asarray(shape.parameters(theta))
        self._pairs = xp.asarray(shape.pairs(max(shape.width, 16 * shape.steps), _STRIDE))
        self._multiprocessors = multiprocessors(xp)
        slices = shape.slices(self._multiprocessors)
        self._partial = xp.empty((slices, shape.padded_components, shape.width))
        self._joint = self._kernel("joint", _CHUNK // 8, self._warps)
        self._add = self._kernel("sums", shape.n_tiles, _WARPS[0])
        self._begin = True

    @property
    def tile_rows(self) -> int:
        """Rows of a tile: a function of the kind of device, so that its bits are the same."""
        each = _CHUNK * self._warps
        return each * -(-_WAVES * self._multiprocessors // self._shape.component_blocks)

    def start(self) -> None:
        """Forget all rows."""
        self._begin = True

    def log_joint(self, extended: Any) -> Any:
        """Log joint densities (n_components, n_rows) of a tile.

        Parameters
        ----------
        extended : array of shape (n_features + 2, n_rows)
            The leading features ``1, z, ‖z‖²`` of its rows, in float64.
        """
        xp, shape = self._xp, self._shape
        n_rows = int(extended.shape[1])
        joint = xp.empty((shape.n_components, n_rows))
        grid = -(-n_rows // (_CHUNK * self._warps)), shape.component_blocks
        how = Launch(grid, 32 * self._warps, shape.joint_bytes(self._warps))
        sizes = n_rows, shape.n_features, shape.n_components, shape.steps
        self._joint(how, extended, *sizes, self._theta, self._pairs, joint)
        return joint

    def add(self, extended: Any, weights: Any) -> None:
        """Add a tile's sums.

        Parameters
        ----------
        extended : array of shape (n_features + 2, n_rows)
        weights : array of shape (n_components, n_rows)
            Of each row for each component, in float64.
        """
        shape = self._shape
        slices = int(self._partial.shape[0])
        grid = shape.feature_blocks * shape.component_blocks, slices
        how = Launch(grid, 32 * _WARPS[0], shape.sums_bytes)
        sizes = int(extended.shape[1]), shape.n_features, shape.n_components
        more = shape.feature_blocks, int(self._begin)
        self._add(how, extended, weights, *sizes, self._pairs, *more, self._partial)
        self._begin = False

    def collect(self) -> Array:
        """Moments (n_components, n_coefficients) of all rows since the start, on the host."""
        shape = self._shape
        if self._begin:
            return np.zeros((shape.n_components, shape.n_coefficients))
        total = self._partial.sum(axis=0)
        return shape.moments(total.get() if hasattr(total, "get") else total)

    def _kernel(self, name: str, n_tiles: int, n_warps: int) -> Any:
        made = {"M_TILES": self._shape.m_tiles, "N_TILES": n_tiles, "WARPS": n_warps}
        return compiled_kernel(self._xp, "wide", name, **made)
