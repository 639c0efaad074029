"""E-steps that leave out components which a bound proves to be without effect.

For a row z, component k of a mixture with full covariances is worth

    L_k(z) = c_k − ½ (z − m_k)ᵀ P_k (z − m_k) ≤ c_k − ½ λ_k ‖V (z − m_k)‖²

where VᵀV is the precision of the components' mean covariance, and λ_k a lower bound of the
eigenvalues of P_k in the coordinates that V whitens. The bounds of all components take D² + D K
operations a row, where the two products with features take 2 K D²; those within 50 nats of a
component that was evaluated are then evaluated themselves. What is left out has a posterior of less
than K·exp(−50), far below a rounding, so this is the E-step of
:class:`~dgmm.kernels.FeatureKernel` to a few roundings and not an approximation of it.

Where components overlap too much, tiles go through the kernel as usual. That is decided tile by
tile from counts, so it depends on the rows alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np

from dgmm.arrays import to_host
from dgmm.backend import Backend
from dgmm.data.dataset import Rows
from dgmm.features import Layout, pack_symmetric, unpack_symmetric
from dgmm.kernels import FeatureKernel, Member
from dgmm.posterior import Posterior
from dgmm.scalars import Scalars
from dgmm.statistics import SufficientStatistics

__all__ = ["Screen", "Screened", "largest_eigenvalues"]

Array = np.ndarray[Any, Any]

_PLAIN = Backend(np)

# A component loses exp(−50) or 2e-22 of the weight of all rows: 2e-16 of its own, if it has a
# millionth of theirs, and 9e-8, if it is the smallest that an M-step takes for one with rows.
_NEGLIGIBLE = 50.0

# Squarings of a matrix whose largest eigenvalue is bounded by the trace of its power 2⁶: within
# D^(1/64) of it, 7 percent at D = 64.
_SQUARINGS = 6

# Rows of a tile, about and at most: those near one component are enough for products of matrices.
_ROWS, _MOST_ROWS = 4096, 8192
# After a tile that was not worth it, another is judged by one in so many of its rows, and only if
# clearly worth it is it screened; the tiles until then are twice as many each time.
_PROBED = 16
_CLEARLY = 0.8
_MOST_SKIPPED = 16
# Rows of a part for each feature, below which making a screen takes as long as it saves.
_LEAST_ROWS = 32
# Values of the matrices of a mixture's components, K·D², above which no more such are held.
_MOST_VALUES = 2**21


class _Costs(NamedTuple):
    """What a row costs, in operations of a float64 product of matrices.

    Fitted to measurements with OpenBLAS on one core, D of 16 to 128, K of 16 to 128; it only
    decides on which way tiles go.
    """

    dense: float
    bounds: float
    pair: float

    @classmethod
    def of(cls, n_features: int, n_components: int, dtype: str, is_compiled: bool) -> _Costs:
        d, k = n_features, n_components
        dense = 4.0 * k * Layout(d).full * (0.5 if dtype == "float32" else 1.0)
        # Comparing and sorting numbers of every component; gathering rows for one.
        bounds, pair = 2.0 * d * (d + k) + 200.0 * k, 6.0 * d * d + 200.0 * d
        return cls(dense * (0.6 if is_compiled else 1.0), bounds, pair)

    @property
    def most_pairs(self) -> float:
        """Evaluations of a component for a row, on average, up to which it is worth it."""
        return (0.7 * self.dense - self.bounds) / self.pair


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

    def select(self, z: Array, most_pairs: float) -> _Pairs | None:
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
        matters = most >= (first - _NEGLIGIBLE)[:, None]
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
        kept = ~(values < first[rows] - _NEGLIGIBLE)
        rows, more, values = rows[kept], self._cuts(components[kept]), values[kept]
        return _Pairs(z, grouped, order, cuts, first, rows, more, values)

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


class _Pairs(NamedTuple):
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


class Dense(Protocol):
    """What tiles go through that are not worth it."""

    @property
    def tile_rows(self) -> int:
        """Rows that it takes at a time."""
        ...

    def evaluate(self, rows: Rows) -> Iterator[tuple[Member, SufficientStatistics]]:
        """Statistics of every mixture of the kernel on some rows."""
        ...


class Screened:
    """The step of a feature kernel whose tiles are screened, where that is worth it.

    Parameters
    ----------
    kernel : FeatureKernel
        For which :meth:`serves` is true.
    dense : Dense
        For other tiles: :class:`~dgmm.tiled.Tiled`, or a loop that was compiled.
    is_compiled : bool
        Which of the two.
    """

    def __init__(self, kernel: FeatureKernel, dense: Dense, *, is_compiled: bool) -> None:
        self._kernel, self._dense = kernel, dense
        # None of its own tiles is cut short by one of these.
        self._rows = dense.tile_rows * max(1, round(_ROWS / dense.tile_rows))
        self._most = [costs.most_pairs for costs in _costs(kernel, is_compiled)]
        self._inverse = kernel.frame.inverse if kernel.frame.is_matrix else None

    @staticmethod
    def serves(kernel: FeatureKernel, *, is_compiled: bool) -> bool:
        """True for mixtures whose components have a matrix each, where one of them is cheap."""
        full = all(block.theta.shape[1] == kernel.layout.full for block in kernel.blocks)
        plain = kernel.frame.factor is None or kernel.frame.is_matrix
        size = max(member.n_components for member in kernel.members) * kernel.frame.n_features**2
        cheap = all(costs.most_pairs >= 1.25 for costs in _costs(kernel, is_compiled))
        return full and plain and size <= _MOST_VALUES and cheap

    @staticmethod
    def nbytes(kernel: FeatureKernel, *, is_compiled: bool) -> int:
        """Bytes that it holds, and that evaluating a tile takes beside them."""
        d = kernel.frame.n_features
        sizes = [member.n_components for member in kernel.members]
        screens = sum(8 * k * (d * d + (d + 1) ** 2 + 3 * d) for k in sizes)
        pairs = sum(int(_MOST_ROWS * costs.most_pairs) for costs in _costs(kernel, is_compiled))
        # Inverses and powers while a screen is made, or a tile while it is screened.
        made = 8 * max(sizes) * 5 * d * d
        tile = 8 * _MOST_ROWS * (3 * d + len(sizes) * (2 * d + 8) + 2 * max(sizes)) + 40 * pairs
        return screens + max(made, tile)

    @cached_property
    def _screens(self) -> list[Screen | None]:
        with np.errstate(all="ignore"):
            return [Screen.of(theta, self._kernel.layout) for theta in _coefficients(self._kernel)]

    def evaluate(self, rows: Rows) -> Iterator[tuple[Member, SufficientStatistics]]:
        """Statistics of every mixture of the kernel on some rows.

        Raises
        ------
        InvalidDataError
            If a row has no finite density.
        """
        members, d = self._kernel.members, self._kernel.frame.n_features
        if rows.n_rows < _LEAST_ROWS * d:
            yield from self._dense.evaluate(rows)
            return
        rows = replace(rows, x=to_host(rows.x))
        scalars = [Scalars(_PLAIN) for _ in members]
        sums = [np.zeros((one.n_components, d + 1, d + 1)) for one in members]
        dense: list[SufficientStatistics] = []
        start, skipped, worth = 0, 1, False
        while start < rows.n_rows:
            tile = rows.part(start, min(start + self._rows, rows.n_rows)).counted()
            if not tile.n_rows:
                start += self._rows
                continue
            worth = worth or self._select(tile.x[::_PROBED], _CLEARLY) is not None
            found = self._select(tile.x) if worth else None
            worth = found is not None
            if found is None:
                stop = min(start + skipped * self._rows, rows.n_rows)
                dense = self._densely(rows.part(start, stop), dense)
                start, skipped = stop, min(2 * skipped, _MOST_SKIPPED)
                continue
            for pairs, scalar, total in zip(found, scalars, sums, strict=True):
                with np.errstate(all="ignore"):
                    posterior = Posterior.of_softmax(*pairs.softmax(), np)
                scalar.add(posterior, tile.weight, tile)
                pairs.accumulate(tile.weight, total)
            start, skipped = start + self._rows, 1
        for i, (member, scalar, total) in enumerate(zip(members, scalars, sums, strict=True)):
            moments = _moments(total, self._kernel.layout)
            own = scalar.statistics(moments, self._kernel.frame, member.log_offset)
            yield member, own.merge(dense[i]) if dense else own

    def _densely(
        self, rows: Rows, before: list[SufficientStatistics]
    ) -> list[SufficientStatistics]:
        """Statistics of rows that are not worth it, with those before them."""
        found = dict(self._dense.evaluate(rows))
        ordered = [found[member] for member in self._kernel.members]
        if not before:
            return ordered
        return [one.merge(other) for one, other in zip(before, ordered, strict=True)]

    def _select(self, x: Array, share: float = 1.0) -> list[_Pairs] | None:
        """Of some rows, for each member; None if it is not worth it for one."""
        z = np.subtract(x, self._kernel.frame.origin, dtype=np.float64)
        if self._inverse is not None:
            z = z @ self._inverse.T
        found = []
        for screen, most in zip(self._screens, self._most, strict=True):
            with np.errstate(all="ignore"):
                pairs = None if screen is None else screen.select(z, share * most)
            if pairs is None:
                return None
            found.append(pairs)
        return found


def _coefficients(kernel: FeatureKernel) -> list[Array]:
    """Θ of each member, in the members' order."""
    found: dict[int, Array] = {}
    for block in kernel.blocks:
        start = 0
        for position in block.members:
            size = kernel.members[position].n_components
            found[position] = block.theta[start : start + size]
            start += size
    return [found[position] for position in sorted(found)]


def _costs(kernel: FeatureKernel, is_compiled: bool) -> list[_Costs]:
    d, sizes = kernel.frame.n_features, [member.n_components for member in kernel.members]
    return [_Costs.of(d, size, kernel.dtype, is_compiled) for size in sizes]


def _moments(sums: Array, layout: Layout) -> Array:
    """Sums (n_components, n_coefficients) in the layout from products of ``z_1 … z_D, 1``."""
    moments = np.empty((len(sums), layout.full))
    moments[:, 0] = sums[:, -1, -1]
    moments[:, layout.means] = sums[:, -1, :-1]
    squares, pairs = pack_symmetric(sums[:, :-1, :-1], layout)
    moments[:, layout.squares], moments[:, layout.pairs] = squares, pairs
    moments[:, layout.norm] = squares.sum(axis=1)
    return moments
