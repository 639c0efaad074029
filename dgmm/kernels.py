"""Tile kernels: log joint densities of a tile of rows, and weighted sums of its features.

Both kernels have one signature. The feature kernel evaluates many mixtures that share a frame by
two matrix products; the centred kernel evaluates one mixture about each component's own mean, at
about twice the price, where the feature kernel would lose too many digits (:mod:`dgmm.guard`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from types import ModuleType, SimpleNamespace
from typing import Any, Protocol

import numpy as np

from dgmm.backend import Backend
from dgmm.features import Layout
from dgmm.frame import Frame
from dgmm.mixture import Mixture, density_coefficients

__all__ = ["CentredKernel", "CoefficientBlock", "FeatureKernel", "Kernel", "Member"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Member:
    """One mixture of a batch, as a kernel sees it.

    Parameters
    ----------
    index : int
        Its place in the batch.
    n_components : int
    log_offset : float
        What a kernel's log joint densities are short of the mixture's. The normalising constants
        grow with the number of features and the units of the data, and no digit of a float32 sum
        should go to them.
    quadratic : bool
        False where a tied family goes without −½ zᵀ P z.
    """

    index: int
    n_components: int
    log_offset: float
    quadratic: bool = True

    @classmethod
    def of(cls, index: int, mixture: Mixture, *, quadratic: bool = True) -> Member:
        """The member that stands for a mixture."""
        return cls(index, mixture.n_components, mixture.peak_log_density, quadratic)

    def coefficients(self, mixture: Mixture, frame: Frame) -> Array:
        """Θ of the log joint densities less :attr:`log_offset`, in float64."""
        theta = density_coefficients(mixture, frame, quadratic=self.quadratic)
        theta[:, 0] -= self.log_offset
        return theta


class Kernel(Protocol):
    """Evaluates its members on one tile after another."""

    @property
    def members(self) -> tuple[Member, ...]:
        """The mixtures that it evaluates."""
        ...

    @property
    def frame(self) -> Frame:
        """The coordinates of the sums."""
        ...

    def tile_rows(self, backend: Backend) -> int:
        """Rows of a tile."""
        ...

    def workspace_bytes(self, backend: Backend) -> int:
        """Bytes of :meth:`workspace`."""
        ...

    def workspace(self, backend: Backend) -> SimpleNamespace:
        """Buffers for one thread."""
        ...

    def log_joint(self, x: Any, ws: SimpleNamespace, backend: Backend) -> list[Any]:
        """Log joint densities (K, n_rows) of each member on rows ``x``, in the workspace.

        Less the member's :attr:`Member.log_offset`.
        """
        ...

    def zeros(self, xp: ModuleType) -> list[Any]:
        """Accumulators (K, n_moments) in float64, one for each member."""
        ...

    def accumulate(self, weights: list[Any], sums: list[Any], ws: Any, backend: Backend) -> None:
        """Add the features of the rows that :meth:`log_joint` saw last, weighted, to ``sums``."""
        ...


@dataclass(frozen=True)
class CoefficientBlock:
    """Stacked coefficients of the members that use the same block of features.

    Parameters
    ----------
    theta : array of shape (n_stacked, n_coefficients)
        In the dtype of the products.
    members : tuple of int
        Positions in the kernel's members.
    """

    theta: Array
    members: tuple[int, ...]


@dataclass(frozen=True)
class FeatureKernel:
    """L = Θ Φ and S = a Φᵀ for mixtures that share a frame and a dtype.

    Parameters
    ----------
    frame : Frame
    dtype : str
        ``"float32"`` or ``"float64"``: of the features and products. Sums are merged in float64.
    members : tuple of Member
    blocks : tuple of CoefficientBlock
    """

    frame: Frame
    dtype: str
    members: tuple[Member, ...]
    blocks: tuple[CoefficientBlock, ...]

    @classmethod
    def build(
        cls, members: list[tuple[Member, Mixture]], frame: Frame, dtype: str
    ) -> FeatureKernel:
        """Group members by the features they use."""
        by_size: dict[int, list[tuple[int, Array]]] = {}
        for position, (member, mixture) in enumerate(members):
            theta = member.coefficients(mixture, frame)
            # Finite, or the product would multiply −inf by the zeros that BLAS pads its tiles with.
            theta[:, 0] = np.maximum(theta[:, 0], float(np.finfo(dtype).min) / 4)
            by_size.setdefault(theta.shape[1], []).append((position, theta))
        blocks = tuple(
            CoefficientBlock(
                np.concatenate([theta for _, theta in group]).astype(dtype),
                tuple(position for position, _ in group),
            )
            for _, group in sorted(by_size.items())
        )
        return cls(frame, dtype, tuple(member for member, _ in members), blocks)

    @cached_property
    def layout(self) -> Layout:
        return Layout(self.frame.n_features)

    @property
    def n_coefficients(self) -> int:
        return max(block.theta.shape[1] for block in self.blocks)

    @property
    def n_stacked(self) -> int:
        return sum(block.theta.shape[0] for block in self.blocks)

    @property
    def coefficients(self) -> list[Array]:
        """Θ (n_components, n_coefficients) of each member, in their order."""
        found: list[Any] = [None] * len(self.members)
        for block in self.blocks:
            start = 0
            for position in block.members:
                stop = start + self.members[position].n_components
                found[position], start = block.theta[start:stop], stop
        return found

    def tile_rows(self, backend: Backend) -> int:
        itemsize = np.dtype(self.dtype).itemsize
        return backend.tile_rows(self.n_coefficients + self.n_stacked, itemsize)

    def workspace_bytes(self, backend: Backend) -> int:
        rows, itemsize = self.tile_rows(backend), np.dtype(self.dtype).itemsize
        tile = (self.n_coefficients + self.n_stacked + 8) * rows * itemsize
        d = self.frame.n_features
        whitening = 16 * d * (rows + d) if self.frame.is_matrix else 0
        theta = sum(2 * block.theta.nbytes for block in self.blocks)
        # NumPy casts through buffers of its own where the stored dtype is another.
        return tile + whitening + theta

    def workspace(self, backend: Backend) -> SimpleNamespace:
        rows, xp = self.tile_rows(backend), backend.xp
        return SimpleNamespace(
            feature_values=backend.empty((self.n_coefficients * rows,), self.dtype),
            joint_values=backend.empty((self.n_stacked * rows,), self.dtype),
            theta=[xp.asarray(block.theta) for block in self.blocks],
            products=[self._product(block, backend) for block in self.blocks],
            origin=xp.asarray(self.frame.origin),
            whitening=xp.asarray(self.frame.inverse) if self.frame.is_matrix else None,
            n_rows=None,
        )

    def _set_rows(self, n_rows: int, ws: SimpleNamespace) -> None:
        """Lay the buffers out for a tile, which may be the last, shorter one, without gaps."""
        if ws.n_rows == n_rows:
            return
        ws.n_rows = n_rows
        shape = (self.n_coefficients, n_rows)
        ws.features = ws.feature_values[: shape[0] * n_rows].reshape(shape)
        ws.features[0] = 1.0
        shape = (self.n_stacked, n_rows)
        ws.log_joint = ws.joint_values[: shape[0] * n_rows].reshape(shape)

    def _product(self, block: CoefficientBlock, backend: Backend) -> Any:
        """A buffer for a Φᵀ of a tile: (K, F), kept as its transpose where BLAS is faster so."""
        n_stacked, size = block.theta.shape
        if backend.prefers_transposed(n_stacked, self.dtype):
            return backend.empty((size, n_stacked), self.dtype).T
        return backend.empty((n_stacked, size), self.dtype)

    def log_joint(self, x: Any, ws: SimpleNamespace, backend: Backend) -> list[Any]:
        self._load(x, ws, backend)
        results: list[Any] = [None] * len(self.members)
        start = 0
        for block, theta in zip(self.blocks, ws.theta, strict=True):
            stop = start + theta.shape[0]
            joint = ws.log_joint[start:stop]
            backend.xp.matmul(theta, ws.features[: theta.shape[1]], out=joint)
            offset = 0
            for position in block.members:
                size = self.members[position].n_components
                results[position] = joint[offset : offset + size]
                offset += size
            start = stop
        return results

    def _load(self, x: Any, ws: SimpleNamespace, backend: Backend) -> None:
        """Build the features of the rows, whitened in float64 whatever the products are in."""
        self._set_rows(x.shape[0], ws)
        z = ws.features[self.layout.means]
        if ws.whitening is not None:
            centred = backend.xp.subtract(x, ws.origin, dtype=np.float64)
            z[...] = backend.xp.matmul(ws.whitening, centred.T)
            backend.fill_features(ws.features, self.n_coefficients, self.layout)
        else:
            backend.load_features(x, ws.origin, ws.features, self.n_coefficients, self.layout)

    def zeros(self, xp: ModuleType) -> list[Any]:
        sizes = {p: block.theta.shape[1] for block in self.blocks for p in block.members}
        return [
            xp.zeros((member.n_components, sizes[position]))
            for position, member in enumerate(self.members)
        ]

    def accumulate(
        self, weights: list[Any], sums: list[Any], ws: SimpleNamespace, backend: Backend
    ) -> None:
        start = 0
        for theta, block, product in zip(ws.theta, self.blocks, ws.products, strict=True):
            stop = start + theta.shape[0]
            stacked, features = ws.log_joint[start:stop], ws.features[: theta.shape[1]]
            if product.flags.c_contiguous:
                backend.xp.matmul(stacked, features.T, out=product)
            else:
                backend.xp.matmul(features, stacked.T, out=product.T)
            offset = 0
            for position in block.members:
                size = sums[position].shape[0]
                sums[position] += product[offset : offset + size]
                offset += size
            start = stop


@dataclass(frozen=True)
class CentredKernel:
    """y = W_k (x − μ_k) for each component of one mixture, in float64.

    The sums are those of y: each component's own mean is the origin and its own factor the scale,
    so neither far components nor thin covariances cost digits.

    Parameters
    ----------
    member : Member
    frame : Frame
        The components' means and factors.
    constants : array of shape (n_components,)
        Log joint densities at the means, less the member's offset.
    n_moments : int
        Size of the leading block of features that is summed.
    """

    member: Member
    frame: Frame
    constants: Array
    n_moments: int

    @classmethod
    def build(cls, member: Member, mixture: Mixture) -> CentredKernel:
        """The kernel of a mixture."""
        family = mixture.family
        factors = family.per_component(mixture.factors, mixture.n_components)
        if factors.ndim == 1:
            factors = np.repeat(factors[:, None], mixture.n_features, axis=1)
        constants = mixture.log_weights + mixture.log_normalizers - member.log_offset
        n_moments = family.shape.block(Layout(mixture.n_features))
        return cls(member, Frame(mixture.means, np.array(factors)), constants, n_moments)

    @property
    def members(self) -> tuple[Member, ...]:
        return (self.member,)

    @cached_property
    def layout(self) -> Layout:
        return Layout(self.frame.n_features)

    @property
    def _has_pairs(self) -> bool:
        """True if products of two features are summed."""
        return self.n_moments == self.layout.full

    def tile_rows(self, backend: Backend) -> int:
        return backend.tile_rows(4 * self.frame.n_features + self.member.n_components, 8)

    def workspace_bytes(self, backend: Backend) -> int:
        d = self.frame.n_features
        tile = 8 * self.tile_rows(backend) * (4 * d + self.member.n_components + 8)
        products = 24 * d**2 if self._has_pairs else 0
        return tile + 2 * self.frame.inverse.nbytes + products

    def workspace(self, backend: Backend) -> SimpleNamespace:
        shape, xp = (self.frame.n_features, self.tile_rows(backend)), backend.xp
        return SimpleNamespace(
            means=xp.asarray(self.frame.origin),
            whitening=xp.asarray(self.frame.inverse),
            constants=self.constants,
            pairs=tuple(map(xp.asarray, self.layout.upper)) if self._has_pairs else (),
            joint_values=xp.empty(self.member.n_components * shape[1]),
            white=xp.empty(shape),
            weighted=xp.empty(shape),
            x=None,
        )

    def log_joint(self, x: Any, ws: SimpleNamespace, backend: Backend) -> list[Any]:
        ws.x = x
        shape = (self.member.n_components, x.shape[0])
        joint = ws.joint_values[: shape[0] * shape[1]].reshape(shape)
        for k in range(self.member.n_components):
            white = self._whiten(k, ws, backend)
            joint[k] = ws.constants[k] - 0.5 * backend.xp.einsum("db,db->b", white, white)
        return [joint]

    def _whiten(self, k: int, ws: SimpleNamespace, backend: Backend) -> Any:
        white, xp = ws.white[:, : ws.x.shape[0]], backend.xp
        centred = xp.subtract(ws.x, ws.means[k], dtype=np.float64)
        if self.frame.is_matrix:
            return xp.matmul(ws.whitening[k], centred.T, out=white)
        return xp.multiply(centred.T, ws.whitening[k][:, None], out=white)

    def zeros(self, xp: ModuleType) -> list[Any]:
        return [xp.zeros((self.member.n_components, self.n_moments))]

    def accumulate(
        self, weights: list[Any], sums: list[Any], ws: SimpleNamespace, backend: Backend
    ) -> None:
        (weight,), (out,) = weights, sums
        for k in range(weight.shape[0]):
            # Whitened again rather than kept: K·D numbers a row would not fit the cache.
            white = self._whiten(k, ws, backend)
            weighted = ws.weighted[:, : white.shape[1]]
            backend.xp.multiply(white, weight[k], out=weighted)
            out[k, 0] += weight[k].sum()
            out[k, self.layout.means] += weighted.sum(axis=1)
            self._add_squares(out[k], weighted, ws, backend)

    def _add_squares(self, out: Any, weighted: Any, ws: Any, backend: Backend) -> None:
        layout, size, xp = self.layout, self.n_moments, backend.xp
        white = ws.white[:, : weighted.shape[1]]
        if not self._has_pairs:
            squares = xp.einsum("db,db->d", weighted, white)
            out[layout.norm] += squares.sum()
            if size == layout.diagonal:
                out[layout.squares] += squares
            return
        product = xp.matmul(weighted, white.T)
        rows, columns = ws.pairs
        out[layout.norm] += xp.trace(product)
        out[layout.squares] += xp.diagonal(product)
        out[layout.pairs] += product[rows, columns]
