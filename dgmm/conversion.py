"""Models to and from scikit-learn's estimator, and through it to ONNX."""

from __future__ import annotations

from typing import Any

import numpy as np

from dgmm.covariance import family_names, family_of
from dgmm.errors import InvalidParameterError, MissingDependencyError, SourceError
from dgmm.mixture import Mixture
from dgmm.persistence import model_from_mixture
from dgmm.storage import local_path

__all__ = ["from_sklearn", "to_sklearn", "write_onnx"]

# Arguments that mean the same in both, whatever their values.
_SHARED = (
    "tol",
    "reg_covar",
    "max_iter",
    "n_init",
    "random_state",
    "warm_start",
    "verbose",
    "verbose_interval",
)
_SKLEARN_STARTS = ("kmeans", "k-means++", "random", "random_from_data")
_FACTS = ("converged_", "n_iter_", "lower_bound_", "lower_bounds_")


def to_sklearn(estimator: Any, covariance_type: str | None) -> Any:
    """A fitted scikit-learn model; see :meth:`dgmm.GaussianMixture.to_sklearn`."""
    from sklearn.mixture import GaussianMixture

    mixture = estimator.mixture_
    if covariance_type is not None:
        mixture = mixture.with_covariance_type(covariance_type)
    name = mixture.family.sklearn_name
    if name is None:
        raise InvalidParameterError(
            f"scikit-learn has no covariance_type {mixture.covariance_type!r}; "
            f"to_sklearn(covariance_type={_general_name()!r}) gives the same densities"
        )
    arguments = {one: getattr(estimator, one) for one in _SHARED}
    if estimator.init_params in _SKLEARN_STARTS:
        arguments["init_params"] = estimator.init_params
    model = GaussianMixture(mixture.n_components, covariance_type=name, **arguments)
    _fill(model, estimator, mixture)
    return model


def from_sklearn(cls: type[Any], model: Any, arguments: dict[str, Any]) -> Any:
    """An estimator from a scikit-learn model; see :meth:`dgmm.GaussianMixture.from_sklearn`."""
    from sklearn.mixture import GaussianMixture

    if not isinstance(model, GaussianMixture):
        raise InvalidParameterError(
            f"{type(model).__name__} is no sklearn.mixture.GaussianMixture; for another model with "
            "weights, means and covariances use from_parameters"
        )
    if not hasattr(model, "means_"):
        raise InvalidParameterError("the scikit-learn model is not fitted; fit it first")
    mixture = Mixture(
        np.asarray(model.weights_),
        np.asarray(model.means_),
        np.asarray(model.covariances_),
        model.covariance_type,
        getattr(model, "feature_names_in_", None),
    )
    theirs = model.get_params()
    taken = {one: theirs[one] for one in (*_SHARED, "init_params")} | arguments
    dtype = np.asarray(model.means_).dtype.name
    estimator = model_from_mixture(cls, mixture, dtype, taken)
    for name in _FACTS:
        # scikit-learn before 1.7 kept no lower_bounds_.
        setattr(estimator, name, getattr(model, name, getattr(estimator, name)))
    return estimator


def write_onnx(estimator: Any, path: Any) -> None:
    """An ONNX file of a fitted estimator; see :meth:`dgmm.GaussianMixture.to_onnx`."""
    target = local_path(path, "an ONNX file")
    try:
        from skl2onnx import to_onnx
        from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType
    except ImportError as error:
        raise MissingDependencyError(
            "ONNX files need skl2onnx: pip install 'dgmm[onnx]'"
        ) from error
    family = estimator.mixture_.family
    model = to_sklearn(estimator, None if family.sklearn_name else _general_name())
    kind = FloatTensorType if model.means_.dtype == np.float32 else DoubleTensorType
    graph = to_onnx(
        model,
        initial_types=[("X", kind([None, model.n_features_in_]))],
        options={"score_samples": True},
    )
    try:
        target.write_bytes(graph.SerializeToString())
    except OSError as error:
        raise SourceError(f"cannot write {path}: {error.strerror or error}") from error


def _general_name() -> str:
    """scikit-learn's name of the tied family that holds every tied covariance."""
    families = [family_of(name) for name in family_names()]
    return next(one.sklearn_name for one in families if one.is_tied and one.sklearn_name)


def _fill(model: Any, estimator: Any, mixture: Mixture) -> None:
    """The fitted attributes of a scikit-learn model."""
    family, dtype = mixture.family, np.dtype(estimator._face_dtype)
    model.weights_ = mixture.weights.astype(dtype)
    model.means_ = mixture.means.astype(dtype)
    model.covariances_ = mixture.covariances.astype(dtype)
    model.precisions_cholesky_ = family.precisions_cholesky(mixture.factors).astype(dtype)
    model.precisions_ = family.shape.precision(mixture.whiteners).astype(dtype)
    for name in _FACTS:
        setattr(model, name, getattr(estimator, name))
    model.n_features_in_ = mixture.n_features
    if hasattr(estimator, "feature_names_in_"):
        model.feature_names_in_ = estimator.feature_names_in_
