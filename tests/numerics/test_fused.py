"""The step that is one compiled loop gives what tiles of array calls give."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgmm.arrays import COMPILED
from dgmm.backend import CompiledBackend
from dgmm.compiled.products import add_outer, add_product, padded
from dgmm.covariance import family_names
from dgmm.data.dataset import Rows
from dgmm.errors import InvalidDataError
from dgmm.expectation import BatchPass, plan_batch
from dgmm.fused import _Compiled, fused_bytes
from dgmm.guard import Level
from dgmm.posterior import Classification, Expectation
from dgmm.testing.families import frames_around
from tests.numerics.problems import random_mixture, rows_of

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("numba") is None, reason="numba is not installed"
)

# Of a run (256 rows) and of a call (8,192): a part of one, one, one and a bit.
LENGTHS = (1, 255, 256, 8193)


def _both(kernels, rows, **options):
    """Statistics by tiles and in one loop."""
    tiles = BatchPass(kernels, **options)
    fused = BatchPass(kernels, device=COMPILED, **options)
    assert all(isinstance(one, _Compiled) for one in fused.workspace())
    return (task.evaluate(rows, task.workspace()).members for task in (tiles, fused))


def _assert_equal(found, expected, limit):
    n = expected.n_rows
    scale = np.abs(expected.moments).max()
    np.testing.assert_allclose(found.moments, expected.moments, rtol=limit, atol=limit * scale)
    for name in ("log_likelihood", "log_assignment", "weight"):
        value = getattr(expected, name)
        assert getattr(found, name) == pytest.approx(value, rel=limit, abs=limit * n), name
    assert found.peak == pytest.approx(expected.peak, abs=limit * 100)
    assert found.n_rows == n
    assert found.frame == expected.frame


@pytest.mark.parametrize("stored", ["float64", "float32", "float16", "int16", ">f8"])
@pytest.mark.parametrize("level", [Level.FLOAT32, Level.FLOAT64])
@pytest.mark.parametrize("name", family_names())
def test_statistics_are_those_of_tiles(name, level, stored):
    mixture = random_mixture(np.random.default_rng(5), name, 3, 5)
    x = (20 * rows_of(mixture, 1000, 6, "float64")).astype(stored)
    kernels = plan_batch([mixture], [level], frames_around(mixture))
    limit = 5e-5 if level is Level.FLOAT32 else 1e-12
    for rows in (Rows(x), Rows(np.asfortranarray(x)), Rows(x[::2])):
        (expected,), (found,) = _both(kernels, rows)
        _assert_equal(found, expected, limit)


@pytest.mark.parametrize("n_rows", LENGTHS)
@pytest.mark.parametrize("name", family_names())
def test_runs_and_calls_may_be_short(name, n_rows):
    mixture = random_mixture(np.random.default_rng(1), name, 2, 3)
    kernels = plan_batch([mixture], [Level.FLOAT64], frames_around(mixture))
    (expected,), (found,) = _both(kernels, Rows(rows_of(mixture, n_rows, 2, "float64")))
    _assert_equal(found, expected, 1e-12)


@pytest.mark.parametrize("name", family_names())
def test_weights_and_rows_that_weigh_nothing(name):
    mixture = random_mixture(np.random.default_rng(2), name, 3, 2)
    x = rows_of(mixture, 700, 3, "float64")
    weight = np.random.default_rng(4).integers(0, 3, 700).astype(float)
    x[weight == 0] = np.nan
    kernels = plan_batch([mixture], [Level.FLOAT64], frames_around(mixture))
    (expected,), (found,) = _both(kernels, Rows(x, weight=weight))
    _assert_equal(found, expected, 1e-12)
    repeated = Rows(np.repeat(x, weight.astype(int), axis=0))
    task = BatchPass(kernels, device=COMPILED)
    (again,) = task.evaluate(repeated, task.workspace()).members
    np.testing.assert_allclose(found.moments, again.moments, rtol=1e-11, atol=1e-9)


@pytest.mark.parametrize("quadratic", [True, False])
@pytest.mark.parametrize("name", family_names())
def test_a_batch_shares_the_loop(name, quadratic):
    rng = np.random.default_rng(3)
    mixtures = [random_mixture(rng, name, k, 3) for k in (1, 4, 2)]
    kernels = plan_batch(
        mixtures, [Level.FLOAT64] * 3, frames_around(mixtures[0]), quadratic=quadratic
    )
    assert len(kernels) == 1
    rows = Rows(rows_of(mixtures[1], 600, 5, "float64"))
    for expected, found in zip(*_both(kernels, rows), strict=True):
        _assert_equal(found, expected, 1e-12)


def test_the_same_workspace_gives_the_same_bits():
    mixture = random_mixture(np.random.default_rng(7), "full", 3, 4)
    kernels = plan_batch([mixture], [Level.FLOAT64], frames_around(mixture))
    task = BatchPass(kernels, device=COMPILED)
    workspace = task.workspace()
    long, short = (Rows(rows_of(mixture, n, 8, "float64")) for n in (600, 100))
    first = task.evaluate(short, workspace).members[0]
    task.evaluate(long, workspace)
    again = task.evaluate(short, workspace).members[0]
    np.testing.assert_array_equal(first.moments, again.moments)
    assert first.log_likelihood == again.log_likelihood


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("level", [Level.FLOAT32, Level.FLOAT64])
def test_a_row_that_is_not_finite_is_named(level, bad):
    mixture = random_mixture(np.random.default_rng(9), "full", 3, 4)
    x = rows_of(mixture, 9000, 1, level.dtype)
    x[8500, 2] = bad
    kernels = plan_batch([mixture], [level], frames_around(mixture))
    task = BatchPass(kernels, device=COMPILED)
    with pytest.raises(InvalidDataError, match=r"row 8600, feature 2 is -?(nan|inf)"):
        task.evaluate(Rows(x, first_row=100), task.workspace())


def test_what_is_not_a_posterior_or_too_large_goes_by_tiles():
    mixture = random_mixture(np.random.default_rng(0), "full", 3, 4)
    many = random_mixture(np.random.default_rng(0), "diag", 80, 2)
    mixed = [random_mixture(np.random.default_rng(0), name, 2, 2) for name in ("full", "diag")]

    def fused(mixtures, level=Level.FLOAT64, policy=None, device=COMPILED):
        kernels = plan_batch(mixtures, [level] * len(mixtures), frames_around(mixtures[0]))
        task = BatchPass(kernels, policy or Expectation(), device)
        return [isinstance(one, _Compiled) for one in task.workspace()]

    assert fused([mixture]) == [True]
    assert fused([mixture], policy=Classification()) == [False]
    assert fused([mixture], level=Level.CENTRED) == [False]
    assert fused([mixture], device="cpu") == [False]
    assert fused([many]) == [False]
    assert fused(mixed) == [False]


def test_buffers_are_what_is_projected():
    mixture = random_mixture(np.random.default_rng(0), "full", 8, 16)
    (kernel,) = plan_batch([mixture], [Level.FLOAT64], frames_around(mixture))
    task = BatchPass((kernel,), device=COMPILED)
    step = task.workspace()[0]._step
    held = sum(one.nbytes for one in vars(step).values() if isinstance(one, np.ndarray))
    assert held <= fused_bytes(kernel, [Expectation()], CompiledBackend(np)) <= task.workspace_bytes


@settings(max_examples=25)
@given(
    st.integers(1, 9), st.integers(1, 9), st.integers(1, 40),
    st.sampled_from(["float64", "float32"]), st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_products_are_those_of_matrices(k, f, n, dtype, seed):
    rng = np.random.default_rng(seed)
    k, f = padded(k), padded(f)
    theta, features = rng.standard_normal((k, f)), rng.standard_normal((f, n))
    theta, features = theta.astype(dtype), features.astype(dtype)
    out, sums = np.ones((k, n), dtype), np.ones((k, f))
    add_product()(theta, features, out)
    add_outer(dtype)(out, features, sums)
    limit = 100 * np.finfo(dtype).eps
    exact = theta.astype(float) @ features + 1
    np.testing.assert_allclose(out, exact, atol=limit)
    np.testing.assert_allclose(sums, out.astype(float) @ features.T + 1, atol=10 * limit)
