"""The flow of one fit: open the data, profile it, start the restarts, run EM, keep the best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from dgmm.acceleration import Accelerator, choose_regime
from dgmm.acceleration.regime import operations_per_byte, schedule_of
from dgmm.chains import Emptied
from dgmm.checkpoint import Effort
from dgmm.constraints import check_concentration, check_start, maximization_options
from dgmm.data.dataset import Dataset
from dgmm.data.skipping import check_skipped
from dgmm.device_profile import profile_on
from dgmm.em import Chain, Context, best_chain, frames_of, iterate
from dgmm.emptying import Emptying
from dgmm.engine.base import Engine, Session
from dgmm.engine.blas import single_threaded_blas
from dgmm.engine.choice import engine_for
from dgmm.engine.devices import found_devices
from dgmm.engine.local import LocalEngine
from dgmm.engine.memory import MemoryMeter
from dgmm.errors import InvalidDataError, InvalidParameterError
from dgmm.fixed import Fixed
from dgmm.guard import Level, first_level
from dgmm.halving import halving_of
from dgmm.initialization import sample_size
from dgmm.maximization import MaximizationOptions
from dgmm.mixture import Mixture
from dgmm.notes import notes_of, warn_of_constants, warn_of_emptied
from dgmm.parameters import FitParameters, seed_entropy, start_from
from dgmm.profile import Profile, ProfilePass
from dgmm.record import FitEvent, FitRecord
from dgmm.resuming import FitCheckpoints, check_checkpoint, configuration_of
from dgmm.sources import open_rows
from dgmm.starts import checkpoint_bytes, reserved_bytes, restart_seed, start_finders
from dgmm.steady import steadied
from dgmm.variants import Algorithm

__all__ = [
    "FitOutcome",
    "accelerator_for",
    "check_counted",
    "check_labelled",
    "first_level",
    "fit_dataset",
    "open_rows",
    "plan_maximization",
    "profile_task",
]

Emit = Callable[[FitEvent], None]


@dataclass(frozen=True)
class FitOutcome:
    """The winner of a fit, and how it went."""

    chain: Chain
    chains: tuple[Chain, ...]
    profile: Profile
    session: Session
    engine: Engine
    device: str
    peak_memory: int
    fixed: Fixed = field(default_factory=Fixed)
    acceleration: str = ""
    earlier: Effort = field(default_factory=Effort)
    notes: tuple[str, ...] = ()
    device_reason: str = ""

    def record(self, seconds: float) -> FitRecord:
        """The record of the fit, whose last run took ``seconds``."""
        effort = self.earlier.with_run(self.session.counters, seconds, self.peak_memory)
        return FitRecord(
            rows=self.profile.n_rows,
            **asdict(effort),
            engine=repr(self.engine),
            device=self.device,
            restarts=tuple(chain.record for chain in self.chains),
            device_reason=self.device_reason,
            notes=(*notes_of(self.profile, self.chains), *self.notes),
            skipped_rows=self.profile.skipped.rows,
            skipped_blocks=tuple(reason for _, reason in self.profile.skipped.names),
            acceleration=self.acceleration,
        )


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
    meter = MemoryMeter()
    check_labelled(parameters, dataset)
    options = plan_maximization(estimator, parameters, dataset)
    kept = FitCheckpoints(*check_checkpoint(estimator), estimator.resume, estimator._stop)
    entropy = kept.entropy(
        lambda: seed_entropy(estimator.random_state), estimator.random_state, parameters.max_iter
    )
    seeds = np.random.SeedSequence(entropy)
    task = profile_task([parameters], dataset, seeds, digested=estimator.checkpoint is not None)
    engine = engine_for(estimator.engine, dataset)
    reserved = reserved_bytes([parameters], task)
    if estimator.checkpoint is not None:
        reserved += checkpoint_bytes(parameters, dataset.n_features)
    session = engine.session(dataset, memory_limit=parameters.memory_limit, reserved_bytes=reserved)
    # One thread for the products between passes too: their bits must not depend on the machine, and
    # OpenBLAS's idle threads would spin for some 20 ms into the next pass.
    device, reason = _device_for(parameters, dataset, engine)
    configuration = configuration_of(estimator, parameters, options, previous)
    kept.check_configuration(configuration | {"device": device.partition(":")[0]})
    with meter, single_threaded_blas(), session:
        profile = session.run(profile_on(task, device)).total
        check_skipped(dataset, profile.skipped)
        check_counted(profile, parameters.n_components)
        check_concentration(options, profile.weight)
        profile = kept.check_data(dataset, profile)
        warn_of_constants(profile, dataset)
        on_event(FitEvent("profile", message=f"{profile.n_rows} rows profiled"))
        steady = steadied(session, profile.n_rows)
        context = Context(steady, frames_of(profile, dataset.dtype), profile, device)
        level = first_level(dataset.dtype, parameters.dtype, device)
        chains = kept.chains
        if chains is None:
            chains = _starts(estimator, parameters, options, context, level, previous, seeds)
        on_event(FitEvent("initialize", active=len(chains), message=_started(chains)))
        accelerator = accelerator_for([parameters], dataset, profile)
        events = iterate(
            context,
            chains,
            tol=parameters.tol,
            options=options,
            max_iter=parameters.max_iter,
            halving=halving_of(parameters.halve_after, [len(chains)]),
            algorithm=Algorithm(
                parameters.algorithm,
                parameters.temperatures,
                entropy=entropy,
                labelled=dataset.has_labels,
            ),
            accelerator=accelerator,
            emptying=Emptying(parameters.empty_components, profile.sample.x),
            done=kept.iteration,
        )
        for event in kept.watch(
            events,
            chains,
            max_iter=parameters.max_iter,
            counters=session.counters,
            peak=meter.peak,
        ):
            on_event(event)
        winner = best_chain(chains)
        warn_of_emptied(winner)
        on_event(FitEvent("done", len(winner.lower_bounds), winner.lower_bound))
        return FitOutcome(
            chain=winner,
            chains=tuple(chains),
            profile=profile,
            session=session,
            engine=engine,
            device=device,
            peak_memory=meter.peak(),
            fixed=options.fixed,
            acceleration=_said(parameters, accelerator),
            earlier=kept.earlier,
            notes=kept.notes,
            device_reason=reason,
        )


def _device_for(parameters: FitParameters, dataset: Dataset, engine: Engine) -> tuple[str, str]:
    device, reason = parameters.device_with_reason(dataset.n_rows)
    if isinstance(engine, LocalEngine):
        # A GPU is missed here, not after a pass over the data.
        found_devices(device)
    return device, reason


def accelerator_for(
    candidates: Sequence[FitParameters],
    dataset: Dataset,
    profile: Profile,
) -> Accelerator | None:
    """The accelerator of a fit, or of all candidates of a selection; None for EM alone.

    Parameters
    ----------
    candidates : sequence of FitParameters
        With the same ``acceleration``, ``algorithm`` and ``annealing``.
    dataset : Dataset
    profile : Profile
    """
    shared = candidates[0]
    if shared.acceleration is None or shared.algorithm != "em" or shared.temperatures:
        return None
    regime = shared.acceleration
    if regime == "auto":
        shapes = [(one.family, one.n_components) for one in candidates for _ in range(one.n_init)]
        regime = choose_regime(
            resident=all(block.is_resident for block in dataset.blocks),
            n_bytes=dataset.nbytes,
            per_byte=operations_per_byte(shapes, dataset.n_features, dataset.dtype.itemsize),
        )
    schedule = schedule_of(regime, [one.n_init for one in candidates])
    return Accelerator(profile.weight, regime, schedule)


def _said(parameters: FitParameters, accelerator: Accelerator | None) -> str:
    """What the record says of acceleration."""
    if accelerator is not None:
        return accelerator.regime
    return "" if parameters.acceleration is None else "none"


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


def profile_task(
    candidates: Sequence[FitParameters],
    dataset: Dataset,
    seeds: np.random.SeedSequence,
    *,
    digested: bool = False,
) -> ProfilePass:
    """The profile that every fit which shares the passes needs, from the one seed of the fit.

    Parameters
    ----------
    candidates : sequence of FitParameters
    dataset : Dataset
    seeds : numpy.random.SeedSequence
    digested : bool, default=False
        True for a digest of all rows too, by which a checkpoint knows them again.
    """
    seed = np.random.SeedSequence(seeds.entropy, spawn_key=(0,))
    most = max(one.n_components for one in candidates)
    least = min(one.n_components for one in candidates)
    # Any node of the tree may hold a whole sample by weight or of known rows.
    whole = dataset.has_weights or dataset.has_labels
    size = sample_size(dataset.n_features, most, at_every_node=whole)
    return ProfilePass(
        n_rows=dataset.n_rows,
        n_features=dataset.n_features,
        sample_size=min(dataset.n_rows, size),
        seed=int(seed.generate_state(1, np.uint64)[0]),
        itemsize=dataset.dtype.itemsize,
        weighted=dataset.has_weights,
        labelled=dataset.has_labels,
        n_labels=least,
        dense=any(one.family.shape.uses_whitening() for one in candidates),
        digested=digested,
    )


def check_counted(profile: Profile, n_needed: int) -> None:
    """Refuse weights that leave fewer rows than are needed: one for each component, in a fit.

    Raises
    ------
    InvalidDataError
    """
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
        _check_previous(previous, parameters, len(context.profile.mean))
        start = check_start(previous.mixture_, options)
        gone = tuple(Emptied(-1, k, "dropped") for k in previous._dropped)
        return [Chain(start, level, lower_bound=previous.lower_bound_, emptied=gone)]
    seeds_of = [restart_seed(seeds, restart) for restart in range(parameters.n_init)]
    finders = start_finders([parameters], context, level, [seeds_of], [options])
    n_features = len(context.profile.mean)
    starts = [start_from(estimator, parameters, n_features, find) for find in finders[0]]
    starts = [check_start(start, options) for start in starts]
    return [Chain(start, level) for start in starts]


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


def _started(chains: list[Chain]) -> str:
    return f"{len(chains)} restart{'s' if len(chains) > 1 else ''} initialised"
