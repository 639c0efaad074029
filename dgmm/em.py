"""The EM loop: all restarts share every pass, converged ones leave, singular ones retire.

The loop is a generator of events; progress bars, checkpoints and time limits live around it. It
knows sessions and tasks, not where rows come from nor where they are evaluated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dgmm.acceleration import AccelerationState, Accelerator, Evaluated
from dgmm.chains import ILL_DEFINED, Chain, best_chain
from dgmm.emptying import Emptying
from dgmm.engine.base import Session
from dgmm.expectation import plan_batch
from dgmm.frame import Frame
from dgmm.guard import Frames, Level, safe_level
from dgmm.halving import Halving
from dgmm.maximization import MaximizationOptions, maximize
from dgmm.mixture import Mixture, whitened_frame
from dgmm.passes import run_batch
from dgmm.posterior import PosteriorPolicy
from dgmm.profile import Profile
from dgmm.record import FitEvent
from dgmm.statistics import SufficientStatistics
from dgmm.variants import Algorithm

__all__ = [
    "ILL_DEFINED",
    "PEAK_TOLERANCE",
    "Chain",
    "Context",
    "best_chain",
    "evaluate",
    "frames_of",
    "iterate",
]

# By how much a row's log density may exceed the mixture's peak through rounding alone.
PEAK_TOLERANCE = {Level.FLOAT32: 2e-2, Level.FLOAT64: 1e-6, Level.CENTRED: np.inf}


EM = Algorithm()
KEEP = Emptying()

# Iterations before a mixture that needed a safer kernel stays with it.
_WARM_UP = 3


@dataclass(frozen=True)
class Context:
    """What every pass of a fit needs.

    Parameters
    ----------
    session : Session
    frames : Frames
    profile : Profile
        With a scatter wide enough for the families of the batch.
    device : str
    """

    session: Session
    frames: Frames
    profile: Profile
    device: str = "cpu"


def frames_of(profile: Profile, dtype: np.dtype[Any]) -> Frames:
    """The frames of a fit, from its profile.

    The origin is the mean, rounded to the stored dtype so that subtracting it is exact where it
    matters; the float32 frame of the families that mix features is whitened by the covariance.
    """
    rounded = np.float32 if dtype.kind == "f" and dtype.itemsize <= 4 else np.float64
    plain = Frame(profile.mean.astype(rounded).astype(np.float64))
    if profile.scatter.ndim == 2:
        whitened = whitened_frame(plain.origin, profile.covariance)
    else:
        whitened = plain
    reach = np.maximum(np.abs(profile.most - plain.origin), np.abs(profile.least - plain.origin))
    fits = len(reach) * float(np.max(reach)) ** 2 < float(np.finfo(np.float32).max) / 4
    return Frames(plain, whitened, fits)


def evaluate(
    context: Context,
    mixtures: Sequence[Mixture],
    levels: Sequence[Level],
    policies: Sequence[PosteriorPolicy] = (),
    tried: Sequence[bool] = (),
) -> tuple[list[SufficientStatistics], list[Level]]:
    """One pass over all rows: finished statistics of each mixture, and the kernels that were used.

    ``policies`` are one for each mixture, or none for EM.

    A row whose log density exceeds what its mixture allows has been evaluated by a kernel past its
    guard; that mixture is evaluated again by the next safer one, unless it was only ``tried``.
    """
    levels = [
        safe_level(mixture, context.frames, level, quadratic=not mixture.family.is_tied)
        for mixture, level in zip(mixtures, levels, strict=True)
    ]
    found = _pass(context, mixtures, levels, policies)
    breached = [
        i
        for i, (mixture, level, one) in enumerate(zip(mixtures, levels, found, strict=True))
        if is_breached(mixture, level, one) and not (tried and tried[i])
    ]
    if breached:
        safer = [Level(levels[i] + 1) for i in breached]
        same = [policies[i] for i in breached] if policies else ()
        again, used = evaluate(context, [mixtures[i] for i in breached], safer, same)
        for i, one, level in zip(breached, again, used, strict=True):
            found[i], levels[i] = one, level
    return found, levels


def is_breached(mixture: Mixture, level: Level, statistics: SufficientStatistics) -> bool:
    """True if a row (or their mean, where rows were not looked at) is above the mixture's peak."""
    highest = max(statistics.peak, statistics.log_likelihood / statistics.weight)
    return highest > mixture.peak_log_density + PEAK_TOLERANCE[level]


def _pass(
    context: Context,
    mixtures: Sequence[Mixture],
    levels: Sequence[Level],
    policies: Sequence[PosteriorPolicy],
) -> list[SufficientStatistics]:
    kernels = plan_batch(mixtures, levels, context.frames, quadratic=False, device=context.device)
    totals = [_total(context, mixture) for mixture in mixtures]
    return run_batch(
        context.session,
        kernels,
        mixtures,
        totals=totals,
        policies=policies,
        device=context.device,
    )


def _total(context: Context, mixture: Mixture) -> np.ndarray[Any, Any] | None:
    """The scatter of all rows about the origin, in the stored shape of a tied family."""
    if not mixture.family.is_tied:
        return None
    scatter = context.profile.scatter_about(context.frames.plain.origin)
    shape = mixture.family.shape
    return shape.project(scatter) if scatter.ndim == 2 else shape.project_diagonal(scatter)


def iterate(
    context: Context,
    chains: list[Chain],
    *,
    tol: float,
    options: MaximizationOptions | Sequence[MaximizationOptions],
    max_iter: int,
    halving: Halving | None = None,
    algorithm: Algorithm = EM,
    accelerator: Accelerator | None = None,
    emptying: Emptying = KEEP,
    done: int = 0,
) -> Iterator[FitEvent]:
    """Run EM until every chain has converged, retired or reached ``max_iter``.

    Parameters
    ----------
    context : Context
    chains : list of Chain
        Replaced in place by their successors.
    tol : float
        A chain has converged when its lower bound per row changes by less; with an accelerator,
        when the estimated gap to its optimum is less.
    options : MaximizationOptions, or a sequence of them
        Of all chains, or one for each, as they are for its start.
    max_iter : int
    halving : Halving, optional
        Which chains compete, and when the worse half of those leaves. None: all run to the end.
    algorithm : Algorithm, default=EM
        What stands between the posterior and the M-step.
    accelerator : Accelerator, optional
        Which points a pass evaluates instead of EM's own next ones.
    emptying : Emptying
        What becomes of components without rows; by default they stay.
    done : int, default=0
        Iterations that are behind the chains already.

    Yields
    ------
    FitEvent
        After every pass, and for every chain that retires or is halved away.
    """
    given = [options] * len(chains) if isinstance(options, MaximizationOptions) else options
    rules = _Rules(tol, tuple(given), algorithm, emptying)
    if not done:
        _retire_singular(chains)
        yield from _announce_retired(chains, 0, range(len(chains)))
    for iteration in range(done + 1, max_iter + 1):
        active = [i for i, chain in enumerate(chains) if chain.is_running]
        if not active:
            break
        before = _best_bound(chains)
        for i in active:
            chains[i] = emptying.mended(chains[i], rules.options_of(i, chains[i]))
        if accelerator is None:
            _step(context, chains, active, rules)
        else:
            _accelerated_step(context, chains, active, rules, accelerator, iteration)
        _retire_singular(chains)
        if halving is not None:
            _halve(chains, halving, iteration, len(algorithm.temperatures))
        if accelerator is not None:
            _give_way(chains, accelerator, iteration)
        yield from _announce_retired(chains, iteration, active)
        yield _iteration_event(chains, iteration, before)
    for i, chain in enumerate(chains):
        last = replace(chain.at_best(), status="max_iter") if chain.is_running else chain
        chains[i] = emptying.finished(last)


@dataclass(frozen=True, eq=False)
class _Rules:
    """By what the chains go on and stop."""

    tol: float
    options: tuple[MaximizationOptions, ...]
    algorithm: Algorithm
    emptying: Emptying

    def options_of(self, i: int, chain: Chain) -> MaximizationOptions:
        """Those of the components that a chain still has."""
        options = self.options[i]
        if not chain.dropped:
            return options
        return options.of_components(chain.kept, chain.mixture.family)


def _step(context: Context, chains: list[Chain], active: Sequence[int], rules: _Rules) -> None:
    """One iteration of EM."""
    algorithm = rules.algorithm
    found, levels = evaluate(
        context,
        [chains[i].mixture for i in active],
        [chains[i].level for i in active],
        [algorithm.policy(i, len(chains[i].lower_bounds)) for i in active],
    )
    for i, statistics, level in zip(active, found, levels, strict=True):
        options = rules.options_of(i, chains[i])
        chains[i] = _advance(chains[i], statistics, level, options, rules)
        held = options.fixed.mask("means", chains[i].mixture.n_components)
        moved = algorithm.perturbed(
            chains[i].mixture, i, len(chains[i].lower_bounds) - 1, held=held
        )
        chains[i] = replace(chains[i], mixture=moved)


def _accelerated_step(
    context: Context,
    chains: list[Chain],
    active: Sequence[int],
    rules: _Rules,
    accelerator: Accelerator,
    iteration: int,
) -> None:
    """One pass for the points that the accelerator asks for."""
    states = {i: chains[i].acceleration or AccelerationState.begin(chains[i].mixture)
              for i in active}  # fmt: skip
    trials = [(i, trial) for i in active for trial in states[i].trials]
    found, levels = evaluate(
        context,
        [trial.mixture for _, trial in trials],
        [max(chains[i].level, states[i].least_level) for i, _ in trials],
        [rules.algorithm.policy(i, len(chains[i].lower_bounds)) for i, _ in trials],
        [not trial.is_sure for _, trial in trials],
    )
    results: dict[int, list[Evaluated]] = {i: [] for i in active}
    for (i, trial), one, level in zip(trials, found, levels, strict=True):
        breached = is_breached(trial.mixture, level, one)
        results[i].append(Evaluated(trial, one, level, breached))
    for i in active:
        several = accelerator.schedule.several(i, iteration)
        options = rules.options_of(i, chains[i])
        state = accelerator.advance(states[i], results[i], options, several=several)
        chains[i] = _accelerated(chains[i], state, rules.tol)
        if state.base is not None:
            chains[i] = rules.emptying.noted(chains[i], state.base.empty, options)


def _accelerated(chain: Chain, state: AccelerationState, tol: float) -> Chain:
    """The chain at the image of the point that its accelerator stands on."""
    base = state.base
    # None where a safer kernel begins again: the chain stays where it is for a pass.
    bound = chain.lower_bound if base is None else state.best
    chain = replace(
        chain,
        acceleration=state,
        lower_bound=bound,
        lower_bounds=(*chain.lower_bounds, bound),
    )
    if base is None:
        return replace(chain, level=max(chain.level, state.least_level))
    return replace(
        chain,
        mixture=base.image,
        level=base.level if len(chain.lower_bounds) > _WARM_UP else chain.level,
        log_likelihood=base.log_likelihood,
        status="converged" if state.gap < tol else "running",
        safest=base.level if chain.safest is None else max(base.level, chain.safest),
    )


def _give_way(chains: list[Chain], accelerator: Accelerator, iteration: int) -> None:
    bounds = [None if chain.is_out else chain.lower_bound for chain in chains]
    for i, reason in accelerator.schedule.leaving(bounds, iteration).items():
        if chains[i].is_running:
            chains[i] = replace(chains[i], status="halved", reason=reason)


def _advance(
    chain: Chain,
    statistics: SufficientStatistics,
    level: Level,
    options: MaximizationOptions,
    rules: _Rules,
) -> Chain:
    algorithm = rules.algorithm
    log_likelihood = statistics.log_likelihood / statistics.weight
    log_prior = options.priors.log_density(chain.mixture) / statistics.weight
    lower_bound = algorithm.lower_bound(statistics) + log_prior
    best = chain.best
    if algorithm.keeps_best and (best is None or lower_bound > best[0]):
        best = (lower_bound, log_likelihood, chain.mixture)
    step = maximize(statistics, chain.mixture.family, options, previous=chain.mixture)
    converged = abs(lower_bound - chain.lower_bound) < rules.tol and chain.has_settled
    converged &= algorithm.may_stop(len(chain.lower_bounds))
    chain = replace(
        chain,
        mixture=step.mixture,
        # The start's covariances come from few rows: what they need is not what the fit will need.
        level=level if len(chain.lower_bounds) >= _WARM_UP else chain.level,
        lower_bound=lower_bound,
        lower_bounds=(*chain.lower_bounds, lower_bound),
        log_likelihood=log_likelihood,
        status="converged" if converged else "running",
        safest=level if chain.safest is None else max(level, chain.safest),
        best=best,
    )
    return rules.emptying.noted(chain, step.empty, options)


def _retire_singular(chains: list[Chain]) -> None:
    """End the chains with a collapsed component: at their best iterate, where they keep one."""
    for i, chain in enumerate(chains):
        if chain.status != "retired" and chain.mixture.singular_components:
            k = chain.mixture.singular_components[0]
            share = float(chain.mixture.weights[k])
            reason = (
                f"component {k} (weight {share:.3g}) collapsed at iteration "
                f"{len(chain.lower_bounds)}: its covariance is not positive definite"
            )
            if chain.best is None:
                chains[i] = replace(chain, status="retired", reason=reason)
            else:
                # A draw went wrong, which takes nothing from the iterates before it.
                reason += "; it ends at the likeliest of the iterates before"
                chains[i] = replace(chain.at_best(), status="collapsed", reason=reason)


def _halve(chains: list[Chain], halving: Halving, iteration: int, n_annealed: int) -> None:
    histories = [None if chain.is_out else chain.lower_bounds for chain in chains]
    for i, reason in halving.leaving(histories, iteration, n_annealed=n_annealed).items():
        # One that has converged costs nothing to keep.
        if chains[i].is_running:
            chains[i] = replace(chains[i].at_best(), status="halved", reason=reason)


def _announce_retired(
    chains: list[Chain], iteration: int, indices: Sequence[int]
) -> Iterator[FitEvent]:
    for i in indices:
        # One that has only converged has none.
        if chains[i].reason:
            message = f"{chains[i].name or f'restart {i}'} retired: {chains[i].reason}"
            yield FitEvent("retired", iteration=iteration, message=message)


def _iteration_event(chains: list[Chain], iteration: int, before: float) -> FitEvent:
    best = _best_bound(chains)
    running = sum(chain.is_running for chain in chains)
    change = best - before if np.isfinite(before) else np.inf
    return FitEvent("iteration", iteration, best, change, running)


def _best_bound(chains: list[Chain]) -> float:
    live = (chain.lower_bound for chain in chains if chain.status != "retired")
    return max(live, default=-np.inf)
