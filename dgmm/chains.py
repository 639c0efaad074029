"""One restart on its way: where it is, how it got there, and which of them is the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dgmm.acceleration import AccelerationState
from dgmm.acceleration.state import mixture_from_state, mixture_state
from dgmm.errors import EmptyComponentError, SingularMixtureError
from dgmm.guard import Level
from dgmm.mixture import Mixture
from dgmm.record import RestartRecord

__all__ = ["ILL_DEFINED", "Chain", "Emptied", "best_chain", "none_left"]

ILL_DEFINED = (
    "Fitting the mixture model failed because some components have ill-defined empirical "
    "covariance (for instance caused by singleton or collapsed samples). Try to decrease the "
    "number of components, increase reg_covar, or scale the input data."
)


@dataclass(frozen=True)
class Emptied:
    """What was done about a component without rows.

    Parameters
    ----------
    iteration : int
        Iterations of the chain before; -1 in the fit before it.
    component : int
        Its number in the chain's start.
    action : {"reseeded", "dropped", "raised"}
    """

    iteration: int
    component: int
    action: str

    def __post_init__(self) -> None:
        whole = all(type(one) is int for one in (self.iteration, self.component))
        if not whole or self.action not in ("reseeded", "dropped", "raised"):
            raise ValueError(f"{self} is nothing that is done about a component")


@dataclass(frozen=True)
class Chain:
    """One restart: where it is and how it got there.

    Parameters
    ----------
    mixture : Mixture
    level : Level
        The fastest kernel that it may still use: it never goes back, once warm.
    lower_bound : float
        Of the last iteration, per row: the log-likelihood, and with priors the log posterior.
    lower_bounds : tuple of float
    status : {"running", "converged", "max_iter", "collapsed", "retired", "halved"}
        ``collapsed``: it ended early, at the best iterate that it kept.
    reason : str
        Why it retired, was halved away or ended early.
    empty : frozenset of int
        Components that were without rows at some iteration and stayed, numbered as in the start.
    safest : Level or None
        The safest kernel that was used; None before the first iteration.
    log_likelihood : float
        Of the last iteration, per row, without priors.
    name : str
        How messages call it; by default ``restart`` and its position.
    best : tuple of (float, float, Mixture), optional
        The highest lower bound, and the log-likelihood and the mixture that go with it, where the
        algorithm returns that one.
    acceleration : AccelerationState, optional
        What an accelerator knows of the chain; ``mixture`` is then the image of its base.
    pending : tuple of int
        Components of ``mixture`` without rows, to be mended before the next pass.
    emptied : tuple of Emptied
        What was done about such components so far.
    """

    mixture: Mixture
    level: Level
    lower_bound: float = -np.inf
    lower_bounds: tuple[float, ...] = ()
    status: str = "running"
    reason: str = ""
    empty: frozenset[int] = field(default_factory=frozenset)
    safest: Level | None = None
    log_likelihood: float = -np.inf
    name: str = ""
    best: tuple[float, float, Mixture] | None = None
    acceleration: AccelerationState | None = None
    pending: tuple[int, ...] = ()
    emptied: tuple[Emptied, ...] = ()

    @property
    def is_running(self) -> bool:
        return self.status == "running"

    @property
    def is_out(self) -> bool:
        """True if it was given up."""
        return self.status in {"retired", "halved"}

    def at_best(self) -> Chain:
        """The chain at its likeliest iterate, where it keeps one."""
        if self.best is None:
            return self
        lower_bound, log_likelihood, mixture = self.best
        return replace(
            self,
            lower_bound=lower_bound,
            log_likelihood=log_likelihood,
            mixture=mixture,
            # What has emptied since has its rows there.
            pending=tuple(k for k in self.pending if mixture.weights[k] == 0.0),
        )

    @property
    def kept_empty(self) -> frozenset[int]:
        """Components without rows that stayed, where the mixture is that of the last iterate."""
        if self.best is None:
            return self.empty
        # The iterate that is kept may be from before.
        return frozenset(
            k for i, k in enumerate(self.kept) if k in self.empty and self.mixture.weights[i] == 0.0
        )

    @property
    def dropped(self) -> frozenset[int]:
        """Components that have left, numbered as in the start."""
        return frozenset(one.component for one in self.emptied if one.action == "dropped")

    @property
    def kept(self) -> tuple[int, ...]:
        """The numbers in the start of the components that are there."""
        dropped = self.dropped
        total = self.mixture.n_components + len(dropped)
        return tuple(k for k in range(total) if k not in dropped)

    def original(self, k: int) -> int:
        """The number in the start of a component that is there."""
        return self.kept[k]

    @property
    def has_settled(self) -> bool:
        """False until an iteration after components were reseeded or dropped."""
        return all(one.iteration < len(self.lower_bounds) for one in self.emptied)

    def to_state(self) -> dict[str, Any]:
        """The same as arrays, numbers and strings, nested in dictionaries and lists."""
        best, state = self.best, self.acceleration
        return {
            "mixture": mixture_state(self.mixture),
            "level": int(self.level),
            "lower_bound": float(self.lower_bound),
            "lower_bounds": np.array(self.lower_bounds, dtype=np.float64),
            "status": self.status,
            "reason": self.reason,
            "empty": sorted(int(k) for k in self.empty),
            "safest": None if self.safest is None else int(self.safest),
            "log_likelihood": float(self.log_likelihood),
            "name": self.name,
            "best": None if best is None else [*map(float, best[:2]), mixture_state(best[2])],
            "acceleration": None if state is None else state.to_state(),
            "pending": list(self.pending),
            "emptied": [[one.iteration, one.component, one.action] for one in self.emptied],
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Chain:
        """The inverse of :meth:`to_state`."""
        known = dict(state)
        best, safest, accelerated = known["best"], known["safest"], known["acceleration"]
        return cls(
            **known
            | {
                "mixture": mixture_from_state(known["mixture"]),
                "level": Level(known["level"]),
                "lower_bounds": tuple(known["lower_bounds"].tolist()),
                "empty": frozenset(known["empty"]),
                "safest": None if safest is None else Level(safest),
                # Checkpoints from before there was a choice have neither.
                "pending": tuple(int(k) for k in known.get("pending", ())),
                "emptied": tuple(Emptied(*one) for one in known.get("emptied", ())),
                "best": None if best is None else (*best[:2], mixture_from_state(best[2])),
                "acceleration": (
                    None if accelerated is None else AccelerationState.from_state(accelerated)
                ),
            }
        )

    @property
    def record(self) -> RestartRecord:
        state = self.acceleration
        return RestartRecord(
            status=self.status,
            n_iter=len(self.lower_bounds),
            lower_bound=self.lower_bound,
            lower_bounds=self.lower_bounds,
            kernel=(self.level if self.safest is None else self.safest).name.lower(),
            reason=self.reason,
            log_likelihood=self.log_likelihood,
            evaluations=len(self.lower_bounds) if state is None else state.evaluations,
            gap=None if state is None else state.gap,
        )


def best_chain(chains: Sequence[Chain]) -> Chain:
    """The restart with the highest lower bound among those that did not retire.

    One that was halved away wins only if all that stayed retired.

    Raises
    ------
    SingularMixtureError
        If all did; an EmptyComponentError if one of them because a component was without rows.
    """
    live = [chain for chain in chains if chain.status != "retired"]
    if not live:
        reasons = "; ".join(f"restart {i}: {chain.reason}" for i, chain in enumerate(chains))
        if any(one.action == "raised" for chain in chains for one in chain.emptied):
            raise EmptyComponentError(
                f"all {len(chains)} restarts were given up: {reasons}; lower n_components, start "
                "elsewhere (init_params, n_init), or pass empty_components='reseed', 'drop' or "
                "'keep'"
            )
        raise SingularMixtureError(
            f"{ILL_DEFINED} Priors (dgmm.suggest_priors) or a covariance_floor keep covariances "
            f"definite too. All {len(chains)} restarts retired: {reasons}"
        )
    return max(live, key=lambda chain: (chain.status != "halved", chain.lower_bound))


def none_left(errors: Sequence[SingularMixtureError]) -> SingularMixtureError:
    """The error of a selection, from those of all its candidates."""
    reasons = "; ".join(str(one) for one in errors)
    if any(isinstance(one, EmptyComponentError) for one in errors):
        return EmptyComponentError(f"every restart of every candidate was given up: {reasons}")
    return SingularMixtureError(f"every restart of every candidate collapsed: {reasons}")
