"""The mixture behind a model, and the two of its features that a plot shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dgmm.conditional import feature_indices
from dgmm.density import check_covariances
from dgmm.errors import InvalidParameterError
from dgmm.mixture import Mixture

__all__ = ["Plane", "mixture_of", "plane_of"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Plane:
    """Two features of a mixture, the others integrated out.

    Parameters
    ----------
    mixture : Mixture
        Of two features.
    features : (int, int)
        Which they are of all.
    names : (str, str)
        Labels of the axes.
    """

    mixture: Mixture
    features: tuple[int, int]
    names: tuple[str, str]

    @property
    def covariances(self) -> Array:
        """Of every component, dense: shape (n_components, 2, 2)."""
        family, k = self.mixture.family, self.mixture.n_components
        return np.asarray(family.shape.dense(family.per_component(self.mixture.covariances, k), 2))

    def label(self, axes: Any) -> None:
        """Name the axes."""
        axes.set(xlabel=self.names[0], ylabel=self.names[1])
        axes.ticklabel_format(useOffset=False)


def mixture_of(model: Any) -> Mixture:
    """The mixture of a fitted estimator, or a mixture itself, with densities that exist.

    Raises
    ------
    InvalidParameterError
        If it is neither, or a covariance is not positive definite.
    NotFittedError
    """
    if isinstance(model, Mixture):
        mixture = model
    elif hasattr(model, "_check_fitted"):
        model._check_fitted()
        mixture = model.mixture_
    else:
        raise InvalidParameterError(
            f"cannot plot a {type(model).__module__}.{type(model).__name__}; pass a fitted "
            "dgmm.GaussianMixture (GaussianMixture.from_sklearn makes one of scikit-learn's) or a "
            "dgmm.Mixture"
        )
    check_covariances(mixture)
    return mixture


def plane_of(mixture: Mixture, features: Any) -> Plane:
    """The marginal of two features.

    Parameters
    ----------
    mixture : Mixture
    features : pair of int or str, optional
        Indices or names, for the horizontal and the vertical axis. None: the two that there are.

    Raises
    ------
    InvalidParameterError
        If they are not two that the mixture has, or None and it has more.
    """
    d = mixture.n_features
    if d < 2:
        raise InvalidParameterError(
            "the mixture has one feature; this plot shows two (plot_responsibilities with "
            "kind='bars' and plot_convergence need no second one)"
        )
    if features is None and d > 2:
        raise InvalidParameterError(
            f"the mixture has {d} features and a plot shows two: pass features=(i, j)"
        )
    indices = np.arange(2) if features is None else feature_indices(mixture, features)
    if len(indices) != 2:
        raise InvalidParameterError(
            f"features={features!r}; a plot shows two, so pass a pair such as (0, 1)"
        )
    first, second = (int(i) for i in indices)
    named = mixture.feature_names or [f"feature {i}" for i in range(d)]
    names = (named[first], named[second])
    return Plane(mixture.marginal([first, second]), (first, second), names)
