"""Which parameters of a mixture EM leaves alone.

Held parameters enter the M-step where they matter: a covariance is the scatter about the mean in
use, and the free weights share what the held ones leave. Their values are those of the mixture
before the step, to the bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dgmm.covariance import CovarianceFamily

__all__ = ["Fixed"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Fixed:
    """Components whose weight, mean or covariance is held.

    Parameters
    ----------
    weights, means, covariances : frozenset of int
        Components. The one covariance of a tied family is held if all components are in
        ``covariances``, which is then the only other choice than none.
    """

    weights: frozenset[int] = frozenset()
    means: frozenset[int] = frozenset()
    covariances: frozenset[int] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.weights or self.means or self.covariances)

    def mask(self, name: str, n_components: int) -> Array:
        """True for the components whose ``name`` is held: shape (n_components,)."""
        return np.isin(np.arange(n_components), sorted(getattr(self, name)))

    def n_parameters(self, family: CovarianceFamily, n_components: int, n_features: int) -> int:
        """By how many fewer parameters are free than in a mixture of which nothing is held.

        K_free weights have K_free − 1 free parameters, and one weight that is left has none.
        """
        free = n_components - len(self.weights)
        weights = (n_components - 1) - max(0, free - 1)
        held = min(1, len(self.covariances)) if family.is_tied else len(self.covariances)
        covariances = held * family.shape.n_free(n_features)
        return weights + len(self.means) * n_features + covariances
