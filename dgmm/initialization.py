"""Where a fit starts: mixtures from a sample of the rows.

Every method ends in responsibilities of the sampled rows, and those in an M-step, as scikit-learn
has it; moments are taken about each component's own mean, so that neither offsets nor distances
cost digits. The methods that name rows as centres ('k-means++', 'random_from_data', 'maxdist')
assign each sampled row to its nearest centre, which is where scikit-learn's own start is after one
iteration. 'k-means||' reads the full data: :mod:`dgmm.scalable_kmeans`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.cluster import KMeans, kmeans_plusplus
from threadpoolctl import threadpool_limits

from dgmm.arrays import to_host
from dgmm.covariance import CovarianceFamily
from dgmm.dispatch import host_float64
from dgmm.errors import InvalidParameterError
from dgmm.features import Layout, pack_symmetric
from dgmm.frame import Frame
from dgmm.maximization import MaximizationOptions, maximize
from dgmm.mixture import Mixture
from dgmm.row_sample import Sample
from dgmm.seeding import seeded_labels
from dgmm.statistics import SufficientStatistics

__all__ = [
    "INIT_PARAMS",
    "Method",
    "initial_mixture",
    "mixture_from",
    "sample_size",
    "starting_weights",
    "working_bytes",
]

Array = np.ndarray[Any, Any]
Weights = Callable[[int], Array]
Method = str | Callable[[Array, int, int], Any]

_SAMPLE_ROWS = 65536
_SAMPLE_VALUES = 2**20
_ROWS_PER_COMPONENT = 32
_FIRST_RESTART = (1, 0)


def sample_size(n_features: int, n_components: int, *, at_every_node: bool = False) -> int:
    """Rows to sample: a function of the problem's shape alone, so that no limit changes a start.

    A quarter as many where every node of the reduction may hold them all.
    """
    rows = min(_SAMPLE_ROWS, _SAMPLE_VALUES // n_features) // (4 if at_every_node else 1)
    return max(rows, _ROWS_PER_COMPONENT * n_components)


def working_bytes(n_rows: int, n_features: int, n_components: int, family: CovarianceFamily) -> int:
    """Bytes that :func:`initial_mixture` takes for a sample of ``n_rows``, the sample excluded."""
    shape, d = family.shape, n_features
    # The float64 copy, k-means' own, one component's rows twice, and a few numbers a row.
    rows = 8 * n_rows * (4 * d + 8)
    # Moments, what is borrowed and lent of them, and the covariances that they lead to.
    stored = int(np.prod(shape.trailing(d)))
    return rows + 8 * n_components * (4 * shape.block(Layout(d)) + 2 * stored + 4 * d)


def initial_mixture(
    sample: Sample,
    family: CovarianceFamily,
    n_components: int,
    *,
    method: Method,
    options: MaximizationOptions,
    seed: np.random.SeedSequence,
    known: Sample | None = None,
    weight: float | None = None,
) -> Mixture:
    """The start of one restart.

    Parameters
    ----------
    sample : Sample
        At least ``n_components`` rows.
    family : CovarianceFamily
    n_components : int
    method : str or callable
        One of :data:`INIT_PARAMS`, or ``(sample, n_components, seed) -> means or
        responsibilities``; see :func:`starting_weights`.
    options : MaximizationOptions
        Of the M-step that makes a mixture of the method's assignments; nothing may be held.
    seed : numpy.random.SeedSequence
        Of this restart alone.
    known : Sample, optional
        Rows whose component is known. If there are some, they say where the components are and
        which number each has, whatever the method (:mod:`dgmm.seeding`).
    weight : float, optional
        As in :func:`mixture_from`.

    Returns
    -------
    Mixture
        Possibly with singular components, if ``options`` do not prevent them.
    """
    weights_of = starting_weights(sample, n_components, method=method, seed=seed, known=known)
    return mixture_from(sample, family, n_components, weights_of, options, weight)


def starting_weights(
    sample: Sample,
    n_components: int,
    *,
    method: Method,
    seed: np.random.SeedSequence,
    known: Sample | None = None,
) -> Weights:
    """How much each sampled row counts for each component: k → shape (n_sampled,).

    Sample weights come on top of it, in :func:`mixture_from`.

    Families can share them: only the M-step that follows knows of covariances.

    Parameters
    ----------
    sample : Sample
    n_components : int
    method : str or callable
        A callable is called with the sampled rows (float64, shape (n_sampled, n_features), a copy
        of its own), the number of components and a seed (an int, another for each restart). What
        it returns, on the host or on a device, is either means of shape (n_components,
        n_features), to the nearest of which every sampled row is then assigned, or
        responsibilities of shape (n_sampled, n_components). Where both shapes are the same, they
        are means.
    seed : numpy.random.SeedSequence
    known : Sample, optional
        As in :func:`initial_mixture`.

    Raises
    ------
    InvalidParameterError
        If a callable returns anything else.
    """
    if known is not None and len(known.rows):
        x, origin = _centred(sample)
        return _of_labels(seeded_labels(x, origin, sample, known, n_components, seed))
    if not isinstance(method, str):
        return _called(sample, n_components, method, seed)
    x, _ = _centred(sample)
    return INIT_PARAMS[method](x, n_components, seed, sample.shares)


def mixture_from(
    sample: Sample,
    family: CovarianceFamily,
    n_components: int,
    weights_of: Weights,
    options: MaximizationOptions,
    weight: float | None = None,
) -> Mixture:
    """The M-step of :func:`starting_weights`.

    ``weight`` is what all rows count for, so that priors are set against them and not against the
    sample; None: against the sampled rows, each as one.
    """
    x, origin = _centred(sample)
    shares = sample.shares
    if shares is not None:
        weights_of = _weighted(weights_of, shares)
    statistics = _statistics(x, origin, weights_of, n_components, family)
    if weight is not None and options.priors:
        share = weight / statistics.weight
        statistics = replace(statistics, moments=share * statistics.moments, weight=weight)
    return maximize(statistics, family, options).mixture


def _centred(sample: Sample) -> tuple[Array, Array]:
    x = np.asarray(sample.x, dtype=np.float64)
    origin = x.mean(axis=0)
    return x - origin, origin


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
    rows = _rows_by_share(x, n_components, seed, shares)
    return _of_labels(_nearest(x, x[rows]))


def _rows_by_share(
    x: Array, size: int, seed: np.random.SeedSequence, shares: Array | None
) -> Array:
    """Rows drawn without replacement, in proportion to what they stand for."""
    rng = np.random.default_rng(seed)
    if shares is None:
        return rng.choice(len(x), size=size, replace=False)
    # Those with the least −log(u) / w (Efraimidis and Spirakis 2006), however unequal w are.
    with np.errstate(over="ignore", divide="ignore"):
        keys = rng.standard_exponential(len(x)) / shares
    return np.argsort(keys, kind="stable")[:size]


def _random(
    x: Array, n_components: int, seed: np.random.SeedSequence, _shares: Array | None
) -> Weights:
    # Drawn twice from the same seeds rather than kept: rows × components could be large.
    seeds = seed.spawn(n_components)
    total = np.zeros(len(x))
    for one in seeds:
        total += np.random.default_rng(one).uniform(size=len(x))
    return lambda k: np.random.default_rng(seeds[k]).uniform(size=len(x)) / total


def _maxdist(
    x: Array, n_components: int, seed: np.random.SeedSequence, _shares: Array | None
) -> Weights:
    """Farthest-first traversal (Gonzalez 1985) from a random row."""
    row = int(np.random.default_rng(seed).integers(len(x)))
    labels = np.zeros(len(x), dtype=np.intp)
    nearest = np.full(len(x), np.inf)
    for k in range(n_components):
        offsets = x - x[row]
        distance = np.einsum("ij,ij->i", offsets, offsets)
        nearer = distance < nearest
        nearest[nearer], labels[nearer] = distance[nearer], k
        row = int(np.argmax(nearest))
    return _of_labels(labels)


def _called(
    sample: Sample, n_components: int, method: Any, seed: np.random.SeedSequence
) -> Weights:
    x = np.array(sample.x, dtype=np.float64)
    returned = method(x, n_components, _legacy_seed(seed))
    try:
        found = host_float64(to_host(returned))
    except (TypeError, ValueError) as error:
        raise InvalidParameterError(
            f"init_params returned {type(returned).__name__}, no array of real numbers: {error}"
        ) from error
    means, responsibilities = (n_components, x.shape[1]), (len(x), n_components)
    if found.shape not in (means, responsibilities):
        raise InvalidParameterError(
            f"init_params returned an array of shape {found.shape}; it must return means of shape "
            f"{means} or responsibilities of shape {responsibilities}"
        )
    if not np.all(np.isfinite(found)):
        raise InvalidParameterError("init_params returned values that are not finite")
    if found.shape == means:
        origin = np.asarray(sample.x, dtype=np.float64).mean(axis=0)
        return _of_labels(_nearest(sample.x - origin, found - origin))
    if np.any(found < 0.0) or np.max(np.abs(found.sum(axis=1) - 1.0)) > 1e-6:
        raise InvalidParameterError(
            "init_params returned responsibilities that are negative, or whose rows do not sum "
            f"to 1; the least is {found.min():g}, the sums are {found.sum(axis=1).min():g} to "
            f"{found.sum(axis=1).max():g}"
        )
    return lambda k: found[:, k]


INIT_PARAMS: dict[str, Callable[[Array, int, np.random.SeedSequence, Array | None], Weights]] = {
    "kmeans": _kmeans,
    "k-means++": _kmeans_plusplus,
    "random": _random,
    "random_from_data": _random_rows,
    "points": _random_rows,
    "maxdist": _maxdist,
}
"""Methods on a sample.

Centred rows, K, seed and what each row stands for (None: all the same) → each component's share of
the rows. The names are scikit-learn's; 'points' and 'maxdist' are tgmm's.
"""


def _legacy_seed(seed: np.random.SeedSequence) -> int:
    if seed.spawn_key == _FIRST_RESTART and isinstance(seed.entropy, int):
        # The first restart of random_state=7 starts as scikit-learn's k-means with 7 does.
        return seed.entropy % 2**32
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
