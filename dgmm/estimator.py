"""``GaussianMixture``: the face that scikit-learn's users know, over data of any size."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.exceptions import NotFittedError as SklearnNotFittedError

from dgmm import fitting, prediction
from dgmm.data.dataset import Dataset
from dgmm.errors import DgmmError, InvalidDataError, InvalidParameterError
from dgmm.mixture import Mixture
from dgmm.parameters import check_parameters, seed_entropy
from dgmm.record import FitEvent, FitRecord
from dgmm.sampling import draw

__all__ = ["Evaluation", "GaussianMixture", "NotFittedError"]

Array = np.ndarray[Any, Any]


class NotFittedError(DgmmError, SklearnNotFittedError):
    """A fitted mixture is needed and there is none yet."""


@dataclass(frozen=True)
class Evaluation:
    """How well a mixture describes some rows.

    Parameters
    ----------
    rows : int
    log_likelihood : float
        Per row, in nats.
    bic, aic : float
        Lower is better (Schwarz 1978; Akaike 1974), with scikit-learn's sign.
    """

    rows: int
    log_likelihood: float
    bic: float
    aic: float


class GaussianMixture(DensityMixin, BaseEstimator):
    """A Gaussian mixture, fitted by expectation-maximisation to data of any size.

    Parameters
    ----------
    n_components : int, default=1
    covariance_type : str, default="full"
        ``"full"``, ``"diag"``, ``"spherical"``, ``"tied_full"`` (also ``"tied"``), ``"tied_diag"``
        or ``"tied_spherical"``.
    tol : float, default=1e-3
        EM stops when the lower bound per row changes by less, in nats.
    reg_covar : float, default=1e-6
        Added to the diagonals of the covariances, in squared units of the data.
    max_iter : int, default=100
    algorithm : {"em", "cem", "sem"}, default="em"
        ``"cem"``: classification EM; every row counts for its likeliest component, and the
        classification log-likelihood is what increases. ``"sem"``: stochastic EM; every row counts
        for one component drawn from its responsibilities. It runs ``max_iter`` iterations and
        returns the likeliest of the mixtures that it went through.
    annealing : sequence of float, optional
        Decreasing temperatures of at least 1 for the first iterations (deterministic annealing),
        ``numpy.geomspace(8, 1, 20)`` for example: responsibilities are taken to the power 1 / T.
    n_init : int, default=1
        Restarts. All share every pass over the data; the one with the best lower bound is kept.
    init_params : {"kmeans", "k-means++", "random", "random_from_data"}, default="kmeans"
        How a restart begins, on a sample of the rows (all of them, if there are few).
    weights_init : array of shape (n_components,), optional
    means_init : array of shape (n_components, n_features), optional
    precisions_init : array, optional
        Inverse covariances, in the shape of ``covariances_``.
    random_state : int, RandomState or Generator, optional
        The one seed of everything random. The same seed and data give the same bits on any number
        of threads and workers.
    warm_start : bool, default=False
        Start from the parameters of the last fit.
    verbose : int, default=0
    verbose_interval : int, default=10
        Iterations between two lines of progress.
    engine : None, "local", "dask", LocalEngine or DaskEngine, default=None
        Where passes run. None: threads of this process, or the cluster of the current Dask client
        if the data is a Dask array.
    device : {"auto", "cpu", "cuda", "cuda:N"}, default="auto"
    dtype : {"float32", "float64"}, optional
        Of the products; None: float32 for data stored in at most 32 bits, float64 otherwise. A
        mixture too ill-conditioned for it is evaluated by a safer kernel.
    memory_limit : int or str, optional
        Bytes, or a string such as ``"256MiB"``, that each process (the driver, each worker) may
        use above what dgmm takes once imported. None: half of the memory that is free.

    Attributes
    ----------
    weights_ : array of shape (n_components,)
    means_ : array of shape (n_components, n_features)
    covariances_ : array
        (K, D, D) full, (K, D) diag, (K,) spherical, (D, D) tied_full, (D,) tied_diag, ()
        tied_spherical.
    precisions_, precisions_cholesky_ : array
        Inverse covariances and their Cholesky factors, of the same shape.
    converged_ : bool
        Never with ``algorithm="sem"``.
    n_iter_ : int
    lower_bound_ : float
        Log-likelihood per row before the last M-step, in nats, of the best restart; with
        ``algorithm="cem"`` the classification log-likelihood, with ``"sem"`` the log-likelihood of
        the result. Rows count by their weights.
    lower_bounds_ : list of float
        The same for every iteration.
    mixture_ : Mixture
        The fitted parameters in float64.
    record_ : FitRecord
        How the fit went; not part of the model.
    n_features_in_ : int
    feature_names_in_ : array of str
        Only where the data names its columns.

    Examples
    --------
    >>> import numpy as np, dgmm
    >>> x = np.concatenate([np.random.default_rng(0).normal(c, 1, (500, 2)) for c in (-5, 5)])
    >>> gm = dgmm.GaussianMixture(n_components=2, random_state=0).fit(x)
    >>> np.sort(gm.means_[:, 0]).round()
    array([-5.,  5.])
    """

    _on_event: Callable[[FitEvent], None] | None = None

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: str = "full",
        tol: float = 1e-3,
        reg_covar: float = 1e-6,
        max_iter: int = 100,
        algorithm: str = "em",
        annealing: Any = None,
        n_init: int = 1,
        init_params: str = "kmeans",
        weights_init: Any = None,
        means_init: Any = None,
        precisions_init: Any = None,
        random_state: Any = None,
        warm_start: bool = False,
        verbose: int = 0,
        verbose_interval: int = 10,
        engine: Any = None,
        device: str = "auto",
        dtype: Any = None,
        memory_limit: int | str | None = None,
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.algorithm = algorithm
        self.annealing = annealing
        self.n_init = n_init
        self.init_params = init_params
        self.weights_init = weights_init
        self.means_init = means_init
        self.precisions_init = precisions_init
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.verbose_interval = verbose_interval
        self.engine = engine
        self.device = device
        self.dtype = dtype
        self.memory_limit = memory_limit

    # ---------------------------------------------------------------- fitting

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None, *, labels: Any = None) -> Self:
        """Estimate the mixture from the rows of ``X``.

        Parameters
        ----------
        X : array-like, Dask array, Zarr array, path or URL, or Dataset
            Shape (n_rows, n_features), real numbers, all finite.
        y : ignored
        sample_weight : array-like, Dask array, Zarr array, path, URL, str or int, optional
            A finite number of at least 0 for each row, or the name or number of the column of
            ``X`` that holds them. A row of weight 2 counts as two rows, one of weight 0 not at
            all, whatever it holds. A name that is a column is not looked for as a path.
        labels : array-like, Dask array, Zarr array, path or URL, optional
            The number of a component for rows where it is known, -1 where it is not. Known rows
            count for their component alone, in the start as in every iteration. Not ``y``, which
            pipelines hand on without asking.

        Returns
        -------
        self

        Raises
        ------
        InvalidParameterError, InvalidDataError, InvalidDtypeError, SourceError
            Naming what is wrong, where, and what to do.
        MemoryLimitError
            If the projected memory exceeds ``memory_limit``.
        SingularMixtureError
            If every restart collapsed.
        """
        started = time.perf_counter()
        parameters = check_parameters(self)
        dataset = fitting.open_rows(X, sample_weight, labels)
        self._check_rows(dataset)
        previous = self if self.warm_start and hasattr(self, "mixture_") else None
        outcome = fitting.fit_dataset(
            self, parameters, dataset, previous=previous, on_event=self._emit
        )
        self._keep(outcome, dataset, time.perf_counter() - started)
        if not self.converged_ and parameters.max_iter > 0 and parameters.algorithm != "sem":
            warnings.warn(
                "Best performing initialization did not converge. Try different init parameters, "
                "or increase max_iter, tol, or check for degenerate data.",
                ConvergenceWarning,
                stacklevel=2,
            )
        return self

    def fit_predict(
        self, X: Any, y: Any = None, sample_weight: Any = None, *, labels: Any = None
    ) -> Any:
        """Fit, then label every row; see :meth:`fit` and :meth:`predict`."""
        dataset = fitting.open_rows(X, sample_weight, labels)
        return self.fit(dataset).predict(dataset)

    def _check_rows(self, dataset: Dataset) -> None:
        n_rows = dataset.n_rows
        if n_rows < 2:
            raise InvalidDataError(
                f"Found array with {n_rows} sample(s) (shape={dataset.shape}) while a minimum of "
                "2 is required by GaussianMixture."
            )
        if n_rows < self.n_components:
            raise InvalidDataError(
                "Expected n_samples >= n_components but got "
                f"n_components = {self.n_components}, n_samples = {n_rows}"
            )

    def _keep(self, outcome: fitting.FitOutcome, dataset: Dataset, seconds: float) -> None:
        self.n_features_in_ = dataset.n_features
        if dataset.feature_names is not None:
            self.feature_names_in_ = np.asarray(dataset.feature_names, dtype=object)
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_
        chain = outcome.chain
        narrow = dataset.dtype.kind == "f" and dataset.dtype.itemsize <= 4
        self._face_dtype = "float32" if narrow else "float64"
        self.mixture_ = chain.mixture
        self.converged_ = chain.status == "converged"
        self.n_iter_ = len(chain.lower_bounds)
        self.lower_bound_ = chain.lower_bound
        self.lower_bounds_ = list(chain.lower_bounds)
        self.record_: FitRecord = outcome.record(seconds)

    def _emit(self, event: FitEvent) -> None:
        if self._on_event is not None:
            self._on_event(event)
        if not self.verbose:
            return
        due = event.kind == "iteration" and event.iteration % self.verbose_interval == 0
        if due:
            print(
                f"  Iteration {event.iteration}\t lower bound {event.lower_bound:.5f}"
                f"\t change {event.change:.5f}\t restarts running {event.active}"
            )
        elif event.message:
            print(event.message)

    # ------------------------------------------------------------- parameters

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

    # -------------------------------------------------------------- prediction

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

    def _rows(self, output: str, X: Any, out: Any) -> Any:
        self._check_fitted()
        return prediction.predict_rows(self, self._dataset(X), output, out)

    def _dataset(self, X: Any, sample_weight: Any = None) -> Dataset:
        dataset = fitting.open_rows(X, sample_weight)
        if dataset.n_rows < 1:
            raise InvalidDataError(
                f"Found array with 0 sample(s) (shape={dataset.shape}) while a minimum of 1 is "
                "required by GaussianMixture."
            )
        if dataset.n_features != self.n_features_in_:
            raise InvalidDataError(
                f"X has {dataset.n_features} features, but {type(self).__name__} is expecting "
                f"{self.n_features_in_} features as input"
            )
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
        dataset = self._dataset(X, sample_weight)
        total, weight = prediction.log_likelihood(self, dataset)
        parameters = self._mixture.n_parameters
        return Evaluation(
            rows=dataset.n_rows,
            log_likelihood=total / weight,
            bic=-2.0 * total + parameters * float(np.log(weight)),
            aic=-2.0 * total + 2.0 * parameters,
        )

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Mean log density of the rows, by their weights, in nats."""
        return self.evaluate(X, sample_weight).log_likelihood

    def bic(self, X: Any, sample_weight: Any = None) -> float:
        """Bayesian information criterion on the rows; lower is better."""
        return self.evaluate(X, sample_weight).bic

    def aic(self, X: Any, sample_weight: Any = None) -> float:
        """Akaike information criterion on the rows; lower is better."""
        return self.evaluate(X, sample_weight).aic

    def sample(self, n_samples: int = 1) -> tuple[Array, Array]:
        """Draw rows from the mixture.

        Parameters
        ----------
        n_samples : int, default=1

        Returns
        -------
        X : array of shape (n_samples, n_features)
        y : array of shape (n_samples,), int64
            The component of each row; rows are grouped by component.
        """
        self._check_fitted()
        if n_samples < 1:
            raise InvalidParameterError(
                f"Invalid value for 'n_samples': {n_samples} . The sampling requires at least "
                "one sample."
            )
        seed = np.random.SeedSequence(seed_entropy(self.random_state), spawn_key=(2,))
        x, labels = draw(self._mixture, n_samples, seed)
        return x.astype(self._face_dtype), labels

    # ------------------------------------------------------------- persistence

    def save(self, path: Any) -> None:
        """Write the fitted model to a safetensors file, atomically.

        The file holds parameters and facts of the fit, no code and nothing pickled; the same fit
        gives the same bytes.
        """
        self._check_fitted()
        from dgmm.persistence import save_model

        save_model(self, path)

    @classmethod
    def load(cls, path: Any, device: str | None = None) -> Self:
        """Read a model that :meth:`save` wrote.

        Raises
        ------
        ModelFileError
            If the file is truncated, altered, of a newer version or no model file.
        """
        from dgmm.persistence import load_model

        return load_model(cls, path, device)
