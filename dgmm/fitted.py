"""What a fitted estimator shows of its mixture: arrays in scikit-learn's names and dtypes."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.exceptions import NotFittedError as SklearnNotFittedError

from dgmm.errors import DgmmError
from dgmm.fixed import Fixed
from dgmm.mixture import Mixture

__all__ = ["FittedParameters", "NotFittedError"]

Array = np.ndarray[Any, Any]


class NotFittedError(DgmmError, SklearnNotFittedError):
    """A fitted mixture is needed and there is none yet."""


class FittedParameters:
    """Fitted attributes that follow from ``mixture_``, in the dtype of the rows."""

    _fixed = Fixed()
    _face_dtype: str

    @property
    def weights_(self) -> Array:
        return self._mixture.weights.astype(self._face_dtype)

    @property
    def means_(self) -> Array:
        return self._mixture.means.astype(self._face_dtype)

    @property
    def covariances_(self) -> Array:
        return self._mixture.covariances.astype(self._face_dtype)

    @property
    def precisions_cholesky_(self) -> Array:
        mixture = self._mixture
        return mixture.family.precisions_cholesky(mixture.factors).astype(self._face_dtype)

    @property
    def precisions_(self) -> Array:
        shape = self._mixture.family.shape
        precisions = shape.precision(shape.invert(self._mixture.factors))
        return np.asarray(precisions).astype(self._face_dtype)

    @property
    def n_parameters_(self) -> int:
        mixture = self._mixture
        held = self._fixed.n_parameters(mixture.family, *mixture.means.shape)
        return mixture.n_parameters - held

    @property
    def _mixture(self) -> Mixture:
        mixture = self.__dict__.get("mixture_")
        if mixture is None:
            # hasattr() and scikit-learn's checks expect an attribute that is missing.
            raise AttributeError(f"this {type(self).__name__} is not fitted yet")
        return mixture

    def __sklearn_is_fitted__(self) -> bool:
        return "mixture_" in self.__dict__

    def _check_fitted(self) -> None:
        if not self.__sklearn_is_fitted__():
            raise NotFittedError(
                f"This {type(self).__name__} instance is not fitted yet. Call 'fit' with "
                "appropriate arguments before using this estimator."
            )
