"""When a restart is hopeless: successive halving on the projected lower bound.

Restarts that compete (those of one fit, or of one candidate of a selection) are ranked after
``first`` iterations, after twice as many, four times as many and so on; each time the better half
stays (Jamieson and Talwalkar 2016). They are ranked by where they are heading, not by where they
are: gains of EM shrink by a nearly constant ratio, so the rest of the climb is about
``gain · ratio / (1 − ratio)`` (Aitken). The ratio is capped: near one it is mostly noise.

Annealed iterations do not count, nor do their bounds: while the components are melted together,
those of all restarts are alike and say nothing of where they will end.

Decisions follow from the lower bounds and counts of iterations alone, never from clocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

__all__ = ["Halving", "halving_of", "projected"]

_MOST_RATIO = 0.95


@dataclass(frozen=True)
class Halving:
    """A schedule.

    Parameters
    ----------
    first : int
        Iterations before the first half leaves.
    groups : tuple of tuple of int
        Positions of the chains that compete with each other.
    """

    first: int
    groups: tuple[tuple[int, ...], ...]

    def leaving(
        self,
        histories: Sequence[tuple[float, ...] | None],
        iteration: int,
        *,
        n_annealed: int = 0,
    ) -> dict[int, str]:
        """Which chains are beyond hope after an iteration, and why.

        Parameters
        ----------
        histories : sequence of tuple of float, or None
            The lower bounds of every chain; None for one that is out already.
        iteration : int
        n_annealed : int, default=0
            How many of the iterations, the first, were annealed.
        """
        rung = self._rung(iteration - n_annealed)
        if rung is None:
            return {}
        found: dict[int, str] = {}
        for group in self.groups:
            keep = -(-len(group) // 2**rung)
            bounds = {
                i: projected(since)
                for i in group
                if (history := histories[i]) and (since := history[n_annealed:])
            }
            ranked = sorted(bounds, key=lambda i: (-bounds[i], i))
            for i in ranked[keep:]:
                found[i] = (
                    f"behind after {iteration} iterations, projected to reach {bounds[i]:.6g} per "
                    f"row where the best is to reach {bounds[ranked[0]]:.6g}"
                )
        return found

    def _rung(self, iteration: int) -> int | None:
        """How often the groups have been halved once this iteration is done; None between."""
        if iteration <= 0:
            return None
        times, rest = divmod(iteration, self.first)
        return times.bit_length() if rest == 0 and times.bit_count() == 1 else None


def halving_of(first: int | None, sizes: Sequence[int]) -> Halving | None:
    """The schedule for consecutive groups of chains of the given sizes; None without ``first``."""
    if first is None:
        return None
    edges = np.cumsum([0, *sizes])
    return Halving(first, tuple(tuple(range(start, stop)) for start, stop in pairwise(edges)))


def projected(history: Sequence[float]) -> float:
    """Where a chain's lower bound is heading."""
    if len(history) < 3:
        return history[-1]
    before, gain = history[-2] - history[-3], history[-1] - history[-2]
    if gain <= 0.0 or before <= 0.0:
        return history[-1]
    ratio = min(gain / before, _MOST_RATIO)
    return history[-1] + gain * ratio / (1.0 - ratio)
