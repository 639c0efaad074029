"""What an accelerator knows of a chain: arrays and numbers, which a file can hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dgmm.acceleration.coordinates import Coordinates
from dgmm.acceleration.gap import decided
from dgmm.acceleration.point import Point
from dgmm.covariance import family_of
from dgmm.guard import Level
from dgmm.mixture import Mixture

__all__ = ["AccelerationState", "Trial", "mixture_from_state", "mixture_state"]

Array = np.ndarray[Any, Any]
_FREE = ("free_weights", "free_means", "free_covariances")


@dataclass(frozen=True, eq=False)
class Trial:
    """A mixture to evaluate next.

    Parameters
    ----------
    kind : {"start", "em", "relaxed", "lbfgs", "momentum"}
    mixture : Mixture
    """

    kind: str
    mixture: Mixture

    @property
    def is_sure(self) -> bool:
        """True where EM itself goes: no need to ask whether it is believed."""
        return self.kind in {"start", "em"}


@dataclass(frozen=True, eq=False)
class AccelerationState:
    """Where a chain is and what it tries next.

    Parameters
    ----------
    trials : tuple of Trial
    base : Point or None
        The latest point that was believed; None before the first pass.
    steps, slopes : arrays of shape (n_pairs, size)
        Of L-BFGS.
    previous : array of shape (size,) or None
        Coordinates of the image before the base's.
    relaxation : float
        η of the next over-relaxed step; 1 is EM.
    banned : int
        Points during which no quasi-Newton step is tried.
    best : float
        The certified bound: the highest ``low`` of a point that was believed, per row.
    estimates : tuple of float
        The last estimates of the gap.
    evaluations : int
        Mixtures evaluated so far.
    refused : int
        Of them, those that the chain did not go to.
    least_level : Level
        The fastest kernel that may still be used.
    """

    trials: tuple[Trial, ...]
    base: Point | None = None
    steps: Array = field(default_factory=lambda: np.empty((0, 0)))
    slopes: Array = field(default_factory=lambda: np.empty((0, 0)))
    previous: Array | None = None
    relaxation: float = 1.0
    banned: int = 0
    best: float = -np.inf
    estimates: tuple[float, ...] = ()
    evaluations: int = 0
    refused: int = 0
    least_level: Level = Level.FLOAT32

    @classmethod
    def begin(cls, mixture: Mixture) -> AccelerationState:
        """The state of a chain that was not evaluated yet."""
        return cls((Trial("start", mixture),))

    @property
    def gap(self) -> float:
        """Estimated nats per row to the optimum; ∞ while there is no estimate."""
        return decided(self.estimates)

    def forget(self) -> AccelerationState:
        """Without what was learnt in coordinates that are no longer the same."""
        empty = np.empty((0, 0))
        return replace(self, steps=empty, slopes=empty, previous=None, estimates=())

    def restarted(self, mixture: Mixture) -> AccelerationState:
        """The state of a chain that begins again elsewhere: its bound counts anew."""
        return replace(
            self.forget(),
            trials=(Trial("start", mixture),),
            base=None,
            best=-np.inf,
            relaxation=1.0,
        )

    # ------------------------------------------------------------------------------ plain values

    def to_state(self) -> dict[str, Any]:
        """The same as arrays, numbers and strings, nested in dictionaries and lists."""
        return {
            "trials": [{"kind": one.kind, **mixture_state(one.mixture)} for one in self.trials],
            "base": None if self.base is None else _point(self.base),
            "steps": self.steps,
            "slopes": self.slopes,
            "previous": self.previous,
            "relaxation": self.relaxation,
            "banned": self.banned,
            "best": self.best,
            "estimates": list(self.estimates),
            "evaluations": self.evaluations,
            "refused": self.refused,
            "least_level": int(self.least_level),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> AccelerationState:
        """The inverse of :meth:`to_state`."""
        known = dict(state)
        trials = tuple(Trial(one["kind"], mixture_from_state(one)) for one in known.pop("trials"))
        base = known.pop("base")
        known["estimates"] = tuple(known["estimates"])
        known["least_level"] = Level(known["least_level"])
        return cls(trials, None if base is None else _to_point(base), **known)


def mixture_state(mixture: Mixture) -> dict[str, Any]:
    """A mixture as arrays and strings."""
    names = ("weights", "means", "covariances", "covariance_type")
    return {name: getattr(mixture, name) for name in names}


def mixture_from_state(state: Mapping[str, Any]) -> Mixture:
    """The inverse of :func:`mixture_state`."""
    names = ("weights", "means", "covariances", "covariance_type")
    return Mixture(*(state[name] for name in names))


def _point(point: Point) -> dict[str, Any]:
    return {
        "mixture": mixture_state(point.mixture),
        "image": mixture_state(point.image),
        "objective": point.objective,
        "low": point.low,
        "log_likelihood": point.log_likelihood,
        "gradient": point.gradient,
        "shares": list(point.shares),
        **{name: getattr(point.coordinates, name) for name in _FREE},
        "level": int(point.level),
        "empty": list(point.empty),
    }


def _to_point(state: Mapping[str, Any]) -> Point:
    image = mixture_from_state(state["image"])
    family = family_of(image.covariance_type)
    coordinates = Coordinates(family, image.n_features, *(state[name] for name in _FREE))
    weights, means, covariances = state["shares"]
    return Point(
        mixture=mixture_from_state(state["mixture"]),
        image=image,
        objective=state["objective"],
        low=state["low"],
        log_likelihood=state["log_likelihood"],
        gradient=state["gradient"],
        shares=(weights, means, covariances),
        coordinates=coordinates,
        level=Level(state["level"]),
        empty=tuple(state["empty"]),
    )
