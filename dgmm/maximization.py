"""The M-step: sufficient statistics → mixture, for every family by one piece of code.

With m_k the mean in use (held, shrunk or the mean x̄_k of the component's rows), W_k the scatter
about x̄_k, and μ0, κ0, Ψ, q of the priors (:mod:`dgmm.priors`; zeros without),

    A_k = W_k + n_k (x̄_k − m_k)(x̄_k − m_k)ᵀ + κ0 (m_k − μ0)(m_k − μ0)ᵀ
    Σ   = (Ψ + Π(A)) / (p n + q)

where Π is the identity, the diagonal or the trace and p is 1 or D; the tied families pool A and n
(Bishop 2006, eq. 9.24 to 9.26, and Fraley and Raftery 2007 with priors). Moments are subtracted in
the frame of the statistics, in float64, and mapped to the units of the data before priors,
``reg_covar`` and the floor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dgmm.covariance import CovarianceFamily
from dgmm.features import Layout
from dgmm.fixed import Fixed
from dgmm.mixture import Mixture
from dgmm.priors import Priors
from dgmm.statistics import SufficientStatistics

__all__ = [
    "ComponentRows",
    "Maximization",
    "MaximizationOptions",
    "component_rows",
    "maximize",
    "scatters_about",
]

Array = np.ndarray[Any, Any]
_EMPTY = 10.0 * float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class MaximizationOptions:
    """What an M-step does beside maximising the likelihood.

    Parameters
    ----------
    reg_covar : float, default=0.0
        Added to the diagonals of the covariances that are not held, in squared units of the data.
    covariance_floor : float, default=0.0
        Least eigenvalue of those covariances, in squared units of the data. Raising what is below
        it gives the maximum under that constraint, so the objective stays monotone.
    priors : Priors
    fixed : Fixed
    """

    reg_covar: float = 0.0
    covariance_floor: float = 0.0
    priors: Priors = field(default_factory=Priors)
    fixed: Fixed = field(default_factory=Fixed)

    def regularise(self, covariances: Array, family: CovarianceFamily) -> Array:
        """Covariances with ``reg_covar`` on their diagonals, raised to the floor."""
        if self.reg_covar:
            covariances = family.shape.add_to_diagonal(covariances, self.reg_covar)
        if self.covariance_floor:
            covariances = family.shape.clip(covariances, self.covariance_floor)
        return covariances

    def of_components(self, kept: Sequence[int], family: CovarianceFamily) -> MaximizationOptions:
        """Those of some components, nothing of which is held."""
        return replace(self, priors=self.priors.of_components(kept, family))


_MAXIMUM_LIKELIHOOD = MaximizationOptions()


@dataclass(frozen=True)
class Maximization:
    """What an M-step gave.

    Parameters
    ----------
    mixture : Mixture
    empty : tuple of int
        Components without rows (n_k ≤ 10 eps N), of which what no prior determines stays as it
        was, and those whose weight a prior with α < 1 has made zero.
    """

    mixture: Mixture
    empty: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class ComponentRows:
    """What the rows say of each component, in input units.

    Parameters
    ----------
    counts : array of shape (n_components,)
        0 for components without rows.
    means : array of shape (n_components, n_features)
        x̄; for a component without rows, what it falls back on.
    scatters : array
        W about x̄ in the stored shape; summed over the components in a tied family.
    """

    counts: Array
    means: Array
    scatters: Array

    @property
    def live(self) -> Array:
        return self.counts > 0.0


def maximize(
    statistics: SufficientStatistics,
    family: CovarianceFamily,
    options: MaximizationOptions = _MAXIMUM_LIKELIHOOD,
    *,
    previous: Mixture | None = None,
) -> Maximization:
    """The mixture that maximises the expected complete log posterior.

    Parameters
    ----------
    statistics : SufficientStatistics
        Of all rows, finished (:meth:`dgmm.expectation.BatchPass.finish`).
    family : CovarianceFamily
    options : MaximizationOptions, optional
        Without it: maximum likelihood, nothing held.
    previous : Mixture, optional
        Where held parameters, and those of empty components, come from; without it the latter take
        the mean and covariance of all rows.

    Raises
    ------
    ValueError
        If parameters are held and there is no mixture to take them from.
    """
    if options.fixed and previous is None:
        raise ValueError("held parameters need a previous mixture to come from")
    rows = component_rows(statistics, family, previous)
    weights = _weights(rows, options, previous)
    means = _means(rows, options, previous)
    covariances = _covariances(rows, means, family, options, previous)
    mixture = Mixture(weights, means, covariances, family.name)
    empty = ~rows.live | (options.priors.added_to(rows.counts) <= 0.0)
    return Maximization(mixture, tuple(int(k) for k in np.flatnonzero(empty)))


def component_rows(
    statistics: SufficientStatistics, family: CovarianceFamily, previous: Mixture | None = None
) -> ComponentRows:
    """What finished statistics say of each component, in input units."""
    live = statistics.counts > _EMPTY * statistics.weight
    counts = np.where(live, statistics.counts, 0.0)
    safe = np.where(live, counts, 1.0)
    offsets = np.where(live[:, None], statistics.sums / safe[:, None], 0.0)
    means = statistics.frame.points_from_frame(offsets)
    scatters = _scatters(statistics, family, counts, offsets)
    if not live.all():
        means[~live] = (
            (counts / counts.sum()) @ means if previous is None else previous.means[~live]
        )
        if not family.is_tied:
            scatters[~live] = 0.0
    return ComponentRows(counts, means, scatters)


def _scatters(
    statistics: SufficientStatistics, family: CovarianceFamily, counts: Array, offsets: Array
) -> Array:
    """Scatters about the components' own means in input units; pooled for a tied family."""
    shape, frame = family.shape, statistics.frame
    if statistics.total is not None:
        # The rows' total scatter splits into the scatters within components and that of their
        # means.
        between = shape.pooled_outer(offsets, counts)
        return np.asarray(statistics.total - shape.scatter_from_frame(between, frame))
    raw = shape.second_moments(statistics.moments, Layout(frame.n_features))
    weighted = _per_covariance(counts, raw)
    within = shape.scatter_from_frame(raw - weighted * shape.outer(offsets), frame)
    return np.asarray(within.sum(axis=0) if family.is_tied else within)


def _per_covariance(values: Array, covariances: Array) -> Array:
    """One value for each component, or one for all, to multiply stored covariances by."""
    values = np.asarray(values)
    return values.reshape(values.shape + (1,) * (np.ndim(covariances) - values.ndim))


def _weights(rows: ComponentRows, options: MaximizationOptions, previous: Mixture | None) -> Array:
    """π_k = (1 − Σ_held π)(n_k + α_k − 1) / Σ_free (n_j + α_j − 1); held ones as they are.

    With α < 1 what is below zero counts as zero.
    """
    counts = np.maximum(options.priors.added_to(rows.counts), 0.0)
    if not options.fixed.weights:
        weights = counts / counts.sum()
        return weights / weights.sum()
    assert previous is not None
    weights = previous.weights.copy()
    free = ~options.fixed.mask("weights", len(counts))
    total = float(counts[free].sum())
    # Free components that are all without rows and without a prior have nothing to share by.
    if total > 0.0:
        left = max(0.0, 1.0 - float(weights[~free].sum()))
        weights[free] = left * (counts[free] / total)
    return weights


def _means(rows: ComponentRows, options: MaximizationOptions, previous: Mixture | None) -> Array:
    means = options.priors.shrunk_means(rows.counts, rows.means)
    if options.fixed.means:
        assert previous is not None
        held = options.fixed.mask("means", len(means))
        means = np.where(held[:, None], previous.means, means)
    return means


def _covariances(
    rows: ComponentRows,
    means: Array,
    family: CovarianceFamily,
    options: MaximizationOptions,
    previous: Mixture | None,
) -> Array:
    k, d = means.shape
    held = options.fixed.mask("covariances", k)
    if family.is_tied and held.any():
        assert previous is not None
        return previous.covariances
    scatters = scatters_about(rows, means, family, options.priors)
    counts = rows.counts.sum() if family.is_tied else rows.counts
    divisor = family.shape.divisor(d) * counts + options.priors.added_counts(family, k, d)
    known = divisor > 0.0
    divisor = _per_covariance(np.where(known, divisor, 1.0), scatters)
    covariances = options.priors.added_scatter(scatters) / divisor
    if not family.is_tied and previous is None and not known.all():
        covariances[~known] = _of_all_rows(rows, covariances, family)
    covariances = options.regularise(covariances, family)
    if not family.is_tied and previous is not None:
        kept = held | ~known
        covariances[kept] = previous.covariances[kept]
    return covariances


def scatters_about(
    rows: ComponentRows, means: Array, family: CovarianceFamily, priors: Priors
) -> Array:
    """A: the scatters about the means in use, and those of the means about their priors."""
    added = []
    if means is not rows.means:
        added.append((rows.means - means, rows.counts))
    if priors.mean is not None and priors.mean_precision is not None:
        added.append((means - priors.mean, priors.mean_precision))
    shape, scatters = family.shape, rows.scatters
    for offsets, weights in added:
        if family.is_tied:
            scatters = scatters + shape.pooled_outer(offsets, weights)
        else:
            scatters = scatters + _per_covariance(weights, scatters) * shape.outer(offsets)
    return scatters


def _of_all_rows(rows: ComponentRows, covariances: Array, family: CovarianceFamily) -> Array:
    """The covariance of all rows, by the law of total covariance."""
    weights = rows.counts / rows.counts.sum()
    offsets = rows.means - weights @ rows.means
    between = family.shape.outer(offsets) / family.shape.divisor(offsets.shape[1])
    return np.asarray(np.tensordot(weights, covariances + between, axes=1))
