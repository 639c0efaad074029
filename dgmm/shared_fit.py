"""The flow of a fit: profile the rows, start the restarts, run EM; one fit's or many fits' at once.

All candidates of a selection, with all their restarts, share every pass; a single fit is one
candidate. What the session is still needed for afterwards happens while it is open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from dgmm.acceleration import Accelerator, choose_regime
from dgmm.acceleration.regime import operations_per_byte, schedule_of
from dgmm.checkpoint import Effort
from dgmm.constraints import check_concentration
from dgmm.data.dataset import Dataset
from dgmm.data.skipping import check_skipped
from dgmm.device_profile import profile_on
from dgmm.em import Chain, Context, frames_of, iterate
from dgmm.emptying import Emptying
from dgmm.engine.base import Engine, Session
from dgmm.engine.blas import single_threaded_blas
from dgmm.engine.choice import engine_for
from dgmm.engine.devices import found_devices
from dgmm.engine.local import LocalEngine
from dgmm.engine.memory import MemoryMeter, resolve_limit
from dgmm.fixed import Fixed
from dgmm.foreseen import foreseeing_bytes, passes_to_come
from dgmm.guard import Level, first_level
from dgmm.halving import halving_of
from dgmm.holdout import FittedSide, Split, on_fitted
from dgmm.initialization import sample_size
from dgmm.maximization import MaximizationOptions
from dgmm.notes import notes_of, notes_of_restarts, warn_of_constants
from dgmm.parameters import FitParameters, seed_entropy
from dgmm.profile import Profile, ProfilePass
from dgmm.record import FitEvent, FitRecord
from dgmm.resuming import FitCheckpoints
from dgmm.starts import checkpoint_bytes, reserved_bytes
from dgmm.steady import steadied
from dgmm.variants import Algorithm

__all__ = ["Batch", "Emit", "FitOutcome", "Fitted", "fitted", "profile_task"]

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


@dataclass(frozen=True)
class Batch:
    """What is fitted to what.

    Parameters
    ----------
    estimators : sequence of GaussianMixture
        They differ in ``n_components`` and ``covariance_type`` alone.
    parameters : sequence of FitParameters
        Their arguments, checked.
    options : sequence of MaximizationOptions
        What their M-steps hold to.
    dataset : Dataset
    holdout : float, optional
        Share of the rows that are not fitted to.
    """

    estimators: Sequence[Any]
    parameters: Sequence[FitParameters]
    options: Sequence[MaximizationOptions]
    dataset: Dataset
    holdout: float | None = None

    @property
    def shared(self) -> FitParameters:
        """Arguments that all have in common."""
        return self.parameters[0]

    @property
    def is_kept(self) -> bool:
        """True if checkpoints are written."""
        return self.estimators[0].checkpoint is not None

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know before anything was read."""
        return notes_of_restarts(self.estimators[0].n_init, self.shared.n_init)

    def device(self, engine: Engine) -> tuple[str, str]:
        """The device of the passes, and why it was chosen."""
        largest = max(self.parameters, key=lambda one: one.n_components)
        device, reason = largest.device_with_reason(self.dataset.n_rows)
        if isinstance(engine, LocalEngine):
            # A GPU is missed here, not after a pass over the data.
            found_devices(device)
        return device, reason

    def split(self, seeds: np.random.SeedSequence) -> Split | None:
        """Which rows are held out, by the one seed."""
        if self.holdout is None:
            return None
        own = np.random.SeedSequence(seeds.entropy, spawn_key=(3,))
        rows = min(self.dataset.part_rows, self.dataset.n_rows)
        copied = rows * self.dataset.n_features * self.dataset.dtype.itemsize
        return Split(int(own.generate_state(1, np.uint64)[0]), self.holdout, copied)

    def reserved_bytes(self, task: ProfilePass) -> int:
        """Memory that the driver needs beside the passes."""
        reserved = reserved_bytes(self.parameters, task)
        if self.is_kept:
            n_features = self.dataset.n_features
            reserved += sum(checkpoint_bytes(one, n_features) for one in self.parameters)
        return reserved

    def tasks(
        self, profile: ProfilePass, level: Level, device: str, split: Split | None
    ) -> list[Any]:
        """Those of the passes to come, as far as shapes tell."""
        shapes = [(one.family, one.n_components, one.n_init) for one in self.parameters]
        found: list[Any] = [profile]
        # To foresee takes a covariance or two of every shape. Where even these are much, what is
        # reserved for the starts, which have more of them, is refused without a look at passes.
        if 4 * foreseeing_bytes(shapes, self.dataset) <= resolve_limit(self.shared.memory_limit):
            found += passes_to_come(shapes, self.dataset, level, device)
        return found if split is None else [on_fitted(one, split) for one in found]

    def per_chain(self, n_chains: int) -> list[MaximizationOptions]:
        """The options of each chain: those of an estimator follow each other."""
        return [one for one in self.options for _ in range(n_chains // len(self.options))]


@dataclass(frozen=True)
class Fitted:
    """A batch after its last iteration, its session still open.

    Parameters
    ----------
    batch : Batch
    chains : list of Chain
    context : Context
        Of the rows that were fitted to.
    session : Session
        Of all rows.
    split : Split or None
    algorithm : Algorithm
    opened : Session
        That counts what was read.
    engine : Engine
    device_reason : str
    acceleration : str
        As records say it.
    kept : FitCheckpoints
    meter : MemoryMeter
    """

    batch: Batch
    chains: list[Chain]
    context: Context
    session: Session
    split: Split | None
    algorithm: Algorithm
    opened: Session
    engine: Engine
    device_reason: str
    acceleration: str
    kept: FitCheckpoints
    meter: MemoryMeter

    @property
    def groups(self) -> list[list[Chain]]:
        """The chains of each estimator."""
        size = len(self.chains) // len(self.batch.estimators)
        return [self.chains[i : i + size] for i in range(0, len(self.chains), size)]

    def outcome(self, winner: Chain, chains: Sequence[Chain], fixed: Fixed) -> FitOutcome:
        """How the fit of one estimator went."""
        return FitOutcome(
            chain=winner,
            chains=tuple(chains),
            profile=self.context.profile,
            session=self.opened,
            engine=self.engine,
            device=self.context.device,
            peak_memory=self.meter.peak(),
            fixed=fixed,
            acceleration=self.acceleration,
            earlier=self.kept.earlier,
            notes=(*self.batch.notes, *self.kept.notes),
            device_reason=self.device_reason,
        )


Starts = Callable[[Context, Level, np.random.SeedSequence], list[Chain]]


@contextmanager
def fitted(
    batch: Batch,
    kept: FitCheckpoints,
    configuration: dict[str, Any],
    *,
    starts: Starts,
    check: Callable[[Profile], None],
    on_event: Emit,
) -> Iterator[Fitted]:
    """Fit a batch; the session is closed with the context.

    Parameters
    ----------
    batch : Batch
    kept : FitCheckpoints
        What the fit goes on from, and what it leaves for the next run.
    configuration : dict
        The arguments that change the bits.
    starts : callable
        Gives the chains of all estimators in turn, as many of each; not called where a fit goes on.
    check : callable
        Refuses rows that are too few, by their profile.
    on_event : callable
        Called with every :class:`~dgmm.record.FitEvent`.
    """
    meter, dataset, shared = MemoryMeter(), batch.dataset, batch.shared
    random_state = batch.estimators[0].random_state
    entropy = kept.entropy(lambda: seed_entropy(random_state), random_state, shared.max_iter)
    seeds = np.random.SeedSequence(entropy)
    task = profile_task(batch.parameters, dataset, seeds, digested=batch.is_kept)
    engine = engine_for(batch.estimators[0].engine, dataset)
    device, reason = batch.device(engine)
    split = batch.split(seeds)
    kept.check_configuration(configuration | {"device": device.partition(":")[0]})
    level = first_level(dataset.dtype, shared.dtype, device)
    placed = task if split else profile_on(task, device)
    opened = engine.session(
        dataset,
        memory_limit=shared.memory_limit,
        reserved_bytes=batch.reserved_bytes(task),
        tasks=batch.tasks(placed, level, device, split),
    )
    # One thread for the products between passes too: their bits must not depend on the machine, and
    # OpenBLAS's idle threads would spin for some 20 ms into the next pass.
    with meter, single_threaded_blas(), opened:
        profile = _fitted_side(opened, split).run(placed).total
        profile = _checked(batch, profile, check)
        profile = kept.check_data(dataset, profile, device, opened.counters.processors)
        warn_of_constants(profile, dataset)
        on_event(FitEvent("profile", message=f"{profile.n_rows} rows profiled"))
        steady = steadied(opened, profile.n_rows)
        frames = frames_of(profile, dataset.dtype)
        context = Context(_fitted_side(steady, split), frames, profile, device)
        chains = kept.chains
        if chains is None:
            chains = starts(context, level, seeds)
        on_event(FitEvent("initialize", active=len(chains), message=_started(batch, chains)))
        accelerator = _accelerator_for(batch.parameters, dataset, profile)
        algorithm = _algorithm(batch, entropy, len(chains))
        events = _iterations(batch, context, chains, algorithm, accelerator, done=kept.iteration)
        for event in kept.watch(
            events, chains, max_iter=shared.max_iter, counters=opened.counters, peak=meter.peak
        ):
            on_event(event)
        said = _said(shared, accelerator)
        yield Fitted(
            batch, chains, context, steady, split, algorithm, opened, engine, reason, said, kept,
            meter,
        )  # fmt: skip


def _checked(batch: Batch, profile: Profile, check: Callable[[Profile], None]) -> Profile:
    """The profile, after all that can be refused by it."""
    check_skipped(batch.dataset, profile.skipped)
    check(profile)
    for one in batch.options:
        check_concentration(one, profile.weight)
    return profile


def _algorithm(batch: Batch, entropy: int, n_chains: int) -> Algorithm:
    return Algorithm(
        batch.shared.algorithm,
        batch.shared.temperatures,
        entropy=entropy,
        labelled=batch.dataset.has_labels,
        n_init=n_chains // len(batch.estimators),
    )


def _iterations(
    batch: Batch,
    context: Context,
    chains: list[Chain],
    algorithm: Algorithm,
    accelerator: Accelerator | None,
    *,
    done: int,
) -> Iterator[FitEvent]:
    """The loop, which replaces the chains in place."""
    shared, n = batch.shared, len(batch.estimators)
    return iterate(
        context,
        chains,
        tol=shared.tol,
        options=batch.per_chain(len(chains)),
        max_iter=shared.max_iter,
        halving=halving_of(shared.halve_after, [len(chains) // n] * n),
        algorithm=algorithm,
        accelerator=accelerator,
        emptying=Emptying(shared.empty_components, context.profile.sample.x),
        done=done,
    )


def _fitted_side(session: Session, split: Split | None) -> Session:
    return session if split is None else FittedSide(session, split)


def _started(batch: Batch, chains: Sequence[Chain]) -> str:
    restarts = f"{len(chains)} restart{'s' if len(chains) > 1 else ''} initialised"
    n = len(batch.estimators)
    return restarts if n == 1 and batch.holdout is None else f"{n} candidates, {restarts}"


def _accelerator_for(
    candidates: Sequence[FitParameters], dataset: Dataset, profile: Profile
) -> Accelerator | None:
    """The accelerator of a fit, or of all candidates of a selection; None for EM alone."""
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
