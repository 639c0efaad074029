"""Seconds per iteration: of systems side by side, and of dgmm alone by its own events."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["Budget", "Iterations", "interleaved", "per_pass"]

# Above this a fit is long enough to be measured with one iteration more.
_LONG = 1.0


class Fits(Protocol):
    """What fits for a number of iterations and says how many seconds that took."""

    def fit(self, iterations: int) -> float: ...


@dataclass(frozen=True)
class Budget:
    """How long to measure.

    Parameters
    ----------
    seconds : float
        By which the longer of two fits should be longer.
    rounds : int
        Of which the best counts; slow systems have two, or one.
    most : int
        Most iterations by which it is longer.
    """

    seconds: float = 0.2
    rounds: int = 3
    most: int = 30


def interleaved(
    systems: Mapping[str, Fits], budget: Budget, between: Callable[[], None] = lambda: None
) -> dict[str, float | None]:
    """Seconds per iteration of each system: the difference of fits with 1 and 1 + m iterations.

    The systems take turns, so that a machine that slows down does so for all. The best of the
    short fits is taken from the best of the long ones; None if that leaves nothing.

    Parameters
    ----------
    systems : mapping of str to Fits
        Which have done one fit before: what they compile is compiled.
    budget : Budget
    between : callable
        Is called once in each round.
    """
    shorts = {name: [system.fit(1)] for name, system in systems.items()}
    longs: dict[str, list[float]] = {name: [] for name in systems}
    extra = {name: _extra(system, shorts[name][0], budget) for name, system in systems.items()}
    for turn in range(budget.rounds):
        between()
        for name, system in systems.items():
            if turn >= _rounds(shorts[name][0], budget):
                continue
            shorts[name].append(system.fit(1))
            longs[name].append(system.fit(1 + extra[name]))
    found = {name: (min(longs[name]) - min(shorts[name])) / extra[name] for name in systems}
    return {name: seconds if seconds > 0 else None for name, seconds in found.items()}


def _extra(system: Fits, short: float, budget: Budget) -> int:
    """Iterations by which the longer fits of a system are longer."""
    if short > _LONG:
        return 1
    one_more = max(system.fit(2) - short, 1e-4)
    return max(1, min(budget.most, round(budget.seconds / one_more)))


def _rounds(short: float, budget: Budget) -> int:
    if short > 4 * _LONG:
        return 1
    return min(2, budget.rounds) if short > _LONG else budget.rounds


@dataclass(frozen=True)
class Iterations:
    """What the iterations of one fit took.

    Parameters
    ----------
    seconds, cpu_seconds : float
        Per iteration; the latter of all threads of this process.
    record : FitRecord
        Of the fit.
    """

    seconds: float
    cpu_seconds: float
    record: Any


def per_pass(model: Any, data: Any, iterations: int = 4) -> Iterations:
    """Fit with one iteration more than is measured: the first compiles and fills caches.

    Parameters
    ----------
    model : dgmm.GaussianMixture
        Its ``max_iter`` and ``tol`` are set here.
    data : anything that it fits
    iterations : int
    """
    clocks: list[tuple[float, float]] = []

    def note(event: Any) -> None:
        if event.kind == "iteration":
            clocks.append((time.perf_counter(), time.process_time()))

    model.set_params(max_iter=1 + iterations, tol=0.0)
    model._on_event = note
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(data)
    if len(clocks) < 2:
        raise RuntimeError(f"the fit ended after {len(clocks)} iterations")
    (wall, cpu), (last_wall, last_cpu) = clocks[0], clocks[-1]
    n = len(clocks) - 1
    return Iterations((last_wall - wall) / n, (last_cpu - cpu) / n, model.record_)
