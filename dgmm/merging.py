"""Fewer components, or another family: mixtures made from a mixture, with nothing fitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dgmm.covariance import CovarianceFamily, family_of
from dgmm.errors import InvalidParameterError

if TYPE_CHECKING:
    from dgmm.mixture import Mixture

__all__ = ["in_family", "merge_components"]

Array = np.ndarray[Any, Any]


def merge_components(mixture: Mixture, groups: Sequence[Sequence[int]]) -> Mixture:
    """Each group as one component; see :meth:`dgmm.Mixture.merge_components`.

    With w = Σ w_k and μ = Σ w_k μ_k / w, the covariance is Σ w_k (Σ_k + (μ_k − μ)(μ_k − μ)ᵀ) / w
    (Runnalls 2007, "Kullback-Leibler approach to Gaussian mixture reduction"), projected
    onto the family.
    """
    members = _partition(mixture, groups)
    shares = [_shares(mixture.weights[group]) for group in members]
    pairs = list(zip(shares, members, strict=True))
    means = np.array([share @ mixture.means[group] for share, group in pairs])
    weights = np.array([mixture.weights[group].sum() for group in members])
    between = np.array(
        [_between(mixture, *pair, mean) for pair, mean in zip(pairs, means, strict=True)]
    )
    old = mixture.covariances
    if mixture.family.is_tied:
        covariances = old + np.tensordot(weights, between, axes=1)
    else:
        within = np.array([np.tensordot(share, old[group], axes=1) for share, group in pairs])
        covariances = within + between
    return replace(mixture, weights=weights, means=means, covariances=covariances)


def _between(mixture: Mixture, share: Array, group: Array, mean: Array) -> Array:
    """Covariance of the means of a group, in the stored shape."""
    shape = mixture.family.shape
    scatter = shape.pooled_outer(mixture.means[group] - mean, share)
    return scatter / shape.divisor(mixture.n_features)


def _shares(weights: Array) -> Array:
    """Shares of the members of a group; equal ones if none has any weight."""
    total = weights.sum()
    return weights / total if total > 0 else np.full(len(weights), 1.0 / len(weights))


def _partition(mixture: Mixture, groups: Any) -> list[Array]:
    """All components in groups, those not named alone, in order of their least member."""
    if not np.iterable(groups) or not all(np.iterable(group) for group in groups):
        raise InvalidParameterError(f"groups {groups!r} must be sequences: [[0, 1]], not [0, 1]")
    named: list[int] = [k for group in groups for k in group]
    if not all(isinstance(k, int | np.integer) for k in named):
        raise InvalidParameterError(f"groups {groups!r} must hold components as integers")
    bad = [k for k in named if not 0 <= k < mixture.n_components]
    if bad:
        raise InvalidParameterError(
            f"component {bad[0]} is not known: the mixture has {mixture.n_components} components"
        )
    if len(set(named)) < len(named) or not all(len(group) for group in groups):
        raise InvalidParameterError(
            f"groups {groups!r} must be disjoint and not empty: a component can be merged once"
        )
    alone = [[k] for k in range(mixture.n_components) if k not in set(named)]
    members = [np.sort(np.asarray(group, dtype=np.intp)) for group in [*groups, *alone]]
    return sorted(members, key=lambda group: int(group[0]))


def in_family(mixture: Mixture, covariance_type: str) -> Mixture:
    """The same densities in another family; see :meth:`dgmm.Mixture.with_covariance_type`."""
    family = family_of(covariance_type)
    old = mixture.family.shape.dense(_stacked(mixture, mixture.family), mixture.n_features)
    d = mixture.n_features
    new = family.shape.project(old) / family.shape.divisor(d)
    covariances = new[0] if family.is_tied else new
    found = replace(mixture, covariances=covariances, covariance_type=family.name)
    # Exact but for the division of a trace, which rounds.
    if not np.allclose(family.shape.dense(_stacked(found, family), d), old, rtol=1e-12, atol=0.0):
        raise InvalidParameterError(
            f"covariances of type {mixture.covariance_type!r} cannot be written as "
            f"{family.name!r} without changing the densities; choose a more general type"
        )
    return found


def _stacked(mixture: Mixture, family: CovarianceFamily) -> Array:
    return family.per_component(mixture.covariances, mixture.n_components)
