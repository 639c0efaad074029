"""Sufficient statistics of a mixture on some rows: the only thing that travels to the M-step.

They form a commutative monoid: ``merge`` adds them, and refuses statistics of another frame.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dgmm.features import Layout
from dgmm.frame import Frame

__all__ = ["BatchStatistics", "SufficientStatistics"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class SufficientStatistics:
    """Posterior-weighted sums of the features of some rows.

    Parameters
    ----------
    moments : array of shape (n_components, n_moments), float64
        Σ a_nk φ(z_n), a leading block of :class:`~dgmm.features.Layout`: counts, sums, and second
        moments as far as the family needs them.
    frame : Frame
        The coordinates that z is in.
    log_likelihood : float
        Σ w log p(x), in nats, in input units.
    weight : float
        Σ w.
    n_rows : int
    peak : float
        The largest log density of a row, −inf where it was not looked at.
    log_assignment : float
        Σ w log max_k r_k, for ICL and the classification likelihood.
    total : array, optional
        Scatter of all rows about the frame's origin, in input units and the family's stored shape,
        where a tied family did without second moments per component.
    """

    moments: Array
    frame: Frame
    log_likelihood: float
    weight: float
    n_rows: int
    peak: float = -np.inf
    log_assignment: float = 0.0
    total: Array | None = None

    @classmethod
    def zeros(cls, n_components: int, n_moments: int, frame: Frame) -> SufficientStatistics:
        """The neutral element."""
        return cls(np.zeros((n_components, n_moments)), frame, 0.0, 0.0, 0)

    @property
    def counts(self) -> Array:
        """n_k = Σ a_nk: shape (n_components,)."""
        return self.moments[:, 0]

    @property
    def sums(self) -> Array:
        """Σ a_nk z_n in the frame: shape (n_components, n_features)."""
        return self.moments[:, Layout(self.frame.n_features).means]

    @property
    def nbytes(self) -> int:
        return int(self.moments.nbytes)

    def merge(self, other: SufficientStatistics) -> SufficientStatistics:
        """Statistics of both sets of rows.

        Raises
        ------
        ValueError
            If the frames differ: sums about different origins must not be added.
        """
        if self.frame != other.frame:
            raise ValueError("statistics of different frames cannot be merged")
        return replace(
            self,
            moments=self.moments + other.moments,
            log_likelihood=self.log_likelihood + other.log_likelihood,
            weight=self.weight + other.weight,
            n_rows=self.n_rows + other.n_rows,
            peak=max(self.peak, other.peak),
            log_assignment=self.log_assignment + other.log_assignment,
            total=_added(self.total, other.total),
        )


def _added(mine: Array | None, theirs: Array | None) -> Array | None:
    if mine is None or theirs is None:
        return mine if theirs is None else theirs
    return mine + theirs


@dataclass(frozen=True)
class BatchStatistics:
    """One :class:`SufficientStatistics` for each mixture of a batch."""

    members: tuple[SufficientStatistics, ...]

    def merge(self, other: BatchStatistics) -> BatchStatistics:
        """Statistics of both sets of rows, mixture by mixture."""
        pairs = zip(self.members, other.members, strict=True)
        return BatchStatistics(tuple(mine.merge(theirs) for mine, theirs in pairs))
