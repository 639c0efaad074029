"""A Gaussian mixture as a value: weights, means, covariances, frozen and validated once.

Everything that follows from the parameters alone lives here: factors, precisions, the number of
free parameters, and the coefficients in which the log joint density is linear in a row's features.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from dgmm.covariance import CovarianceFamily, family_of
from dgmm.dispatch import host_float64
from dgmm.distribution import Distribution
from dgmm.errors import InvalidParameterError
from dgmm.features import Layout
from dgmm.frame import Frame

__all__ = ["Mixture", "density_coefficients", "frame_of", "whitened_frame"]

Array = np.ndarray[Any, Any]
_LOG_2PI = float(np.log(2.0 * np.pi))


@dataclass(frozen=True, eq=False)
class InFrame:
    """A mixture in the coordinates of a shared frame; the notation is that of :mod:`dgmm.shapes`.

    Parameters
    ----------
    frame : Frame
    factors, whitener, precision : array
        R, W and P in the stored shape, without a component axis in tied families.
    means : array of shape (n_components, n_features)
    """

    frame: Frame
    factors: Array
    whitener: Array
    precision: Array
    means: Array


def _in_frame(mixture: Mixture, frame: Frame) -> InFrame:
    shape = mixture.family.shape
    factors = shape.to_frame(mixture.factors, frame)
    whitener = shape.invert(factors)
    means = frame.points_to_frame(mixture.means)
    return InFrame(frame, factors, whitener, shape.precision(whitener), means)


@dataclass(frozen=True, eq=False)
class Mixture(Distribution):
    """Parameters of a Gaussian mixture, in the units of the data, as float64.

    What can be asked of it as a distribution is in :class:`~dgmm.distribution.Distribution`.

    Parameters
    ----------
    weights : array of shape (n_components,)
        Mixing proportions, non-negative, summing to one.
    means : array of shape (n_components, n_features)
    covariances : array
        (K, D, D) full, (K, D) diag, (K,) spherical, (D, D) tied_full, (D,) tied_diag,
        () tied_spherical.
    covariance_type : str, default="full"
    feature_names : sequence of str, optional
        By which features can be named in place of their indices.

    Raises
    ------
    InvalidParameterError
        If shapes disagree, or values are not finite or weights not proportions. Covariances that
        are not positive definite are accepted here and listed by :attr:`singular_components`.
    """

    weights: Array
    means: Array
    covariances: Array
    covariance_type: str = "full"
    feature_names: Sequence[str] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "covariance_type", self.family.name)
        for name in ("weights", "means", "covariances"):
            value = _real_array(name, getattr(self, name))
            value.setflags(write=False)
            object.__setattr__(self, name, value)
        if self.feature_names is not None:
            if isinstance(self.feature_names, str) or not isinstance(self.feature_names, Iterable):
                raise InvalidParameterError(
                    f"feature_names={self.feature_names!r}; it must be a list of names"
                )
            names = tuple(str(name) for name in self.feature_names)
            object.__setattr__(self, "feature_names", names)
        self._check()

    def __repr__(self) -> str:
        return (
            f"<Mixture of {self.n_components} components ({self.covariance_type}) in "
            f"{self.n_features} features>"
        )

    def _check(self) -> None:
        if self.means.ndim != 2 or not self.means.size:
            raise InvalidParameterError(
                f"means have shape {self.means.shape}, not (K, D) with a component and a feature "
                "at least"
            )
        expected = {
            "weights": (self.n_components,),
            "covariances": self.family.covariances_shape(*self.means.shape),
        }
        for name, shape in expected.items():
            value = getattr(self, name)
            if value.shape != shape:
                raise InvalidParameterError(
                    f"{name} have shape {value.shape}; {self.n_components} components of "
                    f"{self.n_features} features ({self.covariance_type}) need {shape}"
                )
        if self.feature_names is not None and len(self.feature_names) != self.n_features:
            raise InvalidParameterError(
                f"{len(self.feature_names)} feature names for {self.n_features} features"
            )
        for name in self.feature_names or ():
            if self.feature_names.count(name) > 1:  # type: ignore[union-attr]
                raise InvalidParameterError(
                    f"feature_names has {name!r} more than once: it would stand for several"
                )
        if not np.all(np.isfinite(self.means)):
            raise InvalidParameterError("means hold values that are not finite")
        total = float(self.weights.sum())
        if not (np.all(self.weights >= 0) and abs(total - 1.0) < 1e-6):
            raise InvalidParameterError(
                f"weights must be non-negative and sum to 1; they sum to {total!r} "
                f"and the least is {self.weights.min()!r}"
            )

    @cached_property
    def family(self) -> CovarianceFamily:
        return family_of(self.covariance_type)

    @property
    def n_components(self) -> int:
        return int(self.means.shape[0])

    @property
    def n_features(self) -> int:
        return int(self.means.shape[1])

    @property
    def n_parameters(self) -> int:
        """Free parameters: weights, means and covariances."""
        covariances = self.family.n_parameters(self.n_components, self.n_features)
        return covariances + self.means.size + self.n_components - 1

    @cached_property
    def factors(self) -> Array:
        """Cholesky factors (or standard deviations) in the stored shape, NaN where singular."""
        return self.family.shape.factorise(self.covariances)

    @cached_property
    def whiteners(self) -> Array:
        """W: inverses of the factors, in the stored shape."""
        return self.family.shape.invert(self.factors)

    @cached_property
    def singular_components(self) -> tuple[int, ...]:
        """Components whose covariance is not positive definite."""
        factors = self.family.per_component(self.factors, self.n_components)
        bad = ~np.isfinite(factors).reshape(self.n_components, -1).all(axis=1)
        return tuple(int(k) for k in np.flatnonzero(bad))

    @cached_property
    def log_normalizers(self) -> Array:
        """Log densities at the means, −½ log det 2πΣ_k: shape (n_components,)."""
        factors = self.family.per_component(self.factors, self.n_components)
        half_log_det = self.family.shape.half_log_det(factors, self.n_features)
        return np.asarray(-0.5 * self.n_features * _LOG_2PI - half_log_det)

    @cached_property
    def log_weights(self) -> Array:
        """Logarithms of the weights, −inf for a weight of zero."""
        with np.errstate(divide="ignore"):
            return np.log(self.weights)

    def of_components(self, kept: Array) -> Mixture:
        """The mixture of some components, whose weights then sum to one.

        Parameters
        ----------
        kept : array of int
            Of positive weight together.
        """
        weights = self.weights[kept]
        covariances = self.covariances
        return replace(
            self,
            weights=weights / weights.sum(),
            means=self.means[kept],
            covariances=covariances if self.family.is_tied else covariances[kept],
        )

    def in_frame(self, frame: Frame) -> InFrame:
        """Factors, whiteners, precisions and means in the coordinates of a shared frame.

        Kept for the frames it was asked for last, since the guard, the coefficients and the
        correction for rounding ask one after the other.
        """
        kept: dict[int, InFrame] = self.__dict__.setdefault("_in_frame", {})
        found = kept.get(id(frame))
        if found is None or found.frame is not frame:
            while len(kept) > 1:
                kept.pop(next(iter(kept)))
            found = kept[id(frame)] = _in_frame(self, frame)
        return found

    def __getstate__(self) -> dict[str, Any]:
        """The parameters alone: what follows from them is not worth sending."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

    @property
    def peak_log_density(self) -> float:
        """max_k −½ log det 2πΣ_k: no row's log density can exceed it."""
        return float(np.max(self.log_normalizers))


def _real_array(name: str, values: Any) -> Array:
    try:
        return host_float64(values).copy()
    except (TypeError, ValueError) as error:
        raise InvalidParameterError(f"{name} are no array of real numbers: {error}") from error


def density_coefficients(mixture: Mixture, frame: Frame, *, quadratic: bool = True) -> Array:
    """Θ: the log joint density of component k is ``Θ[k] · φ(z)``.

    Parameters
    ----------
    mixture : Mixture
    frame : Frame
        Shared by all components.
    quadratic : bool, default=True
        False leaves out −½ zᵀ P z, which in a tied family is the same for all components.

    Returns
    -------
    array of shape (n_components, n_coefficients), float64
        In the order of :class:`~dgmm.features.Layout`. A weight of zero gives a constant of −inf.
    """
    shape, k = mixture.family.shape, mixture.n_components
    layout = Layout(mixture.n_features)
    there = mixture.in_frame(frame)
    precision = mixture.family.per_component(there.precision, k)
    whitener = mixture.family.per_component(there.whitener, k)
    linear = shape.times(precision, there.means)
    white_means = shape.times(whitener, there.means)
    constant = mixture.log_weights + mixture.log_normalizers - 0.5 * np.sum(white_means**2, axis=1)
    columns = [constant[:, None], linear]
    if quadratic:
        columns.append(shape.quadratic_coefficients(precision, layout))
    return np.concatenate(columns, axis=1)


def frame_of(mixture: Mixture, kind: Literal["float32", "float64"]) -> Frame:
    """A frame for evaluating a mixture on rows that have no profile.

    Its origin is the mixture's mean; in float32, shapes that a whitening conditions better are
    whitened by the mixture's total covariance.
    """
    origin = (mixture.weights @ mixture.means).astype(kind).astype(np.float64)
    if kind == "float64" or not mixture.family.shape.uses_whitening():
        return Frame(origin)
    offsets = mixture.means - origin
    covariances = mixture.family.per_component(mixture.covariances, mixture.n_components)
    dense = mixture.family.shape.dense(covariances, mixture.n_features)
    total = np.einsum("k,kij->ij", mixture.weights, dense)
    total = total + np.einsum("k,ki,kj->ij", mixture.weights, offsets, offsets)
    return whitened_frame(origin, total)


def whitened_frame(origin: Array, covariance: Array) -> Frame:
    """The float32 frame of data with this covariance.

    The factor only chooses coordinates, so a covariance that is singular is made definite by a
    ridge far below what float32 resolves: no result but its rounding depends on that.
    """
    scale = float(np.max(np.diagonal(covariance), initial=0.0)) or 1.0
    ridge = 1e-12 * scale * np.eye(covariance.shape[0])
    for _ in range(8):
        try:
            return Frame(origin, np.linalg.cholesky(covariance + ridge))
        except np.linalg.LinAlgError:
            ridge = ridge * 10.0
    return Frame(origin)
