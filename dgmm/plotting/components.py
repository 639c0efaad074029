"""Components as ellipses over the rows, and contours of the density."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import chdtri

from dgmm.errors import InvalidParameterError
from dgmm.plotting.figure import (
    axes_for,
    check_count,
    colours,
    name_components,
    require_matplotlib,
)
from dgmm.plotting.plane import Plane, mixture_of, plane_of
from dgmm.plotting.rows import Drawn, sampled_rows

__all__ = ["plot_components", "plot_density"]

Array = np.ndarray[Any, Any]

# Standard deviations about the means that a density is drawn for.
_REACH = 3.5


def plot_components(
    model: Any,
    X: Any = None,
    *,
    features: Any = None,
    confidence: float | Sequence[float] = (0.5, 0.95),
    background: str = "hexbin",
    bins: int = 60,
    sample_weight: Any = None,
    subsample: int = 50_000,
    random_state: Any = 0,
    ax: Any = None,
) -> Any:
    """The components as ellipses, over the density of the rows.

    An ellipse is that of the component's marginal distribution of the two features, and holds the
    stated share of it; a cross is its mean. A component of weight zero is not drawn.

    Parameters
    ----------
    model : GaussianMixture or Mixture
        Fitted.
    X : array-like, Dask array, Zarr array, path or URL, or Dataset, optional
        Rows of all features, of which a sample is shown. Read once, on the model's engine. None:
        the ellipses alone.
    features : (int, int) or (str, str), optional
        Indices or names of two features. Not needed if there are two.
    confidence : float or sequence of float, default=(0.5, 0.95)
        Shares of a component inside its ellipses, between 0 and 1.
    background : {"hexbin", "hist"}, default="hexbin"
        How many of the sampled rows fall into hexagons, or into rectangles.
    bins : int, default=60
        Of these, across.
    sample_weight : optional
        As in :meth:`dgmm.GaussianMixture.fit`.
    subsample : int, default=50_000
        Most rows to show, drawn without replacement (by weight where there are weights).
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

    Examples
    --------
    >>> import numpy as np, dgmm
    >>> x = np.concatenate([np.random.default_rng(0).normal(c, 1, (500, 2)) for c in (-5, 5)])
    >>> ax = dgmm.GaussianMixture(2, random_state=0).fit(x).plot_components(x)
    >>> len(ax.patches)
    4
    """
    plane = plane_of(mixture_of(model), features)
    radii = [float(np.sqrt(chdtri(2, 1.0 - share))) for share in _shares(confidence)]
    if background not in _BACKGROUNDS:
        known = ", ".join(repr(name) for name in _BACKGROUNDS)
        raise InvalidParameterError(f"background={background!r} is not known; use one of {known}")
    check_count(bins, "bins", 1)
    require_matplotlib()
    drawn = None
    if X is not None:
        drawn = sampled_rows(
            model,
            X,
            sample_weight=sample_weight,
            subsample=subsample,
            random_state=random_state,
            columns=plane.features,
        )
    axes = axes_for(ax)
    if drawn is not None:
        _BACKGROUNDS[background](axes, drawn, bins)
    _draw_ellipses(axes, plane, radii)
    shares = ", ".join(f"{100 * share:g}%" for share in _shares(confidence))
    name_components(axes, title=f"ellipses: {shares}" if radii else None)
    plane.label(axes)
    return axes


def plot_density(
    model: Any,
    *,
    features: Any = None,
    levels: int | Sequence[float] = 10,
    filled: bool = False,
    resolution: int = 150,
    ax: Any = None,
) -> Any:
    """Contours of the density of two features, the others integrated out.

    Parameters
    ----------
    model : GaussianMixture or Mixture
        Fitted.
    features : (int, int) or (str, str), optional
        Indices or names of two features. Not needed if there are two.
    levels : int or sequence of float, default=10
        About how many contours, or the densities that they are at, increasing, in units of one
        over the product of the features' units.
    filled : bool, default=False
    resolution : int, default=150
        Points of the grid along each axis, at which the density is evaluated.
    ax : matplotlib.axes.Axes, optional
        Where to draw: within its limits if it shows something already, such as
        :func:`plot_components`; otherwise as far as the components reach.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    MissingDependencyError
        If matplotlib is not installed.
    NotFittedError, InvalidParameterError
        Naming what is wrong, and what to do.
    """
    plane = plane_of(mixture_of(model), features)
    check_count(resolution, "resolution", 2)
    _check_levels(levels)
    require_matplotlib()
    shown = None if ax is None or not ax.has_data() else (ax.get_xlim(), ax.get_ylim())
    horizontal, vertical = shown or _extent(plane)
    x = np.linspace(horizontal[0], horizontal[1], resolution)
    y = np.linspace(vertical[0], vertical[1], resolution)
    points = np.stack(np.meshgrid(x, y), axis=-1)
    density = np.exp(plane.mixture.log_prob(points.reshape(-1, 2))).reshape(points.shape[:-1])
    if not density.any():
        raise InvalidParameterError(
            "the density is zero all over what the axes show; give axes whose limits the "
            "components lie within, or none"
        )
    axes = axes_for(ax)
    draw = axes.contourf if filled else axes.contour
    drawn = draw(x, y, density, levels=levels, cmap="viridis")
    if ax is None:
        # Axes of the caller's keep their size.
        axes.figure.colorbar(drawn, ax=axes, label="density")
    plane.label(axes)
    return axes


def _shares(confidence: Any) -> list[float]:
    given = confidence if np.iterable(confidence) and not isinstance(confidence, str) else None
    shares = list([confidence] if given is None else given)
    if not shares:
        raise InvalidParameterError(
            "confidence is empty; name a share strictly between 0 and 1 for each ellipse, or draw "
            "with plot_density what needs none"
        )
    for share in shares:
        is_real = isinstance(share, float | int | np.floating | np.integer)
        if not is_real or isinstance(share, bool) or not 0.0 < share < 1.0:
            raise InvalidParameterError(
                f"confidence={confidence!r}; a share lies strictly between 0 and 1"
            )
    return [float(share) for share in shares]


def _check_levels(levels: Any) -> None:
    if not np.iterable(levels):
        check_count(levels, "levels", 1)
        return
    try:
        given = np.asarray(levels, dtype=np.float64)
    except (TypeError, ValueError):
        given = np.array([])
    rising = given.ndim == 1 and bool(np.all(np.isfinite(given)) and np.all(np.diff(given) > 0))
    if not given.size or not rising:
        raise InvalidParameterError(
            f"levels={levels!r}; it must be a number of contours, or densities that increase"
        )


def _draw_hexagons(axes: Any, drawn: Drawn, bins: int) -> None:
    # Without C it counts.
    style = {"mincnt": 1, "cmap": "Greys", "zorder": 0}
    axes.hexbin(*drawn.x.T, C=drawn.shares, reduce_C_function=np.sum, gridsize=bins, **style)


def _draw_rectangles(axes: Any, drawn: Drawn, bins: int) -> None:
    axes.hist2d(*drawn.x.T, bins=bins, weights=drawn.shares, cmap="Greys", zorder=0)


_BACKGROUNDS = {"hexbin": _draw_hexagons, "hist": _draw_rectangles}


def _draw_ellipses(axes: Any, plane: Plane, radii: Sequence[float]) -> None:
    from matplotlib.patches import Ellipse

    mixture = plane.mixture
    for k, colour in enumerate(colours(mixture.n_components)):
        if not mixture.weights[k]:
            continue
        # Ascending, so that the axis along the last eigenvector is the long one.
        values, vectors = np.linalg.eigh(plane.covariances[k])
        angle = float(np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1])))
        for radius in radii:
            height, width = 2.0 * radius * np.sqrt(values)
            ellipse = Ellipse(mixture.means[k], width, height, angle=angle)
            ellipse.set(facecolor="none", edgecolor=colour, linewidth=1.5)
            axes.add_patch(ellipse)
        axes.plot(*mixture.means[k], "x", color=colour, mew=2, label=f"component {k}")
    axes.autoscale_view()


def _extent(plane: Plane) -> tuple[tuple[float, float], tuple[float, float]]:
    """Where the components with any weight reach to, along both axes."""
    live = plane.mixture.weights > 0
    means = plane.mixture.means[live]
    reach = _REACH * np.sqrt(np.diagonal(plane.covariances, axis1=1, axis2=2))[live]
    least, most = (means - reach).min(axis=0), (means + reach).max(axis=0)
    return (float(least[0]), float(most[0])), (float(least[1]), float(most[1]))
