"""L-BFGS with the Fisher metric of the complete data in place of the first Hessian."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["direction", "n_pairs", "remember"]

Array = np.ndarray[Any, Any]

# With one point a pass, and with several, which give several pairs: older ones mislead.
_ONE_EACH, _SEVERAL_EACH = 10, 40
_LEAST_PAIRS = 4
_PAIRS_BYTES = 16 * 2**20


def n_pairs(size: int, *, several: bool) -> int:
    """How many pairs to keep of vectors of a length: fewer where they are long.

    Parameters
    ----------
    size : int
    several : bool
        True if a pass evaluates several points.
    """
    most = _SEVERAL_EACH if several else _ONE_EACH
    return int(np.clip(_PAIRS_BYTES // (16 * max(size, 1)), _LEAST_PAIRS, most))


def direction(
    gradient: Array, steps: Array, slopes: Array, natural: Callable[[Array], Array]
) -> Array:
    """H ∇ by the two loops of Nocedal (1980), for a maximum.

    Parameters
    ----------
    gradient : array of shape (size,)
    steps, slopes : arrays of shape (n_pairs, size)
        Δx and −Δ∇, the latest last, each pair with a positive product.
    natural : callable
        The first Hessian's inverse, applied to a gradient.
    """
    rest, factors = gradient.copy(), []
    scales = 1.0 / np.einsum("ij,ij->i", steps, slopes)
    for i in reversed(range(len(steps))):
        factors.append(scales[i] * float(steps[i] @ rest))
        rest -= factors[-1] * slopes[i]
    found = natural(rest)
    for i, factor in enumerate(reversed(factors)):
        found += (factor - scales[i] * float(slopes[i] @ found)) * steps[i]
    return found


def remember(
    steps: Array, slopes: Array, step: Array, slope: Array, limit: int
) -> tuple[Array, Array]:
    """The pairs with one more, the oldest gone; without it where the curvature is not positive."""
    product = float(step @ slope)
    scale = float(np.linalg.norm(step) * np.linalg.norm(slope))
    if not np.isfinite(product) or product <= 1e-12 * scale:
        return steps, slopes
    return (
        np.concatenate([steps, step[None]])[-limit:],
        np.concatenate([slopes, slope[None]])[-limit:],
    )
