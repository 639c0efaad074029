"""Steps that do a whole part at once, and keep features and responsibilities on the chip.

A pass asks for one where its backend has one, and uses the kernel's own tiles otherwise. The
statistics are those of :class:`~dgmm.kernels.FeatureKernel` to a few roundings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from dgmm.arrays import tile_rows, to_host
from dgmm.backend import Backend, CompiledBackend, CudaBackend
from dgmm.compiled import FusedStep
from dgmm.data.dataset import Rows
from dgmm.fused_cuda import FusedOnDevice, WideOnDevice
from dgmm.kernels import FeatureKernel, Kernel, Member
from dgmm.posterior import Expectation, PosteriorPolicy
from dgmm.scalars import Scalars
from dgmm.screened import Screened
from dgmm.statistics import SufficientStatistics
from dgmm.tiled import Tiled

__all__ = ["Step", "fused_bytes", "fused_workspace"]

Array = np.ndarray[Any, Any]

# Values of a row that the loop writes, or that are made of these, for each mixture.
_PER_MIXTURE = 6


class Step(Protocol):
    """A kernel with its buffers, for one thread."""

    def evaluate(self, rows: Rows) -> Iterator[tuple[Member, SufficientStatistics]]:
        """Statistics of every mixture of the kernel on some rows.

        Raises
        ------
        InvalidDataError
            If a row has no finite density.
        """
        ...


def fused_workspace(
    kernel: Kernel, policies: Sequence[PosteriorPolicy], backend: Backend
) -> Step | None:
    """The fused step for a kernel; None if there is none, or it would not be faster.

    Parameters
    ----------
    kernel : Kernel
    policies : sequence of PosteriorPolicy
        Of its members: only responsibilities are fused; on a GPU there are steps for all.
    backend : Backend
    """
    if not isinstance(kernel, FeatureKernel):
        return None
    if isinstance(backend, CudaBackend):
        if _are_expectations(policies) and FusedOnDevice.serves(kernel, backend):
            return FusedOnDevice(kernel, backend)
        if WideOnDevice.serves(kernel, backend):
            return WideOnDevice(kernel, policies, backend)
    if isinstance(backend, CudaBackend) or not _are_expectations(policies):
        return None
    loop = None
    if isinstance(backend, CompiledBackend) and _Compiled.serves(kernel):
        loop = _Compiled(kernel, backend)
    compiled = loop is not None
    if Screened.serves(kernel, _tile_rows(kernel, backend), is_compiled=compiled):
        return Screened(kernel, loop or Tiled(kernel, policies, backend), is_compiled=compiled)
    return loop


def fused_bytes(kernel: Kernel, policies: Sequence[PosteriorPolicy], backend: Backend) -> int:
    """Bytes of a fused workspace, at most; 0 where the kernel's own is used."""
    if not isinstance(kernel, FeatureKernel):
        return 0
    if isinstance(backend, CudaBackend):
        fused = FusedOnDevice.nbytes(kernel) if _are_expectations(policies) else 0
        # What serves on one device may not on another.
        return max(fused, WideOnDevice.nbytes(kernel))
    if not _are_expectations(policies):
        return 0
    compiled = isinstance(backend, CompiledBackend) and _Compiled.serves(kernel)
    loop, rows = _Compiled.nbytes(kernel) if compiled else 0, _tile_rows(kernel, backend)
    if not Screened.serves(kernel, rows, is_compiled=compiled):
        return loop
    own = loop if compiled else kernel.workspace_bytes(backend)
    return own + Screened.nbytes(kernel, rows, is_compiled=compiled)


def _tile_rows(kernel: FeatureKernel, backend: Backend) -> int:
    """Rows that are done at a time where components are not left out."""
    if isinstance(backend, CompiledBackend) and _Compiled.serves(kernel):
        return _fused_rows(kernel)
    return kernel.tile_rows(backend)


def _are_expectations(policies: Sequence[PosteriorPolicy]) -> bool:
    return all(isinstance(policy, Expectation) for policy in policies)


class _Compiled:
    """One loop for all mixtures of the kernel (:mod:`dgmm.compiled.fused`)."""

    def __init__(self, kernel: FeatureKernel, backend: CompiledBackend) -> None:
        self._kernel, self._backend = kernel, backend
        (block,) = kernel.blocks
        self._members = [kernel.members[position] for position in block.members]
        frame, self._sizes = kernel.frame, [one.n_components for one in self._members]
        whitening = frame.inverse if frame.is_matrix else None
        self._tile = _fused_rows(kernel)
        self._step = FusedStep(
            block.theta, self._sizes, frame.origin, whitening, most_rows=self._tile
        )

    @staticmethod
    def serves(kernel: FeatureKernel) -> bool:
        """True for mixtures that use the same features, and few enough of them."""
        itemsize = np.dtype(kernel.dtype).itemsize
        few = FusedStep.fits(kernel.n_stacked, kernel.n_coefficients, itemsize)
        return few and len(kernel.blocks) == 1

    @staticmethod
    def nbytes(kernel: FeatureKernel) -> int:
        d, itemsize = kernel.frame.n_features, np.dtype(kernel.dtype).itemsize
        step = FusedStep.nbytes(kernel.n_stacked, kernel.n_coefficients, d, itemsize)
        # Rows that are not stored as the loop reads them are copied, tile by tile.
        per_row = _PER_MIXTURE * len(kernel.members) + d + 2
        return step + 8 * per_row * _fused_rows(kernel)

    def evaluate(self, rows: Rows) -> Iterator[tuple[Member, SufficientStatistics]]:
        scalars = [Scalars(self._backend) for _ in self._members]
        self._step.start()
        for tile in rows.counted_tiles(self._tile):
            tallies, densities = self._step.add(_readable(to_host(tile.x)), tile.weight)
            for scalar, sums, density in zip(scalars, tallies.tolist(), densities, strict=True):
                log_likelihood, log_assignment, weight, peak = sums
                scalar.add_tally(log_likelihood, log_assignment, weight, peak, density, tile)
        start = 0
        for member, size, scalar in zip(self._members, self._sizes, scalars, strict=True):
            moments = self._step.sums[start : start + size].copy()
            start += size
            yield member, scalar.statistics(moments, self._kernel.frame, member.log_offset)

    @property
    def tile_rows(self) -> int:
        """Rows for which the loop is called once."""
        return self._tile

    def n_above(self, least: float) -> None:
        """Unknown: the weights of rows are never written."""


def _readable(x: Any) -> Array:
    """Rows as the loop reads them: float16 as float32, other numbers as float64, in C order."""
    narrow = x.dtype.kind == "f" and x.dtype.itemsize <= 4
    return np.require(x, np.float32 if narrow else np.float64, ("C_CONTIGUOUS", "ALIGNED"))


def _fused_rows(kernel: FeatureKernel) -> int:
    """Rows for which the loop is called once: what is held for each is little."""
    return tile_rows(_PER_MIXTURE * len(kernel.members) + kernel.frame.n_features, 8, "fused")
