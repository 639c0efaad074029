"""Which features a kernel makes on the chip, and of which two numbers of a row each is made.

Every feature of every covariance family is a product of two of the numbers 1, z_1 … z_D, ‖z‖² of
a row, its *extended row*. A kernel is given a table of such pairs, and knows no family.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from dgmm.features import Layout

__all__ = ["ProductShape"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class ProductShape:
    """The sizes of one mixture's products.

    Parameters
    ----------
    n_features, n_components : int
    n_coefficients : int
        One of the sizes of the :class:`~dgmm.features.Layout`.
    """

    n_features: int
    n_components: int
    n_coefficients: int

    @cached_property
    def layout(self) -> Layout:
        return Layout(self.n_features)

    @property
    def has_norm(self) -> bool:
        """True if the squared norm is a feature of its own, not the sum of others."""
        return self.n_coefficients == self.layout.scalar

    @property
    def n_made(self) -> int:
        """Features that are made: the norm is left out where the squares are among them."""
        return self.n_coefficients - (self.n_coefficients >= self.layout.diagonal)

    @cached_property
    def columns(self) -> Array:
        """Places in the layout of the features that are made, products row by row."""
        layout, size = self.layout, self.n_coefficients
        rows, columns = layout.upper
        kept = np.arange(size)
        if size >= layout.diagonal:
            kept = kept[kept != layout.norm]
        pairs = np.lexsort((columns, rows)) + layout.diagonal
        kept[kept >= layout.diagonal] = pairs[: max(0, size - layout.diagonal)]
        return kept

    def pairs(self, size: int, stride: int = 1) -> Array:
        """For each of them the places of its two factors in the extended row, in 16 bits each.

        Parameters
        ----------
        size : int
            Features beyond those that are made are one times one.
        stride : int
            From one number of an extended row to the next.
        """
        layout = self.layout
        left, right = np.zeros(layout.full, np.uint32), np.zeros(layout.full, np.uint32)
        right[layout.means] = np.arange(1, self.n_features + 1)
        right[layout.norm] = self.n_features + 1
        left[layout.scalar :], right[layout.scalar :] = (1 + one for one in layout.factors)
        packed = np.zeros(size, np.uint32)
        both = left * np.uint32(stride) | right * np.uint32(stride) << np.uint32(16)
        packed[: self.n_made] = both[self.columns]
        return packed

    def coefficients(self, theta: Array, n_components: int, size: int) -> Array:
        """Θ (n_components, n_coefficients) of the features that are made, filled up with zeros."""
        padded = np.zeros((n_components, size))
        padded[: self.n_components, : self.n_made] = theta[:, self.columns]
        return padded

    def moments(self, sums: Array) -> Array:
        """Sums (n_components, n_coefficients) in the layout, from those of a kernel."""
        layout = self.layout
        moments = np.zeros((self.n_components, self.n_coefficients))
        moments[:, self.columns] = sums[: self.n_components, : self.n_made]
        if self.n_coefficients >= layout.diagonal:
            moments[:, layout.norm] = moments[:, layout.squares].sum(axis=1)
        return moments
