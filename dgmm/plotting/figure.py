"""What all plots share: matplotlib where it is installed, axes, colours, checks of arguments."""

from __future__ import annotations

from typing import Any

import numpy as np

from dgmm.errors import InvalidParameterError, MissingDependencyError

__all__ = ["axes_for", "check_count", "colours", "require_matplotlib"]

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
    """The axes that were given, or those of a new figure."""
    return require_matplotlib().subplots(layout="constrained")[1] if ax is None else ax


def colours(n_components: int) -> Array:
    """A colour for each component, the same in every plot: RGBA, shape (n_components, 4)."""
    from matplotlib import colormaps

    for name, most in (("tab10", 10), ("tab20", 20)):
        if n_components <= most:
            return np.asarray(colormaps[name](np.arange(n_components)))
    return np.asarray(colormaps["turbo"](np.linspace(0.02, 0.98, n_components)))


def check_count(value: Any, name: str, least: int) -> int:
    """An integer of at least ``least``, or InvalidParameterError."""
    is_integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not is_integer or value < least:
        raise InvalidParameterError(f"{name}={value!r}; it must be an integer of at least {least}")
    return int(value)
