"""What a pass sums beside the moments: log-likelihood, weight, rows, the largest density.

On a GPU the sums of a tile stay on the device until the part is done, so that no tile waits for
another.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from dgmm.arrays import to_host
from dgmm.backend import Backend, CudaBackend
from dgmm.cuda.tiles import TileTally, expectation
from dgmm.data.dataset import Rows
from dgmm.errors import InvalidDataError
from dgmm.frame import Frame
from dgmm.posterior import Expectation, Posterior, PosteriorPolicy
from dgmm.statistics import SufficientStatistics

__all__ = ["DeviceScalars", "Scalars", "bad_row", "first_bad", "scalars_for"]

Array = np.ndarray[Any, Any]


@dataclass
class Scalars:
    """Running sums of one mixture over the tiles of a part, as its kernel gives them."""

    backend: Backend
    log_likelihood: float = 0.0
    log_assignment: float = 0.0
    weight: float = 0.0
    n_rows: int = 0
    peak: float = -np.inf

    def take(self, joint: Any, policy: PosteriorPolicy, weight: Any, tile: Rows) -> None:
        """Sum up a tile, and turn its joint densities into weights of rows, in place.

        Raises
        ------
        InvalidDataError
            If a row has no finite density.
        """
        with np.errstate(all="ignore"):
            posterior = policy(joint, tile, self.backend)
        self.add(posterior, weight, tile)
        if weight is not None:
            self.backend.xp.multiply(joint, weight, out=joint)

    def add(self, posterior: Posterior, weight: Any, tile: Rows) -> None:
        """Sum up what is known of a tile.

        Raises
        ------
        InvalidDataError
            If a row has no finite density.
        """
        log_density, log_assignment = posterior.log_density, posterior.log_assignment
        peak = float(log_density.max())
        if weight is not None:
            log_density, log_assignment = log_density * weight, log_assignment * weight
        total = float(log_density.sum(dtype=np.float64))
        assignment = float(log_assignment.sum(dtype=np.float64))
        mass = tile.n_rows if weight is None else float(weight.sum(dtype=np.float64))
        self.add_tally(total, assignment, mass, peak, log_density, tile)

    def add_tally(
        self,
        log_likelihood: float,
        log_assignment: float,
        weight: float,
        peak: float,
        log_density: Any,
        tile: Rows,
    ) -> None:
        """Sum up the sums of a tile; the densities of its rows find the bad one.

        Raises
        ------
        InvalidDataError
            If a row has no finite density.
        """
        if not math.isfinite(log_likelihood):
            raise bad_row(tile, first_bad(log_density))
        self.log_likelihood += log_likelihood
        self.log_assignment += log_assignment
        self.weight += weight
        self.n_rows += tile.n_rows
        self.peak = max(self.peak, peak)

    def statistics(self, moments: Array, frame: Frame, log_offset: float) -> SufficientStatistics:
        """All of a part."""
        return SufficientStatistics(
            moments=moments,
            frame=frame,
            log_likelihood=self.log_likelihood + self.weight * log_offset,
            weight=self.weight,
            n_rows=self.n_rows,
            peak=self.peak + log_offset,
            log_assignment=self.log_assignment,
        )


class DeviceScalars:
    """The same on a GPU, where nothing is known before the end of the part.

    Parameters
    ----------
    backend : CudaBackend
    part : Rows
        That the tiles are of. Not the tiles are kept, which are copies where rows weigh nothing,
        but their places in it.
    """

    def __init__(self, backend: CudaBackend, part: Rows) -> None:
        self._backend, self._part = backend, part
        self._tally = TileTally(backend.xp)
        self._places: list[tuple[int, Any]] = []

    def take(self, joint: Any, policy: PosteriorPolicy, weight: Any, tile: Rows) -> None:
        """As :meth:`Scalars.take`; a bad row is found by :meth:`statistics`."""
        self._places.append((tile.first_row, tile.offsets))
        if isinstance(policy, Expectation):
            expectation(self._backend.xp, joint, weight, self._tally.new())
            return
        posterior = policy(joint, tile, self._backend)
        self._tally.add(posterior.log_density, posterior.log_assignment, weight)
        if weight is not None:
            self._backend.xp.multiply(joint, weight, out=joint)

    def statistics(self, moments: Array, frame: Frame, log_offset: float) -> SufficientStatistics:
        """All of a part.

        Raises
        ------
        InvalidDataError
            If a row has no finite density.
        """
        totals = self._tally.totals()
        bad = np.flatnonzero(totals[:, 5] >= 0.0)
        if bad.size:
            (first_row, offsets), row = self._places[int(bad[0])], int(totals[bad[0], 5])
            row = first_row + (row if offsets is None else int(offsets[row]))
            raise bad_row(self._part, row - self._part.first_row)
        density, assignment, weight, n_rows = totals[:, :4].sum(axis=0)
        return SufficientStatistics(
            moments=moments,
            frame=frame,
            log_likelihood=float(density) + float(weight) * log_offset,
            weight=float(weight),
            n_rows=int(n_rows),
            peak=float(totals[:, 4].max(initial=-np.inf)) + log_offset,
            log_assignment=float(assignment),
        )


def scalars_for(backend: Backend, part: Rows) -> Scalars | DeviceScalars:
    """Sums for one mixture and one part."""
    return DeviceScalars(backend, part) if isinstance(backend, CudaBackend) else Scalars(backend)


def first_bad(log_density: Any) -> int:
    """The first row whose log density is not finite; the least, where their sum alone is not."""
    found = to_host(log_density)
    bad = np.flatnonzero(~np.isfinite(found))
    return int(bad[0]) if bad.size else int(np.argmin(found))


def bad_row(tile: Rows, index: int) -> InvalidDataError:
    """The error for a row of a tile whose density is not finite."""
    values = np.asarray(to_host(tile.x[index]), dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(values))
    where = f"row {tile.position(index)}"
    if bad.size:
        return InvalidDataError(
            f"Input contains NaN or infinity: {where}, feature {bad[0]} is {values[bad[0]]}; "
            "remove or impute such rows"
        )
    return InvalidDataError(
        f"{where} has no finite log density under the mixture; its largest value is "
        f"{values[np.argmax(np.abs(values))]:g}: rescale the data or pass dtype='float64'"
    )
