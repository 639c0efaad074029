"""Moving sufficient statistics from one frame to another, in float64.

With ``x = o + F z = o' + F' z'`` the new coordinates are ``z' = b + A z``, where ``A = F'⁻¹ F`` and
``b = F'⁻¹ (o − o')``. Then, for weights a_n that sum to n::

    Σ a z'    = n b + A s                                 with s = Σ a z
    Σ a z' z'ᵀ = A S Aᵀ + (A s) bᵀ + b (A s)ᵀ + n b bᵀ      with S = Σ a z zᵀ

of which diagonals and traces need less. Shifting the origin by many standard deviations costs
second moments digits for good, so statistics are moved seldom and towards their rows.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from dgmm.features import Layout, pack_symmetric, unpack_symmetric
from dgmm.frame import Frame
from dgmm.statistics import SufficientStatistics

__all__ = ["reframe"]

Array = np.ndarray[Any, Any]


def reframe(statistics: SufficientStatistics, frame: Frame) -> SufficientStatistics:
    """The same sums in the coordinates of another frame.

    Parameters
    ----------
    statistics : SufficientStatistics
        With second moments per component.
    frame : Frame
        Without matrices on either side unless the moments hold products of features, and with
        scales that are the same for all features if they hold norms alone.

    Returns
    -------
    SufficientStatistics
        Equal up to rounding to what the rows would have given in ``frame``.

    Raises
    ------
    ValueError
        If the second moments are those of all rows together (``total``), or are not enough for
        the change of coordinates.
    """
    if statistics.frame == frame:
        return statistics
    if statistics.total is not None:
        raise ValueError("statistics without second moments per component cannot be moved")
    layout, size = Layout(frame.n_features), statistics.moments.shape[1]
    _check_size(size, layout, statistics.frame, frame)
    k = len(statistics.moments)
    change = _change(statistics.frame, frame, k)
    counts = statistics.counts[:, None]
    shift = frame.points_to_frame(np.broadcast_to(statistics.frame.origin, (k, frame.n_features)))
    turned = _apply(change, statistics.sums)
    # What a second moment gains by the shift is the symmetric product of these two.
    gain = turned + 0.5 * counts * shift, shift
    second = _second_moments(statistics.moments, size, layout, change, gain)
    moments = np.concatenate([counts, turned + counts * shift, second], axis=1)
    return replace(statistics, moments=moments, frame=frame)


def _check_size(size: int, layout: Layout, old: Frame, new: Frame) -> None:
    if size < layout.scalar:
        raise ValueError("statistics without second moments cannot be moved")
    if size < layout.full and (old.is_matrix or new.is_matrix):
        raise ValueError("a frame that mixes features needs the products of features")


def _change(old: Frame, new: Frame, n_components: int) -> Array:
    """A = F'⁻¹ F of each component: scales (K, D) or, if either is a matrix, matrices (K, D, D)."""
    d = old.n_features
    if not (old.is_matrix or new.is_matrix):
        above = np.ones(d) if old.factor is None else old.factor
        below = np.ones(d) if new.factor is None else new.factor
        return np.broadcast_to(above / below, (n_components, d))
    above, below = _matrices(old), _matrices(new)
    return np.broadcast_to(np.linalg.solve(below, above), (n_components, d, d))


def _matrices(frame: Frame) -> Array:
    identity = np.eye(frame.n_features)
    if frame.factor is None:
        return identity
    return frame.factor if frame.is_matrix else frame.factor[..., :, None] * identity


def _apply(change: Array, vectors: Array) -> Array:
    return np.einsum("kij,kj->ki", change, vectors) if change.ndim == 3 else change * vectors


def _second_moments(
    moments: Array, size: int, layout: Layout, change: Array, gain: tuple[Array, Array]
) -> Array:
    """Packed ‖z'‖², z'_i², z'_i z'_j, as far as the block of ``size`` features goes."""
    half, shift = gain
    if size < layout.diagonal:
        norms = moments[:, layout.norm] * change[:, 0] ** 2
        return (norms + 2.0 * np.sum(half * shift, axis=1))[:, None]
    if size < layout.full:
        squares = moments[:, layout.squares] * change**2 + 2.0 * half * shift
        return np.concatenate([squares.sum(axis=1, keepdims=True), squares], axis=1)
    dense = unpack_symmetric(moments[:, layout.squares], moments[:, layout.pairs], layout)
    if change.ndim == 3:
        dense = change @ dense @ np.swapaxes(change, 1, 2)
    else:
        dense = dense * change[:, :, None] * change[:, None, :]
    crossed = half[:, :, None] * shift[:, None, :]
    squares, pairs = pack_symmetric(dense + crossed + np.swapaxes(crossed, 1, 2), layout)
    return np.concatenate([squares.sum(axis=1, keepdims=True), squares, pairs], axis=1)
