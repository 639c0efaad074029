"""What of a fitted estimator is kept, and how it comes back: model files and state dictionaries."""

from __future__ import annotations

from typing import Any

import numpy as np

from dgmm.arguments import RUNNING, restored_arguments, saved_arguments
from dgmm.arrays import resolve_device
from dgmm.constraints import check_fixed
from dgmm.covariance import family_of
from dgmm.density import check_covariances
from dgmm.errors import DgmmError, InvalidParameterError, ModelFileError
from dgmm.mixture import Mixture
from dgmm.storage import read_model, write_model

__all__ = ["load_model", "load_state", "model_from_mixture", "save_model", "state_of"]

_ARRAYS = ("weights", "means", "covariances")


def save_model(estimator: Any, path: Any) -> None:
    """Write a fitted estimator's parameters and facts to ``path``."""
    write_model(path, *_described(estimator))


def state_of(estimator: Any) -> dict[str, Any]:
    """Parameters as float64 arrays of the caller's own, and the facts of a model file."""
    tensors, facts = _described(estimator)
    return {name: np.array(value) for name, value in tensors.items()} | facts


def load_state(estimator: Any, state: Any) -> None:
    """Make an estimator the one that gave the state, but for where and how it runs.

    Raises
    ------
    InvalidParameterError
        If something is missing, or is no Gaussian mixture. The estimator is then as it was.
    """
    try:
        mixture = _mixture(state, state)
        scratch = type(estimator)(
            n_components=mixture.n_components,
            covariance_type=mixture.covariance_type,
            **restored_arguments(state, state["arguments"]),
        )
        _set_fit(scratch, mixture, state)
    except (KeyError, TypeError, ValueError, OverflowError, DgmmError) as error:
        what = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise InvalidParameterError(f"the state does not describe a fitted mixture: {what}") from (
            error
        )
    # Also those that the state does not name: what this one was told to hold, say, was not held.
    taken = scratch.get_params(deep=False)
    estimator.set_params(**{name: taken[name] for name in taken if name not in RUNNING})
    # What an earlier fit left behind would describe another mixture.
    for name in [name for name in vars(estimator) if name.endswith("_")]:
        delattr(estimator, name)
    _set_fit(estimator, mixture, state)


def model_from_mixture(cls: type[Any], mixture: Mixture, dtype: str, arguments: Any) -> Any:
    """A ``cls`` that holds a mixture which nothing was fitted for.

    Raises
    ------
    InvalidParameterError
        If a covariance is not symmetric and positive definite.
    """
    check_covariances(mixture)
    estimator = cls(
        n_components=mixture.n_components, covariance_type=mixture.covariance_type, **arguments
    )
    fit: dict[str, Any] = {"converged": False, "n_iter": 0, "lower_bound": None, "lower_bounds": []}
    _set_fit(estimator, mixture, {"fit": fit, "dtype": dtype})
    return estimator


def _described(estimator: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    mixture: Mixture = estimator.mixture_
    tensors = {name: getattr(mixture, name) for name in _ARRAYS}
    given, arguments = saved_arguments(estimator)
    names = getattr(estimator, "feature_names_in_", None)
    facts = {
        "model": "GaussianMixture",
        "covariance_type": mixture.covariance_type,
        "n_components": mixture.n_components,
        "n_features": mixture.n_features,
        "feature_names": None if names is None else [str(name) for name in names],
        "dtype": estimator._face_dtype,
        "arguments": arguments,
        "fit": {
            "rows": _rows_fitted(estimator),
            "converged": bool(estimator.converged_),
            "n_iter": int(estimator.n_iter_),
            # −inf (no iteration) is not JSON.
            "lower_bound": _finite_or_none(estimator.lower_bound_),
            "lower_bounds": [float(bound) for bound in estimator.lower_bounds_],
        },
    }
    return tensors | given, facts


def load_model(cls: type[Any], path: Any, running: dict[str, Any]) -> Any:
    """A fitted ``cls`` from a model file, with arguments for where it runs.

    Raises
    ------
    ModelFileError
        If the file is damaged, or its contents are no Gaussian mixture.
    InvalidParameterError
        If there is no such device.
    """
    if "device" in running:
        resolve_device(running["device"])
    tensors, facts = read_model(path)
    try:
        mixture = _mixture(tensors, facts)
        arguments = restored_arguments(tensors, facts["arguments"])
        estimator = cls(
            n_components=mixture.n_components,
            covariance_type=family_of(facts["covariance_type"]).name,
            dtype=facts["arguments"]["dtype"],
            **arguments,
            **running,
        )
        _set_fit(estimator, mixture, facts)
    except (KeyError, TypeError, ValueError, OverflowError, DgmmError) as error:
        raise ModelFileError(
            f"{path} is a dgmm model file but does not describe a Gaussian mixture: {error}"
        ) from error
    return estimator


def _mixture(tensors: Any, facts: Any) -> Mixture:
    weights, means, covariances = (tensors[name] for name in _ARRAYS)
    names = facts["feature_names"]
    mixture = Mixture(weights, means, covariances, facts["covariance_type"], names)
    check_covariances(mixture)
    return mixture


def _set_fit(estimator: Any, mixture: Mixture, facts: dict[str, Any]) -> None:
    fit = facts["fit"]
    estimator.mixture_ = mixture
    for stale in ("_parts", "_stepwise", "_dropped"):
        estimator.__dict__.pop(stale, None)
    estimator._fixed = check_fixed(estimator.fixed, mixture.family, mixture.n_components)
    estimator._face_dtype = np.dtype(facts["dtype"]).name
    estimator._face_prototype = None
    estimator.converged_ = bool(fit["converged"])
    estimator.n_iter_ = int(fit["n_iter"])
    estimator.lower_bound_ = -np.inf if fit["lower_bound"] is None else float(fit["lower_bound"])
    estimator.lower_bounds_ = [float(bound) for bound in fit["lower_bounds"]]
    rows = fit.get("rows")
    estimator._rows_fitted = None if rows is None else int(rows)
    estimator.n_features_in_ = mixture.n_features
    if mixture.feature_names is not None:
        estimator.feature_names_in_ = np.asarray(mixture.feature_names, dtype=object)


def _rows_fitted(estimator: Any) -> int | None:
    """Rows of the fit that the mixture comes from, here or in the file that it was loaded from."""
    if hasattr(estimator, "record_"):
        return int(estimator.record_.rows)
    return getattr(estimator, "_rows_fitted", None)


def _finite_or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
