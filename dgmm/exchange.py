"""How a fitted mixture gets into and out of an estimator: parameters, files, other libraries.

A base class of :class:`dgmm.GaussianMixture`: methods of a few lines, and their documentation.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from dgmm import conversion, persistence
from dgmm.dispatch import on_host
from dgmm.mixture import Mixture

__all__ = ["Exchange"]


class Exchange:
    """The methods of ``GaussianMixture`` that move a fitted mixture in and out."""

    def __sklearn_is_fitted__(self) -> bool:
        raise NotImplementedError

    def _check_fitted(self) -> None:
        raise NotImplementedError

    @property
    def fitted_(self) -> bool:
        """True once there are parameters to predict with, fitted, loaded or given."""
        return self.__sklearn_is_fitted__()

    @classmethod
    def from_parameters(
        cls,
        weights: Any,
        means: Any,
        covariances: Any,
        *,
        covariance_type: str = "full",
        feature_names: Any = None,
        **arguments: Any,
    ) -> Self:
        """An estimator with given parameters, usable at once and without data.

        Parameters
        ----------
        weights : array of shape (n_components,)
            Non-negative, summing to one.
        means : array of shape (n_components, n_features)
            If they are float32, so are the results.
        covariances : array
            Symmetric, positive definite, in the shape of ``covariances_``.
        covariance_type : str, default="full"
        feature_names : sequence of str, optional
        **arguments
            Further arguments of the constructor.

        Raises
        ------
        InvalidParameterError
            If shapes disagree, weights are no proportions or covariances not positive definite.
        """
        weights, means, covariances = map(on_host, (weights, means, covariances))
        mixture = Mixture(weights, means, covariances, covariance_type, feature_names)
        dtype = "float32" if np.asarray(means).dtype == np.float32 else "float64"
        return persistence.model_from_mixture(cls, mixture, dtype, arguments)

    def save(self, path: Any) -> None:
        """Write the fitted model to a safetensors file, atomically.

        The file holds parameters and facts of the fit, no code and nothing pickled; the same fit
        gives the same bytes.
        """
        self._check_fitted()
        persistence.save_model(self, path)

    @classmethod
    def load(
        cls,
        path: Any,
        device: str | None = None,
        *,
        engine: Any = None,
        memory_limit: int | str | None = None,
    ) -> Self:
        """Read a model that :meth:`save` wrote.

        The arguments of its fit come back with it. Where and how it runs is a matter of the
        machine and no part of a model file: give it here.

        Parameters
        ----------
        path : str or path-like
        device, engine, memory_limit : optional
            As in the constructor.

        Raises
        ------
        ModelFileError
            If the file is truncated, altered, of a newer version or no model file.
        """
        device = "auto" if device is None else device
        running = {"device": device, "engine": engine, "memory_limit": memory_limit}
        return persistence.load_model(cls, path, running)

    def state_dict(self) -> dict[str, Any]:
        """The fitted model as a dictionary of float64 arrays and plain facts.

        ``weights``, ``means`` and ``covariances`` are copies; the rest is what JSON can hold.
        """
        self._check_fitted()
        return persistence.state_of(self)

    def load_state_dict(self, state: dict[str, Any]) -> Self:
        """Become the model that :meth:`state_dict` described.

        Takes over its parameters and the arguments of its fit (``n_components`` among them); where
        and how this estimator runs (``engine``, ``device``, ``dtype``, ``memory_limit``) stays.

        Raises
        ------
        InvalidParameterError
            If the state is incomplete or describes no Gaussian mixture.
        """
        persistence.load_state(self, state)
        return self

    def to_sklearn(self, covariance_type: str | None = None) -> Any:
        """A fitted ``sklearn.mixture.GaussianMixture`` of the same densities.

        Parameters
        ----------
        covariance_type : {"full", "tied", "diag", "spherical"}, optional
            The family to write the covariances in, one at least as general as this model's; by
            default its own, where scikit-learn has it.

        Raises
        ------
        InvalidParameterError
            If scikit-learn has no such family, or it cannot hold these covariances.
        """
        self._check_fitted()
        return conversion.to_sklearn(self, covariance_type)

    @classmethod
    def from_sklearn(cls, model: Any, **arguments: Any) -> Self:
        """The model of a fitted ``sklearn.mixture.GaussianMixture``.

        Parameters
        ----------
        model : sklearn.mixture.GaussianMixture
            Its parameters, arguments and record of convergence are taken over.
        **arguments
            Further arguments of the constructor; they win over the model's.

        Raises
        ------
        InvalidParameterError
            If it is no such model, or not fitted.
        """
        return conversion.from_sklearn(cls, model, arguments)

    def to_onnx(self, path: Any) -> None:
        """Write the model as an ONNX graph (``pip install 'dgmm[onnx]'``).

        Its input ``X`` has shape (n_rows, n_features) and the dtype of ``means_``; its outputs are
        the label, the responsibilities and the log density of every row. All six families are
        written; the two that scikit-learn lacks are written as their equals in ``tied``.

        Raises
        ------
        MissingDependencyError
            If skl2onnx is not installed.
        """
        self._check_fitted()
        conversion.write_onnx(self, path)
