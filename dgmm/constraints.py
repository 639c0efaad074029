"""The estimator's arguments on priors, held parameters and the floor, checked for rows of a width.

What comes out is the :class:`~dgmm.maximization.MaximizationOptions` of the fit: every scalar and
every shared value spread over the components.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from dgmm.covariance import CovarianceFamily
from dgmm.dispatch import host_float64
from dgmm.errors import InvalidParameterError
from dgmm.fixed import Fixed
from dgmm.maximization import MaximizationOptions
from dgmm.mixture import Mixture
from dgmm.priors import Priors

__all__ = [
    "check_concentration",
    "check_fixed",
    "check_magnitude",
    "check_start",
    "maximization_options",
]

Array = np.ndarray[Any, Any]
_HELD = ("weights", "means", "covariances")

# Squares of it are finite.
_MOST = 1e150


def maximization_options(
    estimator: Any, family: CovarianceFamily, n_components: int, n_features: int, reg_covar: float
) -> MaximizationOptions:
    """What the M-steps of a fit do beside maximising the likelihood.

    Parameters
    ----------
    estimator : GaussianMixture
        Whose prior arguments, ``fixed`` and ``covariance_floor`` are used.
    family : CovarianceFamily
    n_components, n_features : int
    reg_covar : float
        Checked; a floor takes its place.

    Raises
    ------
    InvalidParameterError
        Naming the argument, its value and what it may be.
    """
    floor = _floor(estimator.covariance_floor)
    fixed = check_fixed(estimator.fixed, family, n_components)
    _check_emptying(estimator, fixed, n_components)
    if estimator.covariances_init is not None and estimator.precisions_init is not None:
        raise InvalidParameterError(
            "covariances_init and precisions_init are both given; they are inverses of each "
            "other, so give one"
        )
    return MaximizationOptions(
        reg_covar=0.0 if floor else reg_covar,
        covariance_floor=floor,
        priors=_priors(estimator, family, n_components, n_features, fixed),
        fixed=fixed,
    )


def check_start(start: Mixture, options: MaximizationOptions) -> Mixture:
    """A start that the options allow: held weights leave some, no covariance is below the floor.

    Raises
    ------
    InvalidParameterError
        If held weights leave nothing for the free ones.
    """
    k = start.n_components
    held = options.fixed.mask("weights", k)
    if held.any() and not held.all() and start.weights[held].sum() >= 1.0 - 1e-12:
        raise InvalidParameterError(
            f"fixed: the weights of components {sorted(options.fixed.weights)} sum to 1 and leave "
            "nothing for the others; lower them in weights_init, or fix all weights"
        )
    if not options.covariance_floor or start.singular_components:
        return start
    family, kept = start.family, options.fixed.mask("covariances", k)
    raised = family.shape.clip(start.covariances, options.covariance_floor)
    if family.is_tied:
        covariances = start.covariances if kept.any() else raised
    else:
        covariances = raised.copy()
        covariances[kept] = start.covariances[kept]
    return Mixture(start.weights, start.means, covariances, family.name)


def check_concentration(options: MaximizationOptions, weight: float) -> None:
    """Refuse a prior on the weights that could empty all components.

    Parameters
    ----------
    options : MaximizationOptions
    weight : float
        Σ w of the rows.
    """
    alpha = options.priors.weight_concentration
    taken = 0.0 if alpha is None else float(np.maximum(1.0 - alpha, 0.0).sum())
    if 0.0 < taken >= weight:
        raise InvalidParameterError(
            f"weight_concentration_prior takes {taken:g} rows from the components and the rows "
            f"count for {weight:g} in all, so that every component could empty; raise it, lower "
            "n_components or scale sample_weight"
        )


def check_magnitude(name: str, values: Array) -> None:
    """Refuse means that are too large to be worked with.

    Raises
    ------
    InvalidParameterError
    """
    if not np.abs(values).max() < _MOST:
        raise InvalidParameterError(
            f"{name} goes up to {np.abs(values).max():g}, which overflows when squared; rescale "
            "the data and it"
        )


def _floor(value: Any) -> float:
    if value is None:
        return 0.0
    is_real = isinstance(value, float | int | np.floating | np.integer)
    if not is_real or isinstance(value, bool) or not 0.0 < value < np.inf:
        raise InvalidParameterError(
            f"covariance_floor={value!r}; it must be a finite number above 0, in squared units "
            "of the data, or None"
        )
    return float(value)


# ------------------------------------------------------------------------------ held parameters


def check_fixed(value: Any, family: CovarianceFamily, n_components: int) -> Fixed:
    """The components whose parameters are held, from the argument ``fixed``.

    Parameters
    ----------
    value : None, str, collection of str, or mapping of str to True or indices
    family : CovarianceFamily
    n_components : int

    Raises
    ------
    InvalidParameterError
        If it names what does not exist, or one component's covariance in a tied family.
    """
    held = {}
    for name, which in _named(value).items():
        if name not in _HELD:
            raise InvalidParameterError(
                f"fixed={value!r}: {name!r} cannot be fixed; use {', '.join(map(repr, _HELD))}"
            )
        held[name] = _components(name, which, n_components)
    covariances = held.get("covariances", frozenset())
    if family.is_tied and 0 < len(covariances) < n_components:
        raise InvalidParameterError(
            f"fixed={value!r}: the components of covariance_type={family.name!r} share one "
            "covariance, so that of single components cannot be fixed; fix all of "
            '{"covariances"}, or use a family with one covariance for each component'
        )
    return Fixed(**held)


def _named(value: Any) -> Mapping[Any, Any]:
    if value is None:
        return {}
    if isinstance(value, Mapping):
        return value
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, Iterable) or not all(isinstance(name, str) for name in names):
        raise InvalidParameterError(
            f'fixed={value!r}; it must be a set of names such as {{"covariances"}}, or a dict '
            'from names to components such as {"means": [0, 3]}'
        )
    return dict.fromkeys(names, True)


def _components(name: str, which: Any, n_components: int) -> frozenset[int]:
    if isinstance(which, bool | np.bool_):
        return frozenset(range(n_components)) if which else frozenset()
    listed = list(which) if isinstance(which, set | frozenset) else which
    try:
        indices = np.atleast_1d(np.asarray(listed))
    except ValueError:
        # Lists of unequal lengths.
        indices = np.array([None])
    if indices.shape == (0,):
        return frozenset()
    if indices.ndim != 1 or indices.dtype.kind not in "iu":
        raise InvalidParameterError(
            f"fixed[{name!r}]={which!r}; it must be True or a list of components, as integers"
        )
    outside = [int(k) for k in indices if not 0 <= k < n_components]
    if outside:
        raise InvalidParameterError(
            f"fixed[{name!r}]={which!r}: there is no component {outside[0]}; use 0 to "
            f"{n_components - 1}"
        )
    return frozenset(int(k) for k in indices)


def _check_emptying(estimator: Any, fixed: Fixed, n_components: int) -> None:
    if estimator.empty_components == "drop" and fixed:
        raise InvalidParameterError(
            f"empty_components='drop' and fixed={estimator.fixed!r} contradict each other: what is "
            "fixed comes back as it was given, and a component that is dropped does not; pass "
            "empty_components='keep' or 'reseed', or fixed=None"
        )
    if estimator.empty_components == "reseed" and len(fixed.means) == n_components:
        raise InvalidParameterError(
            f"empty_components='reseed' and fixed={estimator.fixed!r} contradict each other: a "
            "component is reseeded by a new mean, and all means are fixed; pass "
            "empty_components='keep', or fix the means of some components"
        )


# --------------------------------------------------------------------------------------- priors


def _priors(estimator: Any, family: CovarianceFamily, k: int, d: int, fixed: Fixed) -> Priors:
    _check_pair(estimator, "mean_prior", "mean_precision_prior", "how many rows it counts for")
    _check_pair(
        estimator, "covariance_prior", "degrees_of_freedom_prior", "how concentrated the prior is"
    )
    concentration = _concentration(estimator, k)
    if concentration is not None:
        # A held weight is no longer random.
        concentration = np.where(fixed.mask("weights", k), 1.0, concentration)
    mean = _array(estimator, "mean_prior", (k, d), ((), (d,)))
    if mean is not None:
        check_magnitude("mean_prior", mean)
    return Priors(
        weight_concentration=concentration,
        mean=mean,
        mean_precision=_at_least(estimator, "mean_precision_prior", k, 0.0),
        covariance=_scale(estimator, family, k, d),
        degrees_of_freedom=_degrees(estimator, family, k, d),
    )


def _check_pair(estimator: Any, name: str, strength: str, meaning: str) -> None:
    one, other = getattr(estimator, name), getattr(estimator, strength)
    if one is not None and other is None:
        raise InvalidParameterError(
            f"{name} is given without {strength}, which says {meaning}; give both "
            "(dgmm.suggest_priors suggests values)"
        )
    if one is None and other is not None:
        raise InvalidParameterError(
            f"{strength}={other!r} is given without {name}, which it belongs to; give both"
        )


def _numbers(estimator: Any, name: str) -> Array | None:
    value = getattr(estimator, name)
    if value is None:
        return None
    try:
        return host_float64(value)
    except (TypeError, ValueError):
        raise InvalidParameterError(f"{name}={value!r}; it must hold real numbers") from None


def _array(
    estimator: Any, name: str, shape: tuple[int, ...], shared: tuple[tuple[int, ...], ...]
) -> Array | None:
    """An argument of ``shape``, or of one of the ``shared`` ones, spread to it; None if None."""
    array = _numbers(estimator, name)
    if array is None:
        return None
    if array.shape not in (shape, *shared):
        known = " or ".join(str(one) for one in dict.fromkeys((*shared, shape)))
        raise InvalidParameterError(f"{name} has shape {array.shape}; it must have shape {known}")
    if not np.all(np.isfinite(array)):
        raise InvalidParameterError(f"{name} holds values that are not finite")
    return np.broadcast_to(array, shape).copy()


def _least(estimator: Any, name: str, array: Array) -> str:
    """The least value of an argument, as the caller wrote it."""
    position = "" if np.ndim(getattr(estimator, name)) == 0 else f"[{int(array.argmin())}]"
    return f"{name}{position}={array.min():g}"


def _at_least(estimator: Any, name: str, k: int, least: float) -> Array | None:
    array = _array(estimator, name, (k,), ((),))
    if array is not None and array.min() < least:
        raise InvalidParameterError(
            f"{_least(estimator, name, array)}; it must be at least {least:g}"
        )
    if array is not None:
        _check_count(name, array)
    return array


def _check_count(name: str, array: Array) -> None:
    """Refuse hyperparameters that stand for more rows than can be added up."""
    # Without a sum, which could overflow itself.
    if not array.max() < _MOST / array.size:
        raise InvalidParameterError(
            f"{name} goes up to {array.max():g}; it counts rows, and has to stay below "
            f"{_MOST / array.size:g}"
        )


def _concentration(estimator: Any, k: int) -> Array | None:
    name = "weight_concentration_prior"
    array = _array(estimator, name, (k,), ((),))
    if array is None:
        return None
    _check_count(name, array)
    if array.min() >= 1.0:
        return array
    found = _least(estimator, name, array)
    if array.min() <= 0.0:
        raise InvalidParameterError(f"{found}; α of a Dirichlet prior must be above 0")
    if estimator.empty_components != "drop":
        raise InvalidParameterError(
            f"{found}; it must be at least 1: below that the posterior has no mode inside the "
            "simplex and empties components; use 1 (no prior) or more, or "
            "empty_components='drop', with which such components leave"
        )
    if estimator.acceleration is not None:
        raise InvalidParameterError(
            f"{found} and acceleration={estimator.acceleration!r}: below 1 the posterior grows "
            "without bound as a weight vanishes, and accelerated steps would go there; pass "
            "acceleration=None, or 1 or more"
        )
    return array


def _scale(estimator: Any, family: CovarianceFamily, k: int, d: int) -> Array | None:
    """Ψ in the stored shape of the family; a number is that multiple of the identity."""
    shape, full = family.shape, family.covariances_shape(k, d)
    value = _numbers(estimator, "covariance_prior")
    if value is None:
        # Before anything of d x d is made: nothing has been held to the memory limit yet.
        return None
    if value.ndim == 0:
        number = _array(estimator, "covariance_prior", (), ())
        own = None if number is None else number * shape.identity(d)
    else:
        own = _array(estimator, "covariance_prior", value.shape, ())
        if value.shape not in (full, shape.trailing(d)):
            known = " or ".join(str(one) for one in dict.fromkeys((shape.trailing(d), full)))
            raise InvalidParameterError(
                f"covariance_prior has shape {value.shape}; it must have shape {known}"
            )
    if own is None:
        return None
    _check_definite(own, family, d)
    return np.broadcast_to(own, full).copy()


def _check_definite(own: Array, family: CovarianceFamily, d: int) -> None:
    """Of the matrices as they were given: what components share is looked at once."""
    n_axes = len(family.shape.trailing(d))
    each = own.reshape(-1, *own.shape[own.ndim - n_axes :])
    definite = np.isfinite(family.shape.factorise(each)).reshape(len(each), -1).all(axis=1)
    symmetric = np.array([family.shape.is_symmetric(one) for one in each])
    wrong = np.flatnonzero(~(definite & symmetric))
    if not wrong.size:
        return
    component = int(wrong[0])
    least = float(family.shape.least_eigenvalue(each[component : component + 1]).min())
    raise InvalidParameterError(
        f"covariance_prior has to be symmetric and positive definite, as a covariance of "
        f"covariance_type={family.name!r} is (a number stands for that multiple of the "
        f"identity); that of component {component} has the eigenvalue {least:.3g}"
        f"{'' if symmetric[component] else ' and is not symmetric'}; add to its diagonal"
    )


def _degrees(estimator: Any, family: CovarianceFamily, k: int, d: int) -> Array | None:
    shape = () if family.is_tied else (k,)
    array = _array(estimator, "degrees_of_freedom_prior", shape, ((),))
    least = family.shape.least_degrees_of_freedom(d)
    if array is not None and not array.min() > least:
        raise InvalidParameterError(
            f"{_least(estimator, 'degrees_of_freedom_prior', array)}; for "
            f"covariance_type={family.name!r} and {d} features it must exceed {least:g}, or the "
            f"prior is not proper; {d + 2} (features + 2) is a weak prior"
        )
    if array is not None:
        _check_count("degrees_of_freedom_prior", array)
    return array
