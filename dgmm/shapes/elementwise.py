"""A covariance as a diagonal or as one number: what is computed element by element."""

from __future__ import annotations

from typing import Any

import numpy as np

from dgmm.features import Layout
from dgmm.frame import Frame
from dgmm.log_cholesky import ELEMENTWISE
from dgmm.shapes.base import CovarianceShape

__all__ = ["DIAGONAL", "SCALAR"]

Array = np.ndarray[Any, Any]


class _Elementwise(CovarianceShape):
    """What a diagonal and a single variance share: arithmetic by element."""

    log_cholesky = ELEMENTWISE

    def identity(self, n_features: int) -> Array:
        return np.ones(self.trailing(n_features))

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

    def project_diagonal(self, diagonal: Array) -> Array:
        return diagonal

    def dense(self, covariances: Array, n_features: int) -> Array:
        return covariances[..., :, None] * np.eye(n_features)

    def variances(self, covariances: Array, n_features: int) -> Array:
        return covariances

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

    def project_diagonal(self, diagonal: Array) -> Array:
        return diagonal.sum(axis=-1)

    def dense(self, covariances: Array, n_features: int) -> Array:
        return np.asarray(covariances)[..., None, None] * np.eye(n_features)

    def variances(self, covariances: Array, n_features: int) -> Array:
        return np.repeat(np.asarray(covariances)[..., None], n_features, axis=-1)

    def trace_product(self, precision: Array, scatter: Array) -> Array:
        return precision * scatter

    def spread(self, factors: Array, n_features: int) -> Array:
        return np.repeat(np.asarray(factors)[..., None], n_features, axis=-1)


DIAGONAL, SCALAR = _Diagonal(), _Scalar()
