"""The features of a row, in one order of which every covariance family uses a leading block.

For a row z in the frame: ``1, z_i, ‖z‖², z_i², z_i z_j (i < j)``. The log joint density of every
family is linear in them, and its sufficient statistics are their posterior-weighted sums, so the
same layout describes coefficients and moments.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from types import ModuleType
from typing import Any

import numpy as np

__all__ = ["Layout", "fill_features", "pack_symmetric", "unpack_symmetric"]


@dataclass(frozen=True)
class PairBlock:
    """Products of features in ``n_runs`` consecutive runs: each the first ones times the last.

    Parameters
    ----------
    start : int
        First feature of the first run.
    n_runs : int
    n_left, n_right : int
        Features on either side; their sum is the length of a run.
    """

    start: int
    n_runs: int
    n_left: int
    n_right: int

    @property
    def size(self) -> int:
        """Number of pairs."""
        return self.n_runs * self.n_left * self.n_right

    @property
    def indices(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Row and column indices of the pairs, in their order."""
        run, left, right = np.indices((self.n_runs, self.n_left, self.n_right)).reshape(3, -1)
        first = self.start + run * (self.n_left + self.n_right)
        return first + left, first + self.n_left + right

    def sides(self, z: Any) -> tuple[Any, Any]:
        """The factors (n_runs, n_left, 1, n_rows) and (n_runs, 1, n_right, n_rows), as views."""
        length = self.n_left + self.n_right
        runs = z[self.start : self.start + self.n_runs * length]
        runs = runs.reshape(self.n_runs, length, z.shape[1])
        return runs[:, : self.n_left, None], runs[:, None, self.n_left :]


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
    def pair_blocks(self) -> tuple[PairBlock, ...]:
        """Rectangles that together hold every pair i < j once.

        For s = 1, 2, 4, …: in each run of 2 s features, the first s times the last s. All the runs
        of one size are one product of arrays, so a tile takes 2 log₂ D calls rather than D; every
        call costs threads a wait for the interpreter's lock.
        """
        blocks = []
        half, d = 1, self.n_features
        while half < d:
            runs = d // (2 * half)
            if runs:
                blocks.append(PairBlock(0, runs, half, half))
            rest = d - 2 * half * runs - half
            if rest > 0:
                blocks.append(PairBlock(2 * half * runs, 1, half, rest))
            half *= 2
        return tuple(blocks)

    @property
    def upper(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Row and column indices of the pairs, in their order."""
        return _upper(self)

    @property
    def factors(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Indices i, j of ``z_i z_j`` for the squares and the pairs, in their order."""
        return _factors(self)

    def first_factors(self, n: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """The first ``n`` of them; squares alone cost no more than they are."""
        if n <= self.n_features:
            squares = np.arange(n)
            return squares, squares
        rows, columns = self.factors
        return rows[:n], columns[:n]

    @property
    def places(self) -> np.ndarray[Any, Any]:
        """Where the elements (D, D) of a symmetric matrix stand among its squares and pairs."""
        return _places(self)


# An M-step asks for these several times, and making them takes longer than using them. Few are
# kept: of a thousand features they are 8 MB each.
@lru_cache(maxsize=2)
def _upper(layout: Layout) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    indices = [block.indices for block in layout.pair_blocks]
    empty = [np.empty(0, dtype=np.intp)]
    rows = np.concatenate([one for one, _ in indices] or empty)
    return _frozen(rows), _frozen(np.concatenate([one for _, one in indices] or empty))


@lru_cache(maxsize=2)
def _factors(layout: Layout) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    squares = np.arange(layout.n_features)
    rows, columns = layout.upper
    return _frozen(np.concatenate([squares, rows])), _frozen(np.concatenate([squares, columns]))


@lru_cache(maxsize=2)
def _places(layout: Layout) -> np.ndarray[Any, Any]:
    places = np.empty((layout.n_features, layout.n_features), dtype=np.intp)
    rows, columns = layout.factors
    places[rows, columns] = places[columns, rows] = np.arange(rows.size)
    return _frozen(places)


def _frozen(indices: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    indices.setflags(write=False)
    return indices


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
        _fill_pairs(z, features[layout.pairs], layout, xp)


def _fill_pairs(z: Any, pairs: Any, layout: Layout, xp: ModuleType) -> None:
    start = 0
    for block in layout.pair_blocks:
        left, right = block.sides(z)
        shape = (block.n_runs, block.n_left, block.n_right, z.shape[1])
        out = pairs[start : start + block.size].reshape(shape)
        xp.multiply(left, right, out=out)
        start += block.size


def unpack_symmetric(diagonal: Any, pairs: Any, layout: Layout) -> np.ndarray[Any, Any]:
    """Symmetric matrices (..., D, D) from their diagonals (..., D) and upper pairs."""
    packed = np.concatenate([diagonal, pairs], axis=-1)
    return np.take(packed, layout.places, axis=-1)


def pack_symmetric(matrix: Any, layout: Layout) -> tuple[Any, Any]:
    """Diagonals (..., D) and upper pairs of symmetric matrices (..., D, D)."""
    index = np.arange(layout.n_features)
    rows, columns = layout.upper
    return matrix[..., index, index], matrix[..., rows, columns]
