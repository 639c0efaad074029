"""The step of a kernel whose tiles are screened (:mod:`dgmm.screening`) where that is worth it.

Where components overlap too much, tiles go through the kernel as usual. That is decided tile by
tile from counts, so it depends on the rows alone: first by how many components matter in rows that
go through the kernel anyway, then by how many the bounds leave.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np

from dgmm.arrays import to_host
from dgmm.backend import Backend
from dgmm.data.dataset import Rows
from dgmm.features import Layout
from dgmm.kernels import FeatureKernel, Member
from dgmm.posterior import Posterior
from dgmm.scalars import Scalars
from dgmm.screening import NEGLIGIBLE, Pairs, Screen, moments_of
from dgmm.statistics import SufficientStatistics

__all__ = ["Dense", "Screened"]

Array = np.ndarray[Any, Any]

_PLAIN = Backend(np)

# Rows of a tile, about: those near one component are enough for products of matrices.
_ROWS = 4096
# What a thread may need beyond the tiles of the kernel. Of many restarts in one kernel, each would
# keep a tile's rows in its own order.
_MOST_BYTES = 24 * 2**20
# A part begins with so few of a tile's rows through the kernel, to count what matters in them.
# After a tile that was not worth it, another is judged by one in so many of its rows, and only if
# clearly worth it is it screened; the tiles until then are twice as many each time.
_PROBED = 16
_CLEARLY = 0.8
_MOST_SKIPPED = 16
# Rows of a part for each feature, below which making a screen would cost what it might save if a
# thread had no other part: it is made once for all of a thread's.
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


class Dense(Protocol):
    """What tiles go through that are not worth it."""

    @property
    def tile_rows(self) -> int:
        """Rows that it takes at a time."""
        ...

    def evaluate(self, rows: Rows) -> Iterator[tuple[Member, SufficientStatistics]]:
        """Statistics of every mixture of the kernel on some rows."""
        ...

    def n_above(self, least: float) -> list[float] | None:
        """Components of each mixture whose weight of a row of the last tile is above one."""
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
        self._rows = _rows(dense.tile_rows)
        self._most = [costs.most_pairs for costs in _costs(kernel, is_compiled)]
        self._inverse = kernel.frame.inverse if kernel.frame.is_matrix else None

    @staticmethod
    def serves(kernel: FeatureKernel, tile_rows: int, *, is_compiled: bool) -> bool:
        """True for mixtures whose components have a matrix each, where one of them is cheap.

        Parameters
        ----------
        kernel : FeatureKernel
        tile_rows : int
            Of what other tiles would go through.
        is_compiled : bool
        """
        full = all(block.theta.shape[1] == kernel.layout.full for block in kernel.blocks)
        plain = kernel.frame.factor is None or kernel.frame.is_matrix
        size = max(member.n_components for member in kernel.members) * kernel.frame.n_features**2
        cheap = all(costs.most_pairs >= 1.25 for costs in _costs(kernel, is_compiled))
        if not (full and plain and size <= _MOST_VALUES and cheap):
            return False
        return Screened.nbytes(kernel, tile_rows, is_compiled=is_compiled) <= _MOST_BYTES

    @staticmethod
    def nbytes(kernel: FeatureKernel, tile_rows: int, *, is_compiled: bool) -> int:
        """Bytes that it holds, and that evaluating a tile takes beside them."""
        d = kernel.frame.n_features
        sizes = [member.n_components for member in kernel.members]
        screens = sum(8 * k * (d * d + (d + 1) ** 2 + 3 * d) for k in sizes)
        rows = _rows(tile_rows)
        pairs = sum(int(rows * costs.most_pairs) for costs in _costs(kernel, is_compiled))
        # Inverses and powers while a screen is made, or a tile while it is screened.
        made = 8 * max(sizes) * 5 * d * d
        tile = 8 * rows * (3 * d + len(sizes) * (2 * d + 8) + 2 * max(sizes)) + 40 * pairs
        return screens + max(made, tile, tile_rows * max(sizes))

    @cached_property
    def _screens(self) -> list[Screen | None]:
        with np.errstate(all="ignore"):
            return [Screen.of(theta, self._kernel.layout) for theta in self._kernel.coefficients]

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
        start, skipped, worth = min(self._rows, rows.n_rows) // _PROBED, 1, False
        dense = self._densely(rows.part(0, start), dense)
        while start < rows.n_rows:
            tile = rows.part(start, min(start + self._rows, rows.n_rows)).counted()
            if not tile.n_rows:
                start += self._rows
                continue
            worth = worth or (self._may_be_worth() and self._is_clearly_worth(tile.x))
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
            moments = moments_of(total, self._kernel.layout)
            own = scalar.statistics(moments, self._kernel.frame, member.log_offset)
            yield member, own.merge(dense[i])

    def _densely(
        self, rows: Rows, before: list[SufficientStatistics]
    ) -> list[SufficientStatistics]:
        """Statistics of rows that are not worth it, with those before them."""
        found = dict(self._dense.evaluate(rows))
        ordered = [found[member] for member in self._kernel.members]
        if not before:
            return ordered
        return [one.merge(other) for one, other in zip(before, ordered, strict=True)]

    def _may_be_worth(self) -> bool:
        """False if too many components matter in the last tile, however sharp the bounds were."""
        counts = self._dense.n_above(np.exp(-NEGLIGIBLE))
        return counts is None or all(n <= most for n, most in zip(counts, self._most, strict=True))

    def _is_clearly_worth(self, x: Array) -> bool:
        return self._select(x[::_PROBED], _CLEARLY) is not None

    def _select(self, x: Array, share: float = 1.0) -> list[Pairs] | None:
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


def _rows(tile_rows: int) -> int:
    """Rows of a tile that is screened: none of the other kind is cut short by one of these."""
    return tile_rows * max(1, round(_ROWS / tile_rows))


def _costs(kernel: FeatureKernel, is_compiled: bool) -> list[_Costs]:
    d, sizes = kernel.frame.n_features, [member.n_components for member in kernel.members]
    return [_Costs.of(d, size, kernel.dtype, is_compiled) for size in sizes]
