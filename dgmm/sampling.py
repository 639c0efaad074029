"""Drawing rows from a mixture: all of it, one component, or a range of Mahalanobis distances.

A range is drawn from directly. In the whitened coordinates of a component, the direction of a row
is uniform on the sphere and its distance from the mean follows the χ distribution, so a row of a
range is a direction times a distance from the truncated χ distribution, by its inverse.

Rows come in pieces whose size follows from the number of features alone, each with a seed of its
own: the same seed gives the same rows in memory and streamed, whatever the chunks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import gammainc, gammaincc, gammainccinv, gammaincinv

from dgmm.errors import InvalidParameterError, MemoryLimitError
from dgmm.sizes import format_bytes

if TYPE_CHECKING:
    from dgmm.mixture import Mixture

__all__ = ["Draw", "check_draw", "draw", "pieces", "sample_rows"]

Array = np.ndarray[Any, Any]

# Standard deviations whose squares are finite, with digits to spare.
_FARTHEST = 1e150

# Rows of a piece take at most so many bytes. Part of what a seed means: do not change.
_PIECE_BYTES = 2**23
_MOST_ROWS = 2**16
# Below this a probability in float64 has lost digits, or is zero.
_TINY = 1e-280


@dataclass(frozen=True)
class Draw:
    """Which rows of a mixture are wanted.

    Parameters
    ----------
    component : int, optional
        None: all, by their weights.
    shell : tuple of float, optional
        The least and the greatest Mahalanobis distance from the mean of a row's component.
    """

    component: int | None = None
    shell: tuple[float, float] | None = None


_ANY = Draw()


def check_draw(mixture: Mixture, component: Any, confidence: Any, std_range: Any) -> Draw:
    """Checked arguments of :meth:`dgmm.Mixture.sample`.

    Raises
    ------
    InvalidParameterError
        If the component is unknown, the confidence outside (0, 1), the range not one, both
        confidence and range are given, or a covariance is not positive definite.
    """
    if mixture.singular_components:
        raise InvalidParameterError(
            f"the covariance of component {mixture.singular_components[0]} is not positive "
            "definite, so it cannot be sampled"
        )
    if confidence is not None and std_range is not None:
        raise InvalidParameterError("confidence and std_range are both given; give one of them")
    if component is not None:
        component = _checked_component(component, mixture.n_components)
    if confidence is not None:
        return Draw(component, _confidence_shell(confidence, mixture.n_features))
    return Draw(component, None if std_range is None else _checked_range(std_range))


def draw(
    mixture: Mixture,
    n_samples: int,
    seed: np.random.SeedSequence,
    wanted: Draw = _ANY,
) -> tuple[Array, Array]:
    """Rows of a mixture, grouped by component as scikit-learn does.

    Parameters
    ----------
    mixture : Mixture
    n_samples : int
    seed : numpy.random.SeedSequence
    wanted : Draw

    Returns
    -------
    x : array of shape (n_samples, n_features), float64
    labels : array of shape (n_samples,), int64
        The component that each row was drawn from.
    """
    generator = np.random.default_rng(seed)
    labels = _labels(mixture, n_samples, generator, wanted.component)
    x = generator.standard_normal((n_samples, mixture.n_features))
    if wanted.shell is not None:
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        x *= _radii(generator.random(n_samples), mixture.n_features, *wanted.shell)[:, None]
    factors = mixture.family.per_component(mixture.factors, mixture.n_components)
    for k in np.unique(labels):
        rows = slice(*np.searchsorted(labels, [k, k + 1]))
        x[rows] = mixture.means[k] + mixture.family.shape.times(factors[k], x[rows])
    return x, labels


def pieces(
    mixture: Mixture, n_samples: int, seed: np.random.SeedSequence, wanted: Draw
) -> Iterator[tuple[Array, Array]]:
    """Rows and their components, piece after piece."""
    size = _piece_rows(mixture.n_features)
    for index, start in enumerate(range(0, n_samples, size)):
        # What spawn(n)[index] gives, without keeping n seeds.
        own = np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, index))
        yield draw(mixture, min(size, n_samples - start), own, wanted)


def sample_rows(
    mixture: Mixture,
    n_samples: Any,
    seed: np.random.SeedSequence,
    wanted: Draw,
    *,
    out: Any = None,
    dtype: str = "float64",
    limit: int | None = None,
) -> tuple[Any, Any]:
    """Rows and their components, in memory or streamed; see :meth:`dgmm.Mixture.sample`.

    ``limit`` is of the bytes of both in memory.
    """
    if isinstance(n_samples, bool) or not isinstance(n_samples, int | np.integer) or n_samples < 1:
        raise InvalidParameterError(
            f"Invalid value for 'n_samples': {n_samples} . The sampling requires at least "
            "one sample."
        )
    source = pieces(mixture, int(n_samples), seed, wanted)
    shape = (int(n_samples), mixture.n_features)
    if out is not None:
        return _streamed(source, shape, dtype, out)
    needed = shape[0] * (shape[1] * np.dtype(dtype).itemsize + 8)
    if limit is not None and needed > limit:
        raise MemoryLimitError(
            f"memory_limit is {format_bytes(limit)}, and {shape[0]} rows with their components "
            f"take {format_bytes(needed)}; raise it, or pass out= to stream them into a Zarr array"
        )
    try:
        x, labels, stop = np.empty(shape, dtype), np.empty(shape[0], np.int64), 0
    except (MemoryError, ValueError) as error:
        raise MemoryLimitError(
            f"{shape[0]} rows of {shape[1]} features do not fit in memory; pass out= to stream "
            "them into a Zarr array"
        ) from error
    for part, own in source:
        start, stop = stop, stop + len(part)
        x[start:stop], labels[start:stop] = part, own
    return x, labels


def _streamed(
    source: Iterator[tuple[Array, Array]], shape: tuple[int, int], dtype: str, out: Any
) -> tuple[Any, Any]:
    """Rows, and labels where there is a place for them, in Zarr arrays."""
    from contextlib import ExitStack

    from dgmm.data.sink import open_sink

    if isinstance(out, tuple) and len(out) != 2:
        raise InvalidParameterError(
            f"out is a tuple of {len(out)}; give a place for the rows, or a pair, for rows and "
            "labels"
        )
    rows_out, labels_out = out if isinstance(out, tuple) else (out, None)
    with ExitStack() as stack:
        rows = stack.enter_context(open_sink(rows_out, shape, dtype))
        labels = None
        if labels_out is not None:
            labels = stack.enter_context(open_sink(labels_out, shape[:1], "int64"))
        for part, own in source:
            rows.write(part.astype(dtype))
            if labels is not None:
                labels.write(own)
    return rows.array, None if labels is None else labels.array


def _piece_rows(n_features: int) -> int:
    return max(1, min(_MOST_ROWS, _PIECE_BYTES // (8 * n_features)))


def _labels(
    mixture: Mixture, n_samples: int, generator: np.random.Generator, component: int | None
) -> Array:
    if component is not None:
        return np.full(n_samples, component, dtype=np.int64)
    counts = generator.multinomial(n_samples, mixture.weights / mixture.weights.sum())
    return np.repeat(np.arange(mixture.n_components, dtype=np.int64), counts)


# ----------------------------------------------------------------------- the truncated distance


def _radii(uniform: Array, d: int, least: float, greatest: float) -> Array:
    """Distances from the χ distribution of ``d`` degrees, truncated: the inverse of its CDF.

    The squared distance is twice a Gamma(d/2) variable. The tail in which the range lies is the one
    that is inverted: its probability keeps its digits where the other's is 1 to rounding.
    """
    half, low, high = 0.5 * d, 0.5 * least**2, 0.5 * greatest**2
    upper = gammaincc(half, low) < 0.5
    distribution, inverse = (gammaincc, gammainccinv) if upper else (gammainc, gammaincinv)
    first, last = distribution(half, low), distribution(half, high)
    if abs(last - first) < _TINY:
        return _far_radii(uniform, d, least, greatest)
    squares = 2.0 * inverse(half, first + uniform * (last - first))
    return np.clip(np.sqrt(squares), least, greatest)


def _far_radii(uniform: Array, d: int, least: float, greatest: float) -> Array:
    """The same where the whole range is so improbable that float64 has no number for it.

    The log density g(r) = (d − 1) log r − r²/2 is concave and falls from the end of the range that
    is nearest to its mode; 40 / |g'| further on, what is left is below float64's resolution. That
    stretch is tabulated, and its cumulated trapezoids are inverted.
    """
    mode = np.sqrt(d - 1.0)
    end = float(np.clip(mode, least, greatest))
    if end == 0.0:  # One feature and a range of next to nothing at its mode: flat.
        return uniform * greatest
    slope = abs((d - 1.0) / end - end)
    reach = min(greatest - least, 40.0 / slope if slope > 0 else np.inf)
    r = np.linspace(end, end + reach if end < greatest else end - reach, 8193)
    steps = 0.5 * (np.square(r) - end**2)
    density = np.exp((d - 1.0) * np.log(np.maximum(r, np.finfo(float).tiny) / end) - steps)
    cumulated = np.concatenate([[0.0], np.cumsum(0.5 * (density[1:] + density[:-1]))])
    return np.clip(np.interp(uniform * cumulated[-1], cumulated, r), least, greatest)


# ------------------------------------------------------------------------------------ arguments


def _checked_component(component: Any, n_components: int) -> int:
    is_integer = isinstance(component, int | np.integer) and not isinstance(component, bool)
    if not is_integer or not 0 <= component < n_components:
        raise InvalidParameterError(
            f"component={component!r}; it must be an integer from 0 to {n_components - 1}"
        )
    return int(component)


def _confidence_shell(confidence: Any, n_features: int) -> tuple[float, float]:
    if not isinstance(confidence, float | int | np.floating) or not 0.0 < confidence < 1.0:
        raise InvalidParameterError(
            f"confidence={confidence!r}; it must be a number between 0 and 1, both excluded"
        )
    return 0.0, float(np.sqrt(2.0 * gammaincinv(0.5 * n_features, confidence)))


def _checked_range(std_range: Any) -> tuple[float, float]:
    try:
        bounds = list(std_range)
        least, greatest = (float(bound) for bound in bounds)
    except (TypeError, ValueError):
        bounds, least, greatest = [], np.nan, np.nan
    if isinstance(std_range, str | bytes) or any(isinstance(one, str) for one in bounds):
        least = np.nan
    if not (0.0 <= least < greatest and least < _FARTHEST):
        raise InvalidParameterError(
            f"std_range={std_range!r}; it must be (a, b) with 0 <= a < b, in standard deviations; "
            f"a less than {_FARTHEST:g}, b may be infinite"
        )
    return least, greatest if greatest < _FARTHEST else np.inf
