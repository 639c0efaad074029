"""Priors on weights, means and covariances, and the mode that they lead to.

Dirichlet on the weights, Gaussian on the means (its covariance is that of the component over κ0),
inverse-Wishart on the covariances, and both of the latter together as normal-inverse-Wishart
(Fraley and Raftery 2007). Diagonal and spherical covariances have inverse-gamma(ν/2, ψ/2)
variances. The M-step takes the mode of the posterior, so that the penalised objective never falls:

    Σ = (Ψ + Π(A)) / (p n + q),    q = ν + base + p · (number of means with a prior that share Σ)

with base D + 1 for matrices and 2 for variances, and p = D for spherical covariances, 1 otherwise.
A mean prior alone has Ψ = 0 and q = 0, and its penalty goes without log |Σ|: with it an empty
component would collapse onto its prior mean at an infinite posterior.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dgmm.covariance import CovarianceFamily
from dgmm.mixture import Mixture

__all__ = ["Priors"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Priors:
    """Hyperparameters; None stands for no prior of that kind.

    Parameters
    ----------
    weight_concentration : array of shape (n_components,), optional
        α of the Dirichlet distribution. Below 1 the mode has weights of zero: those of components
        with fewer than 1 − α rows (Figueiredo and Jain 2002, eq. 17).
    mean : array of shape (n_components, n_features), optional
        μ0.
    mean_precision : array of shape (n_components,), optional
        κ0: how many rows the prior mean counts for; 0 for a component whose mean has no prior.
    covariance : array, optional
        Ψ, in the stored shape of the family's ``covariances_``.
    degrees_of_freedom : array of shape (n_components,) or (), optional
        ν, one for each covariance.
    """

    weight_concentration: Array | None = None
    mean: Array | None = None
    mean_precision: Array | None = None
    covariance: Array | None = None
    degrees_of_freedom: Array | None = None

    def __bool__(self) -> bool:
        """True if there is one of any kind."""
        return any(value is not None for value in vars(self).values())

    def added_to(self, counts: Array) -> Array:
        """n + α − 1: what the mode of the weights is proportional to."""
        if self.weight_concentration is None:
            return counts
        return counts + (self.weight_concentration - 1.0)

    def of_components(self, kept: Sequence[int], family: CovarianceFamily) -> Priors:
        """Those of some components, in the order of ``kept``."""
        index = np.asarray(kept, dtype=np.intp)

        def cut(values: Array | None) -> Array | None:
            return None if values is None else values[index]

        shared = family.is_tied
        return Priors(
            weight_concentration=cut(self.weight_concentration),
            mean=cut(self.mean),
            mean_precision=cut(self.mean_precision),
            covariance=self.covariance if shared else cut(self.covariance),
            degrees_of_freedom=self.degrees_of_freedom if shared else cut(self.degrees_of_freedom),
        )

    def shrunk_means(self, counts: Array, means: Array) -> Array:
        """(κ0 μ0 + n x̄) / (κ0 + n), or the means themselves without a prior."""
        if self.mean is None or self.mean_precision is None:
            return means
        kappa, counts = self.mean_precision[:, None], counts[:, None]
        # A prior that counts for nothing leaves an empty component where it is.
        total = np.where(kappa + counts > 0.0, kappa + counts, 1.0)
        shrunk = means + kappa / total * (self.mean - means)
        # Without rows the prior's mean itself, not what rounding makes of going there.
        return np.where((counts == 0.0) & (kappa > 0.0), self.mean, shrunk)

    def added_scatter(self, scatters: Array) -> Array:
        """Ψ + A."""
        return scatters if self.covariance is None else scatters + self.covariance

    def added_counts(
        self, family: CovarianceFamily, n_components: int, n_features: int
    ) -> Array | float:
        """q: what the priors add to p·n in the divisor of a covariance.

        One number for each covariance: shape (n_components,), or () for a tied family.
        """
        if self.covariance is None or self.degrees_of_freedom is None:
            return 0.0
        base = family.shape.least_degrees_of_freedom(n_features) + 2.0
        sharing = np.zeros(n_components)
        if self.mean_precision is not None:
            sharing[self.mean_precision > 0.0] = family.shape.divisor(n_features)
        return self.degrees_of_freedom + base + (sharing.sum() if family.is_tied else sharing)

    def log_density(self, mixture: Mixture) -> float:
        """Log prior density of a mixture's parameters in nats, up to a constant."""
        return (
            self._log_weights(mixture) + self._log_means(mixture) + self._log_covariances(mixture)
        )

    def _log_weights(self, mixture: Mixture) -> float:
        if self.weight_concentration is None:
            return 0.0
        excess = self.weight_concentration - 1.0
        # Below α = 1 a weight of zero is that of a component that is about to be dropped.
        live = (excess > 0.0) | ((excess < 0.0) & (mixture.weights > 0.0))
        return float(excess[live] @ mixture.log_weights[live])

    def _log_means(self, mixture: Mixture) -> float:
        if self.mean is None or self.mean_precision is None:
            return 0.0
        family = mixture.family
        whitener = family.shape.invert(mixture.factors)
        whitener = family.per_component(whitener, mixture.n_components)
        white = family.shape.times(whitener, mixture.means - self.mean)
        return -0.5 * float(self.mean_precision @ np.sum(white**2, axis=1))

    def _log_covariances(self, mixture: Mixture) -> float:
        if self.covariance is None:
            return 0.0
        family, shape = mixture.family, mixture.family.shape
        precision = shape.precision(shape.invert(mixture.factors))
        # ½ log |Σ| of a spherical covariance counts D variances, its prior has one.
        half_log_det = shape.half_log_det(mixture.factors, mixture.n_features)
        half_log_det = half_log_det / shape.divisor(mixture.n_features)
        added = self.added_counts(family, mixture.n_components, mixture.n_features)
        penalty = added * half_log_det + 0.5 * shape.trace_product(precision, self.covariance)
        return -float(np.sum(penalty))
