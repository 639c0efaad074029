"""How a fit converged, and what a selection compared."""

from __future__ import annotations

from typing import Any

import numpy as np

from dgmm.criteria import CRITERIA
from dgmm.errors import InvalidParameterError
from dgmm.plotting.figure import axes_for, plain_ticks, require_matplotlib
from dgmm.record import RestartRecord, kept_restart

__all__ = ["plot_convergence", "plot_criterion"]


def plot_convergence(model: Any, *, ax: Any = None) -> Any:
    """The lower bound over the iterations, a line for each restart.

    The restart that was kept is drawn on top; those that collapsed or were given up are dashed.
    After :meth:`~dgmm.GaussianMixture.partial_fit` the line is over batches.

    Parameters
    ----------
    model : GaussianMixture
        Fitted. A model that was read from a file has the line of the kept restart alone.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    MissingDependencyError
        If matplotlib is not installed.
    NotFittedError
    InvalidParameterError
        If there was no iteration.
    """
    _check_iterated(model)
    require_matplotlib()
    axes = axes_for(ax)
    record = getattr(model, "record_", None)
    restarts = () if record is None else record.restarts
    kept = kept_restart(restarts, model.lower_bound_)
    for i, one in enumerate(restarts):
        if kept is not None and i != kept:
            _draw_restart(axes, i, one)
    _draw(axes, model.lower_bounds_, "lower bound" if kept is None else f"restart {kept}, kept")
    is_stepwise = record is None and hasattr(model, "n_samples_seen_")
    axes.set(xlabel="batch" if is_stepwise else "iteration", ylabel="lower bound, nats per row")
    plain_ticks(axes, whole=True)
    axes.legend()
    return axes


def _check_iterated(model: Any) -> None:
    if not hasattr(model, "_check_fitted"):
        raise InvalidParameterError(
            f"convergence is that of a dgmm.GaussianMixture, and {type(model).__name__} is none"
        )
    model._check_fitted()
    if not model.lower_bounds_:
        raise InvalidParameterError(
            "no iteration was done: max_iter was 0, or the parameters were given; call fit"
        )


def _draw_restart(axes: Any, index: int, restart: RestartRecord) -> None:
    label = f"restart {index}" + (f", {restart.status}" if restart.was_given_up else "")
    line = "--" if restart.was_given_up else "-"
    _draw(axes, restart.lower_bounds, label, color="0.65", linewidth=1.0, linestyle=line, zorder=1)


def _draw(axes: Any, bounds: Any, label: str, **style: Any) -> None:
    axes.plot(np.arange(1, len(bounds) + 1), bounds, marker=".", label=label, **style)


def plot_criterion(selection: Any, criterion: str | None = None, *, ax: Any = None) -> Any:
    """A criterion against the number of components, a line for each family.

    A circle marks the candidate that was chosen. Candidates that collapsed are gaps.

    Parameters
    ----------
    selection : Selection
        Of :func:`dgmm.select_model`.
    criterion : {"bic", "aic", "icl", "heldout"}, optional
        By default that by which the candidates were compared.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    MissingDependencyError
        If matplotlib is not installed.
    InvalidParameterError
        If there is no such criterion, or the selection has no values of it.
    """
    name = selection.criterion if criterion is None else criterion
    if name not in CRITERIA:
        known = ", ".join(repr(one) for one in CRITERIA)
        raise InvalidParameterError(f"criterion={name!r} is not known; use one of {known}")
    if np.isnan(getattr(selection.best_row, name)):
        raise InvalidParameterError(
            f"the selection has no {name!r}, since no rows were held out; select with "
            f"criterion={name!r}"
        )
    require_matplotlib()
    axes = axes_for(ax)
    for family in dict.fromkeys(row.covariance_type for row in selection.table):
        rows = [row for row in selection.table if row.covariance_type == family]
        values = [getattr(row, name) for row in rows]
        axes.plot([row.n_components for row in rows], values, marker="o", label=family)
    best = selection.best_row
    circle = {"marker": "o", "ms": 14, "mfc": "none", "mec": "black", "linestyle": "none"}
    axes.plot(best.n_components, getattr(best, name), label="best", **circle)
    better = "higher" if CRITERIA[name] > 0 else "lower"
    axes.set(xlabel="components", ylabel=f"{name} ({better} is better)")
    plain_ticks(axes, whole=True)
    axes.legend()
    return axes
