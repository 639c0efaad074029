"""Posterior policies: what stands between log joint densities and statistics.

A policy turns the log joint densities of a tile, in place, into the weights with which rows count
for components. Expectation-maximisation takes the responsibilities; classification, stochastic and
annealed EM and known labels are other policies with the same signature. Whatever a policy does,
the weights of a row sum to 1: the tied families' total scatter relies on it.

The densities are relative to a constant of the mixture (and for tied families lack a term that all
components share), so a policy may use differences between components only, and its
``log_density`` is relative to the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from dgmm.backend import Backend
from dgmm.data.dataset import Rows

__all__ = [
    "Annealed",
    "Classification",
    "Expectation",
    "KnownLabels",
    "Posterior",
    "PosteriorPolicy",
    "Stochastic",
    "draws_by_row",
    "uniforms",
]


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

    @classmethod
    def of_softmax(cls, top: Any, total: Any, xp: ModuleType) -> Posterior:
        """What :meth:`dgmm.backend.Backend.softmax` gave, whose arrays are written over."""
        # The largest term is exp(0), so its responsibility is 1 / total: no second search for it.
        xp.log(total, out=total)
        top += total
        return cls(log_density=top, log_assignment=-total)


class PosteriorPolicy(Protocol):
    """(log joint densities, rows) → weights, in place."""

    def __call__(self, log_joint: Any, rows: Rows, backend: Backend) -> Posterior:
        """Overwrite ``log_joint`` (n_components, n_rows) with the weights of the rows."""
        ...


@dataclass(frozen=True)
class Expectation:
    """The E-step of EM: responsibilities, by a softmax over the components."""

    def __call__(self, log_joint: Any, rows: Rows, backend: Backend) -> Posterior:
        return Posterior.of_softmax(*backend.softmax(log_joint), backend.xp)


@dataclass(frozen=True)
class Classification:
    """The C-step of classification EM: every row counts for its likeliest component alone.

    Of components as likely the first is taken. ``log_density`` + ``log_assignment`` is the row's
    term of the classification log-likelihood, max_k log π_k N(x | μ_k, Σ_k) (Celeux and Govaert
    1992, eq. 2.2).
    """

    def __call__(self, log_joint: Any, rows: Rows, backend: Backend) -> Posterior:
        chosen = log_joint.argmax(axis=0)
        posterior = Expectation()(log_joint, rows, backend)
        _assign(log_joint, chosen, backend.xp)
        return posterior


@dataclass(frozen=True)
class Annealed:
    """Deterministic annealing: responsibilities ∝ (π_k N_k)^(1/T) (Ueda and Nakano 1998, eq. 13).

    ``log_density`` is that of the mixture itself, whatever the temperature.

    Parameters
    ----------
    temperature : float
        T ≥ 1; 1 is EM.
    """

    temperature: float

    def __call__(self, log_joint: Any, rows: Rows, backend: Backend) -> Posterior:
        xp = backend.xp
        top = log_joint.max(axis=0)
        log_joint -= top
        total = xp.zeros_like(top)
        # By component: a second array of rows × components would not fit the cache.
        for one in log_joint:
            total += xp.exp(one)
        log_joint *= 1.0 / self.temperature
        xp.exp(log_joint, out=log_joint)
        log_joint *= 1.0 / log_joint.sum(axis=0)
        xp.log(total, out=total)
        return Posterior(log_density=top + total, log_assignment=-total)


@dataclass(frozen=True)
class Stochastic:
    """The S-step of stochastic EM: every row counts for one component, drawn from its posterior.

    Celeux and Diebolt 1985. The draw of a row is a function of the keys and its number in the
    dataset, so that it is the same in whatever tile, thread or process the row comes up.

    Parameters
    ----------
    key : tuple of (int, int)
        64 bits each: of the seed, the mixture and the iteration.
    temperature : float, default=1.0
        The posterior is tempered as in :class:`Annealed`.
    """

    key: tuple[int, int]
    temperature: float = 1.0

    def __call__(self, log_joint: Any, rows: Rows, backend: Backend) -> Posterior:
        policy = Expectation() if self.temperature == 1.0 else Annealed(self.temperature)
        xp = backend.xp
        posterior = policy(log_joint, rows, backend)
        n_components, n_rows = log_joint.shape
        for k in range(1, n_components):
            log_joint[k] += log_joint[k - 1]
        # u < 1 of the sum itself, so that rounding leaves no row without a component.
        threshold = xp.asarray(uniforms(self.key, rows)) * log_joint[-1]
        chosen = xp.zeros(n_rows, dtype=np.int64)
        for k in range(n_components - 1):
            chosen += log_joint[k] <= threshold
        _assign(log_joint, chosen, xp)
        return posterior


@dataclass(frozen=True)
class KnownLabels:
    """Rows whose component is known count for it alone; the others follow another policy.

    ``log_density`` of such a row is log π_y N(x | μ_y, Σ_y), its term of the likelihood of rows
    and labels together, which EM then maximises (McLachlan and Peel 2000, section 2.19).

    Parameters
    ----------
    policy : PosteriorPolicy
        For the rows without a label.
    """

    policy: PosteriorPolicy

    def __call__(self, log_joint: Any, rows: Rows, backend: Backend) -> Posterior:
        known = np.flatnonzero(rows.labels >= 0) if rows.labels is not None else np.empty(0, int)
        if not known.size:
            return self.policy(log_joint, rows, backend)
        xp = backend.xp
        labels, known = xp.asarray(rows.labels[known]), xp.asarray(known)
        densities = log_joint[labels, known]
        posterior = self.policy(log_joint, rows, backend)
        log_joint[:, known] = 0.0
        log_joint[labels, known] = 1.0
        posterior.log_density[known] = densities
        posterior.log_assignment[known] = 0.0
        return posterior


def draws_by_row(policy: PosteriorPolicy) -> bool:
    """True if what a policy does with a row depends on the row's number."""
    if isinstance(policy, KnownLabels):
        return draws_by_row(policy.policy)
    return isinstance(policy, Stochastic)


def uniforms(key: tuple[int, int], rows: Rows) -> np.ndarray[Any, Any]:
    """A number in [0, 1) for each row, from the counter-based generator Philox 4x64-10.

    Salmon, Moraes, Dror and Shaw 2011. Row n has output number n of the stream of ``key``.
    """
    last = rows.n_rows - 1 if rows.offsets is None else int(rows.offsets[-1])
    skipped = rows.first_row % 4  # a counter gives four outputs
    # The class is NumPy's, its stream Philox's own: fixed by NEP 19 for all versions.
    generator = np.random.Philox(key=np.array(key, np.uint64), counter=rows.first_row // 4)
    bits = generator.random_raw(skipped + last + 1)[skipped:]
    if rows.offsets is not None:
        bits = bits[rows.offsets]
    return (bits >> np.uint64(11)) * 2.0**-53


def _assign(log_joint: Any, chosen: Any, xp: ModuleType) -> None:
    """Overwrite with 1 for the chosen component of each row and 0 for the others."""
    log_joint.fill(0.0)
    log_joint[chosen, xp.arange(log_joint.shape[1])] = 1.0
