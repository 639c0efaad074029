"""Many fits at once: all candidates of a selection, with all their restarts, share every pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from dgmm.chains import none_left
from dgmm.checkpoint import StopRequest
from dgmm.constraints import check_concentration, check_start
from dgmm.data.dataset import Dataset
from dgmm.data.skipping import check_skipped
from dgmm.device_profile import profile_on
from dgmm.em import Chain, Context, best_chain, evaluate, frames_of, iterate
from dgmm.emptying import Emptying
from dgmm.engine.base import Session
from dgmm.engine.blas import single_threaded_blas
from dgmm.engine.choice import engine_for
from dgmm.engine.memory import MemoryMeter
from dgmm.errors import InvalidDataError, InvalidParameterError, SingularMixtureError
from dgmm.expectation import BatchPass, plan_batch
from dgmm.fitting import (
    Emit,
    FitOutcome,
    accelerator_for,
    check_labelled,
    first_level,
    plan_maximization,
    profile_task,
)
from dgmm.fixed import Fixed
from dgmm.guard import Level, safe_level
from dgmm.halving import halving_of
from dgmm.holdout import BothSides, FittedSide, Split
from dgmm.maximization import MaximizationOptions
from dgmm.mixture import Mixture
from dgmm.notes import warn_of_constants
from dgmm.parameters import FitParameters, check_parameters, seed_entropy, start_from
from dgmm.passes import run_members
from dgmm.posterior import PosteriorPolicy
from dgmm.profile import Profile
from dgmm.record import FitEvent
from dgmm.resuming import FitCheckpoints, check_checkpoint, configuration_of
from dgmm.starts import checkpoint_bytes, reserved_bytes, restart_seed, start_finders
from dgmm.statistics import BatchStatistics, SufficientStatistics
from dgmm.steady import steadied
from dgmm.variants import Algorithm

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
    meter = MemoryMeter()
    parameters = [check_parameters(one) for one in estimators]
    shared = parameters[0]
    first = estimators[0]
    options = _options(estimators, parameters, dataset)
    kept = FitCheckpoints(*check_checkpoint(first), first.resume, stop)
    entropy = kept.entropy(
        lambda: seed_entropy(first.random_state), first.random_state, shared.max_iter
    )
    seeds = np.random.SeedSequence(entropy)
    task = profile_task(parameters, dataset, seeds, digested=first.checkpoint is not None)
    engine = engine_for(first.engine, dataset)
    reserved = reserved_bytes(parameters, task)
    if first.checkpoint is not None:
        reserved += sum(checkpoint_bytes(one, dataset.n_features) for one in parameters)
    opened = engine.session(
        dataset,
        memory_limit=shared.memory_limit,
        reserved_bytes=reserved,
    )
    split = None if holdout is None else _split(dataset, seeds, holdout)
    placed = max(parameters, key=_n_components).device_with_reason(dataset.n_rows)
    device = placed[0]
    kept.check_configuration(
        _configuration(estimators, parameters, options)
        | {"device": device.partition(":")[0], "holdout": holdout}
    )
    with meter, single_threaded_blas(), opened:
        profile = _fitted_side(opened, split).run(task if split else profile_on(task, device)).total
        check_skipped(dataset, profile.skipped)
        _check_enough(profile, parameters, split, options)
        profile = kept.check_data(dataset, profile)
        warn_of_constants(profile, dataset)
        on_event(FitEvent("profile", message=f"{profile.n_rows} rows profiled"))
        steady = steadied(opened, profile.n_rows)
        context = _context(_fitted_side(steady, split), profile, device)
        chains = kept.chains
        if chains is None:
            level = first_level(dataset.dtype, shared.dtype, device)
            chains = _starts(estimators, parameters, context, level, seeds, options)
        on_event(_started(parameters, chains))
        accelerator = accelerator_for(parameters, dataset, profile)
        algorithm = Algorithm(
            shared.algorithm,
            shared.temperatures,
            entropy=entropy,
            labelled=dataset.has_labels,
            n_init=shared.n_init,
        )
        events = iterate(
            context,
            chains,
            tol=shared.tol,
            options=[one for one in options for _ in range(shared.n_init)],
            max_iter=shared.max_iter,
            halving=halving_of(shared.halve_after, [shared.n_init] * len(parameters)),
            algorithm=algorithm,
            accelerator=accelerator,
            emptying=Emptying(shared.empty_components, profile.sample.x),
            done=kept.iteration,
        )
        for event in kept.watch(
            events,
            chains,
            max_iter=shared.max_iter,
            counters=opened.counters,
            peak=meter.peak,
        ):
            on_event(event)
        on_event(FitEvent("done", max(len(chain.lower_bounds) for chain in chains)))
        regime = "" if accelerator is None else accelerator.regime
        outcomes = [
            _outcome(group, profile, opened, engine, placed, meter, regime, kept, one.fixed)
            for group, one in zip(_groups(chains, shared.n_init), options, strict=True)
        ]
        return _evaluated(estimators, outcomes, context, steady, split, algorithm.final_policy)


def _n_components(parameters: FitParameters) -> int:
    return parameters.n_components


def _context(session: Session, profile: Profile, device: str) -> Context:
    return Context(session, frames_of(profile, session.dataset.dtype), profile, device)


def _fitted_side(session: Session, split: Split | None) -> Session:
    return session if split is None else FittedSide(session, split)


def _started(parameters: Sequence[FitParameters], chains: Sequence[Chain]) -> FitEvent:
    message = f"{len(parameters)} candidates, {len(chains)} restarts initialised"
    return FitEvent("initialize", active=len(chains), message=message)


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
    found = []
    for estimator, one in zip(estimators, parameters, strict=True):
        with _named(estimator, one):
            found.append(plan_maximization(estimator, one, dataset))
    return found


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


def _split(dataset: Dataset, seeds: np.random.SeedSequence, share: float) -> Split:
    own = np.random.SeedSequence(seeds.entropy, spawn_key=(3,))
    rows = min(dataset.part_rows, dataset.n_rows)
    copied = rows * dataset.n_features * dataset.dtype.itemsize
    return Split(int(own.generate_state(1, np.uint64)[0]), share, copied)


def _check_enough(
    profile: Profile,
    parameters: Sequence[FitParameters],
    split: Split | None,
    options: Sequence[MaximizationOptions],
) -> None:
    for one in options:
        check_concentration(one, profile.weight)
    most = max(one.n_components for one in parameters)
    if profile.n_rows >= most:
        return
    if split is not None:
        raise InvalidParameterError(
            f"{profile.n_rows} rows are left to fit {most} components to; hold fewer rows out or "
            "lower n_components"
        )
    raise InvalidDataError(
        f"only {profile.n_rows} rows have a positive sample_weight, for up to {most} components; "
        "lower n_components or weight more rows"
    )


def _groups(chains: list[Chain], size: int) -> list[list[Chain]]:
    """The chains of every candidate."""
    return [chains[start : start + size] for start in range(0, len(chains), size)]


def _starts(
    estimators: Sequence[Any],
    parameters: Sequence[FitParameters],
    context: Context,
    level: Level,
    seeds: np.random.SeedSequence,
    options: Sequence[MaximizationOptions],
) -> list[Chain]:
    n_init, n_features = parameters[0].n_init, len(context.profile.mean)
    # A candidate starts where it would start alone.
    own = [[restart_seed(seeds, restart) for restart in range(n_init)] for _ in parameters]
    finders = start_finders(parameters, context, level, own, options)
    chains: dict[tuple[int, int], Chain] = {}
    # Families side by side, because they share the assignment of the sample.
    for restart in range(n_init):
        for i, (estimator, one) in enumerate(zip(estimators, parameters, strict=True)):
            with _named(estimator, one):
                start = start_from(estimator, one, n_features, finders[i][restart])
                start = check_start(start, options[i])
            name = f"{one.family.name}, {one.n_components} components, restart {restart}"
            chains[i, restart] = Chain(start, level, name=name)
    return [chains[key] for key in sorted(chains)]


def _outcome(
    group: list[Chain],
    profile: Profile,
    session: Session,
    engine: Any,
    placed: tuple[str, str],
    meter: MemoryMeter,
    regime: str,
    kept: FitCheckpoints,
    fixed: Fixed,
) -> FitOutcome | SingularMixtureError:
    """How a candidate went, or why it has no winner."""
    try:
        winner = best_chain(group)
    except SingularMixtureError as error:
        return type(error)("; ".join(dict.fromkeys(chain.reason for chain in group)))
    return FitOutcome(
        chain=winner,
        chains=tuple(group),
        profile=profile,
        session=session,
        engine=engine,
        device=placed[0],
        device_reason=placed[1],
        peak_memory=meter.peak(),
        fixed=fixed,
        acceleration=regime,
        earlier=kept.earlier,
        notes=kept.notes,
    )


def _evaluated(
    estimators: Sequence[Any],
    outcomes: Sequence[FitOutcome | SingularMixtureError],
    context: Context,
    session: Session,
    split: Split | None,
    policy: PosteriorPolicy,
) -> list[Candidate]:
    live = [one for one in outcomes if isinstance(one, FitOutcome)]
    if not live:
        raise none_left([one for one in outcomes if not isinstance(one, FitOutcome)])
    mixtures = [one.chain.mixture for one in live]
    levels = [
        safe_level(mixture, context.frames, one.chain.level)
        for mixture, one in zip(mixtures, live, strict=True)
    ]
    found = iter(_final(context, session, split, mixtures, levels, policy))
    return [
        Candidate(estimator, one, *next(found))
        if isinstance(one, FitOutcome)
        else Candidate(estimator, reason=str(one))
        for estimator, one in zip(estimators, outcomes, strict=True)
    ]


def _final(
    context: Context,
    session: Session,
    split: Split | None,
    mixtures: list[Mixture],
    levels: list[Level],
    policy: PosteriorPolicy,
) -> list[tuple[SufficientStatistics, SufficientStatistics | None]]:
    """Statistics on the fitted rows and on those held out, in one pass."""
    if split is None:
        policies = [policy] * len(mixtures)
        return [(one, None) for one in evaluate(context, mixtures, levels, policies)[0]]
    # With the quadratic term of tied families: the scatter of the rows held out is not known.
    task = BatchPass(plan_batch(mixtures, levels, context.frames), policy, context.device)
    members = run_members(BothSides(session, split), task)
    nothing = [None] * len(mixtures)
    sides = [
        task.finish(BatchStatistics(tuple(one)), mixtures, nothing).members
        for one in ([m.fitted for m in members], [m.held for m in members])
    ]
    if sides[1][0].n_rows == 0:
        raise InvalidParameterError(
            f"no row of {session.dataset.n_rows} is held out with holdout={split.share}; raise it"
        )
    return list(zip(*sides, strict=True))
