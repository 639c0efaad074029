"""What a fitted estimator says of rows, and the rows that it draws.

A base class of :class:`dgmm.GaussianMixture`: methods of a few lines, and their documentation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dgmm import prediction
from dgmm.answers import Distances, Regressed, TailProbability
from dgmm.columns import check_columns, check_given, check_some_rows
from dgmm.conditional import regression_of
from dgmm.data.dataset import Dataset
from dgmm.dispatch import returned
from dgmm.mixture import Mixture
from dgmm.parameters import seed_entropy
from dgmm.prediction import Evaluation
from dgmm.sampling import check_draw, sample_rows
from dgmm.sizes import parse_bytes
from dgmm.sources import open_rows

__all__ = ["RowMethods"]


class RowMethods:
    """The methods of ``GaussianMixture`` that answer for every row of data of any size."""

    random_state: Any
    _face_dtype: str
    _face_prototype: Any
    device: str
    memory_limit: Any

    @property
    def _mixture(self) -> Mixture:
        raise NotImplementedError

    def _check_fitted(self) -> None:
        raise NotImplementedError

    def predict(self, X: Any, *, out: Any = None) -> Any:
        """Label of the likeliest component of every row.

        Parameters
        ----------
        X : array-like, Dask array, Zarr array, path or URL, or Dataset
        out : path, URL or Zarr array, optional
            Where to stream the labels; they are then returned as a Zarr array.

        Returns
        -------
        array of shape (n_rows,), int64
            NumPy for arrays in memory, a lazy Dask array for anything else.
        """
        return self._rows("labels", X, out)

    def predict_proba(self, X: Any, *, out: Any = None) -> Any:
        """Responsibilities of the components for every row: shape (n_rows, n_components).

        Parameters and kinds of result as in :meth:`predict`.
        """
        return self._rows("responsibilities", X, out)

    def score_samples(self, X: Any, *, out: Any = None) -> Any:
        """Log density of every row, in nats: shape (n_rows,).

        Parameters and kinds of result as in :meth:`predict`.
        """
        return self._rows("log_density", X, out)

    def outlier_score(self, X: Any, *, out: Any = None) -> Any:
        """How unusual every row is: its surprise −log p(x), in nats, shape (n_rows,).

        Higher is more unusual; its level depends on the units of the data, while that of
        :meth:`tail_probability` does not. Parameters and kinds of result as in :meth:`predict`.
        """
        return self._rows("outlier_score", X, out)

    def mahalanobis(self, X: Any, *, out: Any = None) -> Any:
        """Mahalanobis distances of every row to the means: shape (n_rows, n_components).

        √((x − μ_k)ᵀ Σ_k⁻¹ (x − μ_k)), in standard deviations; not squared. Parameters and kinds
        of result as in :meth:`predict`; computed in float64 on the host.
        """
        return self._answers(Distances, X, out)

    def tail_probability(self, X: Any, *, out: Any = None) -> Any:
        """How probable a row at least as far out is: shape (n_rows,), between 0 and 1.

        The χ² probability of a Mahalanobis distance greater than the row's to its nearest
        component; see :meth:`dgmm.Mixture.tail_probability`. Parameters and kinds of result as in
        :meth:`predict`; computed in float64 on the host.
        """
        return self._answers(TailProbability, X, out)

    def regress(
        self,
        X: Any,
        given: Any,
        *,
        targets: Any = None,
        return_covariance: bool = False,
        out: Any = None,
    ) -> Any:
        """Expected values of some features for rows of others: Gaussian mixture regression.

        Parameters
        ----------
        X : array-like, Dask array, Zarr array, path or URL, or Dataset
            Shape (n_rows, n_given): the columns are the features ``given``, in their order.
        given : int, str or sequence of them
            The features that are known.
        targets : int, str or sequence of them, optional
            The features to predict, by default all others in their order.
        return_covariance : bool, default=False
        out : path, URL or Zarr array, or with ``return_covariance`` a pair of them, optional
            Where to stream the results.

        Returns
        -------
        means : array of shape (n_rows, n_targets)
            E[y | x]; NumPy for arrays in memory, a lazy Dask array or Zarr array otherwise.
        covariances : array of shape (n_rows, n_targets, n_targets)
            Cov[y | x], only with ``return_covariance=True``.

        Raises
        ------
        InvalidParameterError, InvalidDataError
            If a feature is unknown, named twice or on both sides, or ``X`` is of another width.
        """
        self._check_fitted()
        question = Regressed(regression_of(self._mixture, given, targets), return_covariance)
        dataset = open_rows(X)
        check_given(dataset, question.regression.given)
        return prediction.regress_rows(self, dataset, question, out)

    def _answers(self, kind: Callable[[Mixture], Any], X: Any, out: Any) -> Any:
        self._check_fitted()
        return prediction.answer_rows(self, self._dataset(X), kind(self._mixture), out)

    def _rows(self, output: str, X: Any, out: Any) -> Any:
        self._check_fitted()
        return prediction.predict_rows(self, self._dataset(X), output, out)

    def _dataset(self, X: Any, sample_weight: Any = None) -> Dataset:
        dataset = open_rows(X, sample_weight, device=self.device)
        check_some_rows(dataset)
        check_columns(self, dataset)
        return dataset

    def evaluate(self, X: Any, sample_weight: Any = None) -> Evaluation:
        """Log-likelihood, BIC and AIC of the rows, in one pass over them.

        Parameters
        ----------
        X : array-like, Dask array, Zarr array, path or URL, or Dataset
        sample_weight : optional
            As in :meth:`fit`. The n of BIC is the sum of the weights.
        """
        self._check_fitted()
        return prediction.evaluate(self, self._dataset(X, sample_weight))

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Mean log density of the rows, by their weights, in nats."""
        return self.evaluate(X, sample_weight).log_likelihood

    def bic(self, X: Any, sample_weight: Any = None) -> float:
        """Bayesian information criterion on the rows; lower is better."""
        return self.evaluate(X, sample_weight).bic

    def aic(self, X: Any, sample_weight: Any = None) -> float:
        """Akaike information criterion on the rows; lower is better."""
        return self.evaluate(X, sample_weight).aic

    def sample(
        self,
        n_samples: int = 1,
        *,
        component: int | None = None,
        confidence: float | None = None,
        std_range: tuple[float, float] | None = None,
        out: Any = None,
    ) -> tuple[Any, Any]:
        """Draw rows from the mixture, by ``random_state``.

        Parameters
        ----------
        n_samples : int, default=1
        component : int, optional
            Draw from this component alone.
        confidence : float, optional
            Draw inside the ellipsoids that hold this share of each component.
        std_range : (float, float), optional
            Draw where a ≤ Mahalanobis distance ≤ b; b may be infinite.
        out : path, URL or Zarr array, or a pair of them, optional
            Where to stream rows, or rows and labels.

        Returns
        -------
        X : array of shape (n_samples, n_features)
        y : array of shape (n_samples,), int64
            The component of each row; see :meth:`dgmm.Mixture.sample` for the details of all this.

        Raises
        ------
        InvalidParameterError
            If an argument is out of range.
        MemoryLimitError
            If the rows take more than ``memory_limit``, without ``out``.
        """
        self._check_fitted()
        wanted = check_draw(self._mixture, component, confidence, std_range)
        seed = np.random.SeedSequence(seed_entropy(self.random_state), spawn_key=(2,))
        dtype = self._face_dtype
        limit = self.memory_limit
        limit = None if limit is None else parse_bytes(limit, "memory_limit")
        rows, labels = sample_rows(
            self._mixture, n_samples, seed, wanted, out=out, dtype=dtype, limit=limit
        )
        if out is not None:
            return rows, labels
        return returned(self._face_prototype, rows), returned(self._face_prototype, labels)
