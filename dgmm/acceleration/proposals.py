"""Which points to try next from a base: over-relaxed, quasi-Newton, with momentum, EM.

Every one is checked before it is evaluated (it has to be a mixture, above half the floor) and
believed only if its certified bound is no lower (:mod:`dgmm.acceleration.accelerator`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from dgmm.acceleration.coordinates import Metric
from dgmm.acceleration.lbfgs import direction
from dgmm.acceleration.point import Point
from dgmm.acceleration.state import AccelerationState, Trial
from dgmm.mixture import Mixture

__all__ = ["Proposals"]

Array = np.ndarray[Any, Any]

# Quasi-Newton steps are for the neighbourhood of an optimum: nats per row that they may promise.
_NEAR = 5e-3

# Over-relaxation among several candidates of a pass.
_FAR = 4.0

# Most of a step, in standard deviations of a component and in logarithms of a scale: beyond it
# densities leave their range before anything can be learnt from them.
_LONGEST = 2.0


@dataclass(frozen=True, eq=False)
class Proposals:
    """What can be tried from the base of a state.

    Parameters
    ----------
    state : AccelerationState
        With a base.
    floor : float
        The least eigenvalue that the fit allows, or 0.
    """

    state: AccelerationState
    floor: float = 0.0

    @cached_property
    def base(self) -> Point:
        assert self.state.base is not None
        return self.state.base

    @cached_property
    def metric(self) -> Metric:
        """At the base."""
        return Metric.of(self.base.coordinates, self.base.mixture, self.base.shares)

    @cached_property
    def position(self) -> Array:
        """x of the base."""
        return self.base.coordinates.pack(self.base.mixture)

    @cached_property
    def target(self) -> Array:
        """G(x)."""
        return self.base.coordinates.pack(self.base.image)

    @cached_property
    def newton(self) -> Array | None:
        """The quasi-Newton step, where there is one that goes uphill."""
        if not len(self.state.steps):
            return None
        step = direction(
            self.base.gradient, self.state.steps, self.state.slopes, self.metric.natural
        )
        return step if np.all(np.isfinite(step)) and self.base.gradient @ step > 0.0 else None

    @property
    def decrement(self) -> float:
        """½ ∇·d: what Newton's step promises, in nats per row; NaN without one."""
        return np.nan if self.newton is None else 0.5 * float(self.base.gradient @ self.newton)

    def one(self) -> Trial:
        """The one point of a pass: quasi-Newton near an optimum, over-relaxed before it is."""
        state = self.state
        if self.newton is not None and self.decrement < _NEAR and state.banned <= 0:
            trial = self._along("lbfgs", self.position, self.newton)
            if trial is not None:
                return trial
        if state.relaxation == 1.0:
            return self.em
        step = state.relaxation * (self.target - self.position)
        return self._along("relaxed", self.position, step) or self.em

    def several(self) -> tuple[Trial, ...]:
        """The points of a pass in which evaluations cost nothing; EM's is one of them."""
        found: list[Trial | None] = [self.em]
        if self.newton is not None:
            found.append(self._along("lbfgs", self.position, self.newton))
        if self.state.previous is not None:
            found.append(self._along("momentum", self.target, self.target - self.state.previous))
        step = _FAR * (self.target - self.position)
        found.append(self._along("relaxed", self.position, step))
        return tuple(one for one in found if one is not None)

    @property
    def em(self) -> Trial:
        """EM's own next point."""
        return Trial("em", self.base.image)

    def _along(self, kind: str, origin: Array, step: Array) -> Trial | None:
        """A step, shortened to what can be evaluated; None if it leads to no mixture."""
        coordinates = self.base.coordinates
        alone = Metric.of(coordinates, self.base.mixture)
        longest = float(np.max(np.abs(alone.whiten(step)), initial=0.0))
        if not np.isfinite(longest) or longest == 0.0:
            return None
        vector = origin + min(1.0, _LONGEST / longest) * step
        found = coordinates.unpack(vector, self.base.image)
        return None if found is None or self._is_low(found) else Trial(kind, found)

    def _is_low(self, mixture: Mixture) -> bool:
        """True if a covariance that moved is below half the floor."""
        if not self.floor:
            return False
        least = np.atleast_1d(mixture.family.shape.least_eigenvalue(mixture.covariances))
        moved = self.base.coordinates.free_covariances.any(axis=1)
        return bool(np.any(least[moved] < 0.5 * self.floor))
