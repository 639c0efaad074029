"""Steps of a part on a GPU: in one kernel, or in launches that never write features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from dgmm.backend import CudaBackend
from dgmm.cuda.fused import FusedShape, FusedSums
from dgmm.cuda.modules import most_shared
from dgmm.cuda.tiles import is_readable
from dgmm.cuda.wide import WideShape, WideSums
from dgmm.data.dataset import Rows
from dgmm.kernels import FeatureKernel, Member
from dgmm.posterior import PosteriorPolicy
from dgmm.scalars import bad_row, scalars_for
from dgmm.statistics import SufficientStatistics

__all__ = ["FusedOnDevice", "WideOnDevice"]

Array = np.ndarray[Any, Any]


class FusedOnDevice:
    """One CUDA kernel for each mixture, with its parameters on the device."""

    def __init__(self, kernel: FeatureKernel, backend: CudaBackend) -> None:
        self._kernel, self._backend, self._xp = kernel, backend, backend.xp
        most = most_shared(backend.xp)
        self._sums = {}
        for position, theta in enumerate(kernel.coefficients):
            shape = _fused(kernel, theta)
            plan = shape.plan(most)
            assert plan is not None
            origin = kernel.frame.origin
            self._sums[position] = FusedSums(backend.xp, shape, plan, theta, origin)

    @staticmethod
    def serves(kernel: FeatureKernel, backend: CudaBackend) -> bool:
        """True for float64 about an origin, with few enough sums for the current device."""
        most = most_shared(backend.xp)
        shapes = [_fused(kernel, theta) for theta in kernel.coefficients]
        return _is_plain(kernel) and all(shape.plan(most) is not None for shape in shapes)

    @staticmethod
    def nbytes(kernel: FeatureKernel) -> int:
        """Bytes on any device, whether it serves the kernel or not."""
        shapes = [_fused(kernel, theta) for theta in kernel.coefficients]
        if not (_is_plain(kernel) and all(shape.plan() is not None for shape in shapes)):
            return 0
        return sum(shape.workspace_bytes for shape in shapes)

    def evaluate(self, rows: Rows) -> Iterator[tuple[Member, SufficientStatistics]]:
        if is_readable(rows.x):
            yield from self._evaluate(rows)
            return
        # What has to be converted is, tile by tile: a whole part would not be in the projection.
        size = self._kernel.tile_rows(self._backend)
        pieces = [dict(self._evaluate(piece)) for piece in rows.tiles(size)]
        for member in pieces[0]:
            total = pieces[0][member]
            for piece in pieces[1:]:
                total = total.merge(piece[member])
            yield member, total

    def _evaluate(self, rows: Rows) -> Iterator[tuple[Member, SufficientStatistics]]:
        weights = None
        if rows.weight is not None:
            weights = self._xp.asarray(np.ascontiguousarray(rows.weight, dtype=np.float64))
        for sums in self._sums.values():
            sums.launch(rows.x, weights)
        for position, sums in self._sums.items():
            member = self._kernel.members[position]
            moments, tally = sums.collect()
            density, assignment, weight, n_rows, peak, bad = (float(one) for one in tally)
            if bad >= 0.0:
                raise bad_row(rows, int(bad))
            statistics = SufficientStatistics(
                moments=moments,
                frame=self._kernel.frame,
                log_likelihood=density + weight * member.log_offset,
                weight=weight,
                n_rows=int(n_rows),
                peak=peak + member.log_offset,
                log_assignment=assignment,
            )
            yield member, statistics


class WideOnDevice:
    """Two products and a posterior for each tile and mixture, with rows that are loaded once."""

    def __init__(
        self, kernel: FeatureKernel, policies: Sequence[PosteriorPolicy], backend: CudaBackend
    ) -> None:
        self._kernel, self._policies, self._backend = kernel, policies, backend
        self._origin = backend.xp.asarray(kernel.frame.origin)
        most = most_shared(backend.xp)
        self._sums = {
            position: WideSums(backend.xp, _wide(kernel, theta), theta, most)
            for position, theta in enumerate(kernel.coefficients)
        }

    @staticmethod
    def serves(kernel: FeatureKernel, backend: CudaBackend) -> bool:
        """True for float64 about an origin, with rows short enough for the current device."""
        most = most_shared(backend.xp)
        shapes = [_wide(kernel, theta) for theta in kernel.coefficients]
        return _is_plain(kernel) and all(shape.pays(most) for shape in shapes)

    @staticmethod
    def nbytes(kernel: FeatureKernel) -> int:
        """Bytes on any device, whether it serves the kernel or not."""
        shapes = [_wide(kernel, theta) for theta in kernel.coefficients]
        if not (_is_plain(kernel) and all(shape.pays() for shape in shapes)):
            return 0
        rows = 8 * (kernel.frame.n_features + 2) * WideShape.most_rows()
        return rows + sum(shape.workspace_bytes for shape in shapes)

    def evaluate(self, rows: Rows) -> Iterator[tuple[Member, SufficientStatistics]]:
        scalars = {position: scalars_for(self._backend, rows) for position in self._sums}
        for sums in self._sums.values():
            sums.start()
        for tile in rows.counted_tiles(min(one.tile_rows for one in self._sums.values())):
            extended = self._extended(tile.x)
            weight = None
            if tile.weight is not None:
                weight = self._backend.xp.asarray(tile.weight, np.float64)
            for position, sums in self._sums.items():
                joint = sums.log_joint(extended)
                scalars[position].take(joint, self._policies[position], weight, tile)
                sums.add(extended, joint)
        for position, sums in self._sums.items():
            member = self._kernel.members[position]
            found = scalars[position].statistics(
                sums.collect(), self._kernel.frame, member.log_offset
            )
            yield member, found

    def _extended(self, x: Any) -> Any:
        """The leading features of rows, in float64: ``1, z, ‖z‖²``."""
        layout = self._kernel.layout
        extended = self._backend.xp.empty((layout.scalar, int(x.shape[0])))
        extended[0] = 1.0
        self._backend.load_features(x, self._origin, extended, layout.scalar, layout)
        return extended


def _is_plain(kernel: FeatureKernel) -> bool:
    return kernel.dtype == "float64" and kernel.frame.factor is None


def _fused(kernel: FeatureKernel, theta: Array) -> FusedShape:
    return FusedShape(kernel.frame.n_features, theta.shape[0], theta.shape[1])


def _wide(kernel: FeatureKernel, theta: Array) -> WideShape:
    return WideShape(kernel.frame.n_features, theta.shape[0], theta.shape[1])
