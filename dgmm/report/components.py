"""What a report says of components: spread, leading axes, samples; from parameters alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from dgmm.covariance import CovarianceFamily, family_of

__all__ = ["Component", "Parameters", "Scale", "components_of", "draw", "scale_of"]

Array = np.ndarray[Any, Any]


class Parameters(Protocol):
    """The fitted attributes that pictures are made of."""

    covariance_type: str
    weights_: Any
    means_: Any
    covariances_: Any


@dataclass(frozen=True, eq=False)
class Component:
    """A component and the shape of its covariance.

    Parameters
    ----------
    index : int
        Its place in the model's arrays.
    weight : float
    mean : array of shape (n_features,)
    deviations : array of shape (n_features,)
        Standard deviations of the features.
    shares : array of shape (n_features,)
        Eigenvalues of the covariance over their sum, the greatest first.
    axes : array of shape (n_axes, n_features)
        Leading eigenvectors, each with a positive entry of greatest magnitude.
    """

    index: int
    weight: float
    mean: Array
    deviations: Array
    shares: Array
    axes: Array

    @property
    def spread(self) -> float:
        """Root mean square of the features' standard deviations."""
        return float(np.sqrt(np.mean(self.deviations**2)))

    @property
    def effective_dimensions(self) -> float:
        """(Σ λ)² / Σ λ²: how many directions share the variance, between 1 and n_features."""
        return float(1.0 / np.sum(self.shares**2))


@dataclass(frozen=True, eq=False)
class Scale:
    """Mean and standard deviation of each feature under the whole mixture."""

    mean: Array
    deviations: Array

    @property
    def range(self) -> tuple[float, float]:
        """Three standard deviations about the mean, over all features: what grey levels span."""
        centre = float(self.mean.mean())
        deviation = float(np.sqrt(np.mean(self.deviations**2 + (self.mean - centre) ** 2)))
        return centre - 3 * deviation, centre + 3 * deviation


def components_of(model: Parameters, *, n_axes: int, most: int) -> list[Component]:
    """The components of greatest weight, at most ``most`` of them, in descending order."""
    weights = np.asarray(model.weights_, float)
    order = np.argsort(-weights, kind="stable")[:most]
    means = np.asarray(model.means_, float)
    family = family_of(model.covariance_type)
    shared = _axes(_dense(model, 0), n_axes) if family.is_tied else None
    found = []
    for index in map(int, order):
        deviations, shares, axes = shared or _axes(_dense(model, index), n_axes)
        weight = float(weights[index])
        found.append(Component(index, weight, means[index], deviations, shares, axes))
    return found


def draw(
    model: Parameters, n_rows: int, rng: np.random.Generator, component: int | None = None
) -> Array:
    """Rows from the mixture, or from one component: an array of shape (n_rows, n_features)."""
    weights = np.asarray(model.weights_, float)
    if component is None:
        labels = rng.choice(len(weights), size=n_rows, p=weights / weights.sum())
    else:
        labels = np.full(n_rows, component)
    means = np.asarray(model.means_, float)
    rows = np.empty((n_rows, means.shape[1]))
    for k in np.unique(labels):
        drawn = labels == k
        rows[drawn] = rng.multivariate_normal(
            means[k], _dense(model, int(k)), size=int(drawn.sum()), method="eigh"
        )
    return rows


def scale_of(model: Parameters) -> Scale:
    """Mean and standard deviations of the mixture's marginals."""
    weights, means = np.asarray(model.weights_, float), np.asarray(model.means_, float)
    shape = family_of(model.covariance_type).shape
    covariances = _per_component(model)
    variances = [shape.variances(one, means.shape[1]) for one in covariances]
    mean = weights @ means
    return Scale(mean, np.sqrt(weights @ (variances + (means - mean) ** 2)))


def _per_component(model: Parameters) -> Array:
    family: CovarianceFamily = family_of(model.covariance_type)
    covariances = np.asarray(model.covariances_, float)
    return family.per_component(covariances, len(model.weights_))


def _dense(model: Parameters, index: int) -> Array:
    shape = family_of(model.covariance_type).shape
    return shape.dense(_per_component(model)[index], np.shape(model.means_)[1])


def _axes(covariance: Array, n_axes: int) -> tuple[Array, Array, Array]:
    """Standard deviations, shares of variance and leading eigenvectors."""
    values, vectors = np.linalg.eigh(covariance)
    values = np.maximum(values[::-1], 0.0)
    axes = vectors[:, ::-1].T[:n_axes]
    # An eigenvector's sign is arbitrary: settle it, so that a report does not depend on LAPACK.
    largest = np.abs(axes).argmax(axis=1)
    axes = axes * np.sign(axes[np.arange(len(axes)), largest])[:, None]
    return np.sqrt(np.diagonal(covariance)), values / values.sum(), axes
