"""How a covariance is stored: as a matrix, as a diagonal, as one number.

A shape knows how its covariances are factored, which features their densities are linear in, and
how second moments become a covariance. Shapes are stateless; the families
(:mod:`dgmm.covariance`) combine them with tying.

Notation: ``R`` is the factor of a covariance in the coordinates of the frame (Σ = R Rᵀ there),
``W`` its inverse, ``P = Wᵀ W`` the precision. Leading axes are components; tied families have none.
"""

from __future__ import annotations

from dgmm.shapes.base import CovarianceShape
from dgmm.shapes.elementwise import DIAGONAL, SCALAR
from dgmm.shapes.matrix import MATRIX

__all__ = ["DIAGONAL", "MATRIX", "SCALAR", "CovarianceShape"]
