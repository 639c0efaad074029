"""``GaussianMixture``: the face that scikit-learn's users know, over data of any size."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Self

from sklearn.base import BaseEstimator, DensityMixin
from sklearn.exceptions import ConvergenceWarning

from dgmm.attributes import MixtureAttributes, NotFittedError
from dgmm.checkpoint import StopRequest
from dgmm.columns import record_columns
from dgmm.data.dataset import Dataset
from dgmm.data.location import Discreet
from dgmm.errors import InvalidDataError
from dgmm.exchange import Exchange
from dgmm.fitting import fit_dataset
from dgmm.incremental import PartialFit
from dgmm.notices import warn_user
from dgmm.parameters import check_parameters
from dgmm.plotting import PlotMethods
from dgmm.prediction import Evaluation
from dgmm.record import FitEvent, FitRecord
from dgmm.row_methods import RowMethods
from dgmm.shared_fit import FitOutcome
from dgmm.sources import open_rows

__all__ = ["Evaluation", "GaussianMixture", "NotFittedError"]


class GaussianMixture(
    PartialFit, MixtureAttributes, RowMethods, Exchange, PlotMethods, DensityMixin, BaseEstimator
):
    """A Gaussian mixture, fitted by expectation-maximisation to data of any size.

    Parameters
    ----------
    n_components : int, default=1
    covariance_type : str, default="full"
        ``"full"``, ``"diag"``, ``"spherical"``, ``"tied_full"`` (also ``"tied"``), ``"tied_diag"``
        or ``"tied_spherical"``.
    tol : float, default=1e-3
        EM stops when the lower bound per row changes by less, in nats; with ``acceleration``,
        when the estimated gap to the optimum is less.
    reg_covar : float, default=1e-6
        Added to the diagonals of the covariances that are not fixed, in squared units of the data.
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
    halve_after : int, optional
        Iterations after which the worse half of the restarts leaves, by their projected lower
        bounds; after twice as many half of the rest, and so on (successive halving). None: all
        run to the end.
    acceleration : {None, "auto", "computing", "reading"}, default=None
        Fewer passes to the same likelihood: points beyond EM's own next one are tried, and kept
        where a certified lower bound does not fall. ``"auto"`` takes one point of each restart a
        pass where computing is the bottleneck, and several where reading is; the other values
        say which it is. ``reg_covar`` is then a penalty, so that nothing falls, and
        ``algorithm`` other than ``"em"`` and ``annealing`` go without. See the page on
        acceleration.
    empty_components : {"keep", "reseed", "drop", "raise"}, default="keep"
        What becomes of a component that is left without rows (n_k ≤ 10 eps Σ w). ``"keep"``: what
        no prior determines of it stays as it was. ``"reseed"``: it starts again at the row of the
        sample that the mixture explains worst, at most three times. ``"drop"``: it leaves, so that
        the result has fewer than ``n_components``. ``"raise"``: its restart is given up. All but
        the last are reported by a warning and in ``record_.notes``.
    init_params : str or callable, default="kmeans"
        How a restart begins: ``"kmeans"``, ``"k-means++"``, ``"random"`` (responsibilities),
        ``"random_from_data"`` (also ``"points"``) or ``"maxdist"`` on a sample of the rows (all
        of them, if there are few), or ``"k-means||"`` on all rows, by seven passes more.
        ``"small_em"`` is the best of ten short runs of EM on the sample, which saves passes. A
        callable ``(sample, n_components, seed)`` is given the sampled rows, float64 of shape
        (n_sampled, n_features), and an int; it returns means of shape (n_components,
        n_features), to the nearest of which each sampled row is then assigned, or
        responsibilities of shape (n_sampled, n_components).
    weights_init : array of shape (n_components,), optional
    means_init : array of shape (n_components, n_features), optional
    precisions_init : array, optional
        Inverse covariances, in the shape of ``covariances_``.
    covariances_init : array, optional
        Covariances, instead of ``precisions_init``.
    weight_concentration_prior : float or array of shape (n_components,), optional
        α ≥ 1 of a Dirichlet prior; 1 is uniform. With any prior, the mode of the posterior is
        sought instead of maximum likelihood. With ``empty_components="drop"`` also 0 < α < 1:
        components with fewer than 1 − α rows are then dropped.
    mean_prior : float or array of shape (n_features,) or (n_components, n_features), optional
        μ0 of Gaussian priors with covariance Σ_k / κ0.
    mean_precision_prior : float or array of shape (n_components,), optional
        κ0: how many rows ``mean_prior`` counts for.
    covariance_prior : float or array, optional
        Ψ, in squared units of the data: the scale of (inverse-)Wishart priors, in the shape of
        ``covariances_`` or of one component's. A number is that multiple of the identity.
    degrees_of_freedom_prior : float or array of shape (n_components,), optional
        ν of the same; above n_features − 1 for matrices, above 0 otherwise.
    fixed : set of str or dict, optional
        What stays as the start has it: ``{"covariances"}``, or of some components only,
        ``{"means": [0, 3], "weights": True}``.
    covariance_floor : float, optional
        Least eigenvalue of the covariances, in squared units of the data, instead of ``reg_covar``.
    random_state : int, RandomState or Generator, optional
        The one seed of everything random. The same seed and data give the same bits on any number
        of threads and workers.
    warm_start : bool, default=False
        Start from the parameters of the last fit.
    verbose : int, default=0
    verbose_interval : int, default=10
        Iterations between two lines of progress.
    step_size : float or callable, default=0.7
        Of :meth:`partial_fit`: an exponent α in (0.5, 1], for the step ``(t + step_offset)^−α`` of
        batch t + 1, or a function of t = 1, 2, … with values in [0, 1].
    step_offset : float, default=1.0
    forgetting : float, default=0.0
        Of :meth:`partial_fit`: no step is smaller, so that batches older than about 1 / forgetting
        are forgotten. 0 lets the mixture settle.
    engine : None, "local", "dask", LocalEngine or DaskEngine, default=None
        Where passes run. None: threads of this process, or the cluster of the current Dask client
        if the data is a Dask array.
    device : {"auto", "cpu", "cpu-compiled", "cuda", "cuda:N"}, default="auto"
        ``"cpu-compiled"`` runs loops that numba compiles, 1.3 to 2.3 times the speed of NumPy
        alone, after 4 s of compiling in each process. ``"auto"``: all GPUs that there are
        (docs/gpu.md); without one, the loops for fits where numba is installed, rows × components
        reach 134 million and ``memory_limit`` is not below 1 GiB: they take 200 MiB of it.
    dtype : {"float32", "float64"}, optional
        Of the products; None: float32 for data stored in at most 32 bits, float64 otherwise. A
        mixture too ill-conditioned for it is evaluated by a safer kernel.
    memory_limit : int or str, optional
        Bytes, or a string such as ``"256MiB"``, that each process (the driver, each worker) may
        use above what dgmm takes once imported. None: half of the memory that is free.
    checkpoint : path, URL or dgmm.checkpoint.Checkpoints, optional
        Where :meth:`fit` keeps its state, to be resumed with the same bits; of this fit alone.
    checkpoint_every : int or str, default="60s"
        Iterations, or a time (``"30s"``, ``"5min"``), between two checkpoints. One is written
        before the first iteration and one after the last in any case.
    resume : {"auto", "never", "must"}, default="auto"
        Whether a fit goes on from the newest checkpoint: if there is one, not at all, or only so.

    Attributes
    ----------
    weights_ : array of shape (n_components,)
    means_ : array of shape (n_components, n_features)
    covariances_ : array
        (K, D, D) full, (K, D) diag, (K,) spherical, (D, D) tied_full, (D,) tied_diag, ()
        tied_spherical.
    precisions_, precisions_cholesky_ : array
        Inverse covariances and their Cholesky factors, of the same shape.
    n_parameters_ : int
        Free parameters, which BIC and AIC count: what is fixed is not among them.
    converged_ : bool
        Never with ``algorithm="sem"``.
    n_iter_ : int
    lower_bound_ : float
        Log-likelihood per row before the last M-step, in nats, of the best restart; with priors
        the log posterior (its likelihood alone is ``record_.log_likelihood``). With
        ``algorithm="cem"`` the classification log-likelihood takes its place, with ``"sem"`` it is
        that of the result. With ``acceleration`` it is certified: the result is no lower. Rows
        count by their weights.
    lower_bounds_ : list of float
        The same for every iteration.
    mixture_ : Mixture
        The fitted parameters in float64.
    record_ : FitRecord
        How the fit went; not part of the model.
    n_features_in_ : int
    n_samples_seen_ : int
        By :meth:`partial_fit`, which leaves ``record_`` out and ``converged_`` False.
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
    _stop: StopRequest | None = None

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
        halve_after: int | None = None,
        acceleration: str | None = None,
        empty_components: str = "keep",
        init_params: Any = "kmeans",
        weights_init: Any = None,
        means_init: Any = None,
        precisions_init: Any = None,
        covariances_init: Any = None,
        weight_concentration_prior: Any = None,
        mean_prior: Any = None,
        mean_precision_prior: Any = None,
        covariance_prior: Any = None,
        degrees_of_freedom_prior: Any = None,
        fixed: Any = None,
        covariance_floor: float | None = None,
        random_state: Any = None,
        warm_start: bool = False,
        verbose: int = 0,
        verbose_interval: int = 10,
        step_size: float | Callable[[int], float] = 0.7,
        step_offset: float = 1.0,
        forgetting: float = 0.0,
        engine: Any = None,
        device: str = "auto",
        dtype: Any = None,
        memory_limit: int | str | None = None,
        checkpoint: Any = None,
        checkpoint_every: int | str = "60s",
        resume: str = "auto",
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.algorithm = algorithm
        self.annealing = annealing
        self.n_init = n_init
        self.halve_after = halve_after
        self.acceleration = acceleration
        self.empty_components = empty_components
        self.init_params = init_params
        self.weights_init = weights_init
        self.means_init = means_init
        self.precisions_init = precisions_init
        self.covariances_init = covariances_init
        self.weight_concentration_prior = weight_concentration_prior
        self.mean_prior = mean_prior
        self.mean_precision_prior = mean_precision_prior
        self.covariance_prior = covariance_prior
        self.degrees_of_freedom_prior = degrees_of_freedom_prior
        self.fixed = fixed
        self.covariance_floor = covariance_floor
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.verbose_interval = verbose_interval
        self.step_size = step_size
        self.step_offset = step_offset
        self.forgetting = forgetting
        self.engine = engine
        self.device = device
        self.dtype = dtype
        self.memory_limit = memory_limit
        self.checkpoint = checkpoint
        self.checkpoint_every = checkpoint_every
        self.resume = resume

    # ---------------------------------------------------------------- fitting

    @property
    def checkpoint(self) -> Any:
        """As it was given; a URL shows nothing of its credentials where the estimator is shown."""
        return self.__dict__["checkpoint"]

    @checkpoint.setter
    def checkpoint(self, value: Any) -> None:
        self.__dict__["checkpoint"] = Discreet.of(value)

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
        labels : array-like, Dask array, Zarr array, path, URL or str, optional
            The number of a component for rows where it is known, -1 where it is not. Known rows
            count for their component alone, in the start as in every iteration. Or the name of the
            column of ``X`` that holds them. Not ``y``, which pipelines hand on without asking.

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
        EmptyComponentError
            If every restart was given up, with ``empty_components="raise"``.
        CheckpointError, CheckpointMismatchError
            If no checkpoint can be used, or the one that is there is of another fit.
        """
        started = time.perf_counter()
        parameters = check_parameters(self)
        dataset = open_rows(X, sample_weight, labels, self.device)
        self._check_rows(dataset)
        previous = self if self.warm_start and hasattr(self, "mixture_") else None
        outcome = fit_dataset(self, parameters, dataset, previous=previous, on_event=self._emit)
        self._keep(outcome, dataset, time.perf_counter() - started)
        if not self.converged_ and parameters.max_iter > 0 and parameters.algorithm != "sem":
            warn_user(
                "Best performing initialization did not converge. Try different init parameters, "
                "or increase max_iter, tol, or check for degenerate data.",
                ConvergenceWarning,
            )
        return self

    def fit_predict(
        self, X: Any, y: Any = None, sample_weight: Any = None, *, labels: Any = None
    ) -> Any:
        """Fit, then label every row; see :meth:`fit` and :meth:`predict`."""
        dataset = open_rows(X, sample_weight, labels, self.device)
        return self.fit(dataset).predict(dataset)

    def _check_rows(self, dataset: Dataset) -> None:
        n_rows = dataset.n_rows
        if n_rows < 2:
            raise InvalidDataError(
                f"Found array with {n_rows} sample(s) (shape={dataset.shape}) while a minimum of "
                "2 is required by GaussianMixture. Pass data with more rows."
            )
        if n_rows < self.n_components:
            raise InvalidDataError(
                "Expected n_samples >= n_components but got "
                f"n_components = {self.n_components}, n_samples = {n_rows}; lower n_components or "
                "pass data with more rows"
            )

    def _keep(self, outcome: FitOutcome, dataset: Dataset, seconds: float) -> None:
        record_columns(self, dataset)
        self.__dict__.pop("n_samples_seen_", None)
        chain = outcome.chain
        self._set_mixture(replace(chain.mixture, feature_names=dataset.feature_names))
        self._fixed, self._dropped = outcome.fixed, tuple(sorted(chain.dropped))
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
