"""Synthetic rows and the start that all systems are given.

Read by the processes of the peers as well, in whose environment dgmm need not be installed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

FAMILIES = ("full", "tied", "diag", "tied_diag", "spherical", "tied_spherical")


@dataclass(frozen=True)
class Start:
    """Parameters of a mixture; covariances in the shape that scikit-learn gives the family.

    ``tied_diag`` has (D,) and ``tied_spherical`` () beside those.
    """

    weights: Array
    means: Array
    covariances: Array


@dataclass(frozen=True)
class Problem:
    """Rows and a start for a mixture."""

    x: Array
    start: Start
    covariance_type: str

    @property
    def n_components(self) -> int:
        return len(self.start.weights)

    @property
    def precisions(self) -> Array:
        """Of the start, in the shape of its covariances."""
        if self.covariance_type in ("full", "tied"):
            return np.linalg.inv(self.start.covariances)
        return 1.0 / self.start.covariances

    def from_start(self, start: Start) -> Problem:
        """The same rows from another start."""
        return replace(self, start=start)

    def save(self, folder: Path) -> None:
        """Write it where :func:`load_problem` finds it."""
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "x.npy", self.x)
        (folder / "family").write_text(self.covariance_type, encoding="utf-8")
        save_start(self.start, folder / "start.npz")


def load_problem(folder: Path) -> Problem:
    """A problem that :meth:`Problem.save` wrote."""
    family = (folder / "family").read_text(encoding="utf-8")
    return Problem(np.load(folder / "x.npy"), load_start(folder / "start.npz"), family)


def save_start(start: Start, path: Path) -> None:
    """Write parameters."""
    np.savez(path, weights=start.weights, means=start.means, covariances=start.covariances)


def load_start(path: Path) -> Start:
    """Parameters that :func:`save_start` wrote."""
    with np.load(path) as held:
        return Start(held["weights"], held["means"], held["covariances"])


def problem(
    n_rows: int, n_features: int, n_components: int, family: str, dtype: str, seed: int = 0
) -> Problem:
    """Clusters with correlated features, and a start near their centres.

    Centres are two standard deviations from the origin in each feature, so that clusters overlap
    with 2 or 8 features and lie apart from 32 on.
    """
    rng = np.random.default_rng(seed)
    centres = rng.normal(scale=2.0, size=(n_components, n_features))
    mix = np.eye(n_features) + 0.3 * rng.normal(size=(n_features, n_features)) / n_features**0.5
    labels = rng.integers(n_components, size=n_rows)
    x = rng.standard_normal((n_rows, n_features)) @ mix + centres[labels]
    start = Start(
        weights=np.full(n_components, 1.0 / n_components),
        means=centres + rng.normal(scale=0.3, size=centres.shape),
        covariances=unit_covariances(family, n_components, n_features),
    )
    return Problem(x=x.astype(dtype), start=start, covariance_type=family)


def unit_covariances(family: str, k: int, d: int) -> Array:
    """Identities in the shape of a family's covariances."""
    shapes: dict[str, Array] = {
        "full": np.broadcast_to(np.eye(d), (k, d, d)),
        "tied": np.eye(d),
        "diag": np.ones((k, d)),
        "tied_diag": np.ones(d),
        "spherical": np.ones(k),
        "tied_spherical": np.ones(()),
    }
    return shapes[family].copy()
