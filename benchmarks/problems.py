"""Synthetic rows and the start that all systems are given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Problem:
    """Rows and a start for a mixture."""

    x: np.ndarray[Any, Any]
    weights: np.ndarray[Any, Any]
    means: np.ndarray[Any, Any]
    precisions: np.ndarray[Any, Any]
    covariance_type: str


def problem(
    n_rows: int, n_features: int, n_components: int, family: str, dtype: str, seed: int = 0
) -> Problem:
    """Overlapping clusters with correlated features, and a start near their centres."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(scale=2.0, size=(n_components, n_features))
    mix = np.eye(n_features) + 0.3 * rng.normal(size=(n_features, n_features)) / n_features**0.5
    labels = rng.integers(n_components, size=n_rows)
    x = rng.standard_normal((n_rows, n_features)) @ mix + centres[labels]
    means = centres + rng.normal(scale=0.3, size=centres.shape)
    return Problem(
        x=x.astype(dtype),
        weights=np.full(n_components, 1.0 / n_components),
        means=means,
        precisions=_unit_precisions(family, n_components, n_features),
        covariance_type=family,
    )


def _unit_precisions(family: str, k: int, d: int) -> np.ndarray[Any, Any]:
    from dgmm.covariance import family_of

    kind = family_of(family)
    shape = kind.covariances_shape(k, d)
    identity = np.eye(d) if len(kind.shape.trailing(d)) == 2 else np.ones(kind.shape.trailing(d))
    return np.broadcast_to(identity, shape).copy()
