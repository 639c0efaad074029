"""What every covariance family must do: subclass :class:`FamilySuite` and say what the family is.

::

    class TestDiag(FamilySuite):
        covariance_type = "diag"

        def expand(self, covariances, n_components):
            return covariances[:, :, None] * np.eye(covariances.shape[1])

        def estimate(self, scatters, counts):
            return np.einsum("kii->ki", scatters) / counts[:, None]

The two methods are the textbook's definition of the family, in dense matrices; everything is
compared with an oracle that knows dense matrices alone and computes in extended precision. Needs
pytest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from dgmm.covariance import CovarianceFamily, family_of
from dgmm.data.dataset import Rows
from dgmm.expectation import BatchPass, RowPass, plan_batch
from dgmm.guard import Frames, Level
from dgmm.maximization import MaximizationOptions, maximize
from dgmm.mixture import Mixture, frame_of
from dgmm.statistics import SufficientStatistics

__all__ = [
    "FamilySuite",
    "evaluate",
    "frames_around",
    "oracle_log_joint",
    "oracle_responsibilities",
    "oracle_scatters",
    "row_values",
]

Array = np.ndarray[Any, Any]
_LEVELS = pytest.mark.parametrize("level", list(Level), ids=lambda level: level.name.lower())


# ------------------------------------------------------------------------------------ the oracle


def _cholesky(matrix: Array) -> Array:
    """Cholesky's factor in extended precision, which LAPACK does not have."""
    work = np.array(matrix, dtype=np.longdouble)
    for j in range(len(work)):
        work[j:, j] -= work[j:, :j] @ work[j, :j]
        work[j:, j] /= np.sqrt(work[j, j])
        work[j, j + 1 :] = 0
    return work


def oracle_log_joint(weights: Array, means: Array, covariances: Array, x: Array) -> Array:
    """log π_k N(x_n | μ_k, Σ_k) from dense covariances (K, D, D): (K, n), extended precision."""
    joint = np.empty((len(means), len(x)), dtype=np.longdouble)
    for k, covariance in enumerate(covariances):
        factor = _cholesky(covariance)
        white = (np.asarray(x, dtype=np.longdouble) - means[k]).T
        for i in range(len(factor)):
            white[i] = (white[i] - factor[i, :i] @ white[:i]) / factor[i, i]
        log_det = 2 * np.log(np.diagonal(factor)).sum()
        constant = log_det + len(factor) * np.log(2 * np.longdouble(np.pi))
        with np.errstate(divide="ignore"):
            joint[k] = np.log(weights[k]) - (constant + (white**2).sum(axis=0)) / 2
    return joint


def oracle_responsibilities(joint: Array) -> tuple[Array, Array]:
    """log p(x_n), shape (n,), and r_nk, shape (K, n), from log joint densities."""
    top = joint.max(axis=0)
    density = top + np.log(np.exp(joint - top).sum(axis=0))
    return density, np.exp(joint - density)


def oracle_scatters(responsibilities: Array, x: Array) -> tuple[Array, Array, Array]:
    """Counts (K,), means (K, D) and scatters about them (K, D, D)."""
    wide = np.asarray(x, dtype=np.longdouble)
    counts = responsibilities.sum(axis=1)
    means = responsibilities @ wide / counts[:, None]
    centred = [wide - mean for mean in means]
    scatters = [(c.T * r) @ c for c, r in zip(centred, responsibilities, strict=True)]
    return counts, means, np.array(scatters)


# ---------------------------------------------------------------------------- the code under test


def frames_around(mixture: Mixture) -> Frames:
    """The frames of rows of which nothing is known but the mixture."""
    return Frames(frame_of(mixture, "float64"), frame_of(mixture, "float32"))


def evaluate(
    mixtures: Sequence[Mixture],
    rows: Rows,
    levels: Sequence[Level],
    *,
    frames: Frames | None = None,
    quadratic: bool = True,
) -> list[SufficientStatistics]:
    """Finished statistics of a batch on rows in memory, by one task, as an engine would run it."""
    frames = frames_around(mixtures[0]) if frames is None else frames
    task = BatchPass(plan_batch(mixtures, levels, frames, quadratic=quadratic))
    merged = task.evaluate(rows, task.workspace())
    centred = np.asarray(rows.x, dtype=np.float64) - frames.plain.origin
    weighted = centred if rows.weight is None else centred * np.asarray(rows.weight)[:, None]
    total = centred.T @ weighted
    totals = [mixture.family.shape.project(total) for mixture in mixtures]
    return list(task.finish(merged, mixtures, totals).members)


def row_values(
    mixture: Mixture, x: Array, level: Level, output: str, frames: Frames | None = None
) -> Array:
    """Values of rows in memory by the kernel of a level, in float64 (labels: int64)."""
    frames = frames_around(mixture) if frames is None else frames
    (kernel,) = plan_batch([mixture], [level], frames)
    task = RowPass(kernel, output, "float64")
    return task.evaluate(Rows(x), task.workspace())


# --------------------------------------------------------------------------------------- the suite


class FamilySuite:
    """The conformance suite of a family.

    Attributes
    ----------
    covariance_type : str
        Name of the family.
    n_components, n_features, n_rows : int
        Size of the problems.
    """

    covariance_type: ClassVar[str]
    n_components: ClassVar[int] = 3
    n_features: ClassVar[int] = 4
    n_rows: ClassVar[int] = 700

    # Relative to 1 + |value|: float32 sums of n_rows rows keep about four digits of a scatter.
    tolerance: ClassVar[dict[Level, float]] = {
        Level.FLOAT32: 1e-4,
        Level.FLOAT64: 1e-11,
        Level.CENTRED: 1e-11,
    }

    def expand(self, covariances: Array, n_components: int) -> Array:
        """Dense covariances (K, D, D) from the stored array."""
        raise NotImplementedError

    def estimate(self, scatters: Array, counts: Array) -> Array:
        """The stored covariances that maximise the likelihood, from scatters about the means."""
        raise NotImplementedError

    # ------------------------------------------------------------------------------ the problems

    @property
    def family(self) -> CovarianceFamily:
        return family_of(self.covariance_type)

    def mixture(self, seed: int, *, offset: float = 0.0) -> Mixture:
        """A random mixture of overlapping components."""
        rng = np.random.default_rng(seed)
        k, d = self.n_components, self.n_features
        roots = rng.standard_normal((k, d, d + 2)) / np.sqrt(d)
        scatters = roots @ np.swapaxes(roots, 1, 2) + 0.3 * np.eye(d)
        covariances = self.estimate(scatters, np.ones(k))
        means = offset + 1.5 * rng.standard_normal((k, d))
        return Mixture(rng.dirichlet(np.full(k, 5.0)), means, covariances, self.covariance_type)

    def rows(self, seed: int, *, offset: float = 0.0, dtype: str = "float64") -> Array:
        """Rows that belong to no mixture in particular."""
        rng = np.random.default_rng([seed, 1])
        spread = 0.5 + rng.random(self.n_features)
        x = offset + 1.7 * spread * rng.standard_normal((self.n_rows, self.n_features))
        return x.astype(dtype)

    def problem(self, seed: int, level: Level, *, offset: float = 0.0) -> tuple[Mixture, Array]:
        """A mixture, and rows of the dtype that the level is for."""
        return self.mixture(seed, offset=offset), self.rows(seed, offset=offset, dtype=level.dtype)

    def oracle(self, mixture: Mixture, x: Array) -> tuple[Array, Array]:
        """Log densities and responsibilities."""
        dense = self.expand(mixture.covariances, mixture.n_components)
        return oracle_responsibilities(oracle_log_joint(mixture.weights, mixture.means, dense, x))

    def assert_same(self, ours: Any, truth: Any, level: Level, factor: float = 1.0) -> None:
        """Equal within the level's tolerance."""
        limit = factor * self.tolerance[level]
        assert_allclose(ours, np.asarray(truth, dtype=np.float64), rtol=limit, atol=limit)

    def assert_same_mixture(self, ours: Mixture, truth: Mixture, level: Level) -> None:
        """Weights, means and covariances equal within the level's tolerance."""
        for name in ("weights", "means", "covariances"):
            self.assert_same(getattr(ours, name), getattr(truth, name), level)

    # ---------------------------------------------------------------------------------- the E-step

    @_LEVELS
    def test_rows_have_the_oracles_values(self, level: Level) -> None:
        mixture, x = self.problem(1, level)
        density, responsibilities = self.oracle(mixture, x)
        self.assert_same(row_values(mixture, x, level, "log_density"), density, level)
        found = row_values(mixture, x, level, "responsibilities")
        self.assert_same(found.T, responsibilities, level)
        labels = row_values(mixture, x, level, "labels")
        chosen = np.take_along_axis(responsibilities, labels[None], axis=0)[0]
        assert np.all(chosen >= responsibilities.max(axis=0) - self.tolerance[level])

    @_LEVELS
    def test_statistics_are_the_oracles_sums(self, level: Level) -> None:
        mixture, x = self.problem(2, level)
        density, responsibilities = self.oracle(mixture, x)
        (found,) = evaluate([mixture], Rows(x), [level])
        self.assert_same(found.log_likelihood / len(x), density.mean(), level)
        self.assert_same(found.counts / len(x), responsibilities.mean(axis=1), level)
        self.assert_same(found.peak, density.max(), level)
        assignment = np.log(responsibilities.max(axis=0)).mean()
        self.assert_same(found.log_assignment / len(x), assignment, level)
        assert (found.n_rows, found.weight) == (len(x), len(x))

    # ---------------------------------------------------------------------------------- the M-step

    @_LEVELS
    @pytest.mark.parametrize("offset", [0.0, 300.0])
    def test_the_m_step_is_the_oracles(self, level: Level, offset: float) -> None:
        mixture, x = self.problem(3, level, offset=offset)
        counts, means, scatters = oracle_scatters(self.oracle(mixture, x)[1], x)
        (found,) = evaluate([mixture], Rows(x), [level])
        ours = maximize(found, self.family).mixture
        self.assert_same(ours.weights, counts / len(x), level)
        self.assert_same(ours.means, means, level)
        self.assert_same(ours.covariances, self.estimate(scatters, counts), level)

    @_LEVELS
    def test_without_its_quadratic_term_a_tied_family_gives_the_same(self, level: Level) -> None:
        mixture, x = self.problem(4, level)
        (general,) = evaluate([mixture], Rows(x), [level])
        (linear,) = evaluate([mixture], Rows(x), [level], quadratic=False)
        self.assert_same(linear.log_likelihood / len(x), general.log_likelihood / len(x), level)
        ours, truth = (maximize(one, self.family).mixture for one in (linear, general))
        self.assert_same_mixture(ours, truth, level)
        if self.family.is_tied and level is not Level.CENTRED:
            assert linear.moments.shape[1] == 1 + self.n_features

    @_LEVELS
    def test_reg_covar_is_added_to_the_diagonal(self, level: Level) -> None:
        mixture, x = self.problem(5, level)
        (found,) = evaluate([mixture], Rows(x), [level])
        plain = maximize(found, self.family).mixture.covariances
        more = maximize(found, self.family, MaximizationOptions(reg_covar=0.25)).mixture.covariances
        added = self.expand(more, self.n_components) - self.expand(plain, self.n_components)
        ridge = np.broadcast_to(0.25 * np.eye(self.n_features), added.shape)
        assert_allclose(added, ridge, rtol=1e-12, atol=1e-12)

    @_LEVELS
    def test_an_empty_component_keeps_its_parameters(self, level: Level) -> None:
        mixture, x = self.problem(6, level)
        weights = np.r_[0.0, mixture.weights[1:]] / mixture.weights[1:].sum()
        mixture = replace(mixture, weights=weights)
        (found,) = evaluate([mixture], Rows(x), [level])
        step = maximize(found, self.family, previous=mixture)
        assert step.empty == (0,)
        assert step.mixture.weights[0] == 0.0
        assert_array_equal(step.mixture.means[0], mixture.means[0])
        if not self.family.is_tied:
            assert_array_equal(step.mixture.covariances[0], mixture.covariances[0])
        assert not step.mixture.singular_components

    # --------------------------------------------------------------------------------- invariances

    @_LEVELS
    def test_a_weight_of_zero_is_a_component_less(self, level: Level) -> None:
        mixture, x = self.problem(7, level)
        weights = mixture.weights[1:] / mixture.weights[1:].sum()
        wide = replace(mixture, weights=np.r_[0.0, weights])
        density, responsibilities = self.oracle(wide, x)
        self.assert_same(row_values(wide, x, level, "log_density"), density, level)
        found = row_values(wide, x, level, "responsibilities")
        assert not found[:, 0].any()
        self.assert_same(found.T, responsibilities, level)

    @_LEVELS
    def test_an_integer_weight_is_a_number_of_copies(self, level: Level) -> None:
        mixture, x = self.problem(8, level)
        copies = np.random.default_rng(8).integers(1, 4, len(x))
        (weighted,) = evaluate([mixture], Rows(x, weight=copies.astype(float)), [level])
        (repeated,) = evaluate([mixture], Rows(np.repeat(x, copies, axis=0)), [level])
        assert weighted.weight == repeated.weight == copies.sum()
        self._assert_same_statistics(weighted, repeated, level)

    @_LEVELS
    def test_rows_of_zero_weight_do_not_count(self, level: Level) -> None:
        mixture, x = self.problem(9, level)
        kept = np.arange(len(x)) % 3 > 0
        (weighted,) = evaluate([mixture], Rows(x, weight=kept.astype(float)), [level])
        (fewer,) = evaluate([mixture], Rows(x[kept]), [level])
        self._assert_same_statistics(weighted, fewer, level)

    @_LEVELS
    def test_a_batch_is_its_mixtures_one_by_one(self, level: Level) -> None:
        mixtures = [self.mixture(seed) for seed in (10, 11, 12)]
        rows, frames = Rows(self.rows(10, dtype=level.dtype)), frames_around(mixtures[0])
        together = evaluate(mixtures, rows, [level] * 3, frames=frames)
        for mixture, one in zip(mixtures, together, strict=True):
            (alone,) = evaluate([mixture], rows, [level], frames=frames)
            self._assert_same_statistics(one, alone, level)

    @_LEVELS
    def test_the_order_of_components_does_not_matter(self, level: Level) -> None:
        mixture, x = self.problem(13, level)
        order = np.random.default_rng(13).permutation(self.n_components)
        covariances = mixture.covariances if self.family.is_tied else mixture.covariances[order]
        other = replace(
            mixture,
            weights=mixture.weights[order],
            means=mixture.means[order],
            covariances=covariances,
        )
        (ours,) = evaluate([other], Rows(x), [level])
        (truth,) = evaluate([mixture], Rows(x), [level])
        self.assert_same(ours.log_likelihood / len(x), truth.log_likelihood / len(x), level)
        self.assert_same(ours.counts / len(x), truth.counts[order] / len(x), level)

    @_LEVELS
    def test_units_do_not_matter(self, level: Level) -> None:
        scale, shift = 1024.0, 300.0
        mixture, x = self.problem(14, level)
        x = x.astype(np.float16).astype(level.dtype)  # so that scaled and shifted rows are exact
        scaled = replace(
            mixture,
            means=scale * (mixture.means + shift),
            covariances=scale**2 * mixture.covariances,
        )
        far = ((x.astype(np.float64) + shift) * scale).astype(level.dtype)
        (ours,) = evaluate([scaled], Rows(far), [level])
        near = (far.astype(np.float64) / scale - shift).astype(level.dtype)
        (truth,) = evaluate([mixture], Rows(near), [level])
        density = truth.log_likelihood / len(x) - self.n_features * np.log(scale)
        self.assert_same(ours.log_likelihood / len(x), density, level)
        first, second = (maximize(one, self.family).mixture for one in (ours, truth))
        self.assert_same(first.means / scale - shift, second.means, level, 10)
        self.assert_same(first.covariances / scale**2, second.covariances, level, 10)

    def _assert_same_statistics(
        self, ours: SufficientStatistics, truth: SufficientStatistics, level: Level
    ) -> None:
        n = truth.weight
        self.assert_same(ours.log_likelihood / n, truth.log_likelihood / n, level)
        self.assert_same(ours.log_assignment / n, truth.log_assignment / n, level)
        self.assert_same(ours.moments / n, truth.moments / n, level)
