"""Posterior policies: what stands between log joint densities and statistics.

A policy turns the log joint densities of a tile, in place, into the weights with which rows count
for components. Expectation-maximisation takes the responsibilities; classification, stochastic and
annealed EM, known labels or a noise component are other policies with the same signature.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

from dgmm.data.dataset import Rows

__all__ = ["Expectation", "Posterior", "PosteriorPolicy"]


@dataclass(frozen=True)
class Posterior:
    """What a policy found for the rows of a tile.

    Parameters
    ----------
    log_density : array of shape (n_rows,)
        log p(x), the log-sum-exp of the log joint densities.
    log_assignment : array of shape (n_rows,)
        log max_k r_k, the log responsibility of the likeliest component.
    """

    log_density: Any
    log_assignment: Any


class PosteriorPolicy(Protocol):
    """(log joint densities, rows) → weights, in place."""

    def __call__(self, log_joint: Any, rows: Rows, xp: ModuleType) -> Posterior:
        """Overwrite ``log_joint`` (n_components, n_rows) with the weights of the rows."""
        ...


@dataclass(frozen=True)
class Expectation:
    """The E-step of EM: responsibilities, by a softmax over the components."""

    def __call__(self, log_joint: Any, rows: Rows, xp: ModuleType) -> Posterior:
        top = log_joint.max(axis=0)
        log_joint -= top
        xp.exp(log_joint, out=log_joint)
        total = log_joint.sum(axis=0)
        # The largest term is exp(0), so its responsibility is 1 / total: no second search for it.
        log_joint *= 1.0 / total
        xp.log(total, out=total)
        top += total
        return Posterior(log_density=top, log_assignment=-total)
