"""``partial_fit``: one batch of rows at a time, of any source, on any engine."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, Self

import numpy as np

from dgmm.columns import check_columns, record_columns
from dgmm.constraints import check_fixed, check_start
from dgmm.covariance import family_of
from dgmm.data.dataset import Dataset
from dgmm.device_profile import profile_on
from dgmm.em import Context, frames_of
from dgmm.engine.blas import single_threaded_blas
from dgmm.engine.choice import engine_for
from dgmm.errors import (
    EmptyComponentError,
    InvalidDataError,
    InvalidParameterError,
    SingularMixtureError,
)
from dgmm.fitting import check_counted, plan_maximization
from dgmm.guard import Level, first_level
from dgmm.maximization import MaximizationOptions
from dgmm.mixture import Mixture
from dgmm.notes import warn_of_dropped, warn_of_empty
from dgmm.parameters import (
    FitParameters,
    check_held,
    check_parameters,
    seed_entropy,
    start_from,
)
from dgmm.shared_fit import profile_task
from dgmm.sources import open_rows
from dgmm.starts import reserved_bytes, restart_seed, start_finders
from dgmm.stepwise import Advanced, Retained, StepSizes, advance, expected_statistics

__all__ = ["PartialFit"]

_STARTS = ("weights_init", "means_init", "covariances_init")


class PartialFit:
    """The method of an estimator that is fitted batch by batch."""

    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Improve the mixture by one batch of rows: a step of stepwise EM.

        The first batch also finds the start, in which case it needs at least ``n_components`` rows.
        Later ones are blended into retained statistics, with steps that ``step_size``,
        ``step_offset`` and ``forgetting`` govern. ``fit`` begins anew; after it, or ``load``, the
        mixture that is there counts as one earlier batch. Retained statistics are pickled, but no
        part of a model file.

        Parameters
        ----------
        X : array-like, Dask array, Zarr array, path or URL, or Dataset
        y : ignored
        sample_weight : array-like, Dask array, Zarr array, path, URL, str or int, optional
            As in ``fit``. Within a batch, a row of weight two is two rows; a batch counts as one
            whatever its rows weigh together.

        Raises
        ------
        InvalidParameterError, InvalidDataError, SingularMixtureError, MemoryLimitError, SourceError
            As in ``fit``; the estimator is then as it was before the call.

        Notes
        -----
        Cappé and Moulines (2009), J. R. Stat. Soc. B 71; Liang and Klein (2009), NAACL.
        """
        fit_batch(self, X, sample_weight)
        return self


def fit_batch(estimator: Any, X: Any, sample_weight: Any = None) -> None:
    """Improve an estimator by one batch; it is left as it was if anything fails.

    Parameters
    ----------
    estimator : GaussianMixture
        Fitted or not.
    X, sample_weight : anything that :meth:`dgmm.GaussianMixture.fit` reads
    """
    parameters, sizes = check_parameters(estimator), _step_sizes(estimator)
    dataset = open_rows(X, sample_weight)
    _check_supported(estimator, parameters, dataset)
    is_first = not estimator.__sklearn_is_fitted__()
    _check_batch(estimator, dataset, is_first)
    taken = _advance(estimator, parameters, sizes, dataset)
    taken, dropped = _mended(parameters.empty_components, taken, estimator._dropped)
    if is_first:
        record_columns(estimator, dataset)
    _keep(estimator, taken)
    estimator._dropped = dropped


def _mended(
    choice: str, taken: Advanced, dropped: tuple[int, ...]
) -> tuple[Advanced, tuple[int, ...]]:
    """The step with what is to become of components that it left without rows.

    And all components that were dropped so far, numbered as at the beginning.
    """
    if not taken.emptied:
        return taken, dropped
    left = [k for k in range(taken.mixture.n_components + len(dropped)) if k not in dropped]
    emptied = [left[k] for k in taken.emptied]
    if choice == "raise":
        raise EmptyComponentError(
            f"component {emptied[0]} was left without rows by batch {taken.retained.step}, and "
            "empty_components='raise'; larger batches or smaller steps help, or 'keep' or 'drop'"
        )
    if choice == "keep":
        warn_of_empty(emptied)
        return taken, dropped
    warn_of_dropped(emptied)
    return taken.without_emptied(), tuple(sorted({*dropped, *emptied}))


def _check_supported(estimator: Any, parameters: FitParameters, dataset: Dataset) -> None:
    if estimator.checkpoint is not None:
        raise InvalidParameterError(
            "partial_fit writes no checkpoints: a batch is a pass or two, and what a later one "
            "needs is in the estimator; pass checkpoint=None, and save() or pickle the estimator "
            "between batches"
        )
    if parameters.algorithm != "em" or parameters.temperatures:
        name = (
            "annealing" if parameters.algorithm == "em" else f"algorithm={parameters.algorithm!r}"
        )
        raise InvalidParameterError(
            f"{name} is not supported by partial_fit, whose steps are those of stepwise EM; pass "
            "algorithm='em' and annealing=None, or use fit"
        )
    if parameters.empty_components == "reseed":
        raise InvalidParameterError(
            "empty_components='reseed' is not supported by partial_fit, which keeps no sample of "
            "earlier batches to look for a place in; pass 'keep', 'drop' or 'raise', or use fit"
        )
    if dataset.skipping is not None:
        raise InvalidParameterError(
            "partial_fit does not skip bad rows or blocks; clean the batch, or use fit"
        )
    if dataset.has_labels:
        raise InvalidParameterError(
            "partial_fit does not support labels of rows, which this dataset carries; use fit"
        )


def _step_sizes(estimator: Any) -> StepSizes:
    schedule, offset = estimator.step_size, _number(estimator, "step_offset", 0.0, np.inf)
    if not callable(schedule):
        schedule = _number(estimator, "step_size", 0.5, 1.0)
        if schedule == 0.5:
            # The sum of the squared steps would not converge (Robbins and Monro 1951).
            raise InvalidParameterError("step_size=0.5; an exponent must lie in (0.5, 1]")
    return StepSizes(
        partial(_checked_step, schedule) if callable(schedule) else schedule,
        offset,
        _number(estimator, "forgetting", 0.0, 1.0),
    )


def _number(estimator: Any, name: str, least: float, most: float) -> float:
    value = getattr(estimator, name)
    is_real = isinstance(value, float | int | np.floating | np.integer)
    if not is_real or isinstance(value, bool) or not least <= value <= most or np.isinf(value):
        raise InvalidParameterError(f"{name}={value!r}; it must be a number in [{least}, {most}]")
    return float(value)


def _checked_step(schedule: Any, step: int) -> float:
    found = schedule(step)
    try:
        size = float(found)
    except (TypeError, ValueError):
        size = np.nan
    if not 0.0 <= size <= 1.0:
        raise InvalidParameterError(
            f"step_size({step}) returned {found!r}; a step must lie in [0, 1]"
        )
    return size


def _check_batch(estimator: Any, dataset: Dataset, is_first: bool) -> None:
    if not is_first:
        check_columns(estimator, dataset)
        _check_same_shape(estimator)
    needed = estimator.n_components if is_first and not _is_given(estimator) else 1
    if dataset.n_rows < 1:
        raise InvalidDataError(
            f"Found array with 0 sample(s) (shape={dataset.shape}) while a minimum of 1 is "
            "required by GaussianMixture. Pass data with more rows."
        )
    if dataset.n_rows < needed:
        raise InvalidDataError(
            f"Expected n_samples >= n_components but got n_components = {needed}, n_samples = "
            f"{dataset.n_rows}: the first batch is what the mixture starts from; make it larger, "
            f"or pass {', '.join(_STARTS)}"
        )


def _is_given(estimator: Any) -> bool:
    """True if no row is needed to find a start."""
    inverse = estimator.precisions_init is not None
    return all(
        getattr(estimator, name) is not None or (name == "covariances_init" and inverse)
        for name in _STARTS
    )


def _check_same_shape(estimator: Any) -> None:
    """Refuse to go on with a mixture of another shape than the arguments say."""
    mixture: Mixture = estimator.mixture_
    wanted = (estimator.n_components, family_of(estimator.covariance_type).name)
    found = (mixture.n_components + len(estimator._dropped), mixture.covariance_type)
    for name, one, other in zip(("n_components", "covariance_type"), found, wanted, strict=True):
        if one != other:
            raise InvalidParameterError(
                f"partial_fit goes on with a mixture whose {name} is {one!r}, and {name}="
                f"{other!r} is asked for; set it to {one!r}, or begin anew with fit"
            )


def _advance(
    estimator: Any, parameters: FitParameters, sizes: StepSizes, dataset: Dataset
) -> Advanced:
    seeds = np.random.SeedSequence(seed_entropy(estimator.random_state))
    options = plan_maximization(estimator, parameters, dataset)
    _check_concentration(options)
    retained, mixture = getattr(estimator, "_stepwise", None), estimator.__dict__.get("mixture_")
    if mixture is not None:
        check_held(estimator, parameters, options.fixed, mixture, estimator._dropped)
    if estimator._dropped:
        left = [k for k in range(parameters.n_components) if k not in estimator._dropped]
        options = options.of_components(left, parameters.family)
    task = profile_task([parameters], dataset, seeds)
    engine = engine_for(estimator.engine, dataset)
    reserved = reserved_bytes([parameters], task)
    session = engine.session(dataset, memory_limit=parameters.memory_limit, reserved_bytes=reserved)
    level = first_level(dataset.dtype, parameters.dtype, parameters.device_for_once)
    device = parameters.device_for_once
    with single_threaded_blas(), session:
        if retained is not None:
            frames = retained.frames
        else:
            profile = session.run(profile_on(task, device)).total
            starts_here = mixture is None and not _is_given(estimator)
            check_counted(profile, parameters.n_components if starts_here else 1)
            frames = frames_of(profile, dataset.dtype)
            if mixture is None:
                context = Context(session, frames, profile, device)
                mixture = _start(estimator, parameters, options, context, level, seeds)
            else:
                # A mixture that was fitted, loaded or assigned counts as one batch before this.
                statistics = expected_statistics(mixture, frames.plain)
                retained = Retained(statistics, frames, level)
        return advance(
            session,
            mixture,
            retained,
            frames=frames,
            level=level,
            step_size=sizes,
            options=options,
            device=device,
        )


def _check_concentration(options: MaximizationOptions) -> None:
    alpha = options.priors.weight_concentration
    if alpha is not None and alpha.min() < 1.0:
        raise InvalidParameterError(
            f"weight_concentration_prior={alpha.min():g} is not supported by partial_fit: below 1 "
            "it takes rows from components, of which a batch may have too few; pass 1 or more"
        )


def _start(
    estimator: Any,
    parameters: FitParameters,
    options: MaximizationOptions,
    context: Context,
    level: Level,
    seeds: np.random.SeedSequence,
) -> Mixture:
    seed = restart_seed(seeds, 0)
    ((find,),) = start_finders([parameters], context, level, [[seed]], [options])
    mixture = check_start(
        start_from(estimator, parameters, len(context.profile.mean), find), options
    )
    if mixture.singular_components:
        raise SingularMixtureError(
            f"the start from the first batch has no positive definite covariance for component "
            f"{mixture.singular_components[0]}; make the batch larger or raise reg_covar"
        )
    return mixture


def _keep(estimator: Any, taken: Advanced) -> None:
    """Attributes of an estimator after a batch; a fit's own record no longer describes it."""
    family, n_components = taken.mixture.family, taken.mixture.n_components
    estimator._fixed = check_fixed(estimator.fixed, family, n_components)
    names = getattr(estimator, "feature_names_in_", None)
    estimator._set_mixture(replace(taken.mixture, feature_names=names))
    estimator._stepwise = taken.retained
    for name in ("record_", "_rows_fitted"):
        estimator.__dict__.pop(name, None)
    if taken.retained.step == 1 or not hasattr(estimator, "n_samples_seen_"):
        estimator.n_samples_seen_, estimator.lower_bounds_ = 0, []
    estimator.n_samples_seen_ += taken.n_rows
    estimator.lower_bounds_ = [*estimator.lower_bounds_, taken.lower_bound]
    estimator.lower_bound_ = taken.lower_bound
    estimator.n_iter_ = len(estimator.lower_bounds_)
    estimator.converged_ = False
