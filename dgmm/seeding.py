"""A start from rows whose component is known: seeded k-means (Basu, Banerjee and Mooney 2002).

The known rows' means are centres that keep their components' numbers; components without known
rows take centres far from those, as k-means++ does; k-means goes on from there, and known rows
stay with their component.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from dgmm.row_sample import Sample

__all__ = ["seeded_labels"]

Array = np.ndarray[Any, Any]


def seeded_labels(
    x: Array,
    origin: Array,
    sample: Sample,
    known: Sample,
    n_components: int,
    seed: np.random.SeedSequence,
) -> Array:
    """A component for every sampled row.

    Parameters
    ----------
    x : array of shape (n_sampled, n_features), float64
        The rows of ``sample`` less ``origin``.
    origin : array of shape (n_features,)
    sample : Sample
    known : Sample
        Rows with labels, in the units of the data; at least one.
    n_components : int
    seed : numpy.random.SeedSequence

    Returns
    -------
    array of shape (n_sampled,), int
    """
    centres, is_known = _known_centres(known, origin, n_components)
    _fill(centres, is_known, x, sample, np.random.default_rng(seed))
    model = KMeans(n_clusters=n_components, init=centres, n_init=1)
    # With one thread scikit-learn sums in one order, whatever machine it runs on.
    with threadpool_limits(1):
        labels = model.fit(x, sample_weight=sample.shares).labels_
    assert sample.labels is not None
    return np.where(sample.labels >= 0, sample.labels, labels)


def _known_centres(known: Sample, origin: Array, n_components: int) -> tuple[Array, Array]:
    assert known.labels is not None
    centres = np.zeros((n_components, len(origin)))
    is_known = np.zeros(n_components, dtype=bool)
    shares = np.ones(len(known.rows)) if known.shares is None else known.shares
    for k in np.unique(known.labels):
        rows = np.flatnonzero(known.labels == k)
        values = np.asarray(known.x[rows], dtype=np.float64) - origin
        centres[k] = np.average(values, axis=0, weights=shares[rows])
        is_known[k] = True
    return centres, is_known


def _fill(
    centres: Array, is_known: Array, x: Array, sample: Sample, rng: np.random.Generator
) -> None:
    """Draw the missing centres, in proportion to the squared distance from those there are."""
    distance = np.full(len(x), np.inf)
    for centre in centres[is_known]:
        distance = np.minimum(distance, np.einsum("ij,ij->i", x - centre, x - centre))
    shares = 1.0 if sample.shares is None else sample.shares
    for k in np.flatnonzero(~is_known):
        chance = distance * shares
        total = chance.sum()
        row = rng.choice(len(x), p=chance / total if total > 0.0 else None)
        centres[k] = x[row]
        distance = np.minimum(distance, np.einsum("ij,ij->i", x - x[row], x - x[row]))
