"""Tiles, workspaces, dtypes and batches: what must not show in a result."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from dgmm import arrays, expectation
from dgmm.arrays import tile_rows
from dgmm.backend import Backend
from dgmm.covariance import family_names
from dgmm.data.dataset import Rows
from dgmm.errors import InvalidDataError
from dgmm.expectation import BatchPass, RowPass, plan_batch
from dgmm.guard import Level
from dgmm.maximization import MaximizationOptions, maximize
from dgmm.passes import run_batch
from dgmm.posterior import Posterior
from dgmm.scalars import Scalars
from dgmm.testing.families import evaluate, frames_around, row_values
from tests.numerics.problems import SerialSession, blobs, random_mixture, rows_of

LEVELS = pytest.mark.parametrize("level", list(Level), ids=lambda level: level.name.lower())
FAMILIES = pytest.mark.parametrize("name", family_names())
LIMIT = {Level.FLOAT32: 2e-5, Level.FLOAT64: 1e-12, Level.CENTRED: 1e-12}


def problem(name, level, n_rows=1000, seed=1):
    mixture = random_mixture(np.random.default_rng(seed), name, 3, 5, reach=1.0)
    return mixture, rows_of(mixture, n_rows, seed, level.dtype)


def assert_same(ours, truth, level):
    scale = np.max(np.abs(truth.moments))
    assert_allclose(ours.moments, truth.moments, atol=LIMIT[level] * scale, rtol=LIMIT[level])
    assert ours.log_likelihood == pytest.approx(truth.log_likelihood, rel=LIMIT[level])
    assert ours.log_assignment == pytest.approx(truth.log_assignment, rel=100 * LIMIT[level])
    assert ours.peak == pytest.approx(truth.peak, abs=1e-4 if level is Level.FLOAT32 else 1e-11)


@LEVELS
@FAMILIES
@pytest.mark.parametrize("quadratic", [True, False])
def test_the_size_of_a_tile_changes_rounding_alone(name, level, quadratic, monkeypatch):
    mixture, x = problem(name, level)
    rows = Rows(x, weight=np.linspace(0, 2, len(x)))
    (whole,) = evaluate([mixture], rows, [level], quadratic=quadratic)
    values = row_values(mixture, x, level, "log_density")
    # 1,000 rows are then seven tiles and a part of one.
    monkeypatch.setitem(arrays._TILE_ROWS, "numpy", (128, 128))
    (cut,) = evaluate([mixture], rows, [level], quadratic=quadratic)
    assert_same(cut, whole, level)
    again = row_values(mixture, x, level, "log_density")
    assert_allclose(again, values, rtol=LIMIT[level], atol=LIMIT[level])


@LEVELS
def test_a_workspace_may_hold_anything(level):
    mixtures = [problem(name, level)[0] for name in family_names()]
    x = problem("full", level)[1]
    task = BatchPass(plan_batch(mixtures, [level] * 6, frames_around(mixtures[0])))
    used = task.workspace()
    fresh = task.evaluate(Rows(x), used)
    task.evaluate(Rows(x[::-1] * 3 + 1), used)
    task.evaluate(Rows(x[:7]), used)
    for ours, truth in zip(task.evaluate(Rows(x), used).members, fresh.members, strict=True):
        assert_array_equal(ours.moments, truth.moments)
        assert ours.log_likelihood == truth.log_likelihood


def test_families_and_levels_mix_in_one_batch():
    levels = [level for level in Level for _ in family_names()]
    mixtures = [problem(name, Level.FLOAT64)[0] for name in family_names()] * 3
    order = np.random.default_rng(2).permutation(len(levels))
    levels, mixtures = [levels[i] for i in order], [mixtures[i] for i in order]
    rows, frames = Rows(problem("full", Level.FLOAT32)[1]), frames_around(mixtures[0])
    together = evaluate(mixtures, rows, levels, frames=frames, quadratic=False)
    for mixture, level, ours in zip(mixtures, levels, together, strict=True):
        (alone,) = evaluate([mixture], rows, [level], frames=frames, quadratic=False)
        assert_same(ours, alone, level)


def test_a_batch_of_many_components_is_split_into_products(monkeypatch):
    mixtures = [problem("diag", Level.FLOAT64, seed=seed)[0] for seed in range(5)]
    rows, frames = Rows(problem("diag", Level.FLOAT64)[1]), frames_around(mixtures[0])
    whole = evaluate(mixtures, rows, [Level.FLOAT64] * 5, frames=frames)
    monkeypatch.setattr(expectation, "MOST_STACKED", 7)
    assert len(plan_batch(mixtures, [Level.FLOAT64] * 5, frames)) == 3
    split = evaluate(mixtures, rows, [Level.FLOAT64] * 5, frames=frames)
    for ours, truth in zip(split, whole, strict=True):
        assert_same(ours, truth, Level.FLOAT64)


@LEVELS
@FAMILIES
@pytest.mark.parametrize("dtype", ["i1", "u2", "i8", "u8", "f2", "f4", ">f4", ">f8", ">i4", "?"])
def test_rows_of_every_dtype_are_their_float64_values(name, level, dtype):
    mixture, x = problem(name, level, n_rows=200)
    stored = (np.abs(x) > 2 if dtype == "?" else np.abs(np.round(x))).astype(dtype)
    (ours,) = evaluate([mixture], Rows(stored), [level])
    (truth,) = evaluate([mixture], Rows(stored.astype("f8")), [level])
    assert_same(ours, truth, level)


@LEVELS
def test_the_order_of_memory_does_not_matter(level):
    mixture, x = problem("full", level)
    wide = np.zeros((2 * len(x), 10), x.dtype)
    wide[::2, ::2] = x
    (truth,) = evaluate([mixture], Rows(x), [level])
    for rows in (np.asfortranarray(x), wide[::2, ::2], x[::-1].copy()[::-1]):
        (ours,) = evaluate([mixture], Rows(rows), [level])
        assert_same(ours, truth, level)


@LEVELS
def test_integers_beyond_float32_keep_their_digits(level):
    # 2²⁴ + 1 is not a float32: the origin comes off before anything is rounded.
    mixture, x = problem("full", Level.FLOAT64)
    x = np.round(100 * x)
    far = type(mixture)(
        mixture.weights, 100 * mixture.means + 2.0**40, 1e4 * mixture.covariances, "full"
    )
    near = type(mixture)(mixture.weights, 100 * mixture.means, 1e4 * mixture.covariances, "full")
    (ours,) = evaluate([far], Rows(x.astype("i8") + 2**40), [level])
    (truth,) = evaluate([near], Rows(x), [level])
    assert ours.log_likelihood == pytest.approx(truth.log_likelihood, rel=1e-6)
    assert_allclose(ours.counts, truth.counts, rtol=1e-4)


@LEVELS
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_bad_row_is_named(level, value, monkeypatch):
    monkeypatch.setitem(arrays._TILE_ROWS, "numpy", (128, 128))
    mixture, x = problem("full", level)
    x = x.copy()
    x[700, 2] = value
    (kernel,) = plan_batch([mixture], [level], frames_around(mixture))
    batch, rows = BatchPass((kernel,)), Rows(x, first_row=10_000)
    with pytest.raises(InvalidDataError, match=r"row 10700, feature 2"):
        batch.evaluate(rows, batch.workspace())
    for output in ("log_density", "responsibilities", "labels"):
        one = RowPass(kernel, output, "float64")
        with pytest.raises(InvalidDataError, match=r"row 10700, feature 2"):
            one.evaluate(rows, one.workspace())


@LEVELS
@FAMILIES
def test_workspaces_are_no_larger_than_they_say(name, level):
    mixture, _ = problem(name, level)
    (kernel,) = plan_batch([mixture], [level], frames_around(mixture))
    workspace = vars(kernel.workspace(Backend(np))).values()
    held = [item for value in workspace for item in (value if isinstance(value, list) else [value])]
    assert sum(getattr(item, "nbytes", 0) for item in held) <= kernel.workspace_bytes(Backend(np))
    assert sum(sums.nbytes for sums in kernel.zeros(np)) <= BatchPass((kernel,)).result_bytes


@LEVELS
def test_a_tile_and_its_scratch_fit_what_was_projected(level):
    mixtures = [random_mixture(np.random.default_rng(3), "full", 8, 24, reach=1.0)] * 2
    x = rows_of(mixtures[0], 20_000, 3, "float32")
    task = BatchPass(plan_batch(mixtures, [level] * 2, frames_around(mixtures[0])))
    task.evaluate(Rows(x), task.workspace())
    tracemalloc.start()
    task.evaluate(Rows(x), task.workspace())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= task.workspace_bytes + 2 * task.result_bytes + 2**16


@pytest.mark.parametrize("output", ["log_density", "responsibilities", "labels"])
def test_rows_that_need_the_fallback_fit_what_was_projected(output):
    mixture = random_mixture(np.random.default_rng(3), "full", 8, 24, reach=1.0)
    frames = frames_around(mixture)
    ((kernel,), (safest,)) = (
        plan_batch([mixture], [level], frames) for level in (Level.FLOAT32, Level.CENTRED)
    )
    x = rows_of(mixture, 20_000, 3, "float32")
    x[::1000] = 1e30
    task = RowPass(kernel, output, "float64", fallback=safest)
    task.evaluate(Rows(x), task.workspace())
    tracemalloc.start()
    task.evaluate(Rows(x), task.workspace())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    values = len(x) * task.value_bytes_per_row
    # The fallback's buffers alone would break the projection of the first kernel.
    assert kernel.workspace_bytes(Backend(np)) + values < peak
    assert peak <= task.workspace_bytes + values + 2**16


def test_tiles_are_powers_of_two_within_their_bounds():
    sizes = [tile_rows(values, 8, "numpy") for values in (1, 10, 100, 1000, 10_000, 10**6)]
    assert sizes == sorted(sizes, reverse=True)
    assert all(256 <= size <= 8192 and size & (size - 1) == 0 for size in sizes)


def test_mixtures_that_share_features_share_one_product():
    mixtures = [random_mixture(np.random.default_rng(s), "full", 3, 4) for s in range(4)]
    kernels = plan_batch(mixtures, [Level.FLOAT64] * 4, frames_around(mixtures[0]))
    assert len(kernels) == 1
    assert [block.theta.shape for block in kernels[0].blocks] == [(12, 16)]
    x = blobs(4, n_features=4)
    assert len(evaluate(mixtures, Rows(x), [Level.FLOAT64] * 4)) == 4


@FAMILIES
def test_what_rounding_the_coefficients_took_is_given_back(name):
    before, after = [], []
    for seed in range(12):
        mixture = random_mixture(np.random.default_rng(seed), name, 3, 8, reach=10.0)
        rows, frames = Rows(rows_of(mixture, 4000, seed, "float32")), frames_around(mixture)
        task = BatchPass(plan_batch([mixture], [Level.FLOAT32], frames))
        merged = task.evaluate(rows, task.workspace())
        (truth,) = evaluate([mixture], rows, [Level.CENTRED])
        exact = truth.log_likelihood
        before.append(abs(merged.members[0].log_likelihood - exact))
        after.append(abs(task.finish(merged, [mixture], [None]).members[0].log_likelihood - exact))
    assert np.median(after) < np.median(before) / 3


def test_coefficients_of_a_product_are_finite():
    mixture, _ = problem("full", Level.FLOAT64)
    none = type(mixture)([0.0, 0.5, 0.5], mixture.means, mixture.covariances, "full")
    for level in (Level.FLOAT32, Level.FLOAT64):
        (kernel,) = plan_batch([none], [level], frames_around(none))
        assert np.all(np.isfinite(kernel.blocks[0].theta))


def test_densities_whose_sum_alone_is_not_finite_name_the_least():
    scalars = Scalars(Backend(np))
    rows = Rows(np.arange(5.0)[:, None], first_row=10)
    density = np.array([0.0, -1e308, -1.2e308, -1.0, -1e308])
    with (
        np.errstate(over="ignore"),
        pytest.raises(InvalidDataError, match="row 12 has no finite log density"),
    ):
        scalars.add(Posterior(density, np.zeros(5)), None, rows)


@pytest.mark.parametrize("level", [Level.FLOAT32, Level.FLOAT64])
def test_few_components_of_many_features_are_whitened_instead(level) -> None:
    rng = np.random.default_rng(12)
    one, two = (random_mixture(rng, "full", 2, 64) for _ in range(2))
    x, frames = rows_of(one, 500, 13), frames_around(one)
    plain, direct = (
        plan_batch([one, two], [level] * 2, frames, device=device) for device in ("cuda", "cpu")
    )
    assert [type(kernel).__name__ for kernel in plain] == ["FeatureKernel"]
    assert [type(kernel).__name__ for kernel in direct] == ["CentredKernel"] * 2
    found = [
        run_batch(SerialSession(x), kernels, [one, two], totals=[None, None])
        for kernels in (plain, direct)
    ]
    tolerance = 1e-9 if level is Level.FLOAT64 else 1e-3
    for features, whitened in zip(*found, strict=True):
        assert whitened.log_likelihood == pytest.approx(features.log_likelihood, rel=tolerance)
        a, b = (
            maximize(s, one.family, MaximizationOptions()).mixture for s in (features, whitened)
        )
        assert_allclose(b.covariances, a.covariances, rtol=tolerance, atol=10 * tolerance)


@pytest.mark.parametrize(
    ("family", "n_components", "n_features"),
    [("full", 5, 64), ("full", 2, 32), ("diag", 2, 64), ("tied_full", 2, 64)],
)
def test_all_others_share_their_features(family, n_components, n_features) -> None:
    mixture = random_mixture(np.random.default_rng(0), family, n_components, n_features)
    (kernel,) = plan_batch([mixture], [Level.FLOAT64], frames_around(mixture), device="cpu")
    assert type(kernel).__name__ == "FeatureKernel"
