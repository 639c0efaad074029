"""Priors that suit some rows, from one pass over them."""

from __future__ import annotations

from typing import Any

import numpy as np

from dgmm.covariance import CovarianceFamily, family_of
from dgmm.data.dataset import Dataset
from dgmm.data.skipping import check_skipped
from dgmm.engine.blas import single_threaded_blas
from dgmm.engine.choice import engine_for
from dgmm.errors import InvalidDataError, InvalidParameterError
from dgmm.profile import Profile, ProfilePass
from dgmm.sizes import parse_bytes
from dgmm.sources import open_rows

__all__ = ["suggest_priors"]

# Fraley and Raftery's κ0: the prior mean counts for a hundredth of a row.
_SHRINKAGE = 0.01


def suggest_priors(
    X: Any,
    n_components: int = 1,
    covariance_type: str = "full",
    *,
    sample_weight: Any = None,
    engine: Any = None,
    memory_limit: int | str | None = None,
) -> dict[str, Any]:
    """Weak priors that keep covariances from collapsing, as arguments of ``GaussianMixture``.

    The defaults of Fraley and Raftery, "Bayesian regularization for normal mixture estimation and
    model-based clustering", Journal of Classification 24 (2007): the prior mean is that of the
    rows and counts for 0.01 rows, ν = D + 2, and Ψ is the covariance S of the rows over
    K^(2/D), or the mean of its diagonal over K^(2/D) for diagonal and spherical families. They
    leave the weights without a prior.

    Parameters
    ----------
    X : array-like, Dask array, Zarr array, path or URL, or Dataset
        Shape (n_rows, n_features); read once.
    n_components : int, default=1
        K of the mixture to fit: the more components, the smaller Ψ.
    covariance_type : str, default="full"
    sample_weight : array-like, Dask array, Zarr array, path, URL, str or int, optional
        As in :meth:`GaussianMixture.fit <dgmm.GaussianMixture.fit>`.
    engine, memory_limit : optional
        As in :class:`~dgmm.GaussianMixture`.

    Returns
    -------
    dict
        ``mean_prior`` (shape (n_features,), units of the data), ``mean_precision_prior``,
        ``covariance_prior`` (squared units of the data) and ``degrees_of_freedom_prior``.

    Raises
    ------
    InvalidParameterError
        If ``n_components`` or ``covariance_type`` is none.
    InvalidDataError
        If the rows have no covariance to take as a scale.

    Examples
    --------
    >>> import numpy as np, dgmm
    >>> x = np.random.default_rng(0).normal(size=(100, 2))
    >>> sorted(dgmm.suggest_priors(x, n_components=4))
    ['covariance_prior', 'degrees_of_freedom_prior', 'mean_precision_prior', 'mean_prior']
    """
    family = family_of(covariance_type)
    _check_count(n_components)
    limit = None if memory_limit is None else parse_bytes(memory_limit, "memory_limit")
    profile = _profile(open_rows(X, sample_weight), family, engine, limit)
    d = len(profile.mean)
    return {
        "mean_prior": profile.mean.copy(),
        "mean_precision_prior": _SHRINKAGE,
        "covariance_prior": _scale(profile, family) / n_components ** (2.0 / d),
        "degrees_of_freedom_prior": d + 2.0,
    }


def _check_count(value: Any) -> None:
    is_integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not is_integer or value < 1:
        raise InvalidParameterError(f"n_components={value!r}; it must be an integer of at least 1")


def _profile(
    dataset: Dataset, family: CovarianceFamily, engine: Any, memory_limit: int | None
) -> Profile:
    if dataset.n_rows < 2:
        raise InvalidDataError(f"suggest_priors needs at least 2 rows; X has {dataset.n_rows}")
    task = ProfilePass(
        n_rows=dataset.n_rows,
        n_features=dataset.n_features,
        sample_size=1,
        seed=0,
        itemsize=dataset.dtype.itemsize,
        dense=family.shape.uses_whitening(),
        weighted=dataset.has_weights,
    )
    runner = engine_for(engine, dataset)
    with (
        single_threaded_blas(),
        runner.session(dataset, memory_limit=memory_limit, reserved_bytes=task.sample_bytes) as run,
    ):
        profile = run.run(task).total
        check_skipped(dataset, profile.skipped)
        return profile


def _scale(profile: Profile, family: CovarianceFamily) -> Any:
    """The rows' covariance in the shape of one covariance: all of it, or its mean variance."""
    if not profile.weight > 1.0:
        raise InvalidDataError(
            f"suggest_priors needs rows that count for more than one; the weights of X sum to "
            f"{profile.weight:g}"
        )
    covariance: Any = profile.scatter / (profile.weight - 1.0)
    if covariance.ndim == 2:
        definite = bool(np.all(np.isfinite(family.shape.factorise(covariance))))
    else:
        covariance = float(covariance.mean())
        definite = covariance > 0.0
    if not definite:
        constant = ", ".join(str(i) for i in profile.constant_features) or "none alone"
        raise InvalidDataError(
            "the covariance of the rows is singular and gives no scale for a prior (constant "
            f"features: {constant}); drop what depends on other features, or choose "
            "covariance_prior yourself"
        )
    return covariance
