"""A sample of the rows of a dataset, kept while the dataset is read.

The rows with the smallest counter-based hashes of (seed, row) are kept: mergeable, and the same
whatever the blocks are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

__all__ = ["Sample", "hash_rows", "smallest", "weighted_keys"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Sample:
    """Rows drawn without replacement, in the order of their position.

    Parameters
    ----------
    rows : array of shape (n_sampled,), int64
        Positions in the dataset.
    keys : array of shape (n_sampled,), uint64
        The hashes they were chosen by.
    x : array of shape (n_sampled, n_features)
    size : int
        Most rows to keep.
    weight : array of shape (n_sampled,), float64, optional
        Sample weights. The keys are then −log(u) / w in float64, so that rows are drawn in
        proportion to their weights (Efraimidis and Spirakis 2006).
    labels : array of shape (n_sampled,), int64, optional
        Known components, -1 where unknown.
    least_dropped : float, default=inf
        The smallest weighted key that was not kept.
    """

    rows: Array
    keys: Array
    x: Array
    size: int
    weight: Array | None = None
    labels: Array | None = None
    least_dropped: float = np.inf

    def merge(self, other: Sample) -> Sample:
        """The sample of both sets of rows."""
        both = Sample(
            np.concatenate([self.rows, other.rows]),
            np.concatenate([self.keys, other.keys]),
            np.empty(0),
            self.size,
            _joined(self.weight, other.weight),
            _joined(self.labels, other.labels),
            min(self.least_dropped, other.least_dropped),
        )
        keep = smallest(both.keys, self.size)
        mine = keep[keep < len(self.rows)]
        theirs = keep[keep >= len(self.rows)] - len(self.rows)
        # The rows themselves are cut before they are joined: they are most of the memory.
        x = np.concatenate([_taken(self.x, mine), _taken(other.x, theirs)])
        return replace(both.only(keep), x=x)

    def only(self, keep: Array) -> Sample:
        """The sample of the rows ``keep``, without their values."""
        return replace(
            self,
            rows=self.rows[keep],
            keys=self.keys[keep],
            weight=None if self.weight is None else self.weight[keep],
            labels=None if self.labels is None else self.labels[keep],
            least_dropped=min(self.least_dropped, self._first_without(keep)),
        )

    @property
    def shares(self) -> Array | None:
        """What each sampled row stands for, relative to the mean of all: None for equal parts.

        A row's weight divided by the probability with which it was drawn, given the smallest key
        that was dropped (Cohen and Kaplan 2007): the weight itself where nothing was dropped, about
        the same for all rows where most were.
        """
        if self.weight is None or not len(self.weight):
            return None
        share = self.weight
        if np.isfinite(self.least_dropped):
            share = share / -np.expm1(-share * self.least_dropped)
        return share / share.mean()

    def _first_without(self, keep: Array) -> float:
        if self.weight is None or len(keep) == len(self.keys):
            return np.inf
        dropped = np.delete(self.keys, keep)
        return float(dropped.min())


def _joined(mine: Array | None, theirs: Array | None) -> Array | None:
    return None if mine is None or theirs is None else np.concatenate([mine, theirs])


def _taken(values: Array, keep: Array) -> Array:
    return values if len(keep) == len(values) else values[keep]


def smallest(keys: Array, size: int) -> Array:
    """Indices, ascending, of the ``size`` smallest keys."""
    if keys.size <= size:
        return np.arange(keys.size)
    return np.sort(np.argpartition(keys, size)[:size])


def hash_rows(seed: int, first_row: int, n_rows: int, xp: Any = np) -> Any:
    """Hashes of (seed, row): the finaliser of SplitMix64 (Steele, Lea and Flood 2014)."""
    with np.errstate(over="ignore"):
        key = xp.arange(first_row + 1, first_row + n_rows + 1, dtype=np.uint64)
        key = key * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed & 0xFFFFFFFFFFFFFFFF)
        key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return key ^ (key >> np.uint64(31))


def weighted_keys(hashes: Array, weight: Array) -> Array:
    """−log(u) / w with u in (0, 1] from the hashes."""
    u = ((hashes >> np.uint64(11)) + 1.0) * 2.0**-53
    return -np.log(u) / weight
