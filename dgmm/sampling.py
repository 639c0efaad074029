"""Drawing rows from a mixture."""

from __future__ import annotations

from typing import Any

import numpy as np

from dgmm.mixture import Mixture

__all__ = ["draw"]

Array = np.ndarray[Any, Any]


def draw(mixture: Mixture, n_samples: int, seed: np.random.SeedSequence) -> tuple[Array, Array]:
    """Rows of a mixture, grouped by component as scikit-learn does.

    Parameters
    ----------
    mixture : Mixture
    n_samples : int
    seed : numpy.random.SeedSequence

    Returns
    -------
    x : array of shape (n_samples, n_features), float64
    labels : array of shape (n_samples,), int64
        The component that each row was drawn from.
    """
    generator = np.random.default_rng(seed)
    counts = generator.multinomial(n_samples, mixture.weights / mixture.weights.sum())
    labels = np.repeat(np.arange(mixture.n_components), counts)
    noise = generator.standard_normal((n_samples, mixture.n_features))
    factors = mixture.family.per_component(mixture.factors, mixture.n_components)
    x = np.empty_like(noise)
    for k in range(mixture.n_components):
        rows = labels == k
        x[rows] = mixture.means[k] + mixture.family.shape.times(factors[k], noise[rows])
    return x, labels
