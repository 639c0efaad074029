"""The accelerator of a fit: what of a pass is believed, and what the next one evaluates.

A chain stands on a base b and reports ``low(b)``; its result is the EM image of b, which is at
least as high. EM's own next point never falls and is always believed. Any other point is believed
if it is sound and its ``low`` is not below the best so far, within the noise floor of the kernel.

With one evaluation a pass, over-relaxed steps (Salakhutdinov and Roweis 2003) lead to the
neighbourhood of an optimum and L-BFGS steps on from there; a refused one costs that evaluation and
is followed by EM's. With several, EM's point is among them and the highest ``low`` wins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from dgmm.acceleration.gap import LAST, gap_estimate
from dgmm.acceleration.lbfgs import n_pairs, remember
from dgmm.acceleration.options import monotone_options
from dgmm.acceleration.point import Point, is_sound, noise_floor, point_of
from dgmm.acceleration.proposals import Proposals
from dgmm.acceleration.regime import COMPUTING, Schedule
from dgmm.acceleration.state import AccelerationState, Trial
from dgmm.guard import Level
from dgmm.maximization import MaximizationOptions
from dgmm.statistics import SufficientStatistics

__all__ = ["Accelerator", "Evaluated"]

# Over-relaxation grows by so much with every step that is believed.
_GROWTH = 1.1

# Points without quasi-Newton steps after one that was refused, EM's on the way back included.
_BAN = 3

# EM falling by so many noise floors is a kernel past its limits.
_BREACH = 30.0


@dataclass(frozen=True, eq=False)
class Evaluated:
    """A trial after its pass.

    Parameters
    ----------
    trial : Trial
    statistics : SufficientStatistics
        Finished.
    level : Level
        The kernel that was used.
    breached : bool
        True if a row's density exceeds what the mixture allows.
    """

    trial: Trial
    statistics: SufficientStatistics
    level: Level
    breached: bool = False


@dataclass(frozen=True, eq=False)
class Accelerator:
    """What the chains of a fit share.

    Parameters
    ----------
    weight : float
        Σ w of the rows.
    regime : {"computing", "reading"}
        What a pass is bound by.
    schedule : Schedule
        How many points of each chain a pass evaluates, and which chains stay.
    """

    weight: float
    regime: str = COMPUTING
    schedule: Schedule = field(default_factory=Schedule)

    def advance(
        self,
        state: AccelerationState,
        evaluated: Sequence[Evaluated],
        options: MaximizationOptions,
        *,
        several: bool = False,
    ) -> AccelerationState:
        """The state after a pass.

        Parameters
        ----------
        state : AccelerationState
        evaluated : sequence of Evaluated
            Its trials, in their order.
        options : MaximizationOptions
            Of the chain, as EM has them; ``reg_covar`` becomes a penalty.
        several : bool
            Try several points in the next pass.
        """
        shape = evaluated[0].trial.mixture
        options = monotone_options(
            options, shape.family, shape.n_components, shape.n_features, self.weight
        )
        points = [_point(one, options) for one in evaluated]
        chosen = _chosen(state, evaluated, points)
        state = replace(state, evaluations=state.evaluations + len(evaluated))
        if chosen is None:
            return self._refused(state, evaluated[0].trial, options)
        kind, point = evaluated[chosen].trial.kind, points[chosen]
        assert point is not None
        state = replace(state, refused=state.refused + len(points) - 1)
        if _has_breached(state, kind, point):
            return _on_safer_kernel(state, point)
        others = [one for i, one in enumerate(points) if i != chosen and one is not None]
        return self._believed(state, kind, point, others, options, several=several)

    def _refused(
        self, state: AccelerationState, trial: Trial, options: MaximizationOptions
    ) -> AccelerationState:
        """Go where EM goes from the base, in the next pass."""
        newton = trial.kind == "lbfgs"
        state = replace(
            state,
            refused=state.refused + 1,
            banned=_BAN if newton else state.banned,
            relaxation=state.relaxation if newton else 1.0,
        )
        return replace(state, trials=(Proposals(state, options.covariance_floor).em,))

    def _believed(
        self,
        state: AccelerationState,
        kind: str,
        point: Point,
        others: Sequence[Point],
        options: MaximizationOptions,
        *,
        several: bool,
    ) -> AccelerationState:
        before = state.base
        if before is not None and not before.coordinates.same(point.coordinates):
            state, before = state.forget(), None
        relaxation = state.relaxation
        # A step of length one is EM's.
        if kind == "relaxed" or (kind == "em" and relaxation == 1.0):
            relaxation *= _GROWTH
        state = replace(
            state,
            base=point,
            best=max(state.best, point.low),
            relaxation=relaxation,
            banned=max(0, state.banned - 1),
        )
        if point.image.singular_components:
            return replace(state, trials=(Trial("em", point.image),))
        if before is not None:
            state = _learnt(state, before, point, others)
        proposals = Proposals(state, options.covariance_floor)
        if before is not None:
            state = _estimated(state, before, proposals)
        trials = proposals.several() if several else (proposals.one(),)
        return replace(state, trials=trials)


def _point(one: Evaluated, options: MaximizationOptions) -> Point | None:
    if one.breached and not one.trial.is_sure:
        return None
    return point_of(one.trial.mixture, one.statistics, one.level, options)


def _chosen(
    state: AccelerationState, evaluated: Sequence[Evaluated], points: Sequence[Point | None]
) -> int | None:
    """The highest of what may be believed, the earlier of two as high; None if nothing may."""
    allowed = []
    for i, (one, point) in enumerate(zip(evaluated, points, strict=True)):
        if point is None:
            continue
        if one.trial.is_sure or (
            state.base is not None
            and is_sound(point, state.base)
            and point.low >= state.best - noise_floor(point)
        ):
            allowed.append(i)

    def height(i: int) -> float:
        point = points[i]
        return -np.inf if point is None else point.low

    return max(allowed, key=height, default=None)


def _has_breached(state: AccelerationState, kind: str, point: Point) -> bool:
    """True if EM fell, which its arithmetic alone can explain."""
    fell = point.low < state.best - _BREACH * noise_floor(point)
    return kind == "em" and fell and point.level < Level.CENTRED


def _on_safer_kernel(state: AccelerationState, point: Point) -> AccelerationState:
    """Begin again where the chain is, with the next safer kernel; its bound counts anew."""
    return replace(state.restarted(point.mixture), least_level=Level(point.level + 1))


def _learnt(
    state: AccelerationState, before: Point, point: Point, others: Sequence[Point]
) -> AccelerationState:
    """With the pairs of a point with those tried beside it and the one before, the last.

    And with the image before the last.
    """
    coordinates, size = point.coordinates, len(point.gradient)
    steps, slopes = (one.reshape(-1, size) for one in (state.steps, state.slopes))
    here, limit = coordinates.pack(point.mixture), n_pairs(size, several=bool(others))
    beside = [one for one in others if is_sound(one, before) and one.coordinates.same(coordinates)]
    # The lower a point, the farther it is from what the pairs are to describe: the sooner it goes.
    for one in (*sorted(beside, key=lambda one: one.low), before):
        step, slope = here - coordinates.pack(one.mixture), one.gradient - point.gradient
        steps, slopes = remember(steps, slopes, step, slope, limit)
    return replace(state, steps=steps, slopes=slopes, previous=coordinates.pack(before.image))


def _estimated(state: AccelerationState, before: Point, proposals: Proposals) -> AccelerationState:
    coordinates = proposals.base.coordinates
    step = proposals.position - coordinates.pack(before.mixture)
    image_step = proposals.target - coordinates.pack(before.image)
    found = gap_estimate(
        proposals.base.gain, proposals.metric, step, image_step, proposals.decrement
    )
    return replace(state, estimates=(*state.estimates, found)[-LAST:])
