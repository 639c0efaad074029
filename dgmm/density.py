"""Densities and distances of rows in memory, from a mixture's float64 factors.

The estimator evaluates data of any size by its kernels; these functions are for a value without an
engine. They go over the rows in tiles, so that besides the result they hold a few megabytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import chdtrc

from dgmm.errors import InvalidDataError, InvalidDtypeError, InvalidParameterError

if TYPE_CHECKING:
    from dgmm.mixture import Mixture

__all__ = [
    "check_covariances",
    "labels",
    "log_density",
    "mahalanobis",
    "responsibilities",
    "rows_in_memory",
    "tail_probability",
    "tiles",
    "whitened",
]

Array = np.ndarray[Any, Any]

# Of the largest array of a tile. The rows of a tile follow from the mixture alone.
_TILE_BYTES = 2**22


def log_density(mixture: Mixture, x: Any) -> Array:
    """log p(x) of every row, in nats: shape (n,)."""
    rows = rows_in_memory(mixture, x)
    density = np.empty(len(rows))
    for tile in tiles(mixture, rows):
        density[tile] = _normalise(log_joint(mixture, rows[tile]), tile.start)
    return density


def responsibilities(mixture: Mixture, x: Any) -> Array:
    """Posterior probabilities of the components: shape (n, K), rows summing to one."""
    rows = rows_in_memory(mixture, x)
    posterior = np.empty((len(rows), mixture.n_components))
    for tile in tiles(mixture, rows):
        joint = log_joint(mixture, rows[tile])
        _normalise(joint, tile.start)
        posterior[tile] = joint.T
    return posterior


def labels(mixture: Mixture, x: Any) -> Array:
    """The likeliest component of every row: shape (n,), int64."""
    rows = rows_in_memory(mixture, x)
    found = np.empty(len(rows), dtype=np.int64)
    for tile in tiles(mixture, rows):
        joint = log_joint(mixture, rows[tile])
        found[tile] = joint.argmax(axis=0)
        _normalise(joint, tile.start)
    return found


def mahalanobis(mixture: Mixture, x: Any) -> Array:
    """Distances √((x − μ_k)ᵀ Σ_k⁻¹ (x − μ_k)): shape (n, K)."""
    rows = rows_in_memory(mixture, x)
    distance = np.empty((len(rows), mixture.n_components))
    for tile in tiles(mixture, rows):
        distance[tile] = np.sqrt(_squared_distances(mixture, rows[tile])).T
    return distance


def tail_probability(mixture: Mixture, x: Any) -> Array:
    """χ²_D probability of a larger distance than the row's to its nearest component: (n,)."""
    rows = rows_in_memory(mixture, x)
    live = mixture.weights > 0
    probability = np.empty(len(rows))
    for tile in tiles(mixture, rows):
        nearest = _squared_distances(mixture, rows[tile])[live].min(axis=0)
        probability[tile] = chdtrc(mixture.n_features, nearest)
    return probability


def log_joint(mixture: Mixture, rows: Array) -> Array:
    """log π_k N(x | μ_k, Σ_k) of the rows of one tile: shape (K, n), −inf for a zero weight."""
    constant = mixture.log_weights + mixture.log_normalizers
    return constant[:, None] - 0.5 * _squared_distances(mixture, rows)


def whitened(mixture: Mixture, rows: Array) -> Iterator[Array]:
    """W_k (x − μ_k) for one component after another: each of shape (n, D)."""
    shape, k = mixture.family.shape, mixture.n_components
    whiteners = mixture.family.per_component(mixture.whiteners, k)
    for whitener, mean in zip(whiteners, mixture.means, strict=True):
        yield shape.times(whitener, rows - mean)


def tiles(mixture: Mixture, rows: Array, row_values: int = 0) -> Iterator[slice]:
    """Slices of rows for which no array of a tile exceeds a few megabytes.

    ``row_values`` is for callers that hold more numbers per row than features and components.
    """
    most = max(mixture.n_components, mixture.n_features, row_values)
    size = max(1, _TILE_BYTES // (8 * most))
    for start in range(0, len(rows), size):
        yield slice(start, min(start + size, len(rows)))


def rows_in_memory(mixture: Mixture, x: Any) -> Array:
    """``x`` as real rows of the right width, for a mixture whose densities exist.

    The names of a frame's columns have to be those of the features, in their order.

    Raises
    ------
    InvalidDtypeError, InvalidDataError
        If they are not real numbers, or of another width.
    InvalidParameterError
        If a covariance is not symmetric and positive definite.
    """
    check_covariances(mixture)
    _check_names(x, mixture.feature_names)
    rows = np.asarray(x)
    if rows.dtype.kind not in "biuf":
        raise InvalidDtypeError(f"rows have dtype {rows.dtype}; real numbers are needed")
    wanted = mixture.n_features
    if rows.ndim != 2 or rows.shape[1] != wanted:
        raise InvalidDataError(
            f"rows have shape {rows.shape}; (n, {wanted}) is needed: reshape a single row to "
            f"(1, {wanted})"
        )
    return rows


def _check_names(x: Any, names: Any) -> None:
    """Refuse a frame whose columns would be taken for other features."""
    columns = getattr(x, "columns", None)
    if names is None or columns is None:
        return
    found = list(columns)
    if all(isinstance(one, str) for one in found) and found != list(names):
        raise InvalidDataError(
            f"the columns are {found} and the features {list(names)}: pass the columns in the "
            "order of the features, or an array"
        )


def check_covariances(mixture: Mixture) -> None:
    """Raise InvalidParameterError unless the covariances are symmetric and positive definite."""
    if mixture.singular_components:
        k = mixture.singular_components[0]
        raise InvalidParameterError(
            f"the covariance of component {k} is not positive definite; add to its diagonal"
        )
    if not mixture.family.shape.is_symmetric(mixture.covariances):
        raise InvalidParameterError(
            "covariances are not symmetric; pass (covariances + covariances.swapaxes(-1, -2)) / 2"
        )


def _squared_distances(mixture: Mixture, rows: Array) -> Array:
    squares = np.empty((mixture.n_components, len(rows)))
    with np.errstate(over="ignore"):
        for k, white in enumerate(whitened(mixture, rows.astype(np.float64, copy=False))):
            np.einsum("ij,ij->i", white, white, out=squares[k])
    return squares


def _normalise(joint: Array, first_row: int) -> Array:
    """Turn log joint densities (K, n) into responsibilities, in place; return the log densities."""
    top = joint.max(axis=0)
    bad = np.flatnonzero(~np.isfinite(top))
    if bad.size:
        raise InvalidDataError(
            f"row {first_row + bad[0]} has no finite log density: it holds NaN, infinity or values "
            "too large to square; remove or rescale such rows"
        )
    joint -= top
    np.exp(joint, out=joint)
    total = joint.sum(axis=0)
    joint /= total
    return top + np.log(total)
