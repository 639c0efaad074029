"""Marginals, conditionals and regression: what a mixture says of some features given others.

The formulas are those of joint Gaussians, component by component, with the weights of the
components updated by Bayes' rule (Ghahramani & Jordan 1994, "Supervised learning from incomplete
data via an EM approach", NIPS 6; Bishop 2006, section 2.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dgmm.density import check_covariances, responsibilities, rows_in_memory, tiles
from dgmm.errors import InvalidParameterError

if TYPE_CHECKING:
    from dgmm.mixture import Mixture

__all__ = [
    "Regression",
    "conditional",
    "feature_indices",
    "marginal",
    "regress",
    "regression_of",
]

Array = np.ndarray[Any, Any]


def feature_indices(mixture: Mixture, features: Any) -> Array:
    """Indices of features given by index or name, in the order given.

    Raises
    ------
    InvalidParameterError
        If a feature is unknown or given twice, or there are none.
    """
    one = isinstance(features, str) or not np.iterable(features)
    given = [features] if one else list(features)
    indices = np.array([_index(mixture, one) for one in given], dtype=np.intp)
    if not indices.size:
        raise InvalidParameterError("no features given; name at least one")
    if len(set(indices.tolist())) < indices.size:
        raise InvalidParameterError(f"features {given!r} name one of them twice")
    return indices


def marginal(mixture: Mixture, features: Any) -> Mixture:
    """The mixture of some features, in the order given; see :meth:`dgmm.Mixture.marginal`."""
    return _restricted(mixture, feature_indices(mixture, features))


def conditional(mixture: Mixture, features: Any, values: Any) -> Mixture:
    """The mixture of the other features, given these; see :meth:`dgmm.Mixture.conditional`."""
    check_covariances(mixture)
    given = feature_indices(mixture, features)
    rest = _others(mixture, given)
    try:
        at = np.atleast_1d(np.asarray(values, dtype=np.float64))
    except (TypeError, ValueError):
        at = np.empty(0)
    if at.shape != given.shape or not np.all(np.isfinite(at)):
        raise InvalidParameterError(
            f"values are {values!r}; {given.size} finite numbers are needed, one for each feature"
        )
    before = _restricted(mixture, given)
    gain, covariances = mixture.family.shape.condition_on(mixture.covariances, given, rest)
    shift = np.einsum("...ab,...b->...a", gain, at - before.means)
    return replace(
        mixture,
        weights=responsibilities(before, at[None])[0],
        means=mixture.means[:, rest] + shift,
        covariances=covariances,
        feature_names=_names(mixture, rest),
    )


def regress(
    mixture: Mixture, x: Any, given: Any, targets: Any, *, return_covariance: bool
) -> Array | tuple[Array, Array]:
    """E[y | x] of every row, and its covariance; see :meth:`dgmm.Mixture.regress`."""
    regression = regression_of(mixture, given, targets)
    rows = rows_in_memory(regression.given, x)
    means, covariances = regression.of(rows, with_covariance=return_covariance)
    return means if covariances is None else (means, covariances)


def regression_of(mixture: Mixture, given: Any, targets: Any = None) -> Regression:
    """The regression of some features, by default all others, on those given.

    Raises
    ------
    InvalidParameterError
        If a feature is unknown, named twice or on both sides, or a covariance not definite.
    """
    check_covariances(mixture)
    sources = feature_indices(mixture, given)
    wanted = _others(mixture, sources) if targets is None else feature_indices(mixture, targets)
    if set(sources.tolist()) & set(wanted.tolist()):
        raise InvalidParameterError("a feature cannot be given and be a target at once")
    return Regression(mixture, sources, wanted)


class Regression:
    """The regressions of the components, and the mixture of the given features that mixes them."""

    def __init__(self, mixture: Mixture, given: Array, wanted: Array) -> None:
        # The features that are neither given nor wanted are integrated out first.
        joint = _restricted(mixture, np.concatenate([given, wanted]))
        first, last = np.split(np.arange(joint.n_features), [given.size])
        self.given = _restricted(joint, first)
        self.means = joint.means[:, last]
        family = joint.family
        self.gain, remaining = family.shape.condition_on(joint.covariances, first, last)
        per_component = family.per_component(remaining, joint.n_components)
        self.covariances = family.shape.dense(per_component, wanted.size)

    @property
    def n_targets(self) -> int:
        return int(self.means.shape[1])

    def widest(self, *, with_covariance: bool) -> int:
        """Most numbers for a row that an array holds on the way."""
        a, k = self.n_targets, self.given.n_components
        return max(k * max(a, self.given.n_features), a * a if with_covariance else 1)

    def of(self, rows: Array, *, with_covariance: bool) -> tuple[Array, Array | None]:
        """E[y | x] (n, a) of rows of the given features, and its covariance (n, a, a)."""
        a = self.n_targets
        means = np.empty((len(rows), a))
        covariances = np.empty((len(rows), a, a)) if with_covariance else None
        for tile in tiles(self.given, rows, self.widest(with_covariance=with_covariance)):
            posterior, centres = self.evaluate(rows[tile])
            means[tile] = np.einsum("nk,kna->na", posterior, centres)
            if covariances is not None:
                covariances[tile] = self.spread(posterior, centres - means[tile])
        return means, covariances

    def evaluate(self, rows: Array) -> tuple[Array, Array]:
        """Responsibilities (n, K) and the components' predictions (K, n, a)."""
        k = self.given.n_components
        gains = np.broadcast_to(self.gain, (k, *self.gain.shape[-2:]))
        offsets = rows[None] - self.given.means[:, None]
        centres = self.means[:, None] + offsets @ np.swapaxes(gains, -1, -2)
        return responsibilities(self.given, rows), centres

    def spread(self, posterior: Array, deviations: Array) -> Array:
        """Σ_k h_k (C_k + d_k d_kᵀ), which unlike Σ h m mᵀ − m mᵀ does not cancel: (n, a, a)."""
        within = np.tensordot(posterior, self.covariances, axes=1)
        d = np.moveaxis(deviations, 0, 1)
        between = np.swapaxes(d, -1, -2) @ (posterior[:, :, None] * d)
        return np.asarray(within + between)


def _restricted(mixture: Mixture, indices: Array) -> Mixture:
    return replace(
        mixture,
        means=mixture.means[:, indices],
        covariances=mixture.family.shape.select(mixture.covariances, indices),
        feature_names=_names(mixture, indices),
    )


def _others(mixture: Mixture, given: Array) -> Array:
    rest = np.setdiff1d(np.arange(mixture.n_features), given)
    if not rest.size:
        raise InvalidParameterError(
            f"all {mixture.n_features} features are given, so none is left; give fewer"
        )
    return rest


def _names(mixture: Mixture, indices: Array) -> Sequence[str] | None:
    names = mixture.feature_names
    return None if names is None else tuple(names[i] for i in indices)


def _index(mixture: Mixture, feature: Any) -> int:
    d, names = mixture.n_features, mixture.feature_names
    if isinstance(feature, str):
        if names is not None and feature in names:
            return names.index(feature)
        known = "has no names" if names is None else f"has {', '.join(names)}"
        raise InvalidParameterError(f"feature {feature!r} is not known: the mixture {known}")
    if isinstance(feature, bool | np.bool_) or not isinstance(feature, int | np.integer):
        raise InvalidParameterError(f"feature {feature!r} is neither an index nor a name")
    if not -d <= feature < d:
        raise InvalidParameterError(f"feature {feature} is not known: the mixture has {d} features")
    return int(feature) % d
