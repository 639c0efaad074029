"""What all plots share: matplotlib where it is installed, axes, colours, checks of arguments."""

from __future__ import annotations

from typing import Any

import numpy as np

from dgmm.errors import InvalidParameterError, MissingDependencyError

__all__ = [
    "axes_for",
    "check_count",
    "colours",
    "name_components",
    "plain_ticks",
    "require_matplotlib",
]

# Beyond, colours are told apart no more.
_MOST_NAMED = 20

Array = np.ndarray[Any, Any]


def require_matplotlib() -> Any:
    """``matplotlib.pyplot``.

    Raises
    ------
    MissingDependencyError
        If matplotlib is not installed.
    """
    try:
        from matplotlib import pyplot as plt
    except ImportError as error:
        raise MissingDependencyError(
            "plots need matplotlib, which is not installed: pip install 'dgmm[plot]'"
        ) from error
    return plt


def axes_for(ax: Any) -> Any:
    """The axes that were given, or those of a new figure.

    Raises
    ------
    InvalidParameterError
        If what was given is no axes.
    """
    plt = require_matplotlib()
    if ax is None:
        return plt.subplots(layout="constrained")[1]
    if not isinstance(ax, plt.Axes):
        raise InvalidParameterError(
            f"ax={ax!r}; it must be one matplotlib.axes.Axes, as plt.subplots() makes them, or None"
        )
    return ax


def colours(n_components: int) -> Array:
    """A colour for each component, the same in every plot: RGBA, shape (n_components, 4)."""
    from matplotlib import colormaps

    for name, most in (("tab10", 10), ("tab20", 20)):
        if n_components <= most:
            return np.asarray(colormaps[name](np.arange(n_components)))
    return np.asarray(colormaps["turbo"](np.linspace(0.02, 0.98, n_components)))


def name_components(axes: Any, handles: Any = None, title: str | None = None) -> None:
    """A legend beside the axes, where there are few enough components to tell apart."""
    handles = axes.get_legend_handles_labels()[0] if handles is None else handles
    if 0 < len(handles) <= _MOST_NAMED:
        place = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}
        axes.legend(handles=handles, title=title, frameon=False, **place)


def plain_ticks(axes: Any, *, whole: bool = False) -> None:
    """Numbers in full along both axes, not as differences from one; whole ones along x."""
    from matplotlib.ticker import MaxNLocator

    axes.ticklabel_format(useOffset=False)
    axes.ticklabel_format(axis="y", style="plain")
    if whole:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def check_count(value: Any, name: str, least: int) -> int:
    """An integer of at least ``least``, or InvalidParameterError."""
    is_integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not is_integer or value < least:
        raise InvalidParameterError(f"{name}={value!r}; it must be an integer of at least {least}")
    return int(value)
