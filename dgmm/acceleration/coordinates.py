"""Mixtures as points of a vector space: log weights, means, log-Cholesky factors.

Any vector is a mixture again (weights are normalised), so that a step along a line stays one. What
is held, and what components without rows have, is left out: it has no coordinates that move.

The metric is the Fisher information of the complete data at a mixture b: with w the shares,

    T δ = √w (δ log w, L⁻¹ δμ, L⁻¹ δL with the diagonal times √2)

is a linear map to orthonormal coordinates (:mod:`dgmm.log_cholesky`). In it, an EM step is the
gradient to first order (Xu and Jordan 1996).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dgmm.covariance import CovarianceFamily
from dgmm.fixed import Fixed
from dgmm.mixture import Mixture

__all__ = ["Coordinates", "Metric"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Coordinates:
    """Which parameters of a mixture move, and where they are in a vector.

    Parameters
    ----------
    family : CovarianceFamily
    n_features : int
    free_weights, free_means : array of shape (n_components,), bool
    free_covariances : array of shape (n_covariances, n_free), bool
    """

    family: CovarianceFamily
    n_features: int
    free_weights: Array
    free_means: Array
    free_covariances: Array

    @classmethod
    def of(cls, mixture: Mixture, fixed: Fixed | None = None) -> Coordinates:
        """What moves of a mixture: nothing that is held, no component of weight zero."""
        k, family = mixture.n_components, mixture.family
        fixed = Fixed() if fixed is None else fixed
        live = mixture.weights > 0.0
        weights = live & ~fixed.mask("weights", k)
        covariances = live & ~fixed.mask("covariances", k)
        if family.is_tied:
            covariances = ~fixed.mask("covariances", k)[:1]
        n_free = family.shape.n_free(mixture.n_features)
        return cls(
            family=family,
            n_features=mixture.n_features,
            # One free weight is what the held ones leave.
            free_weights=weights & (weights.sum() > 1),
            free_means=live & ~fixed.mask("means", k),
            free_covariances=np.repeat(covariances[:, None], n_free, axis=1),
        )

    def without_covariances(self, held: Array) -> Coordinates:
        """The same, with some coordinates of covariances (a mask) held."""
        return replace(self, free_covariances=self.free_covariances & ~held)

    @property
    def n_components(self) -> int:
        return len(self.free_means)

    @property
    def size(self) -> int:
        """Length of a vector, the zeros of what does not move included."""
        k = self.n_components
        return k + k * self.n_features + self.free_covariances.size

    @property
    def mask(self) -> Array:
        """True where a vector moves: shape (size,)."""
        ones = np.ones(self.size)
        return self.join(*self.split(ones)) != 0.0

    def same(self, other: Coordinates) -> bool:
        """True if the same parameters move."""
        names = ("free_weights", "free_means", "free_covariances")
        pairs = ((getattr(self, name), getattr(other, name)) for name in names)
        return self.family is other.family and all(np.array_equal(*pair) for pair in pairs)

    def join(self, weights: Array, means: Array, covariances: Array) -> Array:
        """A vector from its three parts, with zeros for what does not move."""
        parts = (
            np.where(self.free_weights, weights, 0.0),
            np.where(self.free_means[:, None], means, 0.0),
            np.where(self.free_covariances, covariances, 0.0),
        )
        return np.concatenate([part.ravel() for part in parts])

    def split(self, vector: Array) -> tuple[Array, Array, Array]:
        """Log weights (K,), means (K, D), covariances (n_covariances, n_free), as views."""
        k, d = self.n_components, self.n_features
        weights, means, rest = np.split(vector, [k, k + k * d])
        return weights, means.reshape(k, d), rest.reshape(len(self.free_covariances), -1)

    def pack(self, mixture: Mixture) -> Array:
        """The vector of a mixture."""
        factors = _stacked(mixture.factors, self.family)
        values = self.family.shape.log_cholesky.pack(factors)
        return self.join(mixture.log_weights, mixture.means, values)

    def unpack(self, vector: Array, like: Mixture) -> Mixture | None:
        """The mixture of a vector; what does not move is that of ``like``.

        None if it is no mixture: values that are not finite, covariances that rounding makes
        singular.
        """
        log_weights, means, values = self.split(vector)
        family, codec = self.family, self.family.shape.log_cholesky
        with np.errstate(over="ignore", invalid="ignore"):
            weights = _weights(log_weights, self.free_weights, like.weights)
            kept = _stacked(like.factors, family)
            values = np.where(self.free_covariances, values, codec.pack(kept))
            made = codec.covariances(codec.unpack(values, kept))
        # What does not move at all keeps its bits.
        free = self.free_covariances.any(axis=1).reshape(-1, *(1,) * (made.ndim - 1))
        covariances = np.where(free, made, _stacked(like.covariances, family))
        means = np.where(self.free_means[:, None], means, like.means)
        if not all(np.all(np.isfinite(one)) for one in (weights, means, covariances)):
            return None
        found = Mixture(weights, means, covariances[0] if family.is_tied else covariances,
                        family.name)  # fmt: skip
        return None if found.singular_components else found


def _weights(logs: Array, free: Array, like: Array) -> Array:
    """Free weights, normalised to what the others leave."""
    if not free.any():
        return like
    shares = np.exp(logs[free] - logs[free].max())
    weights = like.copy()
    weights[free] = like[free].sum() * (shares / shares.sum())
    return weights


def _stacked(values: Array, family: CovarianceFamily) -> Array:
    """Stored covariances or factors with a leading axis, of one entry in a tied family."""
    return np.asarray(values)[None] if family.is_tied else np.asarray(values)


@dataclass(frozen=True, eq=False)
class Metric:
    """The Fisher metric of the complete data at a mixture, for vectors of its coordinates.

    Parameters
    ----------
    coordinates : Coordinates
    factors, whitener : array
        L and L⁻¹, with a leading axis of covariances.
    shares : tuple of array
        What weights, means and covariances count for; a Gaussian alone has shares of one.
    """

    coordinates: Coordinates
    factors: Array
    whitener: Array
    shares: tuple[Array, Array, Array]

    @classmethod
    def of(
        cls,
        coordinates: Coordinates,
        mixture: Mixture,
        shares: tuple[Array, Array, Array] | None = None,
    ) -> Metric:
        """The metric at a mixture; with shares of one by default."""
        family, k = mixture.family, mixture.n_components
        if shares is None:
            ones = np.ones(k)
            shares = ones, ones, np.ones(len(coordinates.free_covariances))
        factors = _stacked(mixture.factors, family)
        return cls(coordinates, factors, _stacked(mixture.whiteners, family), shares)

    def stacked(self, values: Array) -> Array:
        """Stored covariances with a leading axis."""
        return _stacked(values, self.coordinates.family)

    @property
    def _roots(self) -> tuple[Array, Array, Array]:
        weights, means, covariances = (np.sqrt(np.maximum(one, 1e-300)) for one in self.shares)
        return weights, means[:, None], covariances[:, None]

    @property
    def _divisor(self) -> int:
        return self.coordinates.family.shape.divisor(self.coordinates.n_features)

    def _times(self, matrices: Array, vectors: Array) -> Array:
        family = self.coordinates.family
        one = matrices[0] if family.is_tied else matrices
        per = family.per_component(one, self.coordinates.n_components)
        return family.shape.times(per, vectors)

    def whiten(self, vector: Array) -> Array:
        """T δ."""
        weights, means, values = self.coordinates.split(vector)
        codec, roots = self.coordinates.family.shape.log_cholesky, self._roots
        values = codec.whiten(self.whitener, self.factors, values, self._divisor)
        means = self._times(self.whitener, means)
        return self.coordinates.join(roots[0] * weights, roots[1] * means, roots[2] * values)

    def unwhiten(self, whitened: Array) -> Array:
        """T⁻¹ u."""
        weights, means, values = self.coordinates.split(whitened)
        codec, roots = self.coordinates.family.shape.log_cholesky, self._roots
        values = codec.unwhiten(self.factors, values / roots[2], self._divisor)
        means = self._times(self.factors, means / roots[1])
        return self.coordinates.join(weights / roots[0], means, values)

    def whiten_gradient(self, gradient: Array) -> Array:
        """T⁻ᵀ ∇."""
        weights, means, values = self.coordinates.split(gradient)
        codec, roots = self.coordinates.family.shape.log_cholesky, self._roots
        values = codec.whiten_gradient(self.factors, values, self._divisor)
        means = self._times(_transposed(self.factors), means)
        return self.coordinates.join(weights / roots[0], means / roots[1], values / roots[2])

    def unwhiten_gradient(self, whitened: Array) -> Array:
        """Tᵀ of a gradient with respect to whitened changes."""
        weights, means, values = self.coordinates.split(whitened)
        codec, roots = self.coordinates.family.shape.log_cholesky, self._roots
        values = codec.unwhiten_gradient(
            self.whitener, self.factors, roots[2] * values, self._divisor
        )
        means = self._times(_transposed(self.whitener), roots[1] * means)
        return self.coordinates.join(roots[0] * weights, means, values)

    def natural(self, gradient: Array) -> Array:
        """(Tᵀ T)⁻¹ ∇: the step that EM makes to first order."""
        return self.unwhiten(self.whiten_gradient(gradient))


def _transposed(factors: Array) -> Array:
    """Transposes of matrices; what acts element by element is its own."""
    return np.swapaxes(factors, -1, -2) if factors.ndim == 3 else factors
