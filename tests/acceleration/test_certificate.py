"""The certificate is a lower bound on where EM goes, and the slope is that of the objective."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from dgmm.acceleration.coordinates import Coordinates, Metric
from dgmm.acceleration.point import point_of
from dgmm.covariance import family_names, family_of
from dgmm.guard import Level
from dgmm.maximization import MaximizationOptions
from tests.acceleration.cases import (
    KINDS,
    D,
    K,
    expected_of,
    mixture_of,
    objective_of,
    options_of,
    rows,
    statistics_of,
)

SEEDS = st.integers(0, 2**16)
FAMILIES = pytest.mark.parametrize("name", family_names())


@settings(max_examples=40)
@given(st.sampled_from(family_names()), st.sampled_from(KINDS), SEEDS)
def test_low_bounds_the_objective_of_the_image_from_below(name, kind, seed):
    x = rows(seed % 5)
    options = options_of(kind, name, len(x))
    mixture = mixture_of(seed, name, x)
    point = point_of(mixture, statistics_of(x, mixture), Level.FLOAT64, options)
    assert point.objective == pytest.approx(objective_of(x, mixture, options), abs=1e-12)
    height = objective_of(x, point.image, options)
    assert point.low <= height + 1e-11
    # Anything but the constraint set's own points may gain less than nothing: a covariance below
    # the floor is raised whatever that costs.
    if kind != "floor":
        assert point.gain >= -1e-12


@FAMILIES
def test_low_is_tight_where_em_stands_still(name):
    x = rows(1, n_rows=200)
    options = options_of("priors", name, len(x))
    mixture = mixture_of(1, name, x)
    for _ in range(150):
        point = point_of(mixture, statistics_of(x, mixture), Level.FLOAT64, options)
        mixture = point.image
    assert point.gain < 1e-6
    assert objective_of(x, point.image, options) - point.low < 1e-6


@pytest.mark.parametrize("kind", ["plain", "priors", "fixed", "reg_covar"])
@FAMILIES
def test_the_gradient_is_that_of_the_objective(name, kind):
    x = rows(2)
    options = options_of(kind, name, len(x))
    mixture = mixture_of(2, name, x)
    coordinates = Coordinates.of(mixture, options.fixed)
    gradient = expected_of(x, mixture, options).gradient(coordinates)
    origin, rng = coordinates.pack(mixture), np.random.default_rng(2)
    for _ in range(3):
        step = np.where(coordinates.mask, rng.standard_normal(coordinates.size), 0.0)
        ends = [
            objective_of(x, coordinates.unpack(origin + eps * step, mixture), options)
            for eps in (1e-5, -1e-5)
        ]
        assert gradient @ step == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=2e-5, abs=1e-7)


@pytest.mark.parametrize("kind", ["plain", "priors", "reg_covar"])
@FAMILIES
def test_near_an_optimum_em_is_the_gradient_in_the_metric(name, kind):
    x = rows(3, n_rows=200)
    options = options_of(kind, name, len(x))
    mixture = mixture_of(3, name, x)
    for _ in range(150):
        point = point_of(mixture, statistics_of(x, mixture), Level.FLOAT64, options)
        mixture = point.image
    coordinates = point.coordinates
    nearby = coordinates.unpack(
        coordinates.pack(mixture)
        + 1e-4 * np.random.default_rng(3).standard_normal(coordinates.size),
        mixture,
    )
    point = point_of(nearby, statistics_of(x, nearby), Level.FLOAT64, options)
    step = coordinates.pack(point.image) - coordinates.pack(point.mixture)
    metric = Metric.of(coordinates, point.mixture, point.shares)
    natural = metric.natural(point.gradient)
    assert_allclose(natural, step, atol=0.01 * np.max(np.abs(step)))
    assert point.gain == pytest.approx(0.5 * point.gradient @ step, rel=0.02)


@FAMILIES
def test_the_ridge_of_an_even_share_is_reg_covar(name):
    x = rows(4)
    family = family_of(name)
    options = options_of("reg_covar", name, len(x))
    mixture = mixture_of(4, name, x)
    plain = point_of(mixture, statistics_of(x, mixture), Level.FLOAT64, MaximizationOptions())
    ridged = point_of(mixture, statistics_of(x, mixture), Level.FLOAT64, options)
    counts = plain.image.weights * len(x)
    share = 1.0 if family.is_tied else len(x) / K / counts
    added = ridged.image.covariances - plain.image.covariances
    ridge = 0.3 * family.shape.project(np.eye(D)) / family.shape.divisor(D)
    wanted = np.array([ridge * one for one in np.atleast_1d(share)])
    assert_allclose(added, wanted[0] if family.is_tied else wanted, rtol=1e-9, atol=1e-12)
