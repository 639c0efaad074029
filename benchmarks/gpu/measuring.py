"""Clocks, rows and passes for measurements on a GPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dgmm.covariance import family_of
from dgmm.engine.local import LocalEngine
from dgmm.expectation import BatchPass, plan_batch
from dgmm.features import Layout
from dgmm.frame import Frame
from dgmm.guard import Frames, Level
from dgmm.mixture import Mixture

__all__ = ["Deadline", "cloud", "mixture_of", "operations", "pass_of", "seconds_of", "seconds_run"]


@dataclass(frozen=True)
class Deadline:
    """When to begin nothing more."""

    at: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        return cls(time.perf_counter() + seconds)

    @property
    def is_over(self) -> bool:
        return time.perf_counter() >= self.at


def seconds_of(xp: Any, call: Callable[[], Any], repeats: int = 5) -> float:
    """The median time of a call, until the device is done; once before that, not counted."""

    def once() -> float:
        xp.cuda.runtime.deviceSynchronize()
        started = time.perf_counter()
        call()
        xp.cuda.runtime.deviceSynchronize()
        return time.perf_counter() - started

    once()
    return statistics.median(once() for _ in range(repeats))


def mixture_of(family: str, n_components: int, n_features: int, seed: int = 0) -> Mixture:
    """A mixture of well-conditioned components that overlap a little."""
    rng = np.random.default_rng(seed)
    shape = family_of(family).shape
    factors = 0.3 * rng.standard_normal((n_components, n_features, n_features))
    dense = np.eye(n_features) + factors @ np.swapaxes(factors, 1, 2) / n_features
    covariances = shape.project(dense) / shape.divisor(n_features)
    return Mixture(
        np.full(n_components, 1.0 / n_components),
        3.0 * rng.standard_normal((n_components, n_features)),
        covariances[0] if family_of(family).is_tied else covariances,
        family,
    )


def cloud(xp: Any, n_rows: int, mixture: Mixture, dtype: str) -> Any:
    """Rows about the means of a mixture, made on the device chunk by chunk in their place."""
    x = xp.empty((n_rows, mixture.n_features), dtype)
    means = xp.asarray(mixture.means.astype(dtype))
    chunk = max(1, 2**26 // mixture.n_features)
    xp.random.seed(0)
    for start in range(0, n_rows, chunk):
        part = x[start : start + chunk]
        part[...] = xp.random.standard_normal(part.shape, dtype=dtype)
        part += means[xp.arange(start, start + len(part)) % mixture.n_components]
    return x


def pass_of(mixture: Mixture, level: Level = Level.FLOAT64, device: str = "cuda") -> BatchPass:
    """A pass with one mixture, about the mean of its means."""
    frame = Frame(mixture.means.mean(axis=0))
    return BatchPass(plan_batch([mixture], [level], Frames(frame, frame)), device=device)


def seconds_run(dataset: Any, task: BatchPass, repeats: int, kept_bytes: int | None = None) -> Any:
    """Seconds of each pass, the first not counted, and the last statistics.

    Parameters
    ----------
    kept_bytes : int, optional
        Most bytes of blocks that the device may keep between passes.
    """
    with LocalEngine().session(dataset) as session:
        if kept_bytes is not None:
            session._devices._slab.kept_bytes = kept_bytes
        session.run(task)
        seconds = []
        for _ in range(repeats):
            started = time.perf_counter()
            found = session.run(task).total.members[0]
            seconds.append(time.perf_counter() - started)
    return seconds, found


def operations(mixture: Mixture) -> int:
    """Operations of the two products on a row, without the feature that is always zero."""
    layout = Layout(mixture.n_features)
    size = mixture.family.shape.block(layout)
    return 4 * mixture.n_components * (size - (size >= layout.diagonal))
