"""Where a fit starts: mixtures from a sample of the rows.

Every method ends in responsibilities of the sampled rows, and those in an M-step, as scikit-learn
has it; moments are taken about each component's own mean, so that neither offsets nor distances
cost digits. The methods that name rows as centres ('k-means++', 'random_from_data') assign each
sampled row to its nearest centre, which is where scikit-learn's own start is after one iteration.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.cluster import KMeans, kmeans_plusplus
from threadpoolctl import threadpool_limits

from dgmm.covariance import CovarianceFamily
from dgmm.features import Layout, pack_symmetric
from dgmm.frame import Frame
from dgmm.maximization import maximize
from dgmm.mixture import Mixture
from dgmm.profile import Sample
from dgmm.seeding import seeded_labels
from dgmm.statistics import SufficientStatistics

__all__ = ["INIT_PARAMS", "initial_mixture", "sample_size", "working_bytes"]

Array = np.ndarray[Any, Any]
Weights = Callable[[int], Array]

_SAMPLE_ROWS = 65536
_SAMPLE_VALUES = 2**20
_ROWS_PER_COMPONENT = 32


def sample_size(n_features: int, n_components: int, *, at_every_node: bool = False) -> int:
    """Rows to sample: a function of the problem's shape alone, so that no limit changes a start.

    A quarter as many where every node of the reduction may hold them all.
    """
    rows = min(_SAMPLE_ROWS, _SAMPLE_VALUES // n_features) // (4 if at_every_node else 1)
    return max(rows, _ROWS_PER_COMPONENT * n_components)


def working_bytes(n_rows: int, n_features: int, n_components: int) -> int:
    """Bytes that :func:`initial_mixture` takes for a sample of ``n_rows``, the sample excluded."""
    # The float64 copy, k-means' own, one component's rows twice, and a few numbers a row.
    return 8 * n_rows * (4 * n_features + 8) + 32 * n_components * n_features**2


def initial_mixture(
    sample: Sample,
    family: CovarianceFamily,
    n_components: int,
    *,
    method: str,
    reg_covar: float,
    seed: np.random.SeedSequence,
    known: Sample | None = None,
) -> Mixture:
    """The start of one restart.

    Parameters
    ----------
    sample : Sample
        At least ``n_components`` rows.
    family : CovarianceFamily
    n_components : int
    method : str
        One of :data:`INIT_PARAMS`.
    reg_covar : float
        Added to the diagonals of the covariances.
    seed : numpy.random.SeedSequence
        Of this restart alone.
    known : Sample, optional
        Rows whose component is known. If there are some, they say where the components are and
        which number each has, whatever the method (:mod:`dgmm.seeding`).

    Returns
    -------
    Mixture
        Possibly with singular components, if ``reg_covar`` is 0.
    """
    x = np.asarray(sample.x, dtype=np.float64)
    origin = x.mean(axis=0)
    x = x - origin
    shares = sample.shares
    if known is not None and len(known.rows):
        labels = seeded_labels(x, origin, sample, known, n_components, seed)
        weights_of = _of_labels(labels)
    else:
        weights_of = INIT_PARAMS[method](x, n_components, seed, shares)
    if shares is not None:
        weights_of = _weighted(weights_of, shares)
    statistics = _statistics(x, origin, weights_of, n_components, family)
    return maximize(statistics, family, reg_covar=reg_covar).mixture


def _weighted(weights_of: Weights, shares: Array) -> Weights:
    return lambda k: weights_of(k) * shares


def _kmeans(
    x: Array, n_components: int, seed: np.random.SeedSequence, shares: Array | None
) -> Weights:
    model = KMeans(n_clusters=n_components, n_init=1, random_state=_legacy_seed(seed))
    # With one thread scikit-learn sums in one order, whatever machine it runs on.
    with threadpool_limits(1):
        return _of_labels(model.fit(x, sample_weight=shares).labels_)


def _kmeans_plusplus(
    x: Array, n_components: int, seed: np.random.SeedSequence, shares: Array | None
) -> Weights:
    with threadpool_limits(1):
        centres, _ = kmeans_plusplus(
            x, n_components, sample_weight=shares, random_state=_legacy_seed(seed)
        )
    return _of_labels(_nearest(x, centres))


def _random_rows(
    x: Array, n_components: int, seed: np.random.SeedSequence, shares: Array | None
) -> Weights:
    chance = None if shares is None else shares / shares.sum()
    rows = np.random.default_rng(seed).choice(len(x), size=n_components, replace=False, p=chance)
    return _of_labels(_nearest(x, x[rows]))


def _random(
    x: Array, n_components: int, seed: np.random.SeedSequence, _shares: Array | None
) -> Weights:
    # Drawn twice from the same seeds rather than kept: rows × components could be large.
    seeds = seed.spawn(n_components)
    total = np.zeros(len(x))
    for one in seeds:
        total += np.random.default_rng(one).uniform(size=len(x))
    return lambda k: np.random.default_rng(seeds[k]).uniform(size=len(x)) / total


INIT_PARAMS: dict[str, Callable[[Array, int, np.random.SeedSequence, Array | None], Weights]] = {
    "kmeans": _kmeans,
    "k-means++": _kmeans_plusplus,
    "random": _random,
    "random_from_data": _random_rows,
}
"""Methods by scikit-learn's names.

Centred rows, K, seed and what each row stands for (None: all the same) → each component's share of
the rows.
"""


def _legacy_seed(seed: np.random.SeedSequence) -> int:
    return int(seed.generate_state(1)[0])


def _of_labels(labels: Array) -> Weights:
    return lambda k: (labels == k).astype(np.float64)


def _nearest(x: Array, centres: Array) -> Array:
    """Labels of the nearest centres, the earlier of two as near, with O(n_rows) memory."""
    best = np.full(len(x), np.inf)
    labels = np.zeros(len(x), dtype=np.intp)
    for k, centre in enumerate(centres):
        # Less ‖x‖², which is the same for all centres.
        distance = 0.5 * float(centre @ centre) - np.einsum("ij,j->i", x, centre)
        nearer = distance < best
        best[nearer], labels[nearer] = distance[nearer], k
    return labels


def _statistics(
    x: Array, origin: Array, weights_of: Weights, n_components: int, family: CovarianceFamily
) -> SufficientStatistics:
    """Statistics about each component's own mean."""
    layout = Layout(x.shape[1])
    moments = np.zeros((n_components, family.shape.block(layout)))
    means = np.zeros((n_components, x.shape[1]))
    for k in range(n_components):
        weights = weights_of(k)
        members = np.flatnonzero(weights)
        weights, rows = weights[members], x[members]
        count = weights.sum()
        means[k] = weights @ rows / count if count > 0 else 0.0
        rows -= means[k]
        moments[k, 0] = count
        moments[k, layout.linear :] = _second_moments(rows, weights, layout, moments.shape[1])
    needed = 4.0 * family.shape.n_free(x.shape[1]) / x.shape[1]
    _borrow(moments, layout, needed)
    return SufficientStatistics(moments, Frame(origin + means), 0.0, float(len(x)), len(x))


def _second_moments(rows: Array, weights: Array, layout: Layout, size: int) -> Array:
    """Packed ‖z‖², z_i², z_i z_j, as far as the block of ``size`` features goes."""
    if size < layout.full:
        squares, pairs = np.einsum("bi,bi,b->i", rows, rows, weights), np.empty(0)
    else:
        squares, pairs = pack_symmetric(rows.T @ (rows * weights[:, None]), layout)
    return np.concatenate([[squares.sum()], squares, pairs])[: size - layout.linear]


def _borrow(moments: Array, layout: Layout, needed: float) -> None:
    """Let components with fewer sampled rows than ``needed`` borrow the pooled covariance.

    The covariance of fewer rows than features is singular, which says something of the sample and
    nothing of the data.
    """
    counts = moments[:, 0]
    pooled = moments[:, layout.linear :].sum(axis=0) / counts.sum()
    missing = np.maximum(0.0, needed - counts)[:, None]
    scatters = moments[:, layout.linear :] + missing * pooled
    moments[:, layout.linear :] = scatters * (counts / np.maximum(counts, needed))[:, None]
