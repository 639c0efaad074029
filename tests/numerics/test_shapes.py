"""Laws of shapes, families and the mixture: what is stored is what a dense matrix would be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from sklearn.mixture import GaussianMixture as Reference

from dgmm.covariance import family_names, family_of
from dgmm.errors import InvalidParameterError
from dgmm.mixture import Mixture
from tests.numerics.problems import random_covariances, random_mixture

SEEDS = st.integers(0, 2**32 - 1)
FAMILIES = pytest.mark.parametrize("name", family_names())

# -------------------------------------------------------------------------------------- the shapes


@FAMILIES
@given(seed=SEEDS, digits=st.floats(0, 6))
def test_factors_inverses_and_precisions_agree_with_dense_matrices(name, seed, digits):
    rng = np.random.default_rng(seed)
    mixture = random_mixture(rng, name, 3, 4, condition=10**digits)
    shape = mixture.family.shape
    wide = shape.dense(mixture.covariances, 4)
    precision = shape.precision(shape.invert(mixture.factors))
    assert_allclose(shape.dense(precision, 4), np.linalg.inv(wide), rtol=1e-7, atol=1e-7)
    half_log_det = shape.half_log_det(mixture.factors, 4)
    assert_allclose(half_log_det, 0.5 * np.linalg.slogdet(wide)[1], atol=1e-8)
    deviations = np.sqrt(np.einsum("...ii->...i", wide))
    assert_allclose(shape.spread(mixture.factors, 4), deviations, rtol=1e-10)
    back = mixture.family.covariances_from_precisions(precision)
    assert_allclose(back, mixture.covariances, rtol=1e-6, atol=1e-6)


@FAMILIES
def test_stored_operations_are_the_dense_ones(name):
    rng = np.random.default_rng(5)
    mixture = random_mixture(rng, name, 3, 4)
    shape, stored = mixture.family.shape, mixture.covariances
    wide = shape.dense(stored, 4)
    vectors = rng.standard_normal((3, 4))
    expected = np.einsum("...ij,...j->...i", wide, vectors)
    assert_allclose(shape.times(stored, vectors), expected)
    scatter = random_covariances(rng, 1, 4, 10.0)[0]
    traces = np.einsum("...ij,ij->...", wide, scatter)
    assert_allclose(shape.trace_product(stored, shape.project(scatter)), traces)
    assert_allclose(shape.outer(vectors), shape.project(vectors[:, :, None] * vectors[:, None, :]))
    more = shape.dense(shape.add_to_diagonal(stored, 0.5), 4)
    assert_allclose(more, wide + 0.5 * np.eye(4), atol=1e-14)


@FAMILIES
def test_clipping_raises_what_is_below_and_keeps_the_rest(name):
    mixture = random_mixture(np.random.default_rng(6), name, 3, 4, condition=1e4)
    shape = mixture.family.shape
    before = np.linalg.eigvalsh(shape.dense(mixture.covariances, 4))
    floor = float(np.median(before))
    after = np.linalg.eigvalsh(shape.dense(shape.clip(mixture.covariances, floor), 4))
    assert_allclose(np.sort(after), np.sort(np.maximum(before, floor)), rtol=1e-8)


@FAMILIES
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (4, 3), (7, 10)])
def test_counting_free_parameters(name, size):
    k, d = size
    # By what a symmetric matrix, a diagonal and a number are free to be.
    free = {"full": d * (d + 1) // 2, "diag": d, "spherical": 1}[name.removeprefix("tied_")]
    tied = name.startswith("tied_")
    assert family_of(name).n_parameters(k, d) == (free if tied else k * free)
    mixture = random_mixture(np.random.default_rng(7), name, k, d)
    theirs = {"tied_full": "tied"}.get(name, name)
    if theirs in ("full", "diag", "spherical", "tied"):
        reference = Reference(k, covariance_type=theirs)
        reference.means_ = mixture.means
        assert mixture.n_parameters == reference._n_parameters()


def test_tied_is_another_name_of_tied_full():
    assert family_of("tied") is family_of("tied_full")
    mixture = Mixture(np.array([1.0]), np.zeros((1, 2)), np.eye(2), "tied")
    assert mixture.covariance_type == "tied_full"


@pytest.mark.parametrize("name", ["Full", "fulll", "", None, 3])
def test_an_unknown_family_is_refused_with_those_there_are(name):
    with pytest.raises(InvalidParameterError, match="'tied_spherical'") as caught:
        family_of(name)
    assert repr(name) in str(caught.value)


# ------------------------------------------------------------------------------------- the mixture


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": [0.5, 0.6]}, "sum to 1"),
        ({"weights": [1.5, -0.5]}, "non-negative"),
        ({"weights": [np.nan, 1.0]}, "sum to 1"),
        ({"weights": [1.0]}, r"weights have shape \(1,\)"),
        ({"means": np.zeros((2, 3))}, "covariances have shape"),
        ({"means": np.zeros(3)}, r"not \(K, D\)"),
        ({"means": [[0.0, np.inf], [0.0, 0.0]]}, "not finite"),
        ({"covariances": np.ones((2, 2))}, "covariances have shape"),
    ],
)
def test_a_mixture_that_is_none_is_refused(change, message):
    valid = {"weights": [0.5, 0.5], "means": np.zeros((2, 2)), "covariances": [np.eye(2)] * 2}
    with pytest.raises(InvalidParameterError, match=message):
        Mixture(**(valid | change))


def test_singular_components_are_listed_not_refused():
    covariances = [np.eye(2), np.ones((2, 2)), np.full((2, 2), np.nan), -np.eye(2)]
    mixture = Mixture(np.full(4, 0.25), np.zeros((4, 2)), covariances)
    assert mixture.singular_components == (1, 2, 3)
    tied = Mixture(np.full(2, 0.5), np.zeros((2, 2)), np.zeros(2), "tied_diag")
    assert tied.singular_components == (0, 1)


def test_a_mixture_keeps_its_values_when_the_callers_arrays_change():
    means = np.zeros((1, 2))
    mixture = Mixture(np.ones(1), means, np.eye(2)[None])
    means[:] = 9
    assert not mixture.means.any()
    with pytest.raises(ValueError, match="read-only"):
        mixture.means[0, 0] = 1
