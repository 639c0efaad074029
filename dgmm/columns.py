"""Width and column names of the data: kept by a fit, checked by everything after it."""

from __future__ import annotations

from typing import Any

import numpy as np

from dgmm.data.columns import disagreement
from dgmm.data.dataset import Dataset
from dgmm.dispatch import prototype_of
from dgmm.errors import InvalidDataError
from dgmm.mixture import Mixture
from dgmm.notices import warn_user

__all__ = ["check_columns", "check_given", "check_some_rows", "record_columns"]


def record_columns(estimator: Any, dataset: Dataset) -> None:
    """Keep the width, names and floating dtype of the data that an estimator is fitted to."""
    estimator.n_features_in_ = dataset.n_features
    if dataset.feature_names is not None:
        estimator.feature_names_in_ = np.asarray(dataset.feature_names, dtype=object)
    elif hasattr(estimator, "feature_names_in_"):
        del estimator.feature_names_in_
    narrow = dataset.dtype.kind == "f" and dataset.dtype.itemsize <= 4
    estimator._face_prototype = prototype_of(dataset.origin)
    estimator._face_dtype = "float32" if narrow else "float64"


def check_columns(estimator: Any, dataset: Dataset) -> None:
    """Refuse data of another width or with other column names than the fit's.

    Messages and warnings are scikit-learn's: where only one of the two has names, it warns.

    Raises
    ------
    InvalidDataError
    """
    name, expected = type(estimator).__name__, getattr(estimator, "feature_names_in_", None)
    found = dataset.feature_names
    if found is not None and expected is not None:
        message = disagreement(found, expected)
        if message is not None:
            raise InvalidDataError(message)
    if dataset.n_features != estimator.n_features_in_:
        raise InvalidDataError(
            f"X has {dataset.n_features} features, but {name} is expecting "
            f"{estimator.n_features_in_} features as input; pass the columns that it was fitted to"
        )
    if found is not None and expected is None:
        warn_user(f"X has feature names, but {name} was fitted without feature names", UserWarning)
    elif found is None and expected is not None:
        warn_user(
            f"X does not have valid feature names, but {name} was fitted with feature names",
            UserWarning,
        )


def check_given(dataset: Dataset, given: Mixture) -> None:
    """Refuse rows that are not of the features of a regression, which ``given`` is a mixture of.

    Raises
    ------
    InvalidDataError
    """
    check_some_rows(dataset)
    found, expected = dataset.feature_names, given.feature_names
    if dataset.n_features != given.n_features:
        raise InvalidDataError(
            f"X has {dataset.n_features} columns and {given.n_features} features are given; pass "
            "their columns alone, in their order"
        )
    if found is not None and expected is not None:
        message = disagreement(found, expected)
        if message is not None:
            raise InvalidDataError(message)


def check_some_rows(dataset: Dataset) -> None:
    """Refuse data without rows.

    Raises
    ------
    InvalidDataError
    """
    if dataset.n_rows < 1:
        raise InvalidDataError(
            f"Found array with 0 sample(s) (shape={dataset.shape}) while a minimum of 1 is "
            "required by GaussianMixture. Pass data with more rows."
        )
