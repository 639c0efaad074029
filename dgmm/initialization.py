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
from dgmm.statistics import SufficientStatistics

__all__ = ["INIT_PARAMS", "initial_mixture", "sample_size", "working_bytes"]

Array = np.ndarray[Any, Any]

_SAMPLE_ROWS = 65536
_SAMPLE_VALUES = 2**20
_ROWS_PER_COMPONENT = 32


def sample_size(n_features: int, n_components: int) -> int:
    """Rows to sample: a function of the problem's shape alone, so that no limit changes a start."""
    rows = min(_SAMPLE_ROWS, _SAMPLE_VALUES // n_features)
    return max(rows, _ROWS_PER_COMPONENT * n_components)


def working_bytes(n_rows: int, n_features: int, n_components: int) -> int:
    """Bytes that :func:`initial_mixture` takes for a sample of ``n_rows``, the sample excluded."""
    # The float64 copy, k-means' own, one component's centred rows, and the responsibilities.
    return 8 * n_rows * (4 * n_features + n_components + 8) + 32 * n_components * n_features**2


def initial_mixture(
    sample: Sample,
    family: CovarianceFamily,
    n_components: int,
    *,
    method: str,
    reg_covar: float,
    seed: np.random.SeedSequence,
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

    Returns
    -------
    Mixture
        Possibly with singular components, if ``reg_covar`` is 0.
    """
    x = np.asarray(sample.x, dtype=np.float64)
    origin = x.mean(axis=0)
    x = x - origin
    responsibilities = INIT_PARAMS[method](x, n_components, seed)
    statistics = _statistics(x, origin, responsibilities)
    return maximize(statistics, family, reg_covar=reg_covar).mixture


def _kmeans(x: Array, n_components: int, seed: np.random.SeedSequence) -> Array:
    model = KMeans(n_clusters=n_components, n_init=1, random_state=_legacy_seed(seed))
    # With one thread scikit-learn sums in one order, whatever machine it runs on.
    with threadpool_limits(1):
        labels = model.fit(x).labels_
    return _one_hot(labels, n_components)


def _kmeans_plusplus(x: Array, n_components: int, seed: np.random.SeedSequence) -> Array:
    with threadpool_limits(1):
        centres, _ = kmeans_plusplus(x, n_components, random_state=_legacy_seed(seed))
    return _one_hot(_nearest(x, centres), n_components)


def _random_rows(x: Array, n_components: int, seed: np.random.SeedSequence) -> Array:
    rows = np.random.default_rng(seed).choice(len(x), size=n_components, replace=False)
    return _one_hot(_nearest(x, x[rows]), n_components)


def _random(x: Array, n_components: int, seed: np.random.SeedSequence) -> Array:
    weights = np.random.default_rng(seed).uniform(size=(len(x), n_components))
    weights /= weights.sum(axis=1, keepdims=True)
    return weights


INIT_PARAMS: dict[str, Callable[[Array, int, np.random.SeedSequence], Array]] = {
    "kmeans": _kmeans,
    "k-means++": _kmeans_plusplus,
    "random": _random,
    "random_from_data": _random_rows,
}
"""Methods by scikit-learn's names: centred rows, K, seed → responsibilities (n_rows, K)."""


def _legacy_seed(seed: np.random.SeedSequence) -> int:
    return int(seed.generate_state(1)[0])


def _one_hot(labels: Array, n_components: int) -> Array:
    return (labels[:, None] == np.arange(n_components)).astype(np.float64)


def _nearest(x: Array, centres: Array) -> Array:
    offsets = 0.5 * np.sum(centres**2, axis=1)
    with threadpool_limits(1):
        return np.argmax(x @ centres.T - offsets, axis=1)


def _statistics(x: Array, origin: Array, responsibilities: Array) -> SufficientStatistics:
    """Statistics about each component's own mean."""
    n_components = responsibilities.shape[1]
    layout = Layout(x.shape[1])
    moments = np.zeros((n_components, layout.full))
    means = np.zeros((n_components, x.shape[1]))
    for k in range(n_components):
        members = np.flatnonzero(responsibilities[:, k])
        weight, rows = responsibilities[members, k], x[members]
        count = weight.sum()
        means[k] = weight @ rows / count if count > 0 else 0.0
        rows -= means[k]
        squares, pairs = pack_symmetric(rows.T @ (rows * weight[:, None]), layout)
        moments[k, 0], moments[k, layout.norm] = count, squares.sum()
        moments[k, layout.squares], moments[k, layout.pairs] = squares, pairs
    frame = Frame(origin + means)
    return SufficientStatistics(moments, frame, 0.0, float(responsibilities.sum()), len(x))
