"""The step that every kernel has: one tile after another, by array calls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from dgmm.arrays import to_host
from dgmm.backend import Backend
from dgmm.data.dataset import Rows
from dgmm.devices import is_device_array
from dgmm.kernels import Kernel, Member
from dgmm.posterior import PosteriorPolicy
from dgmm.scalars import scalars_for
from dgmm.statistics import SufficientStatistics

__all__ = ["Tiled", "values_of"]


class Tiled:
    """A kernel with its buffers, for one thread.

    Parameters
    ----------
    kernel : Kernel
    policies : sequence of PosteriorPolicy
        One for each of its members.
    backend : Backend
    """

    def __init__(
        self, kernel: Kernel, policies: Sequence[PosteriorPolicy], backend: Backend
    ) -> None:
        self._kernel, self._policies, self._backend = kernel, policies, backend
        self._workspace = kernel.workspace(backend)
        self._weights: list[Any] = []

    @property
    def tile_rows(self) -> int:
        """Rows of a tile."""
        return self._kernel.tile_rows(self._backend)

    def evaluate(self, rows: Rows) -> Iterator[tuple[Member, SufficientStatistics]]:
        """Statistics of every mixture of the kernel on some rows.

        Raises
        ------
        InvalidDataError
            If a row has no finite density.
        """
        kernel, backend, ws = self._kernel, self._backend, self._workspace
        sums, self._weights = kernel.zeros(backend.xp), []
        scalars = [scalars_for(backend, rows) for _ in kernel.members]
        for tile in rows.counted_tiles(kernel.tile_rows(backend)):
            with np.errstate(all="ignore"):
                joints = kernel.log_joint(values_of(tile, backend), ws, backend)
            weight = None if tile.weight is None else backend.xp.asarray(tile.weight, np.float64)
            for joint, policy, scalar in zip(joints, self._policies, scalars, strict=True):
                scalar.take(joint, policy, weight, tile)
            kernel.accumulate(joints, sums, ws, backend)
            self._weights = joints
        for member, moments, scalar in zip(kernel.members, sums, scalars, strict=True):
            yield member, scalar.statistics(to_host(moments), kernel.frame, member.log_offset)

    def n_above(self, least: float) -> list[float] | None:
        """Components whose weight of a row is above one, for a row of the last tile on average.

        Parameters
        ----------
        least : float

        Returns
        -------
        list of float, for each mixture; None if there was no tile
        """
        xp = self._backend.xp
        found = [int(xp.count_nonzero(one > least)) / one.shape[1] for one in self._weights]
        return found or None


def values_of(tile: Rows, backend: Backend) -> Any:
    """Values that the backend can read: from a device they come tile by tile."""
    return to_host(tile.x) if backend.xp is np and is_device_array(tile.x) else tile.x
