"""Fitted models to and from model files: what of an estimator is written, and how it comes back."""

from __future__ import annotations

from typing import Any

import numpy as np

from dgmm.covariance import family_of
from dgmm.errors import DgmmError, InvalidParameterError, ModelFileError
from dgmm.mixture import Mixture
from dgmm.storage import read_model, write_model

__all__ = ["load_model", "save_model"]

_ARRAYS = ("weights", "means", "covariances")
_ARGUMENTS = ("tol", "reg_covar", "max_iter", "n_init", "init_params", "warm_start")


def save_model(estimator: Any, path: Any) -> None:
    """Write a fitted estimator's parameters and facts to ``path``."""
    mixture: Mixture = estimator.mixture_
    tensors = {name: getattr(mixture, name) for name in _ARRAYS}
    names = getattr(estimator, "feature_names_in_", None)
    facts = {
        "model": "GaussianMixture",
        "covariance_type": mixture.covariance_type,
        "n_components": mixture.n_components,
        "n_features": mixture.n_features,
        "feature_names": None if names is None else [str(name) for name in names],
        "dtype": estimator._face_dtype,
        "arguments": {name: getattr(estimator, name) for name in _ARGUMENTS}
        | {
            "init_params": _json_method(estimator.init_params),
            "random_state": _json_seed(estimator.random_state),
        },
        "fit": {
            "rows": estimator.record_.rows if hasattr(estimator, "record_") else None,
            "converged": bool(estimator.converged_),
            "n_iter": int(estimator.n_iter_),
            # −inf (no iteration) is not JSON.
            "lower_bound": _finite_or_none(estimator.lower_bound_),
            "lower_bounds": [float(bound) for bound in estimator.lower_bounds_],
        },
    }
    write_model(path, tensors, facts)


def load_model(cls: type[Any], path: Any, device: str | None) -> Any:
    """A fitted ``cls`` from a model file.

    Raises
    ------
    ModelFileError
        If the file is damaged, or its contents are no Gaussian mixture.
    """
    tensors, facts = read_model(path)
    try:
        weights, means, covariances = (tensors[name] for name in _ARRAYS)
        mixture = Mixture(weights, means, covariances, facts["covariance_type"])
        _check_definite(mixture)
        estimator = _estimator(cls, mixture, facts, device)
        _set_fit(estimator, mixture, facts)
    except (KeyError, TypeError, ValueError, DgmmError) as error:
        raise ModelFileError(
            f"{path} is a dgmm model file but does not describe a Gaussian mixture: {error}"
        ) from error
    return estimator


def _check_definite(mixture: Mixture) -> None:
    if mixture.singular_components:
        k = mixture.singular_components[0]
        raise InvalidParameterError(f"the covariance of component {k} is not positive definite")


def _estimator(cls: type[Any], mixture: Mixture, facts: dict[str, Any], device: str | None) -> Any:
    arguments = {name: facts["arguments"][name] for name in (*_ARGUMENTS, "random_state")}
    return cls(
        n_components=mixture.n_components,
        covariance_type=family_of(facts["covariance_type"]).name,
        device="auto" if device is None else device,
        **arguments,
    )


def _set_fit(estimator: Any, mixture: Mixture, facts: dict[str, Any]) -> None:
    fit = facts["fit"]
    estimator.mixture_ = mixture
    estimator._face_dtype = np.dtype(facts["dtype"]).name
    estimator.converged_ = bool(fit["converged"])
    estimator.n_iter_ = int(fit["n_iter"])
    estimator.lower_bound_ = -np.inf if fit["lower_bound"] is None else float(fit["lower_bound"])
    estimator.lower_bounds_ = [float(bound) for bound in fit["lower_bounds"]]
    estimator.n_features_in_ = mixture.n_features
    if facts["feature_names"] is not None:
        estimator.feature_names_in_ = np.asarray(facts["feature_names"], dtype=object)


def _finite_or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _json_method(init_params: Any) -> str:
    # A model file holds no code: where a function made the starts, the default comes back.
    return init_params if isinstance(init_params, str) else "kmeans"


def _json_seed(random_state: Any) -> int | None:
    return int(random_state) if isinstance(random_state, (int, np.integer)) else None
