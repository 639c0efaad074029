"""Fits that are cut short and go on, and what has to be equal of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

import dgmm
from dgmm.cli.progress import Silence
from dgmm.record import FitEvent


class Cut(BaseException):
    """The end of a process, as far as a test needs it: nothing in dgmm catches it."""


def rows(n_rows: int = 400, n_features: int = 3, seed: int = 5) -> np.ndarray:
    """Four overlapping clusters, so that EM takes its time."""
    rng = np.random.default_rng(seed)
    centres = 2.5 * rng.standard_normal((4, n_features))
    spread = 0.5 + rng.random((4, n_features))
    labels = rng.integers(4, size=n_rows)
    return centres[labels] + spread[labels] * rng.standard_normal((n_rows, n_features))


def estimator(**arguments: Any) -> dgmm.GaussianMixture:
    """With every default such that a fit takes some tens of iterations."""
    defaults = {"n_components": 4, "tol": 1e-12, "max_iter": 9, "random_state": 3}
    return dgmm.GaussianMixture(**defaults | {"init_params": "random"} | arguments)


def cut_at(gm: dgmm.GaussianMixture, iteration: int) -> dgmm.GaussianMixture:
    """The estimator, to be cut short when it reports an iteration."""

    def cut(event: FitEvent) -> None:
        if event.kind == "iteration" and event.iteration == iteration:
            raise Cut

    gm._on_event = cut
    return gm


def same_bits(one: dgmm.GaussianMixture, other: dgmm.GaussianMixture) -> None:
    """Everything that is part of the result, and of the record but for the effort."""
    for name in ("weights", "means", "covariances"):
        first, second = (getattr(gm.mixture_, name) for gm in (one, other))
        assert first.tobytes() == second.tobytes(), name
    assert one.lower_bounds_ == other.lower_bounds_
    assert one.lower_bound_ == other.lower_bound_
    assert (one.converged_, one.n_iter_) == (other.converged_, other.n_iter_)
    effort: dict[str, Any] = dict.fromkeys(
        ("passes", "block_reads", "bytes_read", "nodes_received", "peak_memory"), 0
    )
    effort |= {"seconds": 0.0, "engine": "", "notes": ()}
    records = [replace(gm.record_, **effort) for gm in (one, other)]
    assert records[0] == records[1]
    notes = [
        [note for note in gm.record_.notes if "resumed" not in note and "checkpoint" not in note]
        for gm in (one, other)
    ]
    assert notes[0] == notes[1]


class Hit(Silence):
    """Follows a fit and does something when an iteration is reported."""

    def __init__(self, at: int, action: Callable[[], Any]) -> None:
        self.at, self.action = at, action

    def __call__(self, event: Any) -> None:
        if event.kind == "iteration" and event.iteration == self.at:
            self.action()
