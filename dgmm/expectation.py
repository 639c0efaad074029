"""The E-step as tasks for an engine: statistics of a batch of mixtures, or values row by row.

A :class:`BatchPass` evaluates every mixture of a batch on every row once and gives one
:class:`~dgmm.statistics.SufficientStatistics` for each. A :class:`RowPass` gives what is wanted of
each row (densities, responsibilities, labels) for one mixture. Both drive the same kernels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dgmm.arrays import make_current, to_host
from dgmm.backend import Backend, backend_of
from dgmm.data.dataset import Rows
from dgmm.errors import InvalidDataError
from dgmm.features import Layout
from dgmm.fused import Step, fused_bytes, fused_workspace
from dgmm.guard import Frames, Level
from dgmm.kernels import CentredKernel, FeatureKernel, Kernel, Member
from dgmm.mixture import Mixture
from dgmm.placement import Placed
from dgmm.posterior import Expectation, PosteriorPolicy
from dgmm.scalars import bad_row, first_bad
from dgmm.statistics import BatchStatistics, SufficientStatistics
from dgmm.tiled import Tiled, values_of

__all__ = ["MOST_STACKED", "BatchPass", "RowPass", "plan_batch"]

Array = np.ndarray[Any, Any]

# Mixtures are stacked into one product up to this many components; beyond it the responsibilities
# of a tile would push its features out of the cache.
MOST_STACKED = 1024

# Nor beyond so many bytes of sums: a stack is the least that a pass can be asked for, and a batch
# that is too large for the memory limit is split between stacks.
_MOST_STACKED_BYTES = 16 * 2**20

# Measured on processors: with 64 features 4 components in all, with 128 features 8 and more are
# faster without products of features.
_LEAST_NARROW, _FEATURES_PER_COMPONENT = 64, 16


def plan_batch(
    mixtures: Sequence[Mixture],
    levels: Sequence[Level],
    frames: Frames,
    *,
    quadratic: bool = True,
    device: str | None = None,
) -> tuple[Kernel, ...]:
    """Kernels for a batch: mixtures that share a frame and a dtype share one.

    Parameters
    ----------
    mixtures : sequence of Mixture
    levels : sequence of Level
        Which kernel each mixture needs (:func:`dgmm.guard.safe_level`).
    frames : Frames
    quadratic : bool, default=True
        False lets tied families go without their quadratic term.
    device : str, optional
        On a processor, few components of many features go without products of features.
    """
    direct = device is not None and not device.startswith("cuda") and _is_narrow(mixtures)
    shared: dict[tuple[Level, bool], list[tuple[Member, Mixture]]] = {}
    kernels: list[Kernel] = []
    for index, (mixture, level) in enumerate(zip(mixtures, levels, strict=True)):
        needs_all = quadratic or not mixture.family.is_tied
        member = Member.of(index, mixture, quadratic=needs_all)
        if direct or level is Level.CENTRED:
            kernels.append(CentredKernel.build(member, mixture))
        else:
            whitened = frames.at(level, mixture.family.shape) is frames.whitened
            shared.setdefault((level, whitened), []).append((member, mixture))
    for (level, whitened), members in sorted(shared.items()):
        frame = frames.whitened if whitened else frames.plain
        for group in _stacks(members):
            kernels.append(FeatureKernel.build(group, frame, level.dtype))
    return tuple(kernels)


def _is_narrow(mixtures: Sequence[Mixture]) -> bool:
    """True if whitening rows for each component is less than making D (D + 1) / 2 features."""
    d, size = mixtures[0].n_features, sum(one.n_components for one in mixtures)
    layout = Layout(d)
    return d >= max(_LEAST_NARROW, _FEATURES_PER_COMPONENT * size) and all(
        one.family.shape.block(layout) == layout.full and not one.family.is_tied for one in mixtures
    )


def _stacks(members: list[tuple[Member, Mixture]]) -> Iterator[list[tuple[Member, Mixture]]]:
    stack: list[tuple[Member, Mixture]] = []
    size = nbytes = 0
    for member, mixture in members:
        features = mixture.family.shape.block(Layout(mixture.n_features))
        more = 8 * member.n_components * features
        full = size + member.n_components > MOST_STACKED or nbytes + more > _MOST_STACKED_BYTES
        if stack and full:
            yield stack
            stack, size, nbytes = [], 0, 0
        stack.append((member, mixture))
        size += member.n_components
        nbytes += more
    yield stack


@dataclass(frozen=True)
class BatchPass(Placed):
    """Statistics of every mixture of a batch (a task for :meth:`dgmm.engine.base.Session.run`).

    Parameters
    ----------
    kernels : tuple of Kernel
        From :func:`plan_batch`.
    policy : PosteriorPolicy
    device : str, default="cpu"
    policies : tuple of PosteriorPolicy, optional
        One for each mixture of the batch, where they differ; ``policy`` is then not used.
    """

    kernels: tuple[Kernel, ...]
    policy: PosteriorPolicy = field(default_factory=Expectation)
    device: str = "cpu"
    policies: tuple[PosteriorPolicy, ...] = ()

    @property
    def library_bytes(self) -> int:
        return backend_of(self.device).library_bytes

    @property
    def buffer_bytes(self) -> int:
        backend = backend_of(self.device)
        own = sum(
            max(
                kernel.workspace_bytes(backend),
                fused_bytes(kernel, self._policies_of(kernel), backend),
            )
            for kernel in self.kernels
        )
        # Rows of weight zero are left out of a copy of the tile; policies hold a few numbers a row,
        # and to find its likeliest component, NumPy copies the densities of all.
        copies = (
            8 * kernel.tile_rows(backend) * (kernel.frame.n_features + 6 + self._searched(kernel))
            for kernel in self.kernels
        )
        return own + max(copies, default=0)

    def _searched(self, kernel: Kernel) -> int:
        plain = all(isinstance(one, Expectation) for one in self._policies_of(kernel))
        return 0 if plain else max(member.n_components for member in kernel.members)

    @property
    def result_bytes(self) -> int:
        sums = sum(array.nbytes for kernel in self.kernels for array in kernel.zeros(np))
        frames = [kernel.frame for kernel in self.kernels if kernel.frame.factor is not None]
        return sums + sum(frame.factor.nbytes for frame in frames if frame.factor is not None)

    @property
    def n_slices(self) -> int:
        """A kernel is never cut: its products have the bits that they have with all its members."""
        return len(self.kernels)

    def slices(self, n: int) -> tuple[BatchPass, ...]:
        """At most ``n`` tasks with some of the kernels each, of about the same work."""
        costs = [sum(sums.size for sums in kernel.zeros(np)) for kernel in self.kernels]
        load, chosen = [0] * n, [list[int]() for _ in range(n)]
        for i in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
            least = load.index(min(load))
            load[least] += costs[i]
            chosen[least].append(i)
        return tuple(
            replace(self, kernels=tuple(self.kernels[i] for i in sorted(some)))
            for some in chosen
            if some
        )

    def join(self, slices: Sequence[BatchPass], values: Sequence[Any]) -> Any:
        """The value of this task from those of its slices: anything that lists ``members``."""
        found: dict[int, Any] = {}
        for one, value in zip(slices, values, strict=True):
            found |= zip(one.indices, value.members, strict=True)
        return replace(values[0], members=tuple(found[index] for index in sorted(found)))

    @property
    def indices(self) -> list[int]:
        """Places in the batch of the mixtures that are evaluated, in the order of their results."""
        return sorted(member.index for kernel in self.kernels for member in kernel.members)

    def workspace(self) -> list[Step]:
        make_current(self.device)
        backend = backend_of(self.device)
        return [self._step_of(kernel, backend) for kernel in self.kernels]

    def _step_of(self, kernel: Kernel, backend: Backend) -> Step:
        policies = self._policies_of(kernel)
        return fused_workspace(kernel, policies, backend) or Tiled(kernel, policies, backend)

    def _policies_of(self, kernel: Kernel) -> list[PosteriorPolicy]:
        return [
            self.policies[one.index] if self.policies else self.policy for one in kernel.members
        ]

    def evaluate(self, rows: Rows, workspace: list[Step]) -> BatchStatistics:
        make_current(self.device)
        rows = _placed(rows, backend_of(self.device))
        found: dict[int, SufficientStatistics] = {}
        for step in workspace:
            for member, statistics in step.evaluate(rows):
                found[member.index] = statistics
        return BatchStatistics(tuple(found[index] for index in sorted(found)))

    def finish(
        self,
        statistics: BatchStatistics,
        mixtures: Sequence[Mixture],
        totals: Sequence[Array | None],
    ) -> BatchStatistics:
        """Statistics of all rows, with what only their sum can tell.

        Parameters
        ----------
        statistics : BatchStatistics
            Merged over all rows.
        mixtures : sequence of Mixture
            The batch.
        totals : sequence of array or None
            For each mixture, the scatter of all rows about the frame's origin, in the stored shape
            of its family; used where a tied family went without its quadratic term.
        """
        done = list(statistics.members)
        for kernel in self.kernels:
            for position, member in enumerate(kernel.members):
                one, mixture = done[member.index], mixtures[member.index]
                shift = _rounding(kernel, position, mixture, one)
                if not member.quadratic and isinstance(kernel, FeatureKernel):
                    total = totals[member.index]
                    assert total is not None
                    one = replace(one, total=total, peak=-np.inf)
                    shift += _tied_quadratic(mixture, total)
                done[member.index] = replace(one, log_likelihood=one.log_likelihood + shift)
        return BatchStatistics(tuple(done))


def _rounding(
    kernel: Kernel, position: int, mixture: Mixture, statistics: SufficientStatistics
) -> float:
    """What rounding Θ to float32 took from the log-likelihood: Σ_k ⟨θ_k − fl32(θ_k), S_k⟩."""
    if not isinstance(kernel, FeatureKernel) or kernel.dtype == "float64":
        return 0.0
    exact = kernel.members[position].coefficients(mixture, kernel.frame)
    live = mixture.weights > 0
    lost = exact[live] - exact[live].astype(kernel.dtype)
    return float(np.sum(lost * statistics.moments[live]))


def _tied_quadratic(mixture: Mixture, total: Array) -> float:
    """Σ w (−½ zᵀ P z) over all rows, from their scatter about the origin."""
    shape = mixture.family.shape
    precision = shape.precision(shape.invert(mixture.factors))
    return -0.5 * float(shape.trace_product(precision, total))


@dataclass(frozen=True)
class RowPass(Placed):
    """Values of every row for one mixture (a task for :meth:`dgmm.engine.base.Session.stream`).

    Parameters
    ----------
    kernel : Kernel
        With one member, quadratic term included.
    output : {"log_density", "outlier_score", "responsibilities", "labels"}
        Shapes (n,), (n,), (n, n_components), (n,); the second is minus the first.
    dtype : str
        Of the values; labels are int64 whatever it says.
    device : str, default="cpu"
    fallback : Kernel, optional
        For tiles in which a row has no finite density by the first kernel: rows so far out that
        their squares leave float32's range.
    """

    kernel: Kernel
    output: str
    dtype: str
    device: str = "cpu"
    fallback: Kernel | None = None

    @property
    def library_bytes(self) -> int:
        return backend_of(self.device).library_bytes

    @property
    def buffer_bytes(self) -> int:
        backend = backend_of(self.device)
        # The fallback's buffers are there beside the others, as long as it takes.
        used = [self.kernel] if self.fallback is None else [self.kernel, self.fallback]
        # Of a tile with bad rows, or one that has to come from a device, there is a copy; to find
        # the likeliest component, NumPy copies the densities of all.
        searched = self.kernel.members[0].n_components if self.output == "labels" else 0
        per_row = self.kernel.frame.n_features + 2 + searched
        copies = 8 * self.kernel.tile_rows(backend) * per_row
        return sum(kernel.workspace_bytes(backend) for kernel in used) + copies

    @property
    def result_bytes(self) -> int:
        return 0

    @property
    def value_shape(self) -> tuple[int, ...]:
        """Shape of one row's value."""
        k = self.kernel.members[0].n_components
        return (k,) if self.output == "responsibilities" else ()

    @property
    def value_bytes_per_row(self) -> int:
        """Bytes of one row's value: what a stream cuts its pieces by."""
        return int(np.prod(self.value_shape, dtype=np.int64)) * self.value_dtype.itemsize

    @property
    def least_dtype(self) -> np.dtype[Any] | None:
        """The narrowest that holds every label, −1 included; None for other values."""
        k = self.kernel.members[0].n_components
        return np.min_scalar_type(-max(k, 1)) if self.output == "labels" else None

    @property
    def value_dtype(self) -> np.dtype[Any]:
        return np.dtype("int64" if self.output == "labels" else self.dtype)

    def workspace(self) -> Any:
        make_current(self.device)
        return self.kernel.workspace(backend_of(self.device))

    def evaluate(self, rows: Rows, workspace: Any) -> Array:
        """Values of the rows, in their order: NaN, or the label -1, for those that are skipped."""
        make_current(self.device)
        backend = backend_of(self.device)
        values = np.empty((rows.n_rows, *self.value_shape), self.value_dtype)
        rows = _placed(rows, backend)
        for tile in rows.tiles(self.kernel.tile_rows(backend)):
            start = tile.first_row - rows.first_row
            bad = np.zeros(tile.n_rows, bool) if tile.bad is None else tile.bad
            out = values[start : start + tile.n_rows]
            if not np.all(bad):
                with np.errstate(over="ignore"):
                    # A log density below float32's range is −inf in float32.
                    out[...] = self._tile_values(_without_bad(tile), workspace, backend)
            out[bad] = -1 if self.output == "labels" else np.nan
        return values

    def _tile_values(self, tile: Rows, workspace: Any, backend: Backend) -> Array:
        tile = replace(tile, x=values_of(tile, backend))
        try:
            return to_host(self._values(self.kernel, tile, workspace, backend))
        except InvalidDataError:
            return self._safe_values(tile, backend)

    def _safe_values(self, tile: Rows, backend: Backend) -> Array:
        kernel = self.kernel if self.fallback is None else self.fallback
        workspace = kernel.workspace(backend)
        pieces = tile.tiles(kernel.tile_rows(backend))
        return np.concatenate(
            [to_host(self._values(kernel, one, workspace, backend)) for one in pieces]
        )

    def _values(self, kernel: Kernel, tile: Rows, workspace: Any, backend: Backend) -> Any:
        """Values of a tile no larger than the kernel's, whose densities must be finite."""
        with np.errstate(all="ignore"):
            (joint,) = kernel.log_joint(tile.x, workspace, backend)
            labels = joint.argmax(axis=0) if self.output == "labels" else None
            posterior = Expectation()(joint, tile, backend)
        if not np.isfinite(float(posterior.log_density.sum(dtype=np.float64))):
            raise bad_row(tile, first_bad(posterior.log_density))
        if labels is not None:
            return labels
        if self.value_shape:
            return joint.T
        density = posterior.log_density.astype(np.float64) + self.kernel.members[0].log_offset
        return -density if self.output == "outlier_score" else density


def _without_bad(rows: Rows) -> Rows:
    """The rows, with the values of another in the place of each bad one."""
    if rows.bad is None or not np.any(rows.bad):
        return rows
    good = np.where(rows.bad, 0, np.arange(rows.n_rows))
    source = np.maximum(np.maximum.accumulate(good), int(np.argmin(rows.bad)))
    return Rows(rows.x[source], rows.first_row)


def _placed(rows: Rows, backend: Backend) -> Rows:
    """The rows on the backend's device; on processors where they are."""
    if backend.xp is np:
        return rows
    # NumPy's widest numbers are none of a device's.
    x = rows.x.astype(np.float64) if rows.x.dtype.itemsize > 8 else rows.x
    return replace(rows, x=backend.xp.asarray(x))
