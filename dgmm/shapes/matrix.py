"""A covariance as a symmetric matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.linalg import solve_triangular

from dgmm.features import Layout, pack_symmetric, unpack_symmetric
from dgmm.frame import Frame, invert_lower
from dgmm.log_cholesky import TRIANGULAR
from dgmm.shapes.base import CovarianceShape

__all__ = ["MATRIX"]

Array = np.ndarray[Any, Any]


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

    def identity(self, n_features: int) -> Array:
        return np.eye(n_features)

    def factorise(self, covariances: Array) -> Array:
        factors = _cholesky_or_nan(covariances)
        if not np.isnan(factors).any():
            return factors
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
        with np.errstate(invalid="ignore"):
            spread = np.sqrt(np.einsum("...ii->...i", covariances))
        # A negative variance compares with nothing.
        return bool(np.all((gap == 0.0) | (gap <= 1e-6 * self.outer(spread))))

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
        # Products of matrices go to BLAS, which einsum of three does not use.
        return _form(size, sigma) + _form(size, mean)

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

    def project_diagonal(self, diagonal: Array) -> Array:
        return diagonal[..., :, None] * np.eye(diagonal.shape[-1])

    def dense(self, covariances: Array, n_features: int) -> Array:
        return covariances

    def variances(self, covariances: Array, n_features: int) -> Array:
        return np.einsum("...ii->...i", covariances)

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


def _form(matrices: Array, vectors: Array) -> Array:
    """vᵀ M v for each."""
    return np.sum((matrices @ vectors[..., None])[..., 0] * vectors, axis=-1)


def _cholesky_or_nan(matrix: Array) -> Array:
    """The factors of one matrix or a stack; NaN everywhere if one of them has none."""
    try:
        if np.all(np.isfinite(matrix)):
            return np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        pass
    return np.full_like(matrix, np.nan)


MATRIX = _Matrix()
