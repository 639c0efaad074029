"""What one pass tells of a dataset before any fit: moments, extremes, bad rows and a sample.

Means and scatters are computed in two passes over each tile in float64 and merged by Chan, Golub
and LeVeque's rule (1983), so they lose nothing to an offset. The sample keeps the rows with the
smallest counter-based hashes of (seed, row): mergeable, and the same whatever the blocks are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dgmm.arrays import to_host
from dgmm.data.dataset import Rows
from dgmm.data.skipping import Skipped
from dgmm.errors import InvalidDataError
from dgmm.row_digest import digest_rows
from dgmm.row_sample import Sample, hash_rows, smallest, weighted_keys

__all__ = ["Profile", "ProfilePass", "SomeColumns"]

Array = np.ndarray[Any, Any]
_TILE_ROWS = 4096

# Rows that are hashed together: the hashes of a whole part would be large beside rows of few
# features. Of each there are up to eight numbers.
_HASHED_ROWS = 2**16
_HASH_BYTES = 64


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
    known : Sample, optional
        Of the rows whose component is known, where the rows carry labels.
    skipped : Skipped
        Bad rows that were left out.
    digest : int, default=0
        Of all rows with their weights and labels (:mod:`dgmm.row_digest`), where it was asked for.
    """

    n_rows: int
    weight: float
    mean: Array
    scatter: Array
    least: Array
    most: Array
    sample: Sample
    known: Sample | None = None
    skipped: Skipped = field(default_factory=Skipped)
    digest: int = 0

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
            known=None
            if self.known is None or other.known is None
            else self.known.merge(other.known),
            skipped=self.skipped.merge(other.skipped),
            digest=(self.digest + other.digest) % 2**64,
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
    weighted, labelled : bool, default=False
        What the rows carry.
    n_labels : int, optional
        Labels lie below it.
    digested : bool, default=False
        True gives a digest of all rows too.
    """

    n_rows: int
    n_features: int
    sample_size: int
    seed: int
    itemsize: int
    dense: bool = True
    weighted: bool = False
    labelled: bool = False
    n_labels: int | None = None
    digested: bool = False

    @property
    def workspace_bytes(self) -> int:
        hashes = _HASH_BYTES * min(self.piece_rows, self.n_rows)
        products = 16 * self.n_features**2 if self.dense else 0
        tile = 4 * 8 * min(_TILE_ROWS, self.n_rows) * self.n_features
        return max(tile + products, hashes)

    @property
    def result_bytes(self) -> int:
        moments = 8 * self.n_features * (self.n_features if self.dense else 1)
        # Plain samples are bounded together, not each: most nodes hold few of the rows.
        return moments + (self.weighted + self.labelled) * self._one_sample_bytes

    @property
    def sample_bytes(self) -> int:
        """Bytes of all samples together while they are merged."""
        return 2 * (1 + self.labelled) * self._one_sample_bytes

    @property
    def _one_sample_bytes(self) -> int:
        columns = 16 + 8 * self.weighted + 8 * self.labelled
        return self.sample_size * (self.n_features * self.itemsize + columns)

    def workspace(self) -> None:
        return None

    def evaluate(self, rows: Rows, workspace: None) -> Profile:
        self.check_labels(rows)
        sample = self.sample_of(rows)
        empty = Sample(sample.rows[:0], sample.keys[:0], sample.x[:0], sample.size)
        profile = self._nothing(empty)
        for tile in self.tiles(rows):
            one = self.moments(tile, empty)
            if self.digested:
                one = replace(one, digest=self.digest_of(tile))
            profile = one if not profile.n_rows else profile.merge(one)
        known = self.known_of(rows)
        return replace(profile, sample=sample, known=known, skipped=Skipped.of(rows))

    def _nothing(self, sample: Sample) -> Profile:
        zeros, far = np.zeros(self.n_features), np.full(self.n_features, np.inf)
        scatter = np.zeros((self.n_features,) * (2 if self.dense else 1))
        return Profile(0, 0.0, zeros, scatter, far, -far, sample)

    def tiles(self, rows: Rows) -> Iterator[Rows]:
        """The rows that count, a few at a time, in float64."""
        for start in range(0, rows.n_rows, _TILE_ROWS):
            tile = rows.part(start, min(start + _TILE_ROWS, rows.n_rows)).counted()
            if tile.n_rows:
                yield replace(tile, x=np.asarray(to_host(tile.x), dtype=np.float64))

    def moments(self, rows: Rows, sample: Sample) -> Profile:
        x, weight = rows.x, rows.weight
        with np.errstate(over="ignore", invalid="ignore"):
            mean = np.average(x, axis=0, weights=weight)
        if not np.all(np.isfinite(mean)):
            refuse_non_finite(rows)
        centred = x - mean
        # A sum of far values is short of digits that the sum of what is left over still has.
        correction = np.average(centred, axis=0, weights=weight)
        mean, centred = mean + correction, centred - correction
        weighted = centred if weight is None else centred * weight[:, None]
        with np.errstate(over="ignore", invalid="ignore"):
            dense = self.dense
            scatter = weighted.T @ centred if dense else np.einsum("bi,bi->i", weighted, centred)
        if not np.all(np.isfinite(scatter)):
            raise InvalidDataError(
                f"rows {rows.position(0)} to {rows.position(len(x) - 1)}: values up to "
                f"{np.abs(x).max():g} overflow when squared; rescale the data"
            )
        total = float(len(x)) if weight is None else float(weight.sum())
        return Profile(len(x), total, mean, scatter, x.min(axis=0), x.max(axis=0), sample)

    def digest(self, rows: Rows) -> int:
        """The digest of some rows, if digests are asked for."""
        return sum(map(self.digest_of, self.tiles(rows))) % 2**64 if self.digested else 0

    def digest_of(self, tile: Rows, xp: Any = np) -> int:
        """The digest of rows in float64, arrays of ``xp``."""
        offsets = xp.arange(tile.n_rows) if tile.offsets is None else xp.asarray(tile.offsets)
        return digest_rows(tile.x, offsets + tile.first_row, tile.weight, tile.labels, xp)

    @property
    def piece_rows(self) -> int:
        """Rows that are hashed together."""
        return _HASHED_ROWS

    def sample_of(self, rows: Rows, eligible: Array | None = None) -> Sample:
        """The sample of some rows, or of those among them that are eligible."""
        return self._by_pieces(self.draw, rows, eligible)

    def known_of(self, rows: Rows, eligible: Array | None = None) -> Sample | None:
        """The sample of the rows whose component is known, or of the eligible ones among them."""
        return self._by_pieces(self._draw_known, rows, eligible) if self.labelled else None

    def _by_pieces(
        self, draw: Callable[[Rows, Array | None], Sample], rows: Rows, eligible: Array | None
    ) -> Sample:
        found: Sample | None = None
        for start in range(0, max(1, rows.n_rows), self.piece_rows):
            stop = min(start + self.piece_rows, rows.n_rows)
            some = None if eligible is None else eligible[start:stop]
            one = draw(rows.part(start, stop), some)
            found = one if found is None else found.merge(one)
        assert found is not None
        return found

    def draw(self, rows: Rows, eligible: Array | None) -> Sample:
        """As :meth:`sample_of`, of rows that are hashed together."""
        keys: Array = hash_rows(self.seed, rows.first_row, rows.n_rows)
        counts = keys <= self.threshold if rows.weight is None else rows.weight > 0.0
        keep = np.flatnonzero(counts if eligible is None else counts & eligible)
        return self._drawn(rows, keep, keys)

    def _draw_known(self, rows: Rows, eligible: Array | None) -> Sample:
        counts = rows.labels >= 0 if eligible is None else (rows.labels >= 0) & eligible
        keep = np.flatnonzero(counts if rows.weight is None else counts & (rows.weight > 0))
        return self._drawn(rows, keep, hash_rows(self.seed + 1, rows.first_row, rows.n_rows))

    def _drawn(self, rows: Rows, candidates: Array, keys: Array) -> Sample:
        """The sample of some of the rows, given hashes of all."""
        weight = None if rows.weight is None else rows.weight[candidates]
        keys = keys[candidates]
        found = Sample(
            candidates + rows.first_row,
            keys if weight is None else weighted_keys(keys, weight),
            np.empty(0),
            self.sample_size,
            weight,
            None if rows.labels is None else rows.labels[candidates],
        )
        keep = smallest(found.keys, self.sample_size)
        return replace(found.only(keep), x=np.array(to_host(rows.x[candidates[keep]])))

    def check_labels(self, rows: Rows) -> None:
        """Refuse labels of no component."""
        if rows.labels is None or self.n_labels is None:
            return
        wrong = np.flatnonzero(rows.labels >= self.n_labels)
        if wrong.size:
            raise InvalidDataError(
                f"labels: row {rows.first_row + wrong[0]} has {rows.labels[wrong[0]]}, and there "
                f"are {self.n_labels} components, numbered from 0; raise n_components or pass -1 "
                "where the component is unknown"
            )

    @property
    def threshold(self) -> np.uint64:
        """A key that the kept rows are below, so that parts need not keep a full sample each."""
        wanted = self.sample_size + 10.0 * np.sqrt(self.sample_size) + 20.0
        share = wanted / max(1, self.n_rows)
        return np.uint64(min(2**64 - 1, int(min(1.0, share) * 2.0**64)))


@dataclass(frozen=True)
class SomeColumns:
    """The profile of some columns alone (a task as :class:`ProfilePass` is).

    Parameters
    ----------
    task : ProfilePass
        Of as many features as there are columns.
    columns : tuple of int
    copy_bytes : int
        Of these columns of the rows in a part, which are copied.
    """

    task: ProfilePass
    columns: tuple[int, ...]
    copy_bytes: int

    @property
    def workspace_bytes(self) -> int:
        return self.task.workspace_bytes + self.copy_bytes

    @property
    def result_bytes(self) -> int:
        return self.task.result_bytes

    def workspace(self) -> None:
        return None

    def evaluate(self, rows: Rows, workspace: None) -> Profile:
        return self.task.evaluate(replace(rows, x=rows.x[:, list(self.columns)]), workspace)


def refuse_non_finite(rows: Rows) -> None:
    """Raise the error for rows that do not sum to anything finite, naming the first bad value."""
    x = rows.x
    where = f"rows {rows.position(0)} to {rows.position(len(x) - 1)}"
    bad = np.argwhere(~np.isfinite(x))
    if not len(bad) and rows.weight is not None and rows.weight.max() > 1.0 / np.finfo(float).eps:
        raise InvalidDataError(
            f"{where}: rows times their sample_weight, up to {rows.weight.max():g}, overflow when "
            "summed; divide all weights by one number"
        )
    if not len(bad):
        raise InvalidDataError(f"{where} overflow when summed; rescale the data")
    row, feature = (int(i) for i in bad[0])
    raise InvalidDataError(
        f"Input contains NaN or infinity: row {rows.position(row)}, feature {feature} is "
        f"{x[row, feature]} ({len(np.unique(bad[:, 0]))} such row(s) among {where}); remove or "
        "impute such rows"
    )
