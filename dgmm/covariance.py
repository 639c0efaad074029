"""The six covariance families: three shapes, each per component or tied to one for all.

This is the only module in which the name of a family is compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dgmm.errors import InvalidParameterError
from dgmm.shapes import DIAGONAL, MATRIX, SCALAR, CovarianceShape

__all__ = ["CovarianceFamily", "family_names", "family_of"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class CovarianceFamily:
    """A shape, and whether all components share one covariance.

    Parameters
    ----------
    name : str
        One of ``full, diag, spherical, tied_full, tied_diag, tied_spherical``.
    shape : CovarianceShape
    is_tied : bool
    """

    name: str
    shape: CovarianceShape
    is_tied: bool

    @property
    def sklearn_name(self) -> str | None:
        """The name in ``sklearn.mixture``; None where it has no such family."""
        return _SKLEARN_NAMES.get(self.name)

    def covariances_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        """Shape of the array ``covariances_``."""
        trailing = self.shape.trailing(n_features)
        return trailing if self.is_tied else (n_components, *trailing)

    def n_parameters(self, n_components: int, n_features: int) -> int:
        """Free parameters of the covariances."""
        return self.shape.n_free(n_features) * (1 if self.is_tied else n_components)

    def per_component(self, values: Array, n_components: int) -> Array:
        """Covariances or factors with a component axis, as a view, whether tied or not."""
        values = np.asarray(values)
        return np.broadcast_to(values, (n_components, *values.shape)) if self.is_tied else values

    def precisions_cholesky(self, factors: Array) -> Array:
        """scikit-learn's ``precisions_cholesky_``: upper triangular C with P = C Cᵀ."""
        inverse = self.shape.invert(factors)
        return np.swapaxes(inverse, -1, -2) if self.shape.uses_whitening() else inverse

    def covariances_from_precisions(self, precisions: Array) -> Array:
        """Covariances from precisions in the stored shape; NaN where not positive definite."""
        shape = self.shape
        # P = L Lᵀ, so Σ = L⁻ᵀ L⁻¹, which is what precision() makes of a whitener L⁻¹.
        return shape.precision(shape.invert(shape.factorise(precisions)))


_FAMILIES = {
    family.name: family
    for family in (
        CovarianceFamily("full", MATRIX, False),
        CovarianceFamily("diag", DIAGONAL, False),
        CovarianceFamily("spherical", SCALAR, False),
        CovarianceFamily("tied_full", MATRIX, True),
        CovarianceFamily("tied_diag", DIAGONAL, True),
        CovarianceFamily("tied_spherical", SCALAR, True),
    )
}
_ALIASES = {"tied": "tied_full"}
_SKLEARN_NAMES = {
    "full": "full",
    "diag": "diag",
    "spherical": "spherical",
    "tied_full": "tied",
}


def family_names() -> tuple[str, ...]:
    """The names of the families, without aliases."""
    return tuple(_FAMILIES)


def family_of(name: str) -> CovarianceFamily:
    """The family of a name; ``"tied"`` is another name of ``"tied_full"``.

    Raises
    ------
    InvalidParameterError
        If there is no such family.
    """
    try:
        family = _FAMILIES.get(_ALIASES.get(name, name))
    except TypeError:
        # Not hashable, so not a string either.
        family = None
    if family is None:
        known = ", ".join(repr(one) for one in (*_FAMILIES, *_ALIASES))
        raise InvalidParameterError(f"covariance_type={name!r} is not known; use one of {known}")
    return family
