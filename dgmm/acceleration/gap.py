"""How far the optimum is, estimated: what stops an accelerated fit.

Two estimates, of which the larger counts. One is of EM: what a step gains, p, grows by the sum of
a geometric series to p / (1 − ρ), with ρ = |ΔG| / |Δx| between two points in the Fisher metric of
the complete data. The other is Newton's decrement ½ ∇·d along the quasi-Newton direction. Neither
sees a plateau: they are estimates, never guarantees. Gains themselves (Aitken) say nothing under
acceleration, whose steps differ in kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dgmm.acceleration.coordinates import Metric

__all__ = ["LAST", "decided", "gap_estimate"]

Array = np.ndarray[Any, Any]

_MOST_RATIO = 0.999

LAST = 3
"""Estimates that have to agree before a chain stops."""


def gap_estimate(
    gain: float, metric: Metric, step: Array, image_step: Array, decrement: float
) -> float:
    """Nats per row that are left to the optimum.

    Parameters
    ----------
    gain : float
        p, of the latest point.
    metric : Metric
        There.
    step, image_step : arrays of shape (size,)
        Δx and ΔG from the point before.
    decrement : float
        ½ ∇·d; NaN where there is no direction to trust.
    """
    length = float(np.linalg.norm(metric.whiten(step)))
    ratio = float(np.linalg.norm(metric.whiten(image_step))) / length if length > 0.0 else 0.0
    ratio = min(ratio, _MOST_RATIO) if np.isfinite(ratio) else _MOST_RATIO
    of_em = max(gain, 0.0) / (1.0 - ratio)
    return max(of_em, decrement) if np.isfinite(decrement) else of_em


def decided(estimates: Sequence[float]) -> float:
    """The gap that a chain is judged by: the largest of the last estimates, ∞ before there are."""
    return max(estimates[-LAST:]) if len(estimates) >= LAST else np.inf
