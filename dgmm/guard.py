"""Which kernel may evaluate a mixture without losing too many digits.

The feature kernel's log-densities lose digits to cancellation in proportion to
``κ² = max_k Σ_ij |P_ij| (σ_i σ_j + |m_i| |m_j|)`` in the coordinates of the frame, where m is a
component's mean, σ its standard deviations and P its precision: the measured error of a row is 0.2
to 5 times u·κ². Past a limit the next safer kernel takes over. Once the first
iterations are over, whose covariances come from a few sampled rows, a mixture never goes back, so
that two kernels' roundings do not alternate.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np

from dgmm.devices import has_fast_float64
from dgmm.frame import Frame
from dgmm.mixture import Mixture
from dgmm.shapes import CovarianceShape

__all__ = ["Frames", "Level", "condition", "first_level", "safe_level"]


class Level(IntEnum):
    """Kernels, from the fastest to the safest."""

    FLOAT32 = 0
    FLOAT64 = 1
    CENTRED = 2

    @property
    def dtype(self) -> str:
        return "float32" if self is Level.FLOAT32 else "float64"


_LIMITS = {Level.FLOAT32: 4e3, Level.FLOAT64: 1e8}

# A tied family without its quadratic term owes tr(P T), which is computed in float64 in the units
# of the data whatever the kernel is, and loses digits by κ² there: measured, 5e-17 κ² nats a row.
_TRACE_LIMIT = 1e9

# Standard deviations below it have precisions that float32 cannot hold with their products.
_LEAST_SPREAD = 1e-15


@dataclass(frozen=True)
class Frames:
    """The frames of a fit.

    Parameters
    ----------
    plain : Frame
        The origin alone.
    whitened : Frame
        For float32 products of families whose features mix.
    float32_fits : bool, default=True
        False if the squares of the data would overflow float32.
    """

    plain: Frame
    whitened: Frame
    float32_fits: bool = True

    def at(self, level: Level, shape: CovarianceShape) -> Frame:
        """The frame of the feature kernel at a level."""
        return self.whitened if level is Level.FLOAT32 and shape.uses_whitening() else self.plain


def condition(mixture: Mixture, frame: Frame, *, quadratic: bool = True) -> float:
    """κ² of a mixture in a frame; without the quadratic term, of its linear part alone."""
    shape, k = mixture.family.shape, mixture.n_components
    there = mixture.in_frame(frame)
    precision = mixture.family.per_component(there.precision, k)
    if quadratic:
        factors = mixture.family.per_component(there.factors, k)
        return float(np.max(shape.condition(precision, factors, there.means)))
    spread = shape.spread(there.factors, mixture.n_features)
    reach = np.max(np.abs(there.means), axis=0) + spread
    return float(np.max(np.abs(shape.times(precision, there.means)) @ reach))


def first_level(dtype: np.dtype[Any], wanted: str | None, device: str = "cpu") -> Level:
    """The fastest kernel that the stored dtype, or the caller, or a GPU's arithmetic asks for."""
    if wanted is not None:
        return Level.FLOAT32 if wanted == "float32" else Level.FLOAT64
    if device.startswith("cuda"):
        return Level.FLOAT64 if has_fast_float64(device) else Level.FLOAT32
    narrow = dtype.kind == "f" and dtype.itemsize <= 4
    return Level.FLOAT32 if narrow else Level.FLOAT64


def safe_level(mixture: Mixture, frames: Frames, least: Level, *, quadratic: bool = True) -> Level:
    """The fastest kernel, not below ``least``, that the mixture's conditioning allows."""
    if not quadratic and condition(mixture, frames.plain) > _TRACE_LIMIT:
        return Level.CENTRED
    for level in (Level.FLOAT32, Level.FLOAT64):
        frame = frames.at(level, mixture.family.shape)
        if level < least or (level is Level.FLOAT32 and not _fits_float32(mixture, frames, frame)):
            continue
        if condition(mixture, frame, quadratic=quadratic) <= _LIMITS[level]:
            return level
    return Level.CENTRED


def _fits_float32(mixture: Mixture, frames: Frames, frame: Frame) -> bool:
    """True if neither the squares of the rows nor the precisions leave float32's range."""
    shape = mixture.family.shape
    spread = shape.spread(mixture.in_frame(frame).factors, mixture.n_features)
    return frames.float32_fits and float(np.min(spread)) > _LEAST_SPREAD
