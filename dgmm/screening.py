"""E-steps that leave out components which a bound proves to be without effect.

For a row z, component k of a mixture with full covariances is worth

    L_k(z) = c_k − ½ (z − m_k)ᵀ P_k (z − m_k) ≤ c_k − ½ λ_k ‖V (z − m_k)‖²

where VᵀV is the precision of the components' mean covariance, and λ_k a lower bound of the
eigenvalues of P_k in the coordinates that V whitens. The bounds of all components take D² + D K
operations a row, where the two products with features take 2 K D²; those within 50 nats of a
component that was evaluated are then evaluated themselves. What is left out has a posterior of less
than K·exp(−50), far below a rounding, so this is the E-step of
:class:`~dgmm.kernels.FeatureKernel` to a few roundings and not an approximation of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from dgmm.features import Layout, pack_symmetric, unpack_symmetric

__all__ = ["NEGLIGIBLE", "Pairs", "Screen", "largest_eigenvalues", "moments_of"]

Array = np.ndarray[Any, Any]

# A component loses exp(−50) or 2e-22 of the weight of all rows: 2e-16 of its own, if it has a
# millionth of theirs, and 9e-8, if it is the smallest that an M-step takes for one with rows.
NEGLIGIBLE = 50.0

# Squarings of a matrix whose largest eigenvalue is bounded by the trace of its power 2⁶: within
# D^(1/64) of it, 7 percent at D = 64.
_SQUARINGS = 6


@dataclass(frozen=True)
class Screen:
    """One mixture with full covariances, as bounds and as components.

    Parameters
    ----------
    peaks : array of shape (n_components,)
        c_k, the largest value of L_k.
    means : array of shape (n_components, n_features)
    factors : array of shape (n_components, n_features, n_features)
        Lower triangles C with P = C Cᵀ.
    metric : array of shape (n_features, n_features)
        Vᵀ.
    bounds : array of shape (n_features + 2, n_components)
        Coefficients of the bounds in V z, ‖V z‖² and 1.
    """

    peaks: Array
    means: Array
    factors: Array
    metric: Array
    bounds: Array

    @classmethod
    def of(cls, theta: Array, layout: Layout) -> Screen | None:
        """From coefficients (n_components, n_coefficients); None if they give no bounds."""
        theta = np.asarray(theta, dtype=np.float64)
        diagonal = -2.0 * (theta[:, layout.squares] + theta[:, layout.norm, None])
        precisions = unpack_symmetric(diagonal, -theta[:, layout.pairs], layout)
        try:
            factors = np.linalg.cholesky(precisions)
            covariances = np.linalg.inv(precisions)
            metric = np.linalg.cholesky(np.linalg.inv(covariances.mean(axis=0)))
        except np.linalg.LinAlgError:
            return None
        linear = theta[:, layout.means]
        means = np.einsum("kij,kj->ki", covariances, linear)
        peaks = theta[:, 0] + 0.5 * np.einsum("ki,ki->k", linear, means)
        least = 1.0 / largest_eigenvalues(metric.T @ covariances @ metric)
        centres = means @ metric
        squares = np.einsum("ki,ki->k", centres, centres)
        bounds = np.vstack([least * centres.T, -0.5 * least, peaks - 0.5 * least * squares])
        if not np.all(np.isfinite(bounds)):
            return None
        return cls(peaks, means, factors, metric, bounds)

    @property
    def n_components(self) -> int:
        return len(self.peaks)

    def select(self, z: Array, most_pairs: float) -> Pairs | None:
        """The components that matter, and their densities; None if there are too many.

        Parameters
        ----------
        z : array of shape (n_rows, n_features)
            Rows in the frame.
        most_pairs : float
            Evaluations for each row, on average.
        """
        most = self.upper_bounds(z)
        nearest = most.argmax(axis=1)
        order = np.argsort(nearest, kind="stable")
        cuts = self._cuts(nearest[order])
        grouped = z[order]
        first = np.empty(len(z))
        for k, some in _groups(cuts):
            first[order[some]] = self.values(k, grouped[some])
        matters = most >= (first - NEGLIGIBLE)[:, None]
        matters[np.arange(len(z)), nearest] = False
        rows, components = np.divmod(np.flatnonzero(matters), self.n_components)
        if 1.0 + len(rows) / len(z) > most_pairs:
            return None
        by_component = np.argsort(components, kind="stable")
        rows, components = rows[by_component], components[by_component]
        values = np.empty(len(rows))
        for k, some in _groups(self._cuts(components)):
            values[some] = self.values(k, z[rows[some]])
        # Of a component wider than most, whose bounds say little, most turn out to be nothing.
        kept = ~(values < first[rows] - NEGLIGIBLE)
        rows, more, values = rows[kept], self._cuts(components[kept]), values[kept]
        return Pairs(z, grouped, order, cuts, first, rows, more, values)

    def _cuts(self, components: Array) -> Array:
        """Where those of each component begin and end, in order."""
        return np.searchsorted(components, np.arange(self.n_components + 1))

    def upper_bounds(self, z: Array) -> Array:
        """Bounds (n_rows, n_components) of the log joint densities of rows in the frame."""
        d = z.shape[1]
        white = np.empty((len(z), d + 2))
        np.matmul(z, self.metric, out=white[:, :d])
        white[:, d] = np.einsum("ni,ni->n", white[:, :d], white[:, :d])
        white[:, d + 1] = 1.0
        return white @ self.bounds

    def values(self, component: int, z: Array) -> Array:
        """L_k of some rows."""
        white = (z - self.means[component]) @ self.factors[component]
        return self.peaks[component] - 0.5 * np.einsum("ni,ni->n", white, white)


def largest_eigenvalues(matrices: Array) -> Array:
    """Upper bounds of the eigenvalues of positive semi-definite matrices (n, D, D).

    λ_max ≤ (tr Mᵖ)^(1/p), here with p = 2⁶.
    """
    logs, power = np.zeros(len(matrices)), matrices
    for step in range(_SQUARINGS + 1):
        scale = np.einsum("kii->k", power)
        logs += np.log(scale) / 2.0**step
        power = power / scale[:, None, None]
        if step < _SQUARINGS:
            power = power @ power
    return np.exp(logs)


def _groups(cuts: Array) -> Iterator[tuple[int, slice]]:
    """Components that have rows, and where these stand."""
    for k, (start, stop) in enumerate(zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True)):
        if stop > start:
            yield k, slice(start, stop)


class Pairs(NamedTuple):
    """Components that were evaluated, for the rows of a tile.

    Attributes
    ----------
    z : array of shape (n_rows, n_features)
    grouped : array of shape (n_rows, n_features)
        Its rows by their nearest component: ``z[order]``, those of component k at
        ``cuts[k]:cuts[k + 1]``.
    order, cuts : array of int
    first : array of shape (n_rows,)
        Log joint densities of the nearest component.
    rows, more : array of int
        Rows for which other components matter, those of component k at ``more[k]:more[k + 1]``.
    values : array of shape (n_pairs,)
        Their log joint densities.
    """

    z: Array
    grouped: Array
    order: Array
    cuts: Array
    first: Array
    rows: Array
    more: Array
    values: Array

    def softmax(self) -> tuple[Array, Array]:
        """Responsibilities in place of densities; top and total as backends give them."""
        top = self.first.copy()
        for _, some in _groups(self.more):
            rows = self.rows[some]
            top[rows] = np.maximum(top[rows], self.values[some])
        np.exp(np.subtract(self.first, top, out=self.first), out=self.first)
        np.exp(np.subtract(self.values, top[self.rows], out=self.values), out=self.values)
        total = self.first.copy()
        for _, some in _groups(self.more):
            total[self.rows[some]] += self.values[some]
        self.first[...] /= total
        self.values[...] /= total[self.rows]
        return top, total

    def accumulate(self, weight: Array | None, sums: Array) -> None:
        """Add the weighted products of the numbers ``z_1 … z_D, 1`` of each row to a component's.

        Parameters
        ----------
        weight : array of shape (n_rows,) or None
        sums : array of shape (n_components, n_features + 1, n_features + 1)
        """
        if weight is not None:
            self.first[...] *= weight
            self.values[...] *= weight[self.rows]
        roots = np.sqrt(self.first[self.order])
        for k, some in _groups(self.cuts):
            _add_products(self.grouped[some], roots[some], sums[k])
        roots = np.sqrt(self.values)
        for k, some in _groups(self.more):
            _add_products(self.z[self.rows[some]], roots[some], sums[k])


def _add_products(z: Array, roots: Array, total: Array) -> None:
    scaled = np.empty((len(z), z.shape[1] + 1))
    np.multiply(z, roots[:, None], out=scaled[:, :-1])
    scaled[:, -1] = roots
    # A matrix by itself: half of the products.
    total += scaled.T @ scaled


def moments_of(sums: Array, layout: Layout) -> Array:
    """Sums (n_components, n_coefficients) in the layout from products of ``z_1 … z_D, 1``."""
    moments = np.empty((len(sums), layout.full))
    moments[:, 0] = sums[:, -1, -1]
    moments[:, layout.means] = sums[:, -1, :-1]
    squares, pairs = pack_symmetric(sums[:, :-1, :-1], layout)
    moments[:, layout.squares], moments[:, layout.pairs] = squares, pairs
    moments[:, layout.norm] = squares.sum(axis=1)
    return moments
