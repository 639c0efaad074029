"""Many fits at once: all candidates of a selection, with all their restarts, share every pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from dgmm.chains import none_left
from dgmm.checkpoint import StopRequest
from dgmm.constraints import check_start
from dgmm.data.dataset import Dataset
from dgmm.em import Chain, Context, best_chain, evaluate
from dgmm.errors import InvalidDataError, InvalidParameterError, SingularMixtureError
from dgmm.expectation import BatchPass, plan_batch
from dgmm.fitting import check_labelled, plan_maximization
from dgmm.fixed import Fixed
from dgmm.guard import Level, safe_level
from dgmm.holdout import BothSides
from dgmm.maximization import MaximizationOptions
from dgmm.mixture import Mixture
from dgmm.parameters import FitParameters, check_parameters, start_from
from dgmm.passes import run_members
from dgmm.profile import Profile
from dgmm.record import FitEvent
from dgmm.resuming import FitCheckpoints, check_checkpoint, configuration_of
from dgmm.shared_fit import Batch, Emit, FitOutcome, Fitted, fitted
from dgmm.starts import restart_seed, start_finders
from dgmm.statistics import BatchStatistics, SufficientStatistics

__all__ = ["Candidate", "fit_candidates"]


@dataclass(frozen=True)
class Candidate:
    """A candidate, fitted.

    Parameters
    ----------
    estimator : GaussianMixture
        As it was given: not fitted.
    outcome : FitOutcome or None
        None if all its restarts collapsed.
    fitted : SufficientStatistics or None
        Of the final mixture, on the rows that it was fitted to.
    held : SufficientStatistics or None
        On the rows held out, if there are such.
    reason : str
        Why there is no outcome: all restarts collapsed, or were given up for an empty component.
    """

    estimator: Any
    outcome: FitOutcome | None = None
    fitted: SufficientStatistics | None = None
    held: SufficientStatistics | None = None
    reason: str = ""


def fit_candidates(
    estimators: Sequence[Any],
    dataset: Dataset,
    *,
    holdout: float | None,
    on_event: Emit,
    stop: StopRequest | None = None,
) -> list[Candidate]:
    """Fit every candidate, then evaluate all of them in one more pass.

    Parameters
    ----------
    estimators : sequence of GaussianMixture
        They differ in ``n_components`` and ``covariance_type`` alone.
    dataset : Dataset
    holdout : float or None
        Share of the rows to hold out.
    on_event : callable
    stop : StopRequest, optional
        Heeded where checkpoints are kept.
    """
    parameters = [check_parameters(one) for one in estimators]
    options = _options(estimators, parameters, dataset)
    batch = Batch(estimators, parameters, options, dataset, holdout)
    first = estimators[0]
    with fitted(
        batch,
        FitCheckpoints(*check_checkpoint(first), first.resume, stop),
        _configuration(estimators, parameters, options) | {"holdout": holdout},
        starts=lambda context, level, seeds: _starts(batch, context, level, seeds),
        check=lambda profile: _check_enough(profile, batch),
        on_event=on_event,
    ) as done:
        on_event(FitEvent("done", max(len(chain.lower_bounds) for chain in done.chains)))
        outcomes = [
            _outcome(done, group, one.fixed)
            for group, one in zip(done.groups, options, strict=True)
        ]
        return _evaluated(done, outcomes)


def _options(
    estimators: Sequence[Any], parameters: Sequence[FitParameters], dataset: Dataset
) -> list[MaximizationOptions]:
    """What the M-steps of each candidate hold to.

    Raises
    ------
    InvalidParameterError
        If an argument does not fit a candidate: most often an array with a value for each
        component, where their numbers differ.
    """
    check_labelled(parameters[0], dataset)
    _check_one_shape(estimators[0].covariance_prior, parameters, dataset.n_features)
    found = []
    for estimator, one in zip(estimators, parameters, strict=True):
        with _named(estimator, one):
            found.append(plan_maximization(estimator, one, dataset))
    return found


def _check_one_shape(prior: Any, parameters: Sequence[FitParameters], n_features: int) -> None:
    """Refuse a matrix that one family would read as a matrix, another as variances of components.

    Raises
    ------
    InvalidParameterError
    """
    shapes = {one.family.name: one.family.shape.trailing(n_features) for one in parameters}
    if prior is not None and np.ndim(prior) > 0 and len(set(shapes.values())) > 1:
        raise InvalidParameterError(
            f"select_model: covariance_prior has shape {np.shape(prior)}, and covariances of the "
            f"candidates have {', '.join(f'{shape} ({name})' for name, shape in shapes.items())}; "
            "pass a number, which fits all of them, or families of one shape"
        )


@contextmanager
def _named(estimator: Any, one: FitParameters) -> Iterator[None]:
    """Say which candidate an argument does not fit, and what to do about it."""
    try:
        yield
    except InvalidParameterError as error:
        raise InvalidParameterError(
            f"select_model, candidate {one.family.name} with {one.n_components} components: "
            f"{error}{_advice(estimator)}"
        ) from error


def _advice(estimator: Any) -> str:
    names = [name for name in vars(estimator) if name.endswith(("_prior", "_init"))]
    given = [name for name in names if np.ndim(getattr(estimator, name)) > 0]
    if not given and not isinstance(estimator.fixed, dict):
        return ""
    return (
        ". All candidates are given the same arguments: a number fits every one of them, an array "
        "with a value for each component those of one size alone"
    )


def _configuration(
    estimators: Sequence[Any],
    parameters: Sequence[FitParameters],
    options: Sequence[MaximizationOptions],
) -> dict[str, Any]:
    """The arguments that change the bits: once where all candidates have them in common."""
    each = [
        configuration_of(*one, None) for one in zip(estimators, parameters, options, strict=True)
    ]
    return {
        name: value if all(one[name] == value for one in each) else [one[name] for one in each]
        for name, value in each[0].items()
    } | {
        "n_components": [one.n_components for one in parameters],
        "covariance_type": [one.family.name for one in parameters],
    }


def _check_enough(profile: Profile, batch: Batch) -> None:
    most = max(one.n_components for one in batch.parameters)
    if profile.n_rows >= most:
        return
    if batch.holdout is not None:
        raise InvalidParameterError(
            f"{profile.n_rows} rows are left to fit {most} components to; hold fewer rows out or "
            "lower n_components"
        )
    raise InvalidDataError(
        f"only {profile.n_rows} rows have a positive sample_weight, for up to {most} components; "
        "lower n_components or weight more rows"
    )


def _starts(
    batch: Batch, context: Context, level: Level, seeds: np.random.SeedSequence
) -> list[Chain]:
    parameters, options = batch.parameters, batch.options
    n_init, n_features = batch.shared.n_init, len(context.profile.mean)
    # A candidate starts where it would start alone.
    own = [[restart_seed(seeds, restart) for restart in range(n_init)] for _ in parameters]
    finders = start_finders(parameters, context, level, own, options)
    chains: dict[tuple[int, int], Chain] = {}
    # Families side by side, because they share the assignment of the sample.
    for restart in range(n_init):
        for i, (estimator, one) in enumerate(zip(batch.estimators, parameters, strict=True)):
            with _named(estimator, one):
                start = start_from(estimator, one, n_features, finders[i][restart])
                start = check_start(start, options[i])
            name = f"{one.family.name}, {one.n_components} components, restart {restart}"
            chains[i, restart] = Chain(start, level, name=name)
    return [chains[key] for key in sorted(chains)]


def _outcome(done: Fitted, group: list[Chain], fixed: Fixed) -> FitOutcome | SingularMixtureError:
    """How a candidate went, or why it has no winner."""
    try:
        return done.outcome(best_chain(group), group, fixed)
    except SingularMixtureError as error:
        return type(error)("; ".join(dict.fromkeys(chain.reason for chain in group)))


def _evaluated(
    done: Fitted, outcomes: Sequence[FitOutcome | SingularMixtureError]
) -> list[Candidate]:
    live = [one for one in outcomes if isinstance(one, FitOutcome)]
    if not live:
        raise none_left([one for one in outcomes if not isinstance(one, FitOutcome)])
    mixtures = [one.chain.mixture for one in live]
    levels = [
        safe_level(mixture, done.context.frames, one.chain.level)
        for mixture, one in zip(mixtures, live, strict=True)
    ]
    found = iter(_final(done, mixtures, levels))
    return [
        Candidate(estimator, one, *next(found))
        if isinstance(one, FitOutcome)
        else Candidate(estimator, reason=str(one))
        for estimator, one in zip(done.batch.estimators, outcomes, strict=True)
    ]


def _final(
    done: Fitted, mixtures: list[Mixture], levels: list[Level]
) -> list[tuple[SufficientStatistics, SufficientStatistics | None]]:
    """Statistics on the fitted rows and on those held out, in one pass."""
    context, split, policy = done.context, done.split, done.algorithm.final_policy
    if split is None:
        policies = [policy] * len(mixtures)
        return [(one, None) for one in evaluate(context, mixtures, levels, policies)[0]]
    # With the quadratic term of tied families: the scatter of the rows held out is not known.
    task = BatchPass(plan_batch(mixtures, levels, context.frames), policy, context.device)
    members = run_members(BothSides(done.session, split), task)
    nothing = [None] * len(mixtures)
    sides = [
        task.finish(BatchStatistics(tuple(one)), mixtures, nothing).members
        for one in ([m.fitted for m in members], [m.held for m in members])
    ]
    if sides[1][0].n_rows == 0:
        raise InvalidParameterError(
            f"no row of {done.batch.dataset.n_rows} is held out with holdout={split.share}; raise "
            "it"
        )
    return list(zip(*sides, strict=True))
