"""Mixtures as vectors, and the Fisher metric against the divergence that it is the curvature of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from dgmm.acceleration.coordinates import Coordinates, Metric
from dgmm.covariance import family_names
from dgmm.fixed import Fixed
from tests.acceleration.cases import K, mixture_of
from tests.numerics.problems import dense

FAMILIES = pytest.mark.parametrize("name", family_names())
SEEDS = st.integers(0, 2**32 - 1)


def some_fixed(mixture):
    held = frozenset(range(K)) if mixture.family.is_tied else frozenset({1})
    return Fixed(frozenset({0}), frozenset({2, 3}), held)


@pytest.mark.parametrize("held", [False, True])
@FAMILIES
def test_a_mixture_comes_back_from_its_coordinates(name, held):
    mixture, other = mixture_of(1, name, None), mixture_of(2, name, None)
    coordinates = Coordinates.of(mixture, some_fixed(mixture) if held else None)
    vector = coordinates.pack(mixture)
    back = coordinates.unpack(vector, mixture if held else other)
    for one in ("weights", "means", "covariances"):
        assert_allclose(getattr(back, one), getattr(mixture, one), rtol=1e-13, atol=1e-13)
    if held:
        assert not np.any(vector[~coordinates.mask])
        assert back.weights[0] == pytest.approx(mixture.weights[0], abs=1e-16)
        assert_array_equal(back.means[2:], mixture.means[2:])
        kept = ... if mixture.family.is_tied else 1
        assert_array_equal(back.covariances[kept], mixture.covariances[kept])


@given(st.sampled_from(family_names()), SEEDS, st.floats(0.01, 3.0))
def test_every_vector_is_a_mixture(name, seed, length):
    mixture = mixture_of(seed, name, None)
    coordinates = Coordinates.of(mixture)
    step = np.random.default_rng(seed).standard_normal(coordinates.size)
    found = coordinates.unpack(coordinates.pack(mixture) + length * step, mixture)
    assert found is not None
    assert abs(found.weights.sum() - 1.0) < 1e-12


@FAMILIES
def test_what_is_no_number_is_no_mixture(name):
    mixture = mixture_of(3, name, None)
    coordinates = Coordinates.of(mixture)
    for bad in (np.nan, np.inf, 1e4):
        vector = coordinates.pack(mixture)
        vector[-1] = bad
        found = coordinates.unpack(vector, mixture)
        assert found is None or np.all(np.isfinite(found.covariances))


@FAMILIES
def test_a_component_of_weight_zero_does_not_move(name):
    mixture = mixture_of(4, name, None)
    weights = np.r_[0.0, mixture.weights[1:] / mixture.weights[1:].sum()]
    mixture = replace(mixture, weights=weights)
    coordinates = Coordinates.of(mixture)
    vector = coordinates.pack(mixture)
    assert np.all(np.isfinite(vector))
    moved = coordinates.unpack(vector + 0.1 * coordinates.mask, mixture)
    assert moved.weights[0] == 0.0
    assert_array_equal(moved.means[0], mixture.means[0])


def divergence(one, other):
    """KL of the rows with their components."""
    total = float(one.weights @ np.log(one.weights / other.weights))
    pairs = zip(one.means, dense(one), other.means, dense(other), strict=True)
    for weight, (m, a, n, b) in zip(one.weights, pairs, strict=True):
        inverse = np.linalg.inv(b)
        logs = np.linalg.slogdet(b)[1] - np.linalg.slogdet(a)[1]
        total += 0.5 * weight * (
            logs - len(m) + np.trace(inverse @ a) + (n - m) @ inverse @ (n - m)
        )  # fmt: skip
    return total


def metric_of(mixture, coordinates):
    ones = np.ones(1) if mixture.family.is_tied else mixture.weights
    return Metric.of(coordinates, mixture, (mixture.weights, mixture.weights, ones))


@FAMILIES
def test_the_metric_is_the_curvature_of_the_divergence(name):
    mixture = mixture_of(5, name, None)
    coordinates = Coordinates.of(mixture)
    metric = metric_of(mixture, coordinates)
    rng = np.random.default_rng(5)
    for _ in range(4):
        step = rng.standard_normal(coordinates.size)
        # Along the simplex: what normalising takes away is no change of the mixture.
        step[:K] -= mixture.weights @ step[:K]
        eps = 1e-4
        ways = (eps, -eps)
        vectors = [coordinates.pack(mixture) + way * step for way in ways]
        found = sum(divergence(mixture, coordinates.unpack(v, mixture)) for v in vectors)
        expected = np.sum(metric.whiten(step) ** 2) * eps**2
        assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("held", [False, True])
@FAMILIES
def test_the_fast_maps_are_those_of_the_matrix(name, held):
    mixture = mixture_of(6, name, None)
    coordinates = Coordinates.of(mixture, some_fixed(mixture) if held else None)
    metric, mask = metric_of(mixture, coordinates), coordinates.mask
    matrix = np.array([metric.whiten(row) for row in np.eye(coordinates.size)]).T
    matrix = matrix[np.ix_(mask, mask)]
    rng = np.random.default_rng(6)
    vector = np.where(mask, rng.standard_normal(coordinates.size), 0.0)
    pairs = (
        (metric.unwhiten(vector), np.linalg.solve(matrix, vector[mask])),
        (metric.whiten_gradient(vector), np.linalg.solve(matrix.T, vector[mask])),
        (metric.unwhiten_gradient(vector), matrix.T @ vector[mask]),
        (metric.natural(vector), np.linalg.solve(matrix.T @ matrix, vector[mask])),
    )
    for fast, general in pairs:
        assert_allclose(fast[mask], general, rtol=1e-9, atol=1e-10)
        assert not np.any(fast[~mask])
