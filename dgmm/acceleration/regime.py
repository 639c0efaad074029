"""What a pass is bound by, from counts alone, and what that means for the chains of a fit.

Where computing is the bottleneck, a pass evaluates one point of each chain. Where reading is, more
points cost little: several of one start, or one of each of several starts, of which the best two
go on with several. Counts of bytes and operations decide, never a clock, a memory limit or a
number of threads: the same fit has the same bits on any machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from dgmm.covariance import CovarianceFamily
from dgmm.features import Layout

__all__ = [
    "COMPUTING",
    "READING",
    "REGIMES",
    "Schedule",
    "choose_regime",
    "operations_per_byte",
    "schedule_of",
]

COMPUTING, READING = "computing", "reading"
REGIMES = (COMPUTING, READING)

# Stored rows of up to so many bytes are taken to be in memory after the first pass.
_KEPT_BYTES = 2**30

# Operations that a machine does while it reads a byte, when four points cost what they save.
_BALANCE = 48.0

# Passes after which the best starts go on alone, with several points each.
_FIRST, _STAYING = 50, 2


def operations_per_byte(
    shapes: Sequence[tuple[CovarianceFamily, int]], n_features: int, itemsize: int
) -> float:
    """Operations of the two products of a pass, per byte of rows.

    Parameters
    ----------
    shapes : sequence of (family, n_components)
        Of every mixture of the batch.
    n_features, itemsize : int
        Of the rows.
    """
    layout = Layout(n_features)
    sizes = (layout.linear if one.is_tied else one.shape.block(layout) for one, _ in shapes)
    operations = sum(4.0 * size * k for size, (_, k) in zip(sizes, shapes, strict=True))
    return operations / (n_features * itemsize)


def choose_regime(resident: bool, n_bytes: int, per_byte: float) -> str:
    """What a pass is bound by.

    Parameters
    ----------
    resident : bool
        True if the rows are in memory and not read at all.
    n_bytes : int
        Of all rows.
    per_byte : float
        :func:`operations_per_byte` of one point of every chain.
    """
    reads = not resident and n_bytes > _KEPT_BYTES
    return READING if reads and per_byte <= _BALANCE else COMPUTING


@dataclass(frozen=True)
class Schedule:
    """How many points of each chain a pass evaluates, and which chains stay.

    Parameters
    ----------
    groups : tuple of tuple of int
        Positions of the chains that compete with each other; none: one point each, all stay.
    """

    groups: tuple[tuple[int, ...], ...] = ()

    def several(self, chain: int, iteration: int) -> bool:
        """True if the pass after ``iteration`` (from 0) evaluates several points of a chain."""
        group = next((one for one in self.groups if chain in one), ())
        return bool(group) and (len(group) <= _STAYING or iteration >= _FIRST)

    def leaving(self, bounds: Sequence[float | None], iteration: int) -> dict[int, str]:
        """Which chains give way to points of better ones after an iteration, and why.

        Parameters
        ----------
        bounds : sequence of float or None
            The certified bound of every chain; None for one that is out.
        iteration : int
        """
        found: dict[int, str] = {}
        if iteration != _FIRST:
            return found
        for group in self.groups:
            live = [(bound, i) for i in group if (bound := bounds[i]) is not None]
            ranked = sorted(live, key=lambda one: (-one[0], one[1]))
            for bound, i in ranked[_STAYING:]:
                found[i] = (
                    f"gave way after {iteration} passes at {bound:.6g} per row, where the best is "
                    f"at {ranked[0][0]:.6g}: reading is the bottleneck, and the best "
                    f"{_STAYING} go on with several points a pass"
                )
        return found


def schedule_of(regime: str, sizes: Sequence[int]) -> Schedule:
    """The schedule of consecutive groups of chains of the given sizes."""
    if regime == COMPUTING:
        return Schedule()
    edges = np.cumsum([0, *sizes])
    return Schedule(tuple(tuple(range(start, stop)) for start, stop in pairwise(edges)))
