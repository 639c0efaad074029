"""Small mixtures of every family, and their densities by scipy."""

from __future__ import annotations

import numpy as np
from scipy.stats import multivariate_normal

from dgmm.covariance import family_names
from dgmm.mixture import Mixture
from tests.numerics.problems import dense, random_mixture

FAMILIES = family_names()


def mixture_of(name: str, n_components: int = 3, n_features: int = 3, seed: int = 0) -> Mixture:
    """Components that overlap, so that every one matters everywhere."""
    rng = np.random.default_rng(seed)
    return random_mixture(rng, name, n_components, n_features, condition=6.0, reach=1.5)


def joint_density(mixture: Mixture, x: np.ndarray) -> np.ndarray:
    """π_k N(x | μ_k, Σ_k), shape (n, K), by scipy."""
    parts = zip(mixture.weights, mixture.means, dense(mixture), strict=True)
    columns = [w * multivariate_normal(mean, cov).pdf(x) for w, mean, cov in parts]
    return np.stack([np.atleast_1d(column) for column in columns], axis=1)


def density(mixture: Mixture, x: np.ndarray) -> np.ndarray:
    return joint_density(mixture, x).sum(axis=1)


def moments(mixture: Mixture) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the whole mixture."""
    mean = mixture.weights @ mixture.means
    second = dense(mixture) + np.einsum("ki,kj->kij", mixture.means, mixture.means)
    return mean, np.einsum("k,kij->ij", mixture.weights, second) - np.outer(mean, mean)
