"""The fitted arrays at the estimator's face: read from its mixture, and set by replacing it.

scikit-learn's users build a mixture by assigning ``means_`` and its siblings. The mixture itself is
frozen, so an assignment makes another one, checked as a whole; before a fit the arrays are held
until they make one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.exceptions import NotFittedError as SklearnNotFittedError

from dgmm.covariance import family_of
from dgmm.dispatch import host_float64, returned
from dgmm.errors import DgmmError, InvalidParameterError
from dgmm.fixed import Fixed
from dgmm.mixture import Mixture

__all__ = ["MixtureAttributes", "NotFittedError"]

Array = np.ndarray[Any, Any]
_PARTS = ("weights", "means", "covariances")


class NotFittedError(DgmmError, SklearnNotFittedError):
    """A fitted mixture is needed and there is none yet."""


class MixtureAttributes:
    """Arrays of a fitted mixture in the dtype of the data, readable and settable.

    Setting ``precisions_`` or ``precisions_cholesky_`` sets the covariances that they belong to.
    Statistics that :meth:`~dgmm.GaussianMixture.partial_fit` retained are of the mixture that was
    there before, and are dropped.
    """

    covariance_type: str
    _face_dtype: str = "float64"
    # Of the rows of the fit, where scikit-learn was told to dispatch by the array API.
    _face_prototype: Any = None
    _fixed = Fixed()
    # Components that the fit dropped, of those that it began with.
    _dropped: tuple[int, ...] = ()
    lower_bounds_: list[float]

    @property
    def weights_(self) -> Any:
        return self._faced(self._mixture.weights)

    @weights_.setter
    def weights_(self, values: Any) -> None:
        self._set_part("weights", values)

    @property
    def means_(self) -> Any:
        return self._faced(self._mixture.means)

    @means_.setter
    def means_(self, values: Any) -> None:
        self._set_part("means", values)

    @property
    def covariances_(self) -> Any:
        return self._faced(self._mixture.covariances)

    @covariances_.setter
    def covariances_(self, values: Any) -> None:
        self._set_part("covariances", values)

    @property
    def precisions_cholesky_(self) -> Any:
        mixture = self._mixture
        return self._faced(mixture.family.precisions_cholesky(mixture.factors))

    @precisions_cholesky_.setter
    def precisions_cholesky_(self, values: Any) -> None:
        # C with P = C Cᵀ is the transposed whitener.
        shape = family_of(self.covariance_type).shape
        whitener = host_float64(values)
        if shape.uses_whitening():
            whitener = np.swapaxes(whitener, -1, -2)
        self.precisions_ = shape.precision(whitener)

    @property
    def precisions_(self) -> Any:
        shape = self._mixture.family.shape
        precisions = shape.precision(shape.invert(self._mixture.factors))
        return self._faced(np.asarray(precisions))

    @precisions_.setter
    def precisions_(self, values: Any) -> None:
        precisions = host_float64(values)
        family = family_of(self.covariance_type)
        self._set_part("covariances", family.covariances_from_precisions(precisions))

    def _faced(self, values: Array) -> Any:
        return returned(self._face_prototype, values.astype(self._face_dtype))

    @property
    def _mixture(self) -> Mixture:
        mixture = self.__dict__.get("mixture_")
        if mixture is None:
            # hasattr() and scikit-learn's checks expect an attribute that is missing.
            raise AttributeError(f"this {type(self).__name__} is not fitted yet")
        return mixture

    def _set_part(self, part: str, values: Any) -> None:
        array = host_float64(values)
        known = self.__dict__.get("mixture_")
        if known is not None:
            expected = getattr(known, part).shape
            if array.shape != expected:
                # The mixture would find the other parts to be of the wrong shape.
                raise InvalidParameterError(
                    f"{part} of shape {array.shape} were assigned to a fitted "
                    f"{type(self).__name__}, which has {part} of shape {expected}; make another of "
                    "other sizes by GaussianMixture.from_parameters"
                )
            self._set_mixture(replace(known, **{part: array}))
            return
        parts = self.__dict__.setdefault("_parts", {})
        parts[part] = array
        if all(name in parts for name in _PARTS):
            mixture = Mixture(**parts, covariance_type=self.covariance_type)
            self._set_mixture(mixture)
            self.n_features_in_ = mixture.n_features
            # No fit has been: what goes on from here (warm_start) or is saved looks for these.
            self.converged_, self.n_iter_ = False, 0
            self.lower_bound_, self.lower_bounds_ = -np.inf, []

    def _set_mixture(self, mixture: Mixture) -> None:
        if mixture.singular_components:
            raise InvalidParameterError(
                f"the covariance of component {mixture.singular_components[0]} is not positive "
                "definite"
            )
        self.mixture_ = mixture
        for stale in ("_parts", "_stepwise", "_dropped"):
            self.__dict__.pop(stale, None)

    @property
    def n_parameters_(self) -> int:
        """Free parameters of the mixture: those that were held fixed do not count."""
        mixture = self._mixture
        held = self._fixed.n_parameters(mixture.family, *mixture.means.shape)
        return mixture.n_parameters - held

    def _n_parameters(self) -> int:
        """The same by scikit-learn's name."""
        return self.n_parameters_

    def __sklearn_is_fitted__(self) -> bool:
        return "mixture_" in self.__dict__

    def _check_fitted(self) -> None:
        if not self.__sklearn_is_fitted__():
            raise NotFittedError(
                f"This {type(self).__name__} instance is not fitted yet. Call 'fit' with "
                "appropriate arguments before using this estimator."
            )
