"""What one pass tells of a dataset before any fit: moments, extremes, bad rows and a sample.

Means and scatters are computed in two passes over each tile in float64 and merged by Chan, Golub
and LeVeque's rule (1983), so they lose nothing to an offset. The sample keeps the rows with the
smallest counter-based hashes of (seed, row): mergeable, and the same whatever the blocks are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from dgmm.data.dataset import Rows
from dgmm.errors import InvalidDataError

__all__ = ["Profile", "ProfilePass", "Sample"]

Array = np.ndarray[Any, Any]
_TILE_ROWS = 4096


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
    """

    rows: Array
    keys: Array
    x: Array
    size: int

    def merge(self, other: Sample) -> Sample:
        """The sample of both sets of rows."""
        rows = np.concatenate([self.rows, other.rows])
        keys = np.concatenate([self.keys, other.keys])
        keep = _smallest(keys, self.size)
        if keep.size == keys.size:
            return Sample(rows, keys, np.concatenate([self.x, other.x]), self.size)
        mine = keep[keep < len(self.rows)]
        theirs = keep[keep >= len(self.rows)] - len(self.rows)
        x = np.concatenate([self.x[mine], other.x[theirs]])
        return Sample(rows[keep], keys[keep], x, self.size)


def _smallest(keys: Array, size: int) -> Array:
    """Indices, ascending, of the ``size`` smallest keys."""
    if keys.size <= size:
        return np.arange(keys.size)
    return np.sort(np.argpartition(keys, size)[:size])


def hash_rows(seed: int, first_row: int, n_rows: int) -> Array:
    """Hashes of (seed, row): the finaliser of SplitMix64 (Steele, Lea and Flood 2014)."""
    with np.errstate(over="ignore"):
        key = np.arange(first_row + 1, first_row + n_rows + 1, dtype=np.uint64)
        key = key * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed & 0xFFFFFFFFFFFFFFFF)
        key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return key ^ (key >> np.uint64(31))


@dataclass(frozen=True, eq=False)
class Profile:
    """Moments and extremes of some rows, and a sample of them.

    Parameters
    ----------
    n_rows : int
    weight : float
        Σ w.
    mean : array of shape (n_features,), float64
    scatter : array of shape (n_features, n_features) or (n_features,), float64
        Σ w (x − mean)(x − mean)ᵀ, or its diagonal where no more was asked for.
    least, most : array of shape (n_features,), float64
    sample : Sample
    """

    n_rows: int
    weight: float
    mean: Array
    scatter: Array
    least: Array
    most: Array
    sample: Sample

    @property
    def constant_features(self) -> tuple[int, ...]:
        """Columns that hold one value throughout."""
        return tuple(int(i) for i in np.flatnonzero(self.least == self.most))

    @property
    def covariance(self) -> Array:
        """The scatter divided by the weight."""
        return self.scatter / self.weight

    def scatter_about(self, origin: Array) -> Array:
        """Scatter about another point than the mean, of the same shape."""
        offset = self.mean - origin
        outer = np.outer(offset, offset) if self.scatter.ndim == 2 else offset**2
        return self.scatter + self.weight * outer

    def merge(self, other: Profile) -> Profile:
        """The profile of both sets of rows."""
        weight = self.weight + other.weight
        delta = other.mean - self.mean
        share = other.weight / weight if weight else 0.0
        outer = np.outer(delta, delta) if self.scatter.ndim == 2 else delta**2
        return Profile(
            n_rows=self.n_rows + other.n_rows,
            weight=weight,
            mean=self.mean + delta * share,
            scatter=self.scatter + other.scatter + outer * (self.weight * share),
            least=np.minimum(self.least, other.least),
            most=np.maximum(self.most, other.most),
            sample=self.sample.merge(other.sample),
        )


@dataclass(frozen=True)
class ProfilePass:
    """The profile of a dataset (a task for :meth:`dgmm.engine.base.Session.run`).

    Parameters
    ----------
    n_rows, n_features : int
        Shape of the dataset.
    sample_size : int
        Rows to keep; all of them, if there are no more.
    seed : int
        Of the sample.
    itemsize : int
        Bytes of one stored value.
    dense : bool, default=True
        False computes the diagonal of the scatter alone.
    """

    n_rows: int
    n_features: int
    sample_size: int
    seed: int
    itemsize: int
    dense: bool = True

    @property
    def workspace_bytes(self) -> int:
        return 3 * 8 * _TILE_ROWS * self.n_features + 16 * self.n_features**2

    @property
    def result_bytes(self) -> int:
        # Samples are bounded together, not each: most nodes hold few of the rows.
        return 8 * self.n_features * (self.n_features if self.dense else 1)

    @property
    def sample_bytes(self) -> int:
        """Bytes of all samples together while they are merged."""
        return 2 * self.sample_size * (self.n_features * self.itemsize + 16)

    def workspace(self) -> None:
        return None

    def evaluate(self, rows: Rows, workspace: None) -> Profile:
        profile: Profile | None = None
        sample = self.sample_of(rows)
        empty = Sample(sample.rows[:0], sample.keys[:0], sample.x[:0], sample.size)
        for x, first_row in _float64_tiles(rows):
            one = self._moments(x, first_row, empty)
            profile = one if profile is None else profile.merge(one)
        assert profile is not None
        return Profile(
            profile.n_rows, profile.weight, profile.mean, profile.scatter,
            profile.least, profile.most, sample,
        )  # fmt: skip

    def _moments(self, x: Array, first_row: int, sample: Sample) -> Profile:
        mean = x.mean(axis=0)
        if not np.all(np.isfinite(mean)):
            refuse_non_finite(x, first_row)
        centred = x - mean
        # A sum of far values is short of digits that the sum of what is left over still has.
        correction = centred.mean(axis=0)
        mean, centred = mean + correction, centred - correction
        with np.errstate(over="ignore", invalid="ignore"):
            dense = self.dense
            scatter = centred.T @ centred if dense else np.einsum("bi,bi->i", centred, centred)
        if not np.all(np.isfinite(scatter)):
            raise InvalidDataError(
                f"rows {first_row} to {first_row + len(x) - 1}: values up to "
                f"{np.abs(x).max():g} overflow when squared; rescale the data"
            )
        return Profile(len(x), float(len(x)), mean, scatter, x.min(axis=0), x.max(axis=0), sample)

    def sample_of(self, rows: Rows, eligible: Array | None = None) -> Sample:
        """The sample of some rows, or of those among them that are eligible."""
        keys = hash_rows(self.seed, rows.first_row, rows.n_rows)
        low = keys <= self._threshold
        keep = np.flatnonzero(low if eligible is None else low & eligible)
        keep = keep[_smallest(keys[keep], self.sample_size)]
        x = np.array(rows.x[keep])
        return Sample(keep + rows.first_row, keys[keep], x, self.sample_size)

    @property
    def _threshold(self) -> np.uint64:
        """A key that the kept rows are below, so that parts need not keep a full sample each."""
        wanted = self.sample_size + 10.0 * np.sqrt(self.sample_size) + 20.0
        share = wanted / max(1, self.n_rows)
        top = 2**64 - 1
        return np.uint64(top if share >= 1.0 else min(top, int(share * 2.0**64)))


def _float64_tiles(rows: Rows) -> Iterator[tuple[Array, int]]:
    for start in range(0, rows.n_rows, _TILE_ROWS):
        tile = rows.x[start : start + _TILE_ROWS]
        yield np.asarray(tile, dtype=np.float64), rows.first_row + start


def refuse_non_finite(x: Array, first_row: int) -> None:
    bad = np.argwhere(~np.isfinite(x))
    if not len(bad):
        raise InvalidDataError(
            f"rows {first_row} to {first_row + len(x) - 1} overflow when summed; rescale the data"
        )
    row, feature = (int(i) for i in bad[0])
    raise InvalidDataError(
        f"Input contains NaN or infinity: row {first_row + row}, feature {feature} is "
        f"{x[row, feature]} ({len(np.unique(bad[:, 0]))} such rows among rows {first_row} to "
        f"{first_row + len(x) - 1}); remove or impute such rows"
    )
