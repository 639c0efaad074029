"""How the restarts of a fit went: curves, and a table with those that were retired."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from markupsafe import Markup

from dgmm.record import FitRecord, RestartRecord, kept_restart
from dgmm.report.charts import Line, Reference, line_chart
from dgmm.report.wording import decimal

__all__ = ["Convergence", "RestartRow", "convergence_of", "restart_rows"]

_STATUS = {
    "converged": "converged",
    "max_iter": "stopped at max_iter",
    "retired": "retired",
    "halved": "retired as hopeless",
    # Of stochastic EM alone; it may well be the one that was kept.
    "collapsed": "ended by a draw that left a component too few rows, at its likeliest iterate",
}


@dataclass(frozen=True)
class Convergence:
    """Charts of the lower bound and of its gains, and the numbers of the restart that was kept."""

    bounds: Markup
    gains: Markup
    iterations: tuple[tuple[int, str, str], ...]
    n_restarts: int
    has_retired: bool


@dataclass(frozen=True)
class RestartRow:
    """A restart's line in the table."""

    index: int
    is_chosen: bool
    status: str
    n_iter: int
    lower_bound: str
    kernel: str
    reason: str


def convergence_of(model: Any, record: FitRecord | None) -> Convergence | None:
    """Curves of every restart, the one that was kept on top; None if there was no iteration."""
    if record is None or not any(one.lower_bounds for one in record.restarts):
        return None
    chosen = kept_restart(record.restarts, model.lower_bound_)
    # The curve drawn last lies on top of the others.
    order = sorted(range(len(record.restarts)), key=lambda i: i == chosen)
    roles = {i: _role(record.restarts[i], is_chosen=i == chosen) for i in order}
    bounds = {i: record.restarts[i].lower_bounds for i in order}
    kept = bounds[chosen] if chosen is not None else ()
    return Convergence(
        line_chart(
            [Line(f"restart {i}", bounds[i], roles[i]) for i in order],
            title="Lower bound per row over the iterations of each restart",
            x_label="iteration",
            y_label="lower bound, nats per row",
        ),
        line_chart(
            # The first iteration gains on nothing.
            [Line(f"restart {i}", [float("nan"), *_gains(bounds[i])], roles[i]) for i in order],
            title="Gain of the lower bound over the iteration before, for each restart",
            x_label="iteration",
            y_label="gain, nats per row",
            is_log=True,
            reference=_reference(model, record),
        ),
        _iterations(kept),
        len(record.restarts),
        any(one.was_given_up for one in record.restarts),
    )


def restart_rows(model: Any, record: FitRecord | None) -> tuple[RestartRow, ...]:
    """Every restart, those that were retired with the reason."""
    if record is None:
        return ()
    chosen = kept_restart(record.restarts, model.lower_bound_)
    return tuple(
        RestartRow(
            index,
            index == chosen,
            _STATUS.get(one.status, one.status),
            one.n_iter,
            decimal(one.lower_bound, 8),
            one.kernel,
            one.reason,
        )
        for index, one in enumerate(record.restarts)
    )


def _reference(model: Any, record: FitRecord) -> Reference | None:
    """Where the curve of gains had to come to; an accelerated fit stops by its gap instead."""
    by_gap = any(one.gap is not None for one in record.restarts)
    return None if by_gap or model.tol <= 0 else Reference("tol", model.tol)


def _role(restart: RestartRecord, *, is_chosen: bool) -> str:
    if restart.was_given_up:
        return "retired"
    return "chosen" if is_chosen else "other"


def _gains(bounds: Sequence[float]) -> list[float]:
    return [after - before for before, after in pairwise(bounds)]


def _iterations(bounds: Sequence[float]) -> tuple[tuple[int, str, str], ...]:
    gains = ["–", *(decimal(gain, 3) for gain in _gains(bounds))]
    return tuple(
        (number, decimal(bound, 8), gain)
        for number, (bound, gain) in enumerate(zip(bounds, gains, strict=False), start=1)
    )
