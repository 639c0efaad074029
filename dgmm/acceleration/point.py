"""A point that a pass evaluated: how high it is, how high its EM image must be, and the slope."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dgmm.acceleration.coordinates import Coordinates
from dgmm.acceleration.objective import ExpectedPosterior
from dgmm.guard import Level
from dgmm.maximization import MaximizationOptions, maximize
from dgmm.mixture import Mixture
from dgmm.statistics import SufficientStatistics

__all__ = ["NOISE", "Point", "is_sound", "noise_floor", "point_of"]

Array = np.ndarray[Any, Any]

NOISE = {Level.FLOAT32: 1e-6, Level.FLOAT64: 1e-12, Level.CENTRED: 1e-12}
"""By how much rounding may change a mean log density of order one, in nats (stated, not proved).

Two points whose bounds differ by less are as high as each other.
"""


@dataclass(frozen=True, eq=False)
class Point:
    """A mixture, evaluated.

    Parameters
    ----------
    mixture, image : Mixture
        x and G(x).
    objective : float
        ℓ(x), per row in nats, with the log prior.
    low : float
        A lower bound on ℓ(G(x)).
    log_likelihood : float
        Of x, per row, without the prior.
    gradient : array of shape (size,)
        ∇ℓ(x) per row, in the coordinates of the point.
    shares : tuple of array
        Of the metric (:class:`~dgmm.acceleration.coordinates.Metric`).
    coordinates : Coordinates
        What moves here: not what is held, without rows, or at the floor.
    level : Level
        The kernel.
    empty : tuple of int
        Components without rows.
    """

    mixture: Mixture
    image: Mixture
    objective: float
    low: float
    log_likelihood: float
    gradient: Array
    shares: tuple[Array, Array, Array]
    coordinates: Coordinates
    level: Level
    empty: tuple[int, ...] = ()

    @property
    def gain(self) -> float:
        """What the EM step from here is certain to gain, ½ ∇·(g − x) to second order."""
        return self.low - self.objective


def point_of(
    mixture: Mixture,
    statistics: SufficientStatistics,
    level: Level,
    options: MaximizationOptions,
) -> Point:
    """The point of a mixture and its statistics on all rows.

    Parameters
    ----------
    mixture : Mixture
    statistics : SufficientStatistics
        Finished.
    level : Level
        The kernel that they came from.
    options : MaximizationOptions
        Without ``reg_covar`` (:func:`~dgmm.acceleration.options.monotone_options`).
    """
    step = maximize(statistics, mixture.family, options, previous=mixture)
    image = step.mixture
    expected = ExpectedPosterior(statistics, mixture, options)
    coordinates = Coordinates.of(image, options.fixed)
    if options.covariance_floor and not image.singular_components:
        # Where the floor holds, the M-step has a kink: there EM alone moves.
        held = image.family.shape.at_floor(image.covariances, options.covariance_floor)
        coordinates = coordinates.without_covariances(
            held.reshape(len(coordinates.free_covariances), -1)
        )
    objective = expected.log_posterior
    low = -np.inf if image.singular_components else objective + expected.gain(image)
    return Point(
        mixture=mixture,
        image=image,
        objective=objective,
        low=low,
        log_likelihood=statistics.log_likelihood / statistics.weight,
        gradient=expected.gradient(coordinates),
        shares=expected.shares,
        coordinates=coordinates,
        level=level,
        empty=step.empty,
    )


def is_sound(point: Point, base: Point) -> bool:
    """False for a point that must not be believed: not finite, or with a component lost."""
    finite = np.isfinite(point.low) and np.all(np.isfinite(point.gradient))
    return bool(finite) and len(point.empty) <= len(base.empty)


def noise_floor(point: Point) -> float:
    """How far apart two bounds have to be to differ, per row in nats."""
    return NOISE[point.level] * max(1.0, abs(point.objective))
