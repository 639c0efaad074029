"""Buffers, and the triangular inverses and layouts that an M-step asks for again and again."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from dgmm.arrays import aligned_empty
from dgmm.backend import backend_of
from dgmm.features import Layout
from dgmm.frame import invert_lower
from dgmm.shapes.matrix import MATRIX


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(1,), (7, 3), (153, 272), (561, 1024), (0, 4)])
def test_buffers_begin_with_a_line_of_the_cache(dtype: str, shape: tuple[int, ...]) -> None:
    found = [aligned_empty(shape, dtype) for _ in range(5)]
    found.append(backend_of("cpu").empty(shape, dtype))
    for one in found:
        assert one.shape == shape
        assert one.dtype == dtype
        assert one.flags.c_contiguous
        assert one.flags.writeable
        assert one.ctypes.data % 64 == 0 or one.size == 0


@pytest.mark.parametrize("d", [1, 2, 5, 33])
def test_inverses_of_triangles(d: int) -> None:
    rng = np.random.default_rng(d)
    factors = np.tril(rng.normal(size=(4, 3, d, d))) + 3.0 * np.eye(d)
    inverses = invert_lower(factors)
    assert inverses.shape == factors.shape
    assert_array_equal(inverses, np.tril(inverses))
    assert_allclose(inverses @ factors, np.broadcast_to(np.eye(d), factors.shape), atol=1e-12)
    assert_array_equal(invert_lower(factors[1, 2]), inverses[1, 2])


def test_inverses_of_what_is_no_factor() -> None:
    factors = np.array([np.eye(3), np.full((3, 3), np.nan)])
    assert_array_equal(invert_lower(factors)[0], np.eye(3))
    assert np.isnan(invert_lower(factors)[1]).any()
    with pytest.raises(np.linalg.LinAlgError, match="zero at 1"):
        invert_lower(np.diag([1.0, 0.0, 1.0]))


def test_one_singular_covariance_leaves_the_others_their_factors() -> None:
    rng = np.random.default_rng(0)
    roots = rng.normal(size=(5, 4, 6))
    covariances = roots @ np.swapaxes(roots, 1, 2)
    expected = MATRIX.factorise(covariances)
    assert_allclose(expected @ np.swapaxes(expected, 1, 2), covariances)
    for bad in (-np.eye(4), np.full((4, 4), np.inf)):
        some = covariances.copy()
        some[2] = bad
        found = MATRIX.factorise(some)
        assert np.isnan(found[2]).all()
        others = [0, 1, 3, 4]
        assert_array_equal(found[others], expected[others])


def test_indices_that_are_shared_cannot_be_written() -> None:
    layout = Layout(5)
    for one in (*layout.upper, *layout.factors, layout.places):
        with pytest.raises(ValueError, match="read-only"):
            one[...] = 0
