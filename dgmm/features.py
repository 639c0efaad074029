"""The features of a row, in one order of which every covariance family uses a leading block.

For a row z in the frame: ``1, z_i, ‖z‖², z_i², z_i z_j (i < j)``. The log joint density of every
family is linear in them, and its sufficient statistics are their posterior-weighted sums, so the
same layout describes coefficients and moments.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any

import numpy as np

__all__ = ["Layout", "fill_features", "pack_symmetric", "unpack_symmetric"]


@dataclass(frozen=True)
class Layout:
    """Where the features of rows with ``n_features`` columns stand.

    Parameters
    ----------
    n_features : int
        D, the width of a row.
    """

    n_features: int

    @property
    def linear(self) -> int:
        """Size of the block ``1, z``."""
        return 1 + self.n_features

    @property
    def scalar(self) -> int:
        """Size of the block that ends with ``‖z‖²``."""
        return 2 + self.n_features

    @property
    def diagonal(self) -> int:
        """Size of the block that ends with ``z_i²``."""
        return 2 + 2 * self.n_features

    @property
    def full(self) -> int:
        """Size of the block that ends with ``z_i z_j``."""
        return self.diagonal + self.n_features * (self.n_features - 1) // 2

    @property
    def means(self) -> slice:
        return slice(1, self.linear)

    @property
    def norm(self) -> int:
        return self.linear

    @property
    def squares(self) -> slice:
        return slice(self.scalar, self.diagonal)

    @property
    def pairs(self) -> slice:
        return slice(self.diagonal, self.full)

    @cached_property
    def upper(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Row and column indices of the pairs, in their order."""
        return np.triu_indices(self.n_features, 1)


def fill_features(features: Any, size: int, layout: Layout, xp: ModuleType) -> None:
    """Complete a feature-major tile whose rows ``1, z`` are already in place.

    Parameters
    ----------
    features : array of shape (>= size, n_rows)
        Written in place up to row ``size``, one of the layout's block sizes.
    """
    if size <= layout.linear:
        return
    z = features[layout.means]
    if size >= layout.diagonal:
        squares = features[layout.squares]
        xp.multiply(z, z, out=squares)
        xp.sum(squares, axis=0, out=features[layout.norm])
    else:
        features[layout.norm] = xp.einsum("ib,ib->b", z, z)
    if size >= layout.full:
        _fill_pairs(z, features[layout.pairs], layout.n_features, xp)


def _fill_pairs(z: Any, pairs: Any, n_features: int, xp: ModuleType) -> None:
    start = 0
    for i in range(n_features - 1):
        stop = start + n_features - 1 - i
        xp.multiply(z[i], z[i + 1 :], out=pairs[start:stop])
        start = stop


def unpack_symmetric(diagonal: Any, pairs: Any, layout: Layout) -> np.ndarray[Any, Any]:
    """Symmetric matrices (..., D, D) from their diagonals (..., D) and upper pairs."""
    d = layout.n_features
    matrix = np.empty((*diagonal.shape[:-1], d, d))
    rows, columns = layout.upper
    matrix[..., rows, columns] = pairs
    matrix[..., columns, rows] = pairs
    index = np.arange(d)
    matrix[..., index, index] = diagonal
    return matrix


def pack_symmetric(matrix: Any, layout: Layout) -> tuple[Any, Any]:
    """Diagonals (..., D) and upper pairs of symmetric matrices (..., D, D)."""
    index = np.arange(layout.n_features)
    rows, columns = layout.upper
    return matrix[..., index, index], matrix[..., rows, columns]
