"""Densities, responsibilities and distances of a mixture against scipy."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial.distance import mahalanobis
from scipy.stats import chi2, kstest

import dgmm
from dgmm import density as module
from tests.numerics.problems import dense
from tests.values.cases import FAMILIES, density, joint_density, mixture_of

X = np.random.default_rng(1).normal(scale=2.0, size=(50, 3))


@pytest.fixture(params=FAMILIES)
def mixture(request: pytest.FixtureRequest) -> dgmm.Mixture:
    return mixture_of(request.param)


def test_log_prob_is_scipys(mixture: dgmm.Mixture) -> None:
    assert_allclose(mixture.log_prob(X), np.log(density(mixture, X)), rtol=1e-12)


def test_responsibilities_follow_bayes_rule(mixture: dgmm.Mixture) -> None:
    joint = joint_density(mixture, X)
    expected = joint / joint.sum(axis=1, keepdims=True)
    assert_allclose(mixture.responsibilities(X), expected, rtol=1e-11)
    assert_array_equal(mixture.predict(X), joint.argmax(axis=1))


def test_mahalanobis_is_scipys(mixture: dgmm.Mixture) -> None:
    inverses = np.linalg.inv(dense(mixture))
    expected = [
        [
            mahalanobis(row, mean, inverse)
            for mean, inverse in zip(mixture.means, inverses, strict=True)
        ]
        for row in X
    ]
    assert_allclose(mixture.mahalanobis(X), expected, rtol=1e-11)


def test_outlier_scores(mixture: dgmm.Mixture) -> None:
    assert_allclose(mixture.outlier_score(X), -np.log(density(mixture, X)), rtol=1e-12)
    nearest = mixture.mahalanobis(X).min(axis=1)
    assert_allclose(mixture.tail_probability(X), chi2(3).sf(nearest**2), rtol=1e-11)


def test_tail_probabilities_of_one_gaussian_are_uniform() -> None:
    one = mixture_of("full", n_components=1)
    x, _ = one.sample(5000, random_state=0)
    assert kstest(one.tail_probability(x), "uniform").pvalue > 0.01


def test_the_estimator_and_its_mixture_agree(mixture: dgmm.Mixture) -> None:
    model = dgmm.GaussianMixture.from_parameters(
        mixture.weights,
        mixture.means,
        mixture.covariances,
        covariance_type=mixture.covariance_type,
    )
    assert_allclose(model.score_samples(X), mixture.log_prob(X), rtol=1e-10)
    assert_allclose(model.predict_proba(X), mixture.responsibilities(X), atol=1e-10)


def test_tiles_do_not_show(mixture: dgmm.Mixture, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [mixture.log_prob(X), mixture.responsibilities(X), mixture.mahalanobis(X)]
    whole.append(mixture.regress(X[:, :1], 0, return_covariance=True)[1])
    monkeypatch.setattr(module, "_TILE_BYTES", 8 * 3 * 7)
    parts = [mixture.log_prob(X), mixture.responsibilities(X), mixture.mahalanobis(X)]
    parts.append(mixture.regress(X[:, :1], 0, return_covariance=True)[1])
    for one, other in zip(whole, parts, strict=True):
        assert_allclose(one, other, rtol=1e-12)


def test_no_rows_by_components_array_is_kept() -> None:
    mixture = mixture_of("diag", n_components=64, n_features=2)
    x, _ = mixture.sample(200_000, random_state=0)
    tracemalloc.start()
    try:
        mixture.log_prob(x)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 0.3 * len(x) * 64 * 8


def test_a_component_without_weight_takes_no_part() -> None:
    far = dgmm.Mixture([1.0, 0.0], [[0.0], [9.0]], [1.0, 1.0], "spherical")
    assert_array_equal(far.responsibilities([[9.0]]), [[1.0, 0.0]])
    assert far.tail_probability([[9.0]])[0] == pytest.approx(chi2(1).sf(81.0))


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.zeros(3), dgmm.InvalidDataError, r"reshape a single row to \(1, 3\)"),
        (np.zeros((4, 2)), dgmm.InvalidDataError, r"shape \(4, 2\)"),
        ([["a", "b", "c"]], dgmm.InvalidDtypeError, "real numbers"),
        ([[0.0, 0.0, 0.0], [np.nan, 0.0, 0.0]], dgmm.InvalidDataError, "row 1 has no finite"),
        ([[1e200, 0.0, 0.0]], dgmm.InvalidDataError, "too large to square"),
    ],
)
def test_rows_without_a_density(x: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        mixture_of("full").log_prob(x)


def test_columns_of_a_frame_are_not_taken_for_others() -> None:
    names = ["height", "mass"]
    mixture = dgmm.Mixture([1.0], [[0.0, 5.0]], [np.diag([1.0, 4.0])], feature_names=names)
    frame = pd.DataFrame([[0.0, 5.0], [1.0, 2.0]], columns=names)
    expected = mixture.log_prob(frame.to_numpy())
    np.testing.assert_array_equal(mixture.log_prob(frame), expected)
    for method in (mixture.log_prob, mixture.mahalanobis, mixture.predict):
        with pytest.raises(dgmm.InvalidDataError, match="in the order of the features"):
            method(frame[["mass", "height"]])
    mixture.regress(frame[["mass"]], "mass")
    with pytest.raises(dgmm.InvalidDataError, match="in the order of the features"):
        mixture.regress(frame[["height"]], "mass")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], np.zeros((0, 2)), np.zeros((0, 2, 2))), "a component and a feature at least"),
        (([1.0], np.zeros((1, 0)), np.zeros((1, 0, 0))), "a component and a feature at least"),
        (([1.0], [[0.0]], [[[1.0]]], "full", 5), "feature_names=5"),
        (([1.0], [[0.0, 1.0]], [np.eye(2)], "full", "ab"), "feature_names='ab'"),
    ],
)
def test_mixtures_of_nothing_and_names_that_are_none(arguments: Any, message: str) -> None:
    with pytest.raises(dgmm.InvalidParameterError, match=message):
        dgmm.Mixture(*arguments)


def test_parameters_that_are_no_numbers() -> None:
    with pytest.raises(dgmm.InvalidParameterError, match="means are no array of real numbers"):
        dgmm.Mixture([1.0], [["a", "b"]], [np.eye(2)])


def test_covariances_without_a_density() -> None:
    singular = dgmm.Mixture([1.0], [[0.0, 0.0]], [[[1.0, 1.0], [1.0, 1.0]]])
    with pytest.raises(dgmm.InvalidParameterError, match="component 0 is not positive definite"):
        singular.log_prob(np.zeros((1, 2)))
    skewed = dgmm.Mixture([1.0], [[0.0, 0.0]], [[[1.0, 0.5], [0.0, 1.0]]])
    with pytest.raises(dgmm.InvalidParameterError, match="not symmetric"):
        skewed.log_prob(np.zeros((1, 2)))
