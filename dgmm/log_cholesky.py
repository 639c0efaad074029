"""Coordinates of covariances without constraints: the Cholesky factor with a logarithmic diagonal.

Any real numbers are the coordinates of a positive definite covariance (Pinheiro and Bates 1996,
section 2.2). For a small change δL of a factor L let M = L⁻¹ δL, which is lower triangular. The
Fisher information of a Gaussian's covariance is then

    ½ tr((M + Mᵀ)²) = 2 Σ_i M_ii² + Σ_{i>j} M_ij²

so that u = (√2 M_ii, M_ij) are orthonormal coordinates of changes (*whitened* here). With T the
linear map δ ↦ u, gradients go the other way, by Tᵀ.

All arrays have a leading axis of covariances; tied families have one entry there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

__all__ = ["ELEMENTWISE", "TRIANGULAR", "LogCholesky"]

Array = np.ndarray[Any, Any]
_ROOT = float(np.sqrt(2.0))


class LogCholesky(ABC):
    """Factors ↔ coordinates, and the Fisher metric of their changes. Stateless."""

    @abstractmethod
    def pack(self, factors: Array) -> Array:
        """Coordinates of factors: shape (n, n_free)."""

    @abstractmethod
    def unpack(self, values: Array, like: Array) -> Array:
        """Factors, of the shape of ``like``, from their coordinates."""

    @abstractmethod
    def covariances(self, factors: Array) -> Array:
        """L Lᵀ in the stored shape."""

    @abstractmethod
    def whiten(self, whitener: Array, factors: Array, changes: Array, divisor: int) -> Array:
        """T δ: whitened changes from changes of coordinates."""

    @abstractmethod
    def unwhiten(self, factors: Array, whitened: Array, divisor: int) -> Array:
        """T⁻¹ u."""

    @abstractmethod
    def whiten_gradient(self, factors: Array, gradient: Array, divisor: int) -> Array:
        """T⁻ᵀ ∇: the gradient with respect to whitened changes."""

    @abstractmethod
    def unwhiten_gradient(
        self, whitener: Array, factors: Array, whitened: Array, divisor: int
    ) -> Array:
        """Tᵀ of a gradient with respect to whitened changes."""

    @abstractmethod
    def score(self, whitener: Array, scatters: Array, counts: Array, divisor: int) -> Array:
        """Whitened gradient of −½ counts · log det Σ / divisor − ½ tr(Σ⁻¹ scatters).

        ``counts`` are those of the M-step's division: Σ = scatters / counts is where it vanishes.
        """


class _Triangular(LogCholesky):
    """Of matrices: the logarithms of the diagonal, then what is below it."""

    def pack(self, factors: Array) -> Array:
        return self._joined(np.log(np.einsum("nii->ni", factors)), factors)

    def unpack(self, values: Array, like: Array) -> Array:
        d = like.shape[-1]
        factors = self._lower(values, d)
        index = np.arange(d)
        factors[:, index, index] = np.exp(values[:, :d])
        return factors

    def covariances(self, factors: Array) -> Array:
        return factors @ np.swapaxes(factors, -1, -2)

    def whiten(self, whitener: Array, factors: Array, changes: Array, divisor: int) -> Array:
        d = factors.shape[-1]
        moved = self._lower(changes, d)
        index = np.arange(d)
        moved[:, index, index] *= factors[:, index, index]
        relative = whitener @ moved
        return self._joined(_ROOT * np.einsum("nii->ni", relative), relative)

    def unwhiten(self, factors: Array, whitened: Array, divisor: int) -> Array:
        relative = self._relative(whitened, factors.shape[-1], 1.0 / _ROOT)
        return self._joined(np.einsum("nii->ni", relative), factors @ relative)

    def whiten_gradient(self, factors: Array, gradient: Array, divisor: int) -> Array:
        d = factors.shape[-1]
        slope = self._lower(gradient, d)
        index = np.arange(d)
        slope[:, index, index] /= factors[:, index, index]
        relative = np.swapaxes(factors, -1, -2) @ slope
        return self._joined(np.einsum("nii->ni", relative) / _ROOT, relative)

    def unwhiten_gradient(
        self, whitener: Array, factors: Array, whitened: Array, divisor: int
    ) -> Array:
        relative = self._relative(whitened, factors.shape[-1], _ROOT)
        slope = np.swapaxes(whitener, -1, -2) @ relative
        diagonal = np.einsum("nii->ni", slope) * np.einsum("nii->ni", factors)
        return self._joined(diagonal, slope)

    def score(self, whitener: Array, scatters: Array, counts: Array, divisor: int) -> Array:
        white = whitener @ scatters @ np.swapaxes(whitener, -1, -2)
        diagonal = np.einsum("nii->ni", white) - np.asarray(counts)[:, None]
        return self._joined(diagonal / _ROOT, white)

    def _lower(self, values: Array, d: int) -> Array:
        """Lower triangular matrices from their diagonals and what is below them."""
        matrices = np.zeros((len(values), d, d))
        index = np.arange(d)
        rows, columns = np.tril_indices(d, -1)
        matrices[:, index, index] = values[:, :d]
        matrices[:, rows, columns] = values[:, d:]
        return matrices

    def _relative(self, whitened: Array, d: int, factor: float) -> Array:
        matrices = self._lower(whitened, d)
        index = np.arange(d)
        matrices[:, index, index] *= factor
        return matrices

    def _joined(self, diagonal: Array, matrices: Array) -> Array:
        rows, columns = np.tril_indices(matrices.shape[-1], -1)
        return np.concatenate([diagonal, matrices[:, rows, columns]], axis=1)


class _Elementwise(LogCholesky):
    """Of variances: the logarithms of standard deviations, each of ``divisor`` features."""

    def pack(self, factors: Array) -> Array:
        return np.log(factors).reshape(len(factors), -1)

    def unpack(self, values: Array, like: Array) -> Array:
        return np.exp(values).reshape(len(values), *like.shape[1:])

    def covariances(self, factors: Array) -> Array:
        return factors**2

    def whiten(self, whitener: Array, factors: Array, changes: Array, divisor: int) -> Array:
        return np.sqrt(2.0 * divisor) * changes

    def unwhiten(self, factors: Array, whitened: Array, divisor: int) -> Array:
        return whitened / np.sqrt(2.0 * divisor)

    def whiten_gradient(self, factors: Array, gradient: Array, divisor: int) -> Array:
        return gradient / np.sqrt(2.0 * divisor)

    def unwhiten_gradient(
        self, whitener: Array, factors: Array, whitened: Array, divisor: int
    ) -> Array:
        return np.sqrt(2.0 * divisor) * whitened

    def score(self, whitener: Array, scatters: Array, counts: Array, divisor: int) -> Array:
        white = (whitener**2 * scatters).reshape(len(whitener), -1)
        return (white - np.asarray(counts)[:, None]) / np.sqrt(2.0 * divisor)


TRIANGULAR, ELEMENTWISE = _Triangular(), _Elementwise()
