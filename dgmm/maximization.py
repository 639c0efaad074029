"""The M-step: sufficient statistics → mixture, for every family by one piece of code.

Maximum likelihood: with W_k the scatter about the component's mean, ``Σ = Π(W) / (p n)``, where Π
is the identity, the diagonal or the trace and p is 1 or D (Bishop 2006, eq. 9.24 to 9.26; the tied
families pool W and n). Everything is computed in the frame of the statistics, in float64, and
mapped to the units of the data before anything is added to the diagonal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dgmm.covariance import CovarianceFamily
from dgmm.features import Layout
from dgmm.mixture import Mixture
from dgmm.statistics import SufficientStatistics

__all__ = ["Maximization", "maximize"]

Array = np.ndarray[Any, Any]
_EMPTY = 10.0 * float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Maximization:
    """What an M-step gave.

    Parameters
    ----------
    mixture : Mixture
    empty : tuple of int
        Components without rows (n_k ≤ 10 eps N); they keep their mean and covariance.
    """

    mixture: Mixture
    empty: tuple[int, ...]


def maximize(
    statistics: SufficientStatistics,
    family: CovarianceFamily,
    *,
    reg_covar: float = 0.0,
    previous: Mixture | None = None,
) -> Maximization:
    """The mixture that maximises the expected complete log-likelihood.

    Parameters
    ----------
    statistics : SufficientStatistics
        Of all rows, finished (:meth:`dgmm.expectation.BatchPass.finish`).
    family : CovarianceFamily
    reg_covar : float, default=0.0
        Added to the diagonals of the covariances, in squared units of the data.
    previous : Mixture, optional
        Where empty components keep their parameters from; without it they take the mean and
        covariance of all rows.
    """
    counts = statistics.counts
    live = counts > _EMPTY * statistics.weight
    safe = np.where(live, counts, 1.0)
    offsets = np.where(live[:, None], statistics.sums / safe[:, None], 0.0)
    means = statistics.frame.points_from_frame(offsets)
    shape = family.shape
    scatters = _scatters(statistics, family, counts * live, offsets)
    divisor = shape.divisor(statistics.frame.n_features)
    if family.is_tied:
        covariances = scatters / (divisor * float(counts[live].sum()))
    else:
        covariances = scatters / (divisor * safe).reshape(-1, *(1,) * (scatters.ndim - 1))
    covariances = shape.add_to_diagonal(covariances, reg_covar)
    weights = np.where(live, counts, 0.0) / counts[live].sum()
    empty = tuple(int(k) for k in np.flatnonzero(~live))
    if empty and previous is not None:
        means[~live] = previous.means[~live]
        if not family.is_tied:
            covariances[~live] = previous.covariances[~live]
    elif empty:
        means[~live] = weights @ means
        if not family.is_tied:
            # The law of total covariance, which gives that of all rows.
            between = shape.outer(means - weights @ means) / divisor
            covariances[~live] = np.tensordot(weights, covariances + between, axes=1)
    mixture = Mixture(weights / weights.sum(), means, covariances, family.name)
    return Maximization(mixture, empty)


def _scatters(
    statistics: SufficientStatistics, family: CovarianceFamily, counts: Array, offsets: Array
) -> Array:
    """Scatters about the components' own means in input units; pooled for a tied family."""
    shape, frame = family.shape, statistics.frame
    layout = Layout(frame.n_features)
    weighted = counts.reshape(-1, *(1,) * len(shape.trailing(frame.n_features)))
    if statistics.total is not None:
        # The rows' total scatter splits into the scatters within components and that of their
        # means.
        between = shape.pooled_outer(offsets, counts)
        return np.asarray(statistics.total - shape.scatter_from_frame(between, frame))
    raw = shape.second_moments(statistics.moments, layout)
    within = shape.scatter_from_frame(raw - weighted * shape.outer(offsets), frame)
    return np.asarray(within.sum(axis=0) if family.is_tied else within)
