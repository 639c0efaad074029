"""What becomes of components that are left without rows: the argument ``empty_components``.

============ ======================================================================================
``"keep"``   what no prior determines of it stays as it was
``"reseed"`` it starts again at the sampled row that the mixture explains worst
``"drop"``   it leaves the mixture, whose other weights then sum to one
``"raise"``  its restart is given up
============ ======================================================================================

What an M-step leaves empty is noted at once and mended before the next pass: whether there is one
is up to ``max_iter``, which may differ between the runs of a fit that is resumed.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy.special import logsumexp

from dgmm.chains import Chain, Emptied
from dgmm.density import log_joint, tiles
from dgmm.maximization import MaximizationOptions
from dgmm.mixture import Mixture

__all__ = ["EMPTY_COMPONENTS", "Emptying"]

Array = np.ndarray[Any, Any]

EMPTY_COMPONENTS = ("keep", "reseed", "drop", "raise")

# A component that has emptied so often has no place in the mixture.
_MOST_RESEEDS = 3


@dataclass(frozen=True, eq=False)
class Emptying:
    """The choice of a fit.

    Parameters
    ----------
    choice : {"keep", "reseed", "drop", "raise"}
    rows : array of shape (n_sampled, n_features)
        Among which ``"reseed"`` looks for new means: the sample of the profile, so that they
        follow from the seed and the data.
    """

    choice: str = "keep"
    rows: Array = field(default_factory=lambda: np.empty((0, 0)))

    def noted(self, chain: Chain, empty: Collection[int], options: MaximizationOptions) -> Chain:
        """The chain after an M-step that found components ``empty``, which are not mended yet."""
        if not empty or chain.status == "retired":
            return chain
        if self.choice == "raise":
            return _given_up(chain, min(empty))
        pending = [int(k) for k in sorted(empty) if self._can_mend(chain, k, options)]
        kept = {chain.original(k) for k in empty if k not in pending}
        chain = replace(chain, empty=chain.empty | kept, pending=tuple(pending))
        # What is about to change has not converged.
        is_done = chain.status == "converged" and bool(pending)
        return replace(chain, status="running") if is_done else chain

    def mended(self, chain: Chain, options: MaximizationOptions) -> Chain:
        """The chain with what is pending done, before its next pass.

        Its bound begins anew: that of another mixture, or of one with fewer parameters.
        """
        if not chain.pending:
            return chain
        if self.choice == "drop":
            return _dropped(chain)
        mixture = chain.mixture
        for k in chain.pending:
            mixture = reseeded(mixture, k, self.rows, options)
        return _restarted(chain, mixture, "reseeded")

    def finished(self, chain: Chain) -> Chain:
        """The chain at the end: without what is to be dropped, and as a pass has seen it."""
        if not chain.pending or chain.status == "retired":
            return chain
        if self.choice == "drop":
            return _dropped(chain)
        kept = {chain.original(k) for k in chain.pending}
        return replace(chain, pending=(), empty=chain.empty | kept)

    def _can_mend(self, chain: Chain, k: int, options: MaximizationOptions) -> bool:
        if self.choice == "drop":
            return True
        if self.choice != "reseed" or k in options.fixed.means:
            return False
        times = sum(one.component == k and one.action == "reseeded" for one in chain.emptied)
        return times < _MOST_RESEEDS


def reseeded(mixture: Mixture, k: int, rows: Array, options: MaximizationOptions) -> Mixture:
    """The mixture with component ``k`` at the row that the mixture explains worst.

    It takes an even share of the weights, and the mean covariance of the others; what is held
    stays.
    """
    means, n = mixture.means.copy(), mixture.n_components
    means[k] = rows[_worst(mixture, rows)]
    weights, free = mixture.weights.copy(), ~options.fixed.mask("weights", n)
    if free[k]:
        free[k] = False
        share = float(mixture.weights[free].sum() + mixture.weights[k])
        weights[k] = share / (1 + int(free.sum())) if weights[free].any() else share
        weights[free] *= (share - weights[k]) / max(float(weights[free].sum()), 1e-300)
    covariances = mixture.covariances
    if not mixture.family.is_tied and k not in options.fixed.covariances:
        covariances = covariances.copy()
        others = np.where(np.arange(n) == k, 0.0, mixture.weights)
        if others.any():
            covariances[k] = np.tensordot(others / others.sum(), mixture.covariances, axes=1)
    return replace(mixture, weights=weights, means=means, covariances=covariances)


def _worst(mixture: Mixture, rows: Array) -> int:
    """The first row of the least density."""
    density = np.empty(len(rows))
    with np.errstate(over="ignore"):
        for tile in tiles(mixture, rows):
            density[tile] = logsumexp(log_joint(mixture, rows[tile]), axis=0)
    return int(np.argmin(density))


def _dropped(chain: Chain) -> Chain:
    mixture = chain.mixture
    kept = np.setdiff1d(np.arange(mixture.n_components), chain.pending)
    # An iterate from before would bring them back.
    return _restarted(replace(chain, best=None), mixture.of_components(kept), "dropped")


def _restarted(chain: Chain, mixture: Mixture, action: str) -> Chain:
    state = chain.acceleration
    done = len(chain.lower_bounds)
    emptied = [Emptied(done, int(chain.original(k)), action) for k in chain.pending]
    return replace(
        chain,
        mixture=mixture,
        pending=(),
        emptied=(*chain.emptied, *emptied),
        acceleration=None if state is None else state.restarted(mixture),
    )


def _given_up(chain: Chain, k: int) -> Chain:
    done = len(chain.lower_bounds)
    reason = f"component {k} was without rows at iteration {done}, and empty_components='raise'"
    emptied = (*chain.emptied, Emptied(done, int(k), "raised"))
    return replace(chain, status="retired", reason=reason, emptied=emptied)
