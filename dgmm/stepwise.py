"""Stepwise EM: an M-step after every batch, on statistics that remember the earlier batches.

After batch t the retained statistics, per row, are ``s_t = (1 − γ_t) s_{t−1} + γ_t s̄_t``, where s̄_t
are those of the batch under the mixture before it, and the mixture is the M-step of s_t (Cappé and
Moulines 2009, "On-line expectation-maximization algorithm for latent data models"; for batches,
Liang and Klein 2009, "Online EM for unsupervised models"). With γ_t = 1 this is EM.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from dgmm.em import ILL_DEFINED, PEAK_TOLERANCE
from dgmm.engine.base import Session
from dgmm.errors import InvalidDataError, SingularMixtureError
from dgmm.expectation import BatchPass, plan_batch
from dgmm.features import Layout, pack_symmetric
from dgmm.frame import Frame
from dgmm.guard import Frames, Level, condition, safe_level
from dgmm.maximization import MaximizationOptions, maximize
from dgmm.mixture import Mixture, frame_of
from dgmm.reframing import reframe
from dgmm.statistics import SufficientStatistics

__all__ = ["Advanced", "Retained", "StepSizes", "advance", "expect", "expected_statistics"]

# The origin of the retained statistics moves when another conditions the mixture so much better:
# at about four standard deviations of all rows, long before digits are lost.
_WORTH_MOVING = 16.0


@dataclass(frozen=True)
class StepSizes:
    """γ_t: the share of the retained statistics that batch t replaces.

    Parameters
    ----------
    schedule : float or callable
        An exponent α in (0.5, 1], for ``γ_t = (t + offset)^−α``, or a function of t = 1, 2, ….
    offset : float
    least : float
        γ_t is never below it, so that batches older than about 1 / least are forgotten.
    """

    schedule: float | Callable[[int], float]
    offset: float
    least: float

    def __call__(self, step: int) -> float:
        """γ of a batch after the first, for which ``step`` is 1."""
        if callable(self.schedule):
            size = float(self.schedule(step))
        else:
            size = float((step + self.offset) ** -self.schedule)
        return max(size, self.least)


@dataclass(frozen=True)
class Retained:
    """What one batch leaves to the next.

    Parameters
    ----------
    statistics : SufficientStatistics
        Blended, of the weight of the last batch, in ``frames.plain``.
    frames : Frames
        Fixed by the first batch; the origin moves only if the rows have left it far behind.
    level : Level
        The fastest kernel to try.
    step : int
        Batches blended so far.
    """

    statistics: SufficientStatistics
    frames: Frames
    level: Level
    step: int = 1


@dataclass(frozen=True)
class Advanced:
    """A step that was taken: what to retain, the new mixture, the old one's bound on the batch.

    The bound is per row, with priors the log posterior, as in a fit of the batch.
    ``emptied`` are the components that have lost their last row by it.
    """

    retained: Retained
    mixture: Mixture
    lower_bound: float
    n_rows: int
    emptied: tuple[int, ...] = ()

    def without_emptied(self) -> Advanced:
        """The step without those components, as if they had never been."""
        mixture, statistics = self.mixture, self.retained.statistics
        kept = np.setdiff1d(np.arange(mixture.n_components), self.emptied)
        fewer = replace(statistics, moments=statistics.moments[kept])
        return replace(
            self,
            mixture=mixture.of_components(kept),
            retained=replace(self.retained, statistics=fewer),
            emptied=(),
        )


def advance(
    session: Session,
    mixture: Mixture,
    retained: Retained | None,
    *,
    frames: Frames,
    level: Level,
    step_size: Callable[[int], float],
    options: MaximizationOptions,
    device: str,
) -> Advanced:
    """One stepwise EM step: a pass over the batch, a blend, an M-step.

    Parameters
    ----------
    session : Session
        Open on the batch.
    mixture : Mixture
    retained : Retained or None
        None takes the batch as it is, which is a whole EM iteration.
    frames : Frames
    level : Level
        Fastest kernel to try.
    step_size : callable
    options : MaximizationOptions
    device : str

    Raises
    ------
    InvalidDataError
        If no row of the batch has a weight.
    SingularMixtureError
        If a component collapsed. Nothing that was passed in has changed.
    """
    batch = expect(session, frames, mixture, level, device)
    if not batch.weight > 0.0:
        raise InvalidDataError("sample_weight is zero for every row of the batch; leave it out")
    step = 0 if retained is None else retained.step
    statistics = batch
    if retained is not None:
        statistics = blend(retained.statistics, batch, step_size(step))
    step_taken = maximize(statistics, mixture.family, options, previous=mixture)
    found = step_taken.mixture
    if found.singular_components:
        k = found.singular_components[0]
        raise SingularMixtureError(
            f"{ILL_DEFINED} Component {k} (weight {found.weights[k]:.3g}) collapsed in batch "
            f"{step + 1}; larger batches or smaller steps help as well"
        )
    kept = _recentred(Retained(statistics, frames, level, step + 1), found)
    emptied = tuple(k for k in step_taken.empty if mixture.weights[k] > 0.0)
    bound = (batch.log_likelihood + options.priors.log_density(mixture)) / batch.weight
    return Advanced(kept, found, bound, batch.n_rows, emptied)


def expect(
    session: Session, frames: Frames, mixture: Mixture, level: Level, device: str
) -> SufficientStatistics:
    """Statistics of the rows with second moments per component, whatever the family.

    A kernel that turns out to be past its guard is followed by the next safer one. The total
    scatter that tied families make do with in :mod:`dgmm.em` is that of fixed rows with weight one;
    blended rows have no such total.
    """
    level = safe_level(mixture, frames, level)
    task = BatchPass(plan_batch([mixture], [level], frames), device=device)
    (found,) = task.finish(session.run(task).total, [mixture], [None]).members
    if found.peak > mixture.peak_log_density + PEAK_TOLERANCE[level]:
        # The kernel was past its guard: see dgmm.em.evaluate.
        return expect(session, frames, mixture, Level(level + 1), device)
    return found


def blend(
    old: SufficientStatistics, new: SufficientStatistics, size: float
) -> SufficientStatistics:
    """``(1 − γ) old + γ new`` per row, with the weight of ``new``; ``new`` itself for γ = 1."""
    if size == 1.0:
        return new
    moved = reframe(new, old.frame)
    share = (1.0 - size) * new.weight / old.weight
    return replace(moved, moments=share * old.moments + size * moved.moments)


def expected_statistics(mixture: Mixture, frame: Frame) -> SufficientStatistics:
    """Statistics of one row's weight whose M-step is the mixture.

    Parameters
    ----------
    mixture : Mixture
    frame : Frame
        Without a factor.
    """
    shape, layout = mixture.family.shape, Layout(mixture.n_features)
    weights = mixture.weights[:, None]
    offsets = mixture.means - frame.origin
    covariances = mixture.family.per_component(mixture.covariances, mixture.n_components)
    size = shape.block(layout)
    if size < layout.full:
        squares = weights * (shape.variances(covariances, mixture.n_features) + offsets**2)
        pairs = np.empty((len(squares), 0))
    else:
        dense = shape.dense(covariances, mixture.n_features)
        dense = weights[:, :, None] * (dense + offsets[:, :, None] * offsets[:, None, :])
        squares, pairs = pack_symmetric(dense, layout)
    norm = squares.sum(axis=1, keepdims=True)
    columns = [weights, weights * offsets, norm, squares, pairs]
    moments = np.concatenate(columns, axis=1)[:, :size]
    return SufficientStatistics(moments, frame, 0.0, 1.0, 0)


def _recentred(retained: Retained, mixture: Mixture) -> Retained:
    """The retained statistics about the fixed origin, or about a new one if that is far off."""
    frames = retained.frames
    near = frame_of(mixture, "float64")
    if condition(mixture, frames.plain) > _WORTH_MOVING * condition(mixture, near):
        frames = Frames(near, frame_of(mixture, "float32"), frames.float32_fits)
    return replace(retained, statistics=reframe(retained.statistics, frames.plain), frames=frames)
