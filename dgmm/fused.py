"""Mixtures of a batch in one kernel each, that keeps features and responsibilities on the chip.

The statistics are those of :class:`~dgmm.kernels.FeatureKernel` in float64 to a few roundings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from dgmm.backend import Backend, CudaBackend
from dgmm.cuda.fused import FusedShape, FusedSums
from dgmm.data.dataset import Rows
from dgmm.kernels import FeatureKernel, Kernel, Member
from dgmm.posterior import Expectation, PosteriorPolicy
from dgmm.scalars import bad_row
from dgmm.statistics import SufficientStatistics

__all__ = ["FusedWorkspace", "evaluate_fused", "fused_workspace", "fusible"]

Array = np.ndarray[Any, Any]

FusedWorkspace = dict[int, FusedSums]


def fusible(kernel: Kernel, policies: Sequence[PosteriorPolicy], backend: Backend) -> bool:
    """True if every mixture of the kernel can go through the fused one.

    In float64, about an origin, with responsibilities for weights, and few enough sums.
    """
    if not (isinstance(backend, CudaBackend) and isinstance(kernel, FeatureKernel)):
        return False
    if kernel.dtype != "float64" or kernel.frame.factor is not None:
        return False
    if not all(isinstance(policy, Expectation) for policy in policies):
        return False
    return all(_shape(kernel, theta).fits for _, theta in _coefficients(kernel))


def fused_workspace(kernel: FeatureKernel, backend: Backend) -> FusedWorkspace:
    """The kernels of the mixtures, by their positions, with parameters on the device."""
    return {
        position: FusedSums(backend.xp, _shape(kernel, theta), theta, kernel.frame.origin)
        for position, theta in _coefficients(kernel)
    }


def evaluate_fused(
    kernel: FeatureKernel, rows: Rows, workspace: FusedWorkspace, backend: Backend
) -> Iterator[tuple[Member, SufficientStatistics]]:
    """Statistics of every mixture on some rows, which are on the device.

    Raises
    ------
    InvalidDataError
        If a row has no finite density.
    """
    weights = None
    if rows.weight is not None:
        weights = backend.xp.asarray(np.ascontiguousarray(rows.weight, dtype=np.float64))
    for position, sums in workspace.items():
        member = kernel.members[position]
        moments, tally = sums.evaluate(rows.x, weights)
        density, assignment, weight, n_rows, peak, bad = (float(one) for one in tally)
        if bad >= 0.0:
            raise bad_row(rows, int(bad))
        yield (
            member,
            SufficientStatistics(
                moments=moments,
                frame=kernel.frame,
                log_likelihood=density + weight * member.log_offset,
                weight=weight,
                n_rows=int(n_rows),
                peak=peak + member.log_offset,
                log_assignment=assignment,
            ),
        )


def _coefficients(kernel: FeatureKernel) -> Iterator[tuple[int, Array]]:
    for block in kernel.blocks:
        start = 0
        for position in block.members:
            size = kernel.members[position].n_components
            yield position, block.theta[start : start + size]
            start += size


def _shape(kernel: FeatureKernel, theta: Array) -> FusedShape:
    return FusedShape(kernel.frame.n_features, theta.shape[0], theta.shape[1])
