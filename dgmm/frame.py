"""The coordinates that a pass computes in: an origin and, where it helps, a whitening.

``x = origin + factor · z``. Sums of squares about a far origin cancel, and ill-conditioned data
lose their small directions in float32; in the frame's coordinates neither happens. A frame is
either shared by all components or has one origin and factor per component (then ``z`` is what the
centred kernel computes), and sufficient statistics always carry the frame that they are in.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.linalg.lapack import dtrtri

__all__ = ["Frame", "invert_lower"]


@dataclass(frozen=True, eq=False)
class Frame:
    """Origin and scale of the coordinates ``z = factor⁻¹ (x − origin)``.

    Parameters
    ----------
    origin : array of shape (n_features,) or (n_components, n_features), float64
    factor : array, optional
        None for the identity; one axis like ``origin`` for a scale per feature; one axis more for
        lower-triangular matrices.
    """

    origin: np.ndarray[Any, Any]
    factor: np.ndarray[Any, Any] | None = None

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Frame) or (self.factor is None) != (other.factor is None):
            return False
        return np.array_equal(self.origin, other.origin) and (
            self.factor is None or np.array_equal(self.factor, other.factor)  # type: ignore[arg-type]
        )

    def __hash__(self) -> int:
        return hash((self.origin.tobytes(), None if self.factor is None else self.factor.tobytes()))

    def __getstate__(self) -> dict[str, Any]:
        """Origin and factor alone: the inverse is not worth sending."""
        return {"origin": self.origin, "factor": self.factor}

    @property
    def n_features(self) -> int:
        return int(self.origin.shape[-1])

    @property
    def is_per_component(self) -> bool:
        """True if every component has an origin of its own."""
        return self.origin.ndim == 2

    @property
    def is_matrix(self) -> bool:
        """True if the factor is a matrix, which mixes features."""
        return self.factor is not None and self.factor.ndim == self.origin.ndim + 1

    @cached_property
    def inverse(self) -> np.ndarray[Any, Any]:
        """The whitening A = factor⁻¹, of the factor's shape; needs a factor."""
        assert self.factor is not None
        return invert_lower(self.factor) if self.is_matrix else 1.0 / self.factor

    def points_to_frame(self, points: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Coordinates of points (..., n_features), one per component if the frame is."""
        centred = points - self.origin
        if self.factor is None:
            return centred
        if self.is_matrix:
            return np.einsum("...ij,...j->...i", self.inverse, centred)
        return centred * self.inverse

    def points_from_frame(self, points: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Inverse of :meth:`points_to_frame`."""
        if self.factor is None:
            return self.origin + points
        if self.is_matrix:
            return self.origin + np.einsum("...ij,...j->...i", self.factor, points)
        return self.origin + self.factor * points


def invert_lower(factor: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Inverses of lower-triangular matrices (..., D, D), zero above the diagonal; NaN of NaN."""
    flat = factor.reshape(-1, *factor.shape[-2:])
    inverses = np.empty_like(flat)
    for one, inverse in zip(flat, inverses, strict=True):
        # Without the checks of scipy.linalg, which for a few features take longer than LAPACK. The
        # transpose of a lower triangle in C order is an upper one as LAPACK stores it.
        found, info = dtrtri(one.T, lower=0)
        if info:
            raise np.linalg.LinAlgError(f"the diagonal is zero at {info - 1}")
        inverse[...] = found.T
    return inverses.reshape(factor.shape)
