"""What every shape of a covariance knows: the interface of :mod:`dgmm.shapes`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from dgmm.features import Layout
from dgmm.frame import Frame
from dgmm.log_cholesky import LogCholesky

__all__ = ["CovarianceShape"]

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

    @abstractmethod
    def identity(self, n_features: int) -> Array:
        """The identity matrix as stored."""

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
    def project_diagonal(self, diagonal: Array) -> Array:
        """Π of the matrices with these diagonals (..., D), which need not be made."""

    @abstractmethod
    def dense(self, covariances: Array, n_features: int) -> Array:
        """Covariances as dense matrices (..., D, D)."""

    @abstractmethod
    def variances(self, covariances: Array, n_features: int) -> Array:
        """The diagonals of the covariances (..., D)."""

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
