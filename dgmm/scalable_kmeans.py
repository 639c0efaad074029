"""Starts by k-means|| over all rows: Bahmani et al., Scalable K-Means++ (VLDB 2012).

Each round is a pass that draws rows with probabilities in proportion to their squared distance to
the candidates so far. Where the paper tosses a coin for every row, which needs the total cost of
the round before and draws a number of rows that varies, a round here keeps the ``2 K`` rows with
the smallest keys −log(u)/(w d²), which draws without replacement by the same weights (Efraimidis
and Spirakis 2006) in the same pass that computes the distances. u is a hash of (seed, round, row),
so that neither blocks nor threads matter, and the smallest keys merge.

The candidates are then weighted by the rows nearest to them and clustered, and a last pass assigns
every row to its nearest centre: the start is the M-step of that. All restarts share every pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from dgmm.arrays import to_host
from dgmm.backend import Backend
from dgmm.covariance import CovarianceFamily
from dgmm.data.dataset import Rows
from dgmm.em import Context
from dgmm.expectation import plan_batch
from dgmm.guard import Level, safe_level
from dgmm.maximization import MaximizationOptions, maximize
from dgmm.mixture import Mixture
from dgmm.passes import run_batch
from dgmm.posterior import Posterior
from dgmm.row_sample import hash_rows

__all__ = ["METHOD", "StartRequest", "candidate_bytes", "parallel_starts"]

Array = np.ndarray[Any, Any]

METHOD = "k-means||"

# Five rounds of 2 K rows are what the paper settles on (its section 5.3).
_ROUNDS = 5
_OVERSAMPLING = 2

# Rows times candidates whose distances are held at once, by one thread.
_TILE_ROWS = 1024
_TILE_CANDIDATES = 256

# Squared distances below it, relative to the squared norms, are rounding.
_ROUNDING = 1e-13


def candidate_bytes(n_features: int, n_components: int) -> int:
    """Bytes of one restart's candidates, and of their clustering."""
    rows = 1 + _ROUNDS * _OVERSAMPLING * n_components
    return 8 * rows * (4 * n_features + 8)


@dataclass(frozen=True)
class StartRequest:
    """A start that is wanted.

    Parameters
    ----------
    family : CovarianceFamily
    n_components : int
    seed : numpy.random.SeedSequence
        Requests with equal seeds and components share their centres.
    """

    family: CovarianceFamily
    n_components: int
    seed: np.random.SeedSequence

    @property
    def key(self) -> tuple[int, int]:
        """What its centres follow from, beside the rows."""
        return self.n_components, int(self.seed.generate_state(1, np.uint64)[0])


def parallel_starts(
    context: Context,
    requests: Sequence[StartRequest],
    level: Level,
    options: Sequence[MaximizationOptions],
) -> list[Mixture]:
    """The starts, in seven passes for all of them together.

    Parameters
    ----------
    context : Context
    requests : sequence of StartRequest
    level : Level
        Of the kernel that assigns the rows.
    options : sequence of MaximizationOptions
        Of the M-step that makes each of them.
    """
    keys = tuple(dict.fromkeys(request.key for request in requests))
    centres = dict(zip(keys, _centres(context, keys), strict=True))
    spread = float(np.mean(np.atleast_1d(_variances(context)))) or 1.0
    guesses = [_guess(request, centres[request.key], spread) for request in requests]
    levels = [safe_level(guess, context.frames, level) for guess in guesses]
    kernels = plan_batch(guesses, levels, context.frames)
    found = run_batch(
        context.session, kernels, guesses, policy=NearestCentre(), device=context.device
    )
    return [
        maximize(one, guess.family, own).mixture
        for one, guess, own in zip(found, guesses, options, strict=True)
    ]


def _variances(context: Context) -> Array:
    covariance = context.profile.covariance
    return np.diag(covariance) if covariance.ndim == 2 else covariance


def _guess(request: StartRequest, centres: Array, spread: float) -> Mixture:
    """Equal weights and one variance for all: the likeliest component is the nearest centre."""
    k, d = centres.shape
    family = request.family
    one = spread * family.shape.identity(d)
    covariances = np.broadcast_to(one, family.covariances_shape(k, d))
    return Mixture(np.full(k, 1.0 / k), centres, covariances, family.name)


@dataclass(frozen=True)
class NearestCentre:
    """A posterior policy: a row counts for the likeliest component alone."""

    def __call__(self, log_joint: Any, rows: Rows, backend: Backend) -> Posterior:
        top, labels = log_joint.max(axis=0), log_joint.argmax(axis=0)
        log_joint[...] = 0.0
        log_joint[labels, backend.xp.arange(log_joint.shape[1])] = 1.0
        return Posterior(log_density=top, log_assignment=backend.xp.zeros_like(top))


# ------------------------------------------------------------------------------------ candidates


def _centres(context: Context, keys: Sequence[tuple[int, int]]) -> list[Array]:
    """Centres in input units for every (components, seed), by all passes but the last."""
    origin = context.profile.mean
    sample = np.asarray(context.profile.sample.x, dtype=np.float64) - origin
    candidates = [sample[[seed % len(sample)]] for _, seed in keys]
    for number in range(_ROUNDS):
        task = CandidateRound(
            origin=origin,
            candidates=tuple(candidates),
            wanted=tuple(_OVERSAMPLING * k for k, _ in keys),
            seeds=tuple(_seed_of(seed, number) for _, seed in keys),
        )
        drawn = context.session.run(task).total.draws
        candidates = [
            np.concatenate([old, new.in_order]) for old, new in zip(candidates, drawn, strict=True)
        ]
    counts = context.session.run(CandidateCounts(origin, tuple(candidates))).total.counts
    return [
        origin + _cluster(points, weights, sample, k, seed)
        for points, weights, (k, seed) in zip(candidates, counts, keys, strict=True)
    ]


def _seed_of(seed: int, number: int) -> int:
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0])


def _cluster(points: Array, counts: Array, sample: Array, k: int, seed: int) -> Array:
    """K centres of weighted candidates."""
    live = counts > 0
    points, counts = points[live], counts[live]
    if len(points) <= k:
        # Fewer distinct rows than components: sampled rows, repeated if need be, fill up.
        rows = np.random.default_rng(seed).permutation(np.arange(max(k, len(sample))) % len(sample))
        return np.concatenate([points, sample[rows[: k - len(points)]]])
    model = KMeans(n_clusters=k, n_init=1, random_state=seed % 2**32)
    # With one thread scikit-learn sums in one order, whatever machine it runs on.
    with threadpool_limits(1):
        return np.asarray(model.fit(points, sample_weight=counts).cluster_centers_)


@dataclass(frozen=True, eq=False)
class Draw:
    """Rows with the smallest keys (a monoid).

    Parameters
    ----------
    keys : array of shape (n,), float64
    rows : array of shape (n,), int64
        Positions in the dataset, by which equal keys are told apart.
    x : array of shape (n, n_features), float64
    wanted : int
        Most rows to keep.
    """

    keys: Array
    rows: Array
    x: Array
    wanted: int

    def merge(self, other: Draw) -> Draw:
        """The draw of both sets of rows."""
        return replace(
            self,
            keys=np.concatenate([self.keys, other.keys]),
            rows=np.concatenate([self.rows, other.rows]),
            x=np.concatenate([self.x, other.x]),
        ).trimmed()

    def trimmed(self) -> Draw:
        """The rows that are wanted."""
        keep = np.lexsort((self.rows, self.keys))[: self.wanted]
        return replace(self, keys=self.keys[keep], rows=self.rows[keep], x=self.x[keep])

    @property
    def in_order(self) -> Array:
        """The rows in the order of their position."""
        return self.x[np.argsort(self.rows)]


@dataclass(frozen=True)
class Draws:
    """One :class:`Draw` for each restart."""

    draws: tuple[Draw, ...]

    def merge(self, other: Draws) -> Draws:
        """The draws of both sets of rows."""
        pairs = zip(self.draws, other.draws, strict=True)
        return Draws(tuple(mine.merge(theirs) for mine, theirs in pairs))


@dataclass(frozen=True, eq=False)
class CandidateRound:
    """A round for all restarts (a task for :meth:`dgmm.engine.base.Session.run`).

    Parameters
    ----------
    origin : array of shape (n_features,)
    candidates : tuple of array of shape (n_candidates, n_features)
        Of each restart, about the origin.
    wanted : tuple of int
        Rows to draw.
    seeds : tuple of int
        Of this round.
    """

    origin: Array
    candidates: tuple[Array, ...]
    wanted: tuple[int, ...]
    seeds: tuple[int, ...]

    @property
    def workspace_bytes(self) -> int:
        return _workspace_bytes(len(self.origin))

    @property
    def result_bytes(self) -> int:
        # Twice, while two draws are joined.
        return 2 * sum(self.wanted) * 8 * (len(self.origin) + 2)

    def workspace(self) -> None:
        return None

    def evaluate(self, rows: Rows, workspace: None) -> Draws:
        none = np.empty(0)
        draws = [
            Draw(none, none.astype(np.int64), np.empty((0, len(self.origin))), wanted)
            for wanted in self.wanted
        ]
        for tile in _tiles(rows):
            z = _offsets(tile, self.origin)
            for i, candidates in enumerate(self.candidates):
                distance, _ = _nearest(z, candidates)
                draws[i] = draws[i].merge(self._draw(tile, z, distance, i))
        return Draws(tuple(draws))

    def _draw(self, tile: Rows, z: Array, distance: Array, restart: int) -> Draw:
        hashes = hash_rows(self.seeds[restart], tile.first_row, tile.n_rows)
        u = (hashes >> np.uint64(11)).astype(np.float64) * 2.0**-53 + 2.0**-54
        weight = distance if tile.weight is None else distance * to_host(tile.weight)
        far = np.flatnonzero(weight > 0.0)
        keys = -np.log(u[far]) / weight[far]
        drawn = Draw(keys, far + tile.first_row, z[far], self.wanted[restart])
        return drawn.trimmed()


@dataclass(frozen=True, eq=False)
class Counts:
    """How many rows are nearest to each candidate, for each restart (a monoid)."""

    counts: tuple[Array, ...]

    def merge(self, other: Counts) -> Counts:
        """The counts of both sets of rows."""
        pairs = zip(self.counts, other.counts, strict=True)
        return Counts(tuple(mine + theirs for mine, theirs in pairs))


@dataclass(frozen=True, eq=False)
class CandidateCounts:
    """Weights of the candidates (a task); parameters as in :class:`CandidateRound`."""

    origin: Array
    candidates: tuple[Array, ...]

    @property
    def workspace_bytes(self) -> int:
        return _workspace_bytes(len(self.origin))

    @property
    def result_bytes(self) -> int:
        return 8 * sum(len(one) for one in self.candidates)

    def workspace(self) -> None:
        return None

    def evaluate(self, rows: Rows, workspace: None) -> Counts:
        counts = [np.zeros(len(one)) for one in self.candidates]
        for tile in _tiles(rows):
            z = _offsets(tile, self.origin)
            weight = None if tile.weight is None else to_host(tile.weight)
            for i, candidates in enumerate(self.candidates):
                _, labels = _nearest(z, candidates)
                counts[i] += np.bincount(labels, weight, minlength=len(candidates))
        return Counts(tuple(counts))


def _workspace_bytes(n_features: int) -> int:
    rows = _TILE_ROWS * (3 * n_features + 8)
    return 8 * (rows + 2 * _TILE_ROWS * _TILE_CANDIDATES + _TILE_CANDIDATES * n_features)


def _tiles(rows: Rows) -> list[Rows]:
    starts = range(0, rows.n_rows, _TILE_ROWS)
    return [rows.part(start, min(start + _TILE_ROWS, rows.n_rows)) for start in starts]


def _offsets(tile: Rows, origin: Array) -> Array:
    z = np.asarray(to_host(tile.x), dtype=np.float64) - origin
    if tile.weight is not None:
        # Such rows may hold anything at all.
        z[np.asarray(to_host(tile.weight)) == 0.0] = 0.0
    return z


def _nearest(z: Array, candidates: Array) -> tuple[Array, Array]:
    """Squared distance to the nearest candidate, and which one it is, the earlier of two as near.

    Computed in tiles of candidates: rows × candidates are never held at once.
    """
    squares = np.einsum("bi,bi->b", z, z)
    best, labels = np.full(len(z), np.inf), np.zeros(len(z), dtype=np.intp)
    for start in range(0, len(candidates), _TILE_CANDIDATES):
        some = candidates[start : start + _TILE_CANDIDATES]
        norms = np.einsum("ci,ci->c", some, some)
        distance = z @ (-2.0 * some.T)
        distance += norms
        nearest = distance.argmin(axis=1)
        least = distance[np.arange(len(z)), nearest] + squares
        # A row that is a candidate itself must not be drawn again for what rounding leaves.
        least[least <= _ROUNDING * (squares + norms[nearest])] = 0.0
        nearer = least < best
        best[nearer], labels[nearer] = least[nearer], start + nearest[nearer]
    return best, labels
