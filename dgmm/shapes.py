"""How a covariance is stored: as a matrix, as a diagonal, as one number.

A shape knows how its covariances are factored, which features their densities are linear in, and
how second moments become a covariance. Shapes are stateless; the families
(:mod:`dgmm.covariance`) combine them with tying.

Notation: ``R`` is the factor of a covariance in the coordinates of the frame (Σ = R Rᵀ there),
``W`` its inverse, ``P = Wᵀ W`` the precision. Leading axes are components; tied families have none.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from scipy.linalg import solve_triangular

from dgmm.features import Layout, pack_symmetric, unpack_symmetric
from dgmm.frame import Frame, invert_lower
from dgmm.log_cholesky import ELEMENTWISE, TRIANGULAR, LogCholesky

__all__ = ["DIAGONAL", "MATRIX", "SCALAR", "CovarianceShape"]

Array = np.ndarray[Any, Any]


class CovarianceShape(ABC):
    """How a covariance is stored, factored and estimated. Stateless."""

    log_cholesky: LogCholesky

    @abstractmethod
    def trailing(self, n_features: int) -> tuple[int, ...]:
        """Shape of one covariance."""

    @abstractmethod
    def n_free(self, n_features: int) -> int:
        """Number of free parameters of one covariance."""

    @abstractmethod
    def block(self, layout: Layout) -> int:
        """Size of the leading block of features that the density is linear in."""

    @abstractmethod
    def divisor(self, n_features: int) -> int:
        """p: how many squares are summed into each stored number (D for a trace)."""

    def least_degrees_of_freedom(self, n_features: int) -> float:
        """What ν has to exceed in a proper prior: inverse-gamma here, inverse-Wishart otherwise."""
        return 0.0

    @abstractmethod
    def factorise(self, covariances: Array) -> Array:
        """Cholesky factors; NaN where a covariance is not positive definite."""

    @abstractmethod
    def half_log_det(self, factors: Array, n_features: int) -> Array:
        """½ log det Σ from the factors."""

    @abstractmethod
    def to_frame(self, factors: Array, frame: Frame) -> Array:
        """R: the factors in the coordinates of the frame."""

    @abstractmethod
    def invert(self, factors: Array) -> Array:
        """W: inverses of factors."""

    @abstractmethod
    def precision(self, whitener: Array) -> Array:
        """P = Wᵀ W."""

    @abstractmethod
    def times(self, matrix: Array, vectors: Array) -> Array:
        """Products of a stored matrix (R, W or P) with vectors (..., D)."""

    def is_symmetric(self, covariances: Array) -> bool:
        """True if the matrices are symmetric to within rounding in float32."""
        return True

    @abstractmethod
    def select(self, covariances: Array, features: Array) -> Array:
        """Covariances of some features, in the stored shape."""

    @abstractmethod
    def condition_on(self, covariances: Array, given: Array, rest: Array) -> tuple[Array, Array]:
        """Gain Σ_ab Σ_bb⁻¹ (one matrix where it is zero) and Σ_aa − Σ_ab Σ_bb⁻¹ Σ_ba as stored."""

    @abstractmethod
    def quadratic_coefficients(self, precision: Array, layout: Layout) -> Array:
        """Coefficients of the quadratic features in −½ zᵀ P z: (..., block − linear)."""

    @abstractmethod
    def condition(self, precision: Array, factor: Array, means: Array) -> Array:
        """κ² = Σ_ij |P_ij| (σ_i σ_j + |m_i| |m_j|), the factor by which a density loses digits."""

    @abstractmethod
    def second_moments(self, moments: Array, layout: Layout) -> Array:
        """Raw second moments in the frame, in the stored shape, from packed moments (..., F)."""

    @abstractmethod
    def outer(self, vectors: Array) -> Array:
        """v vᵀ in the stored shape."""

    def pooled_outer(self, vectors: Array, weights: Array) -> Array:
        """Σ_k w_k v_k v_kᵀ in the stored shape."""
        return np.tensordot(weights, self.outer(vectors), axes=1)

    @abstractmethod
    def scatter_from_frame(self, scatters: Array, frame: Frame) -> Array:
        """Scatters in input units from scatters in the frame."""

    @abstractmethod
    def project(self, matrix: Array) -> Array:
        """Π: dense symmetric matrices (..., D, D) in the stored shape."""

    @abstractmethod
    def dense(self, covariances: Array, n_features: int) -> Array:
        """Covariances as dense matrices (..., D, D)."""

    @abstractmethod
    def trace_product(self, precision: Array, scatter: Array) -> Array:
        """tr(P S) for a scatter in the stored shape."""

    @abstractmethod
    def add_to_diagonal(self, covariances: Array, value: float) -> Array:
        """Covariances with ``value`` added to their diagonals."""

    @abstractmethod
    def clip(self, covariances: Array, floor: float) -> Array:
        """Covariances whose eigenvalues are at least ``floor``."""

    @abstractmethod
    def at_floor(self, covariances: Array, floor: float) -> Array:
        """True for the variances, or the whole matrices (last axis 1), that :meth:`clip` holds."""

    @abstractmethod
    def least_eigenvalue(self, covariances: Array) -> Array:
        """The least eigenvalue of each covariance."""

    @abstractmethod
    def uses_whitening(self) -> bool:
        """True if a whitened frame conditions this shape better (it then mixes features)."""

    @abstractmethod
    def spread(self, factors: Array, n_features: int) -> Array:
        """σ: standard deviations per feature from the factors, (..., D)."""


class _Matrix(CovarianceShape):
    """A symmetric matrix."""

    log_cholesky = TRIANGULAR

    def trailing(self, n_features: int) -> tuple[int, ...]:
        return (n_features, n_features)

    def n_free(self, n_features: int) -> int:
        return n_features * (n_features + 1) // 2

    def block(self, layout: Layout) -> int:
        return layout.full

    def divisor(self, n_features: int) -> int:
        return 1

    def least_degrees_of_freedom(self, n_features: int) -> float:
        return n_features - 1.0

    def factorise(self, covariances: Array) -> Array:
        flat = covariances.reshape(-1, *covariances.shape[-2:])
        return np.array([_cholesky_or_nan(one) for one in flat]).reshape(covariances.shape)

    def half_log_det(self, factors: Array, n_features: int) -> Array:
        return np.log(np.einsum("...ii->...i", factors)).sum(-1)

    def to_frame(self, factors: Array, frame: Frame) -> Array:
        if frame.factor is None:
            return factors
        if not frame.is_matrix:
            return factors * frame.inverse[..., :, None]
        if frame.is_per_component:
            return frame.inverse @ factors
        # A triangular solve with one right-hand side of all components is exact where the product
        # with an explicit inverse would lose digits to its condition.
        stacked = np.moveaxis(factors, -2, 0).reshape(frame.n_features, -1)
        solved = solve_triangular(frame.factor, stacked, lower=True, check_finite=False)
        shape = (frame.n_features, *factors.shape[:-2], frame.n_features)
        return np.moveaxis(solved.reshape(shape), 0, -2)

    def invert(self, factors: Array) -> Array:
        return invert_lower(factors)

    def precision(self, whitener: Array) -> Array:
        return np.swapaxes(whitener, -1, -2) @ whitener

    def times(self, matrix: Array, vectors: Array) -> Array:
        # One matrix for all vectors is one product of BLAS, which einsum does not see.
        if matrix.ndim == 2:
            return vectors @ matrix.T
        return np.einsum("...ij,...j->...i", matrix, vectors)

    def is_symmetric(self, covariances: Array) -> bool:
        gap = np.abs(covariances - np.swapaxes(covariances, -1, -2))
        spread = np.sqrt(np.einsum("...ii->...i", covariances))
        return bool(np.all(gap <= 1e-6 * self.outer(spread)))

    def select(self, covariances: Array, features: Array) -> Array:
        return covariances[..., features[:, None], features]

    def condition_on(self, covariances: Array, given: Array, rest: Array) -> tuple[Array, Array]:
        # With the given features first, the factor's last block is that of the Schur complement:
        # R Rᵀ of it stays positive definite where the difference of products may not.
        b = given.size
        factors = self.factorise(self.select(covariances, np.concatenate([given, rest])))
        gain = factors[..., b:, :b] @ invert_lower(factors[..., :b, :b])
        left = factors[..., b:, b:]
        return gain, left @ np.swapaxes(left, -1, -2)

    def quadratic_coefficients(self, precision: Array, layout: Layout) -> Array:
        diagonal, pairs = pack_symmetric(precision, layout)
        norm = np.zeros((*diagonal.shape[:-1], 1))
        return np.concatenate([norm, -0.5 * diagonal, -pairs], axis=-1)

    def condition(self, precision: Array, factor: Array, means: Array) -> Array:
        size, mean = np.abs(precision), np.abs(means)
        sigma = self.spread(factor, factor.shape[-1])
        spread = np.einsum("...i,...ij,...j->...", sigma, size, sigma)
        return spread + np.einsum("...i,...ij,...j->...", mean, size, mean)

    def second_moments(self, moments: Array, layout: Layout) -> Array:
        return unpack_symmetric(moments[..., layout.squares], moments[..., layout.pairs], layout)

    def outer(self, vectors: Array) -> Array:
        return vectors[..., :, None] * vectors[..., None, :]

    def pooled_outer(self, vectors: Array, weights: Array) -> Array:
        return vectors.T @ (vectors * weights[:, None])

    def scatter_from_frame(self, scatters: Array, frame: Frame) -> Array:
        if frame.factor is None:
            return scatters
        if frame.is_matrix:
            mapped = frame.factor @ scatters @ np.swapaxes(frame.factor, -1, -2)
            return 0.5 * (mapped + np.swapaxes(mapped, -1, -2))
        return scatters * self.outer(frame.factor)

    def project(self, matrix: Array) -> Array:
        return matrix

    def dense(self, covariances: Array, n_features: int) -> Array:
        return covariances

    def trace_product(self, precision: Array, scatter: Array) -> Array:
        return np.einsum("...ij,...ij->...", precision, scatter)

    def add_to_diagonal(self, covariances: Array, value: float) -> Array:
        return covariances + value * np.eye(covariances.shape[-1])

    def clip(self, covariances: Array, floor: float) -> Array:
        values, vectors = np.linalg.eigh(covariances)
        raised = (vectors * np.maximum(values, floor)[..., None, :]) @ np.swapaxes(vectors, -1, -2)
        raised = 0.5 * (raised + np.swapaxes(raised, -1, -2))
        # What is above the floor already keeps its bits.
        return np.where(values[..., :1, None] < floor, raised, covariances)

    def at_floor(self, covariances: Array, floor: float) -> Array:
        return (self.least_eigenvalue(covariances) <= floor * (1.0 + 1e-9))[..., None]

    def least_eigenvalue(self, covariances: Array) -> Array:
        return np.linalg.eigvalsh(covariances)[..., 0]

    def uses_whitening(self) -> bool:
        return True

    def spread(self, factors: Array, n_features: int) -> Array:
        return np.sqrt(np.einsum("...ij,...ij->...i", factors, factors))


class _Elementwise(CovarianceShape):
    """What a diagonal and a single variance share: arithmetic by element."""

    log_cholesky = ELEMENTWISE

    def factorise(self, covariances: Array) -> Array:
        valid = np.isfinite(covariances) & (covariances > 0)
        return np.sqrt(np.where(valid, covariances, np.nan))

    def invert(self, factors: Array) -> Array:
        return 1.0 / factors

    def precision(self, whitener: Array) -> Array:
        return whitener**2

    def condition_on(self, covariances: Array, given: Array, rest: Array) -> tuple[Array, Array]:
        return np.zeros((rest.size, given.size)), self.select(covariances, rest)

    def add_to_diagonal(self, covariances: Array, value: float) -> Array:
        return covariances + value

    def clip(self, covariances: Array, floor: float) -> Array:
        return np.maximum(covariances, floor)

    def at_floor(self, covariances: Array, floor: float) -> Array:
        return np.asarray(covariances <= floor * (1.0 + 1e-9))

    def uses_whitening(self) -> bool:
        return False


class _Diagonal(_Elementwise):
    """One variance per feature."""

    def trailing(self, n_features: int) -> tuple[int, ...]:
        return (n_features,)

    def n_free(self, n_features: int) -> int:
        return n_features

    def block(self, layout: Layout) -> int:
        return layout.diagonal

    def divisor(self, n_features: int) -> int:
        return 1

    def half_log_det(self, factors: Array, n_features: int) -> Array:
        return np.log(factors).sum(-1)

    def to_frame(self, factors: Array, frame: Frame) -> Array:
        return factors if frame.factor is None else factors * frame.inverse

    def times(self, matrix: Array, vectors: Array) -> Array:
        return matrix * vectors

    def least_eigenvalue(self, covariances: Array) -> Array:
        return covariances.min(axis=-1)

    def select(self, covariances: Array, features: Array) -> Array:
        return covariances[..., features]

    def quadratic_coefficients(self, precision: Array, layout: Layout) -> Array:
        norm = np.zeros((*precision.shape[:-1], 1))
        return np.concatenate([norm, -0.5 * precision], axis=-1)

    def condition(self, precision: Array, factor: Array, means: Array) -> Array:
        return np.sum(precision * (factor**2 + means**2), axis=-1)

    def second_moments(self, moments: Array, layout: Layout) -> Array:
        return moments[..., layout.squares]

    def outer(self, vectors: Array) -> Array:
        return vectors**2

    def scatter_from_frame(self, scatters: Array, frame: Frame) -> Array:
        return scatters if frame.factor is None else scatters * frame.factor**2

    def project(self, matrix: Array) -> Array:
        return np.einsum("...ii->...i", matrix)

    def dense(self, covariances: Array, n_features: int) -> Array:
        return covariances[..., :, None] * np.eye(n_features)

    def trace_product(self, precision: Array, scatter: Array) -> Array:
        return np.sum(precision * scatter, axis=-1)

    def spread(self, factors: Array, n_features: int) -> Array:
        return factors


class _Scalar(_Elementwise):
    """One variance for all features. Frames must scale all features alike."""

    def trailing(self, n_features: int) -> tuple[int, ...]:
        return ()

    def n_free(self, n_features: int) -> int:
        return 1

    def block(self, layout: Layout) -> int:
        return layout.scalar

    def divisor(self, n_features: int) -> int:
        return n_features

    def half_log_det(self, factors: Array, n_features: int) -> Array:
        return n_features * np.log(factors)

    def to_frame(self, factors: Array, frame: Frame) -> Array:
        return factors if frame.factor is None else factors * frame.inverse[..., 0]

    def times(self, matrix: Array, vectors: Array) -> Array:
        return np.asarray(matrix)[..., None] * vectors

    def least_eigenvalue(self, covariances: Array) -> Array:
        return covariances

    def select(self, covariances: Array, features: Array) -> Array:
        return covariances

    def quadratic_coefficients(self, precision: Array, layout: Layout) -> Array:
        return -0.5 * np.asarray(precision)[..., None]

    def condition(self, precision: Array, factor: Array, means: Array) -> Array:
        return precision * (means.shape[-1] * factor**2 + np.sum(means**2, axis=-1))

    def second_moments(self, moments: Array, layout: Layout) -> Array:
        return moments[..., layout.norm]

    def outer(self, vectors: Array) -> Array:
        return np.sum(vectors**2, axis=-1)

    def scatter_from_frame(self, scatters: Array, frame: Frame) -> Array:
        return scatters if frame.factor is None else scatters * frame.factor[..., 0] ** 2

    def project(self, matrix: Array) -> Array:
        return np.einsum("...ii->...", matrix)

    def dense(self, covariances: Array, n_features: int) -> Array:
        return np.asarray(covariances)[..., None, None] * np.eye(n_features)

    def trace_product(self, precision: Array, scatter: Array) -> Array:
        return precision * scatter

    def spread(self, factors: Array, n_features: int) -> Array:
        return np.repeat(np.asarray(factors)[..., None], n_features, axis=-1)


def _cholesky_or_nan(matrix: Array) -> Array:
    try:
        if np.all(np.isfinite(matrix)):
            return np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        pass
    return np.full_like(matrix, np.nan)


MATRIX, DIAGONAL, SCALAR = _Matrix(), _Diagonal(), _Scalar()
