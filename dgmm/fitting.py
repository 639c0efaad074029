"""One fit: its restarts share every pass, and the best is kept."""

from __future__ import annotations

from typing import Any

import numpy as np

from dgmm.chains import Emptied
from dgmm.constraints import check_start, maximization_options
from dgmm.data.dataset import Dataset
from dgmm.em import Chain, Context, best_chain
from dgmm.errors import InvalidDataError, InvalidParameterError
from dgmm.guard import Level
from dgmm.maximization import MaximizationOptions
from dgmm.mixture import Mixture
from dgmm.notes import warn_of_emptied
from dgmm.parameters import FitParameters, check_held, start_from
from dgmm.profile import Profile
from dgmm.record import FitEvent
from dgmm.resuming import FitCheckpoints, check_checkpoint, configuration_of
from dgmm.shared_fit import Batch, Emit, FitOutcome, fitted
from dgmm.starts import restart_seed, start_finders

__all__ = ["check_counted", "check_labelled", "fit_dataset", "plan_maximization"]


def fit_dataset(
    estimator: Any,
    parameters: FitParameters,
    dataset: Dataset,
    *,
    previous: Any = None,
    on_event: Emit,
) -> FitOutcome:
    """Fit a mixture to a dataset.

    Parameters
    ----------
    estimator : GaussianMixture
        Whose ``engine``, ``random_state`` and given starts are used.
    parameters : FitParameters
        Its other arguments, checked.
    dataset : Dataset
    previous : GaussianMixture, optional
        A fitted one to start from (``warm_start``).
    on_event : callable
        Called with every :class:`~dgmm.record.FitEvent`.
    """
    check_labelled(parameters, dataset)
    options = plan_maximization(estimator, parameters, dataset)
    if previous is not None:
        _check_previous(previous, parameters, dataset.n_features)
        _check_same_names(previous.mixture_, dataset)
        gone = previous._dropped
        check_held(estimator, parameters, options.fixed, previous.mixture_, gone)
    batch = Batch((estimator,), (parameters,), (options,), dataset)

    def starts(context: Context, level: Level, seeds: np.random.SeedSequence) -> list[Chain]:
        return _starts(estimator, parameters, options, context, level, previous, seeds)

    def check(profile: Profile) -> None:
        check_counted(profile, parameters.n_components)

    with fitted(
        batch,
        FitCheckpoints(*check_checkpoint(estimator), estimator.resume, estimator._stop),
        configuration_of(estimator, parameters, options, previous),
        starts=starts,
        check=check,
        on_event=on_event,
    ) as done:
        winner = best_chain(done.chains)
        warn_of_emptied(winner)
        on_event(FitEvent("done", len(winner.lower_bounds), winner.lower_bound))
        return done.outcome(winner, done.chains, options.fixed)


def check_labelled(parameters: FitParameters, dataset: Dataset) -> None:
    """Refuse labels of components whose numbers may change."""
    if dataset.has_labels and parameters.empty_components == "drop":
        raise InvalidParameterError(
            "empty_components='drop' renumbers the components, and labels go by their numbers; "
            "pass empty_components='keep' or 'reseed'"
        )


def plan_maximization(
    estimator: Any, parameters: FitParameters, dataset: Dataset
) -> MaximizationOptions:
    """What the M-steps of a fit hold to: floors, priors, fixed parameters."""
    return maximization_options(
        estimator,
        parameters.family,
        parameters.n_components,
        dataset.n_features,
        parameters.reg_covar,
    )


def check_counted(profile: Profile, n_needed: int) -> None:
    """Refuse weights that leave fewer rows than are needed: one for each component, in a fit.

    Raises
    ------
    InvalidDataError
    """
    if not np.isfinite(profile.weight):
        raise InvalidDataError(
            f"sample_weight sums to {profile.weight:g}; divide all weights by one number"
        )
    if not profile.weight > 0.0:
        raise InvalidDataError(
            "sample_weight is zero for every row; at least n_components rows need a positive weight"
        )
    if profile.n_rows < n_needed:
        raise InvalidDataError(
            f"only {profile.n_rows} rows have a positive sample_weight and n_components="
            f"{n_needed}; lower n_components or weight more rows"
        )


def _starts(
    estimator: Any,
    parameters: FitParameters,
    options: MaximizationOptions,
    context: Context,
    level: Level,
    previous: Any,
    seeds: np.random.SeedSequence,
) -> list[Chain]:
    if previous is not None:
        start = check_start(previous.mixture_, options)
        gone = tuple(Emptied(-1, k, "dropped") for k in previous._dropped)
        return [Chain(start, level, lower_bound=previous.lower_bound_, emptied=gone)]
    seeds_of = [restart_seed(seeds, restart) for restart in range(parameters.n_init)]
    finders = start_finders([parameters], context, level, [seeds_of], [options])
    n_features = len(context.profile.mean)
    starts = [start_from(estimator, parameters, n_features, find) for find in finders[0]]
    starts = [check_start(start, options) for start in starts]
    return [Chain(start, level) for start in starts]


def _check_same_names(mixture: Mixture, dataset: Dataset) -> None:
    """Refuse columns whose means would become those of others."""
    ours, theirs = mixture.feature_names, dataset.feature_names
    if ours is not None and theirs is not None and tuple(ours) != tuple(theirs):
        raise InvalidParameterError(
            f"warm_start goes on from a fit to the columns {list(ours)}, and these are "
            f"{list(theirs)}; pass them in that order, or warm_start=False to start anew"
        )


def _check_previous(previous: Any, parameters: FitParameters, n_features: int) -> None:
    """Refuse to go on from a fit of another shape."""
    mixture: Mixture = previous.mixture_
    if previous._dropped and parameters.empty_components != "drop":
        raise InvalidParameterError(
            f"warm_start goes on from a fit that dropped components {list(previous._dropped)}; "
            "pass empty_components='drop', or warm_start=False to start anew"
        )
    began = mixture.n_components + len(previous._dropped)
    found = (began, mixture.covariance_type, mixture.n_features)
    wanted = (parameters.n_components, parameters.family.name, n_features)
    names = ("n_components", "covariance_type", "the number of features")
    for name, one, other in zip(names, found, wanted, strict=True):
        if one != other:
            raise InvalidParameterError(
                f"warm_start goes on from a fit whose {name} was {one!r}, and it is {other!r} now; "
                "pass warm_start=False to start anew"
            )
