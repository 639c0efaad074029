"""The E-step and its sums in one kernel that writes neither features nor responsibilities.

Worth it where the sums of a mixture fit in the registers of a few warps: 32 components of 32
features with full covariances, say. Per row, 16 components and F coefficients take 64 F operations
of the matrix unit and the reading of the row, where other ways write and read more than that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from dgmm.cuda.modules import TALLY_VALUES, Launch, compiled_kernel, multiprocessors
from dgmm.cuda.shapes import ProductShape
from dgmm.cuda.tiles import readable

__all__ = ["FusedShape", "FusedSums", "Plan"]

Array = np.ndarray[Any, Any]

# Of shared memory, what the largest devices give to a block (compute capability 9.0).
_MOST_SHARED = 227 * 1024

# Blocks that are made room for in a projection: more multiprocessors than any device has.
_MOST_BLOCKS = 256

_ROWS = 16
_STRIDE = 20

# Groups of rows to a warp, below which more blocks would cost more to merge than they save.
_LEAST_GROUPS = 2

_VALUES = {"float32": "float", "float64": "double"}


class Plan(NamedTuple):
    """How the warps of a block divide its work.

    Attributes
    ----------
    warps : int
        Of a block; a multiprocessor has one block.
    team : int
        Warps that divide the features of the sums among them.
    most_kept : int
        float64 values that a lane may keep: of its sums, of joint densities and responsibilities.
        Beyond, the compiler (for compute capabilities 8.0 and 9.0) spills more than a few.
    """

    warps: int
    team: int
    most_kept: int


# The more warps, the better the softmax of some hides behind the products of others; the more
# registers each has, the larger the sums. Of eight ways measured on an H100 for 16 components of 16
# features, from 20.0 to 23.1 TFLOP/s, the first is the fastest.
_PLANS = (Plan(16, 4, 40), Plan(8, 8, 112))


@dataclass(frozen=True)
class FusedShape(ProductShape):
    """What a kernel is compiled for."""

    @property
    def padded_components(self) -> int:
        return -(-self.n_components // 16) * 16

    @property
    def padded_coefficients(self) -> int:
        return -(-self.n_made // 16) * 16

    def tiles(self, plan: Plan) -> int:
        """Of eight features, what one warp of a team sums."""
        return -(-(self.padded_coefficients // 8) // plan.team)

    def shared_bytes(self, plan: Plan) -> int:
        """Coefficients, rows and responsibilities of each warp, the origin, the table of pairs."""
        each = (self.n_features + 2) * _STRIDE + _ROWS + 16 * self.padded_components
        values = self.padded_components * self.padded_coefficients + plan.warps * each
        return 8 * (values + self.n_features) + 4 * 8 * plan.team * self.tiles(plan)

    def plan(self, shared_bytes: int = _MOST_SHARED) -> Plan | None:
        """The first whose registers and so much shared memory hold what they have to; None if none.

        A function of the kind of device, so that the same one gives the same bits.
        """
        m_tiles = self.padded_components // 16
        for plan in _PLANS:
            kept = m_tiles * (4 * self.tiles(plan) + 16)
            if kept <= plan.most_kept and self.shared_bytes(plan) <= shared_bytes:
                return plan
        return None

    @property
    def workspace_bytes(self) -> int:
        """Bytes of :class:`FusedSums` on a device, at most."""
        size = self.padded_components * self.padded_coefficients
        small = self.n_features + self.padded_coefficients + 64
        return 8 * ((_MOST_BLOCKS + 1) * (size + TALLY_VALUES) + size + small)

    def definitions(self, plan: Plan) -> dict[str, object]:
        return {
            "D": self.n_features,
            "COMPONENTS": self.padded_components,
            "F": self.padded_coefficients,
            "WARPS": plan.warps,
            "TEAM": plan.team,
            "NORM": int(self.has_norm),
        }

    def parameters(self, theta: Array) -> Array:
        """Θ (n_components, n_coefficients) in float64 as the kernel takes it, filled up."""
        padded = self.coefficients(theta, self.padded_components, self.padded_coefficients)
        # Without weight: a row far from all components must not fall to one of these.
        padded[self.n_components :, 0] = -np.inf
        return padded

    def blocks(self, n_rows: int, plan: Plan, n_multiprocessors: int) -> int:
        """Blocks that share some rows: one for each multiprocessor, if there are rows enough."""
        groups = -(-n_rows // (_ROWS * plan.warps * _LEAST_GROUPS))
        return max(1, min(n_multiprocessors, groups))


class FusedSums:
    """The kernel for one mixture, with its parameters and buffers on the current device.

    Parameters
    ----------
    xp : module
        CuPy.
    shape : FusedShape
    plan : Plan
        From :meth:`FusedShape.plan`, for the current device.
    theta : array of shape (n_components, n_coefficients)
        Coefficients in float64, in the layout's order.
    origin : array of shape (n_features,)
        In float64; subtracted from every row.
    """

    def __init__(self, xp: Any, shape: FusedShape, plan: Plan, theta: Array, origin: Array) -> None:
        self._xp, self._shape, self._plan = xp, shape, plan
        self._theta = xp.asarray(shape.parameters(theta))
        self._origin = xp.asarray(np.ascontiguousarray(origin, dtype=np.float64))
        self._pairs = xp.asarray(shape.pairs(shape.padded_coefficients))
        self._multiprocessors = multiprocessors(xp)
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
        xp, shape, plan, size = self._xp, self._shape, self._plan, self._size
        x = readable(xp, x)
        n_rows = int(x.shape[0])
        blocks = shape.blocks(n_rows, plan, self._multiprocessors)
        sums, tallies = self._partial[: blocks * size], self._partial[blocks * size :]
        made = shape.definitions(plan) | {"VALUE": _VALUES[x.dtype.name]}
        run = compiled_kernel(xp, "fused", "fused", **made)
        merge = compiled_kernel(xp, "fused", "merge_blocks", **made)
        how = Launch((blocks, 1), 32 * plan.warps, shape.shared_bytes(plan))
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
