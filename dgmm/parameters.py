"""The estimator's arguments, checked once: what the rest of a fit works with."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from dgmm.acceleration import REGIMES
from dgmm.arrays import explain_device, resolve_device
from dgmm.backend import backend_of
from dgmm.constraints import check_magnitude
from dgmm.covariance import CovarianceFamily, family_of
from dgmm.dispatch import host_float64, on_host
from dgmm.emptying import EMPTY_COMPONENTS
from dgmm.errors import InvalidParameterError
from dgmm.fixed import Fixed
from dgmm.initialization import INIT_PARAMS, Method
from dgmm.mixture import Mixture
from dgmm.scalable_kmeans import METHOD
from dgmm.seeds import seed_entropy
from dgmm.sizes import parse_bytes
from dgmm.small_em import METHOD as SMALL_EM
from dgmm.variants import ALGORITHMS, check_annealing

__all__ = ["FitParameters", "check_held", "check_parameters", "seed_entropy", "start_from"]

Array = np.ndarray[Any, Any]


# numba takes a fifth of it: below, the memory is worth more to the blocks.
_LIMIT_FOR_COMPILING = 2**30


@dataclass(frozen=True)
class FitParameters:
    """Checked arguments of a fit; the names are the estimator's.

    ``n_init`` is 1 where every restart would be the same.
    """

    n_components: int
    family: CovarianceFamily
    tol: float
    reg_covar: float
    max_iter: int
    algorithm: str
    temperatures: tuple[float, ...]
    n_init: int
    init_params: Method
    halve_after: int | None
    acceleration: str | None
    empty_components: str
    device: str
    dtype: str | None
    memory_limit: int | None

    @property
    def device_for_once(self) -> str:
        """The device for a single pass, which repays no compiling."""
        return explain_device(self.device)[0]

    def device_with_reason(self, n_rows: int) -> tuple[str, str]:
        """The device for the passes of a fit to so many rows, and why it was chosen."""
        tight = self.memory_limit is not None and self.memory_limit < _LIMIT_FOR_COMPILING
        return explain_device(self.device, 0 if tight else n_rows * self.n_components)


def check_parameters(estimator: Any) -> FitParameters:
    """Check an estimator's arguments, except those whose shape depends on the data.

    Raises
    ------
    InvalidParameterError
        Naming the argument, its value and what it may be.
    """
    _check_flags(estimator)
    algorithm = _choice(estimator, "algorithm", ALGORITHMS)
    max_iter = _integer(estimator, "max_iter", 0)
    temperatures = check_annealing(estimator.annealing, algorithm, max_iter)
    return FitParameters(
        n_components=_integer(estimator, "n_components", 1),
        family=family_of(estimator.covariance_type),
        tol=_real(estimator, "tol"),
        reg_covar=_real(estimator, "reg_covar"),
        max_iter=max_iter,
        algorithm=algorithm,
        temperatures=temperatures,
        n_init=_n_restarts(estimator, algorithm, temperatures),
        init_params=_method(estimator.init_params),
        halve_after=(
            None if estimator.halve_after is None else _integer(estimator, "halve_after", 1)
        ),
        acceleration=_acceleration(estimator.acceleration, algorithm, temperatures),
        empty_components=_choice(estimator, "empty_components", EMPTY_COMPONENTS),
        device=_device(estimator.device),
        dtype=_dtype(estimator.dtype),
        memory_limit=(
            None
            if estimator.memory_limit is None
            else parse_bytes(estimator.memory_limit, "memory_limit")
        ),
    )


def _n_restarts(estimator: Any, algorithm: str, temperatures: tuple[float, ...]) -> int:
    """Restarts that can differ: one where the start is given and nothing is drawn after it."""
    n_init = _integer(estimator, "n_init", 1)
    is_drawn = algorithm == "sem" or bool(temperatures)
    return n_init if is_drawn or not _has_whole_start(estimator) else 1


def _has_whole_start(estimator: Any) -> bool:
    """True if the caller gave all of the start, so that no ``init_params`` is asked."""
    spreads = (estimator.covariances_init, estimator.precisions_init)
    given = (estimator.weights_init, estimator.means_init)
    return all(one is not None for one in given) and any(one is not None for one in spreads)


def _check_flags(estimator: Any) -> None:
    _integer(estimator, "verbose_interval", 1)
    if not isinstance(estimator.verbose, bool | np.bool_):
        _integer(estimator, "verbose", 0)
    if not isinstance(estimator.warm_start, bool | np.bool_):
        raise InvalidParameterError(
            f"warm_start={estimator.warm_start!r}; it must be True or False"
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
    if not isinstance(value, str) or value not in known:
        raise InvalidParameterError(f"{name}={value!r}; it must be one of {', '.join(known)}")
    return value


def _method(value: Any) -> Method:
    if callable(value):
        return cast(Method, value)
    known = (*INIT_PARAMS, METHOD, SMALL_EM)
    if not isinstance(value, str) or value not in known:
        raise InvalidParameterError(
            f"init_params={value!r}; it must be one of {', '.join(known)}, or a callable "
            "(sample, n_components, seed) -> means or responsibilities"
        )
    return value


def _acceleration(value: Any, algorithm: str, temperatures: tuple[float, ...]) -> str | None:
    known = ("auto", *REGIMES)
    if value is None:
        return None
    if not isinstance(value, str) or value not in known:
        names = ", ".join(repr(one) for one in known)
        raise InvalidParameterError(f"acceleration={value!r}; it must be None or one of {names}")
    other = f"algorithm={algorithm!r}" if algorithm != "em" else "annealing"
    if value != "auto" and (algorithm != "em" or temperatures):
        raise InvalidParameterError(
            f"acceleration={value!r} cannot be used with {other}, whose iterations do not climb "
            "the likelihood that its certificate bounds; pass acceleration=None, or 'auto', which "
            "goes without it there"
        )
    return value


def _device(value: Any) -> str:
    # What a device needs is missed here, not after the first pass over the data.
    backend_of(resolve_device(value))
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


def start_from(
    estimator: Any, parameters: FitParameters, n_features: int, find: Callable[[], Mixture]
) -> Mixture:
    """A start from the parameters that the caller gave, and for the rest from ``find``.

    Parameters
    ----------
    estimator : GaussianMixture
        Whose ``weights_init``, ``means_init``, ``covariances_init`` and ``precisions_init`` are
        used.
    parameters : FitParameters
    n_features : int
    find : callable
        Called only if something was not given.

    Raises
    ------
    InvalidParameterError
        If a given array has the wrong shape, weights are not proportions, or a precision or
        covariance is not symmetric and positive definite.
    """
    k, family = parameters.n_components, parameters.family
    weights = _given(estimator, "weights_init", (k,))
    means = _given(estimator, "means_init", (k, n_features))
    shape = family.covariances_shape(k, n_features)
    covariances = _given(estimator, "covariances_init", shape)
    precisions = _given(estimator, "precisions_init", shape)
    if weights is not None:
        _check_weights(weights, estimator.weights_init)
    if covariances is not None:
        _inverses("covariances_init", covariances, family, "covariances_init")
    elif precisions is not None:
        their_name = _their_name(estimator, "precisions_init")
        covariances = _inverses("precisions_init", precisions, family, their_name)
    if weights is not None and means is not None and covariances is not None:
        return Mixture(weights, means, covariances, family.name)
    start = find()
    return Mixture(
        weights=start.weights if weights is None else weights,
        means=start.means if means is None else means,
        covariances=start.covariances if covariances is None else covariances,
        covariance_type=family.name,
    )


def check_held(
    estimator: Any,
    parameters: FitParameters,
    fixed: Fixed,
    mixture: Mixture,
    dropped: Collection[int] = (),
) -> None:
    """Refuse given starts that contradict what a fit that goes on holds: the mixture's own values.

    Parameters
    ----------
    estimator : GaussianMixture
        Whose ``weights_init``, ``means_init``, ``covariances_init`` and ``precisions_init`` are
        compared.
    parameters : FitParameters
    fixed : Fixed
    mixture : Mixture
        Which the fit goes on from.
    dropped : collection of int, default=()
        Components that left it before.

    Raises
    ------
    InvalidParameterError
        If one of a held parameter is another value, by more than rounding.
    """
    k, d, family = parameters.n_components, mixture.n_features, parameters.family
    left = [one for one in range(k) if one not in dropped]
    shapes = {"weights": (k,), "means": (k, d), "covariances": family.covariances_shape(k, d)}
    for kind, shape in shapes.items():
        held = fixed.mask(kind, k)[left]
        argument = f"{kind}_init"
        if kind == "covariances" and estimator.precisions_init is not None:
            argument = "precisions_init"
        given = _given(estimator, argument, shape) if held.any() else None
        if given is None:
            continue
        if argument == "precisions_init":
            given = _inverses(argument, given, family, _their_name(estimator, argument))
        ours = getattr(mixture, kind)
        if kind != "covariances" or not family.is_tied:
            given, ours = given[left][held], ours[held]
        # Attributes of a fit to float32 rows, given back, are rounded to that.
        tolerance = 1e-5 if _is_narrow(getattr(estimator, argument)) else 1e-9
        apart = float(np.abs(given - ours).max())
        if apart > tolerance * float(np.abs(ours).max()):
            raise InvalidParameterError(
                f"fixed holds the {kind} of components {np.array(left)[held].tolist()} at what the "
                f"fit goes on from, and {argument} differs from that by up to {apart:.3g}; pass "
                f"{argument}=None to hold what is there, or begin anew (fit with warm_start=False) "
                "to hold what is given"
            )


def _given(estimator: Any, name: str, shape: tuple[int, ...]) -> Array | None:
    value = getattr(estimator, name)
    if value is None:
        return None
    try:
        array = host_float64(value)
    except (TypeError, ValueError) as error:
        raise InvalidParameterError(f"{name} is not an array of numbers: {error}") from error
    if array.shape != shape:
        # The first clause is scikit-learn's, whose callers look for it.
        raise InvalidParameterError(
            f"The parameter '{_their_name(estimator, name)}' should have the shape of {shape}, "
            f"but got {array.shape}: see {name}"
        )
    if not np.all(np.isfinite(array)):
        raise InvalidParameterError(f"{name} holds values that are not finite")
    if name == "means_init":
        check_magnitude(name, array)
    return array


def _their_name(estimator: Any, name: str) -> str:
    """What scikit-learn's messages call one of the given starts."""
    kind = name.removesuffix("_init")
    return f"{estimator.covariance_type} precision" if kind == "precisions" else kind


def _is_narrow(given: Any) -> bool:
    return bool(getattr(on_host(given), "dtype", None) == np.float32)


def _check_weights(weights: Array, given: Any) -> None:
    least, most = float(weights.min()), float(weights.max())
    if least < 0.0 or most > 1.0:
        # scikit-learn's sentence exchanges the two, and its tests hold it to that; ours follows.
        raise InvalidParameterError(
            "The parameter 'weights' should be in the range [0, 1], but got max value "
            f"{least:.5f}, min value {most:.5f}; that is, weights_init lies between {least:.5f} "
            f"and {most:.5f}"
        )
    # Proportions that were rounded to float32 miss one by as much.
    if abs(1.0 - weights.sum()) > (1e-6 if _is_narrow(given) else 1e-8):
        raise InvalidParameterError(
            "The parameter 'weights' should be normalized, but got sum(weights) = "
            f"{weights.sum():.5f}: see weights_init"
        )


def _inverses(name: str, values: Array, family: CovarianceFamily, their_name: str) -> Array:
    symmetric = family.shape.is_symmetric(values)
    inverses = family.covariances_from_precisions(values)
    if not symmetric or not np.all(np.isfinite(inverses)):
        wanted = _DEFINITE[family.shape.uses_whitening()]
        raise InvalidParameterError(f"'{their_name}' should be {wanted}: see {name}")
    return inverses


_DEFINITE = {True: "symmetric, positive-definite", False: "positive"}
