"""How sure a mixture is of the components of rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from dgmm.errors import InvalidParameterError
from dgmm.plotting.figure import axes_for, colours, name_components, require_matplotlib
from dgmm.plotting.plane import Plane, mixture_of, plane_of
from dgmm.plotting.rows import sampled_rows

__all__ = ["plot_responsibilities"]

Array = np.ndarray[Any, Any]


def plot_responsibilities(
    model: Any,
    X: Any,
    *,
    kind: str = "bars",
    features: Any = None,
    sample_weight: Any = None,
    subsample: int = 1_000,
    random_state: Any = 0,
    ax: Any = None,
) -> Any:
    """The responsibilities of the components for a sample of rows.

    As bars (the structure plot of population genetics), every row is a bar of height one, divided
    among the components: rows of the same likeliest component stand together, the surest first, so
    that overlap shows as mixed bars at the end of a group. As points, rows lie at the values of two
    features, and their colours are those of the components in the proportions of the
    responsibilities.

    Parameters
    ----------
    model : GaussianMixture or Mixture
        Fitted. Responsibilities are those of all its features, whichever are shown.
    X : array-like, Dask array, Zarr array, path or URL, or Dataset
        Rows of all features, of which a sample is shown. Read once, on the model's engine.
    kind : {"bars", "points"}, default="bars"
    features : (int, int) or (str, str), optional
        For points: indices or names of two features. Not needed if there are two.
    sample_weight : optional
        As in :meth:`dgmm.GaussianMixture.fit`; rows are then drawn by weight.
    subsample : int, default=1_000
        Most rows to show, drawn without replacement.
    random_state : int, RandomState or Generator, default=0
        Of the sample.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    MissingDependencyError
        If matplotlib is not installed.
    NotFittedError, InvalidParameterError, InvalidDataError, InvalidDtypeError, SourceError
        Naming what is wrong, where, and what to do.
    """
    mixture = mixture_of(model)
    if kind not in ("bars", "points"):
        raise InvalidParameterError(f"kind={kind!r} is not known; use 'bars' or 'points'")
    if kind == "bars" and features is not None:
        raise InvalidParameterError("bars show no features: pass kind='points', or no features")
    plane = plane_of(mixture, features) if kind == "points" else None
    require_matplotlib()
    drawn = sampled_rows(
        model, X, sample_weight=sample_weight, subsample=subsample, random_state=random_state
    )
    posterior = mixture.responsibilities(drawn.x)
    axes = axes_for(ax)
    if plane is None:
        _draw_bars(axes, posterior)
    else:
        _draw_points(axes, plane, drawn.x, posterior)
    return axes


def sorted_rows(posterior: Array) -> Array:
    """Rows by their likeliest component and, within one, by how sure that is."""
    label = posterior.argmax(axis=1)
    return np.lexsort((-posterior.max(axis=1), label))


def _draw_bars(axes: Any, posterior: Array) -> None:
    heights = np.cumsum(posterior[sorted_rows(posterior)], axis=1)
    n_rows, n_components = heights.shape
    edges, below = np.arange(n_rows + 1), np.zeros(n_rows)
    for k, colour in enumerate(colours(n_components)):
        axes.stairs(
            heights[:, k], edges, baseline=below, fill=True, color=colour, label=f"component {k}"
        )
        below = heights[:, k]
    name_components(axes)
    axes.set(xlim=(0, n_rows), ylim=(0, 1), ylabel="responsibility")
    axes.set(xlabel=f"{n_rows} rows, by likeliest component")


def _draw_points(axes: Any, plane: Plane, x: Array, posterior: Array) -> None:
    mixed = np.clip(posterior @ colours(posterior.shape[1]), 0.0, 1.0)
    from matplotlib.lines import Line2D

    axes.scatter(*x[:, list(plane.features)].T, c=mixed, s=8, linewidths=0)
    dots = [
        Line2D([], [], linestyle="none", marker="o", color=colour, label=f"component {k}")
        for k, colour in enumerate(colours(posterior.shape[1]))
    ]
    name_components(axes, dots)
    plane.label(axes)
