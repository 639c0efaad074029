"""The expected complete log posterior Q, its gradient, and the certificate that follows from it.

With S the statistics of a mixture x and G(x) its EM image, Jensen's inequality gives (Dempster,
Laird and Rubin 1977, section 3)

    ℓ(G(x)) ≥ ℓ(x) + Q(G(x)) − Q(x) = low(x)

for the penalised log-likelihood ℓ and Q(·) = ⟨Θ(·), S⟩ + log prior: a lower bound on where the
image is, without looking at the rows again. It holds whatever x is. And ∇ℓ(x) = ∇Q(x) (Fisher's
identity), so that the gradient comes with every pass too.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from dgmm.acceleration.coordinates import Coordinates, Metric
from dgmm.maximization import MaximizationOptions, component_rows, scatters_about
from dgmm.mixture import Mixture
from dgmm.priors import Priors
from dgmm.statistics import SufficientStatistics

__all__ = ["ExpectedPosterior"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class ExpectedPosterior:
    """Q as a function of the mixture, for the statistics of one.

    Parameters
    ----------
    statistics : SufficientStatistics
        Of ``mixture`` on all rows, finished.
    mixture : Mixture
    options : MaximizationOptions
        Without ``reg_covar``.
    """

    statistics: SufficientStatistics
    mixture: Mixture
    options: MaximizationOptions

    @cached_property
    def _rows(self) -> Any:
        return component_rows(self.statistics, self.mixture.family, self.mixture)

    def value(self, mixture: Mixture) -> float:
        """Q in nats, up to a constant, with the log prior."""
        rows, family = self._rows, mixture.family
        live = rows.live
        counts = rows.counts.sum() if family.is_tied else rows.counts
        half_log_det = family.shape.half_log_det(mixture.factors, mixture.n_features)
        scatters = scatters_about(rows, mixture.means, family, Priors())
        precision = family.shape.precision(mixture.whiteners)
        total = float(rows.counts[live] @ mixture.log_weights[live])
        total -= float(np.sum(counts * half_log_det))
        total -= 0.5 * float(np.sum(family.shape.trace_product(precision, scatters)))
        return total + self.options.priors.log_density(mixture)

    def gain(self, image: Mixture) -> float:
        """Q(image) − Q(mixture), per row: what an EM step is certain to gain."""
        return (self.value(image) - self.value(self.mixture)) / self.statistics.weight

    @property
    def log_posterior(self) -> float:
        """ℓ of the mixture, per row."""
        log_prior = self.options.priors.log_density(self.mixture)
        return (self.statistics.log_likelihood + log_prior) / self.statistics.weight

    @cached_property
    def shares(self) -> tuple[Array, Array, Array]:
        """How much weights, means and covariances count for, per row, prior rows included.

        Shapes (n_components,), (n_components,) and (n_covariances,): the scale of the metric in
        which an EM step is the gradient.
        """
        priors, family = self.options.priors, self.mixture.family
        counts, weight = self._rows.counts, self.statistics.weight
        means = counts
        if priors.mean_precision is not None:
            means = counts + priors.mean_precision
        divisor = family.shape.divisor(self.mixture.n_features)
        covariances = self._covariance_counts / (divisor * weight)
        return priors.added_to(counts) / weight, means / weight, covariances

    @cached_property
    def _covariance_counts(self) -> Array:
        """p n + q, for each covariance."""
        family, k, d = self.mixture.family, self.mixture.n_components, self.mixture.n_features
        counts = self._rows.counts.sum() if family.is_tied else self._rows.counts
        added = self.options.priors.added_counts(family, k, d)
        return np.atleast_1d(family.shape.divisor(d) * counts + added)

    def gradient(self, coordinates: Coordinates) -> Array:
        """∇ℓ per row, in ``coordinates``, zero where those are held."""
        rows, mixture, priors = self._rows, self.mixture, self.options.priors
        family, k = mixture.family, mixture.n_components
        held = ~coordinates.free_weights
        wanted = np.where(held, 0.0, priors.added_to(rows.counts))
        share = np.where(held, 0.0, mixture.weights)
        weights = wanted - wanted.sum() * (share / max(share.sum(), 1e-300))
        pull = rows.counts[:, None] * (rows.means - mixture.means)
        if priors.mean is not None and priors.mean_precision is not None:
            pull = pull + priors.mean_precision[:, None] * (priors.mean - mixture.means)
        whiteners = family.per_component(mixture.whiteners, k)
        means = family.shape.times(whiteners, pull)
        scatters = scatters_about(rows, mixture.means, family, priors)
        scatters = priors.added_scatter(scatters)
        metric = Metric.of(coordinates, mixture)
        stacked = metric.stacked
        score = family.shape.log_cholesky.score(
            metric.whitener,
            stacked(scatters),
            self._covariance_counts,
            family.shape.divisor(mixture.n_features),
        )
        # With shares of one, whitened log weights are the log weights themselves.
        whitened = coordinates.join(weights, means, score)
        return metric.unwhiten_gradient(whitened) / self.statistics.weight
