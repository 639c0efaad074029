"""The estimator's arguments, checked once: what the rest of a fit works with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dgmm.arrays import resolve_device
from dgmm.covariance import CovarianceFamily, family_of
from dgmm.errors import InvalidParameterError
from dgmm.initialization import INIT_PARAMS
from dgmm.mixture import Mixture
from dgmm.sizes import parse_bytes
from dgmm.variants import ALGORITHMS, check_annealing

__all__ = ["FitParameters", "check_parameters", "seed_entropy", "start_from"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class FitParameters:
    """Checked arguments of a fit; the names are the estimator's."""

    n_components: int
    family: CovarianceFamily
    tol: float
    reg_covar: float
    max_iter: int
    algorithm: str
    temperatures: tuple[float, ...]
    n_init: int
    init_params: str
    device: str
    dtype: str | None
    memory_limit: int | None


def check_parameters(estimator: Any) -> FitParameters:
    """Check an estimator's arguments, except those whose shape depends on the data.

    Raises
    ------
    InvalidParameterError
        Naming the argument, its value and what it may be.
    """
    algorithm = _choice(estimator, "algorithm", ALGORITHMS)
    max_iter = _integer(estimator, "max_iter", 0)
    return FitParameters(
        n_components=_integer(estimator, "n_components", 1),
        family=family_of(estimator.covariance_type),
        tol=_real(estimator, "tol"),
        reg_covar=_real(estimator, "reg_covar"),
        max_iter=max_iter,
        algorithm=algorithm,
        temperatures=check_annealing(estimator.annealing, algorithm, max_iter),
        n_init=_integer(estimator, "n_init", 1),
        init_params=_choice(estimator, "init_params", tuple(INIT_PARAMS)),
        device=resolve_device(estimator.device),
        dtype=_dtype(estimator.dtype),
        memory_limit=(
            None
            if estimator.memory_limit is None
            else parse_bytes(estimator.memory_limit, "memory_limit")
        ),
    )


def _integer(estimator: Any, name: str, least: int) -> int:
    value = getattr(estimator, name)
    is_integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not is_integer or value < least:
        raise InvalidParameterError(f"{name}={value!r}; it must be an integer of at least {least}")
    return int(value)


def _real(estimator: Any, name: str) -> float:
    value = getattr(estimator, name)
    is_real = isinstance(value, float | int | np.floating | np.integer)
    if not is_real or isinstance(value, bool) or not 0.0 <= value < np.inf:
        raise InvalidParameterError(f"{name}={value!r}; it must be a finite number of at least 0")
    return float(value)


def _choice(estimator: Any, name: str, known: tuple[str, ...]) -> str:
    value = getattr(estimator, name)
    if value not in known:
        raise InvalidParameterError(f"{name}={value!r}; it must be one of {', '.join(known)}")
    return str(value)


def _dtype(value: Any) -> str | None:
    if value is None:
        return None
    try:
        name = np.dtype(value).name
    except TypeError:
        name = repr(value)
    if name not in ("float32", "float64"):
        raise InvalidParameterError(f"dtype={value!r}; it must be 'float32', 'float64' or None")
    return name


def seed_entropy(random_state: Any) -> int:
    """The one seed of a fit, from scikit-learn's ``random_state``.

    Raises
    ------
    InvalidParameterError
        If it is neither None, a non-negative integer, a ``RandomState`` nor a ``Generator``.
    """
    if random_state is None:
        return int(np.random.SeedSequence().entropy)  # type: ignore[arg-type]
    if isinstance(random_state, int | np.integer) and random_state >= 0:
        return int(random_state)
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(2**31 - 1))
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(2**63 - 1))
    raise InvalidParameterError(
        f"random_state={random_state!r}; it must be None, a non-negative integer, "
        "a numpy.random.RandomState or a numpy.random.Generator"
    )


def start_from(
    estimator: Any, parameters: FitParameters, n_features: int, find: Callable[[], Mixture]
) -> Mixture:
    """A start from the parameters that the caller gave, and for the rest from ``find``.

    Parameters
    ----------
    estimator : GaussianMixture
        Whose ``weights_init``, ``means_init`` and ``precisions_init`` are used.
    parameters : FitParameters
    n_features : int
    find : callable
        Called only if something was not given.

    Raises
    ------
    InvalidParameterError
        If a given array has the wrong shape, weights are not proportions or a precision is not
        symmetric and positive definite.
    """
    k, family = parameters.n_components, parameters.family
    weights = _given(estimator, "weights_init", (k,))
    means = _given(estimator, "means_init", (k, n_features))
    shape = family.covariances_shape(k, n_features)
    precisions = _given(estimator, "precisions_init", shape)
    if weights is not None:
        _check_weights(weights)
    covariances = None if precisions is None else _covariances(precisions, family)
    if weights is not None and means is not None and covariances is not None:
        return Mixture(weights, means, covariances, family.name)
    start = find()
    return Mixture(
        weights=start.weights if weights is None else weights,
        means=start.means if means is None else means,
        covariances=start.covariances if covariances is None else covariances,
        covariance_type=family.name,
    )


def _given(estimator: Any, name: str, shape: tuple[int, ...]) -> Array | None:
    value = getattr(estimator, name)
    if value is None:
        return None
    array = np.asarray(value, dtype=np.float64)
    if array.shape != shape:
        raise InvalidParameterError(f"{name} has shape {array.shape}; it must have shape {shape}")
    if not np.all(np.isfinite(array)):
        raise InvalidParameterError(f"{name} holds values that are not finite")
    return array


def _check_weights(weights: Array) -> None:
    if np.any(weights < 0.0) or np.any(weights > 1.0):
        raise InvalidParameterError(
            "weights_init must lie in [0, 1]; the least is "
            f"{weights.min():.5f} and the most {weights.max():.5f}"
        )
    if abs(1.0 - weights.sum()) > 1e-8:
        raise InvalidParameterError(f"weights_init must sum to 1; they sum to {weights.sum():.8f}")


def _covariances(precisions: Array, family: CovarianceFamily) -> Array:
    dense = family.shape.dense(precisions, 1)
    symmetric = dense.shape != precisions.shape or np.allclose(
        precisions, np.swapaxes(precisions, -1, -2)
    )
    covariances = family.covariances_from_precisions(precisions)
    if not symmetric or not np.all(np.isfinite(covariances)):
        raise InvalidParameterError(
            f"precisions_init must be {_DEFINITE[precisions.ndim > 1]} for "
            f"covariance_type={family.name!r}"
        )
    return covariances


_DEFINITE = {True: "symmetric and positive definite", False: "positive"}
