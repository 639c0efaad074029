"""Marginals, conditionals and regression against integrals and ratios of scipy's densities."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.integrate import quad

import dgmm
from tests.values.cases import FAMILIES, density, mixture_of

POINTS = np.random.default_rng(2).normal(size=(6, 2))


@pytest.fixture(params=FAMILIES)
def mixture(request: pytest.FixtureRequest) -> dgmm.Mixture:
    return mixture_of(request.param)


def test_a_marginal_integrates_the_other_features_out(mixture: dgmm.Mixture) -> None:
    marginal = mixture.marginal([2, 0])
    for second, first in POINTS[:3]:
        integral, _ = quad(
            lambda y, a=first, b=second: density(mixture, np.array([a, y, b]))[0], -20, 20
        )
        assert np.exp(marginal.log_prob([[second, first]])[0]) == pytest.approx(integral, rel=1e-6)


def test_a_conditional_is_joint_over_marginal(mixture: dgmm.Mixture) -> None:
    given = mixture.conditional([1], [0.7])
    full = np.insert(POINTS, 1, 0.7, axis=1)
    expected = density(mixture, full) / np.exp(mixture.marginal(1).log_prob([[0.7]]))
    assert_allclose(np.exp(given.log_prob(POINTS)), expected, rtol=1e-10)


def test_conditioning_in_two_steps_is_conditioning_once(mixture: dgmm.Mixture) -> None:
    once = mixture.conditional([2, 0], [0.3, -0.5])
    twice = mixture.conditional([0], [-0.5]).conditional([1], [0.3])
    assert_allclose(once.weights, twice.weights, rtol=1e-9)
    assert_allclose(once.means, twice.means, rtol=1e-9)
    assert_allclose(once.covariances, twice.covariances, rtol=1e-9)


def test_both_stay_in_the_family(mixture: dgmm.Mixture) -> None:
    assert mixture.marginal([0, 1]).covariance_type == mixture.covariance_type
    assert mixture.conditional(0, 1.0).covariance_type == mixture.covariance_type


def test_regression_gives_the_moments_of_the_conditional(mixture: dgmm.Mixture) -> None:
    means, covariances = mixture.regress(POINTS[:, :1], 1, return_covariance=True)
    grid = np.linspace(-25, 25, 2001)
    for (value,), mean, covariance in zip(POINTS[:, :1], means, covariances, strict=True):
        given = mixture.conditional(1, value)
        for target in range(2):
            p = np.exp(given.marginal(target).log_prob(grid[:, None]))
            centre = np.trapezoid(p * grid, grid)
            assert mean[target] == pytest.approx(centre, abs=1e-8)
            variance = np.trapezoid(p * (grid - centre) ** 2, grid)
            assert covariance[target, target] == pytest.approx(variance, rel=1e-7)


def test_regression_covariances_are_those_of_draws(mixture: dgmm.Mixture) -> None:
    _, covariances = mixture.regress([[0.4]], 1, return_covariance=True)
    x, _ = mixture.conditional(1, 0.4).sample(200_000, random_state=0)
    assert_allclose(covariances[0], np.cov(x.T), atol=0.03)


def test_regression_of_some_targets_is_part_of_that_of_all(mixture: dgmm.Mixture) -> None:
    everything = mixture.regress(POINTS[:, :1], 1)
    assert_allclose(mixture.regress(POINTS[:, :1], 1, targets=[2]), everything[:, [1]], rtol=1e-9)


def test_features_go_by_names() -> None:
    plain = mixture_of("full")
    named = dgmm.Mixture(
        plain.weights, plain.means, plain.covariances, feature_names=["age", "height", "mass"]
    )
    swapped = named.marginal(["mass", "age"])
    assert swapped.feature_names == ("mass", "age")
    assert_array_equal(swapped.means, plain.means[:, [2, 0]])
    assert named.conditional("height", 1.0).feature_names == ("age", "mass")
    assert_array_equal(named.conditional("height", 1.0).means, plain.conditional(1, 1.0).means)


class Frame:
    """A data frame as far as it matters here."""

    columns = ("a", "b")

    def __init__(self, x: np.ndarray) -> None:
        self.x = x

    def to_numpy(self) -> np.ndarray:
        return self.x


def test_a_fit_of_named_columns_knows_its_names() -> None:
    x = np.random.default_rng(0).normal(size=(60, 2))
    model = dgmm.GaussianMixture(2, random_state=0).fit(Frame(x))
    assert_array_equal(model.mixture_.marginal("b").means[:, 0], model.means_[:, 1])


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (3, "the mixture has 3 features"),
        (-4, "the mixture has 3 features"),
        ("age", "has no names"),
        ([], "at least one"),
        ([0, -3], "twice"),
        (0.0, "neither an index nor a name"),
        ([True, False, True], "neither an index nor a name"),
    ],
)
def test_features_that_are_not_there(features: Any, message: str) -> None:
    mixture = mixture_of("full")
    for ask in (mixture.marginal, lambda which: mixture.conditional(which, 0.0)):
        with pytest.raises(dgmm.InvalidParameterError, match=message):
            ask(features)


@pytest.mark.parametrize("values", [[0.0, 1.0], [np.nan], np.inf, [[0.0]], "a", None])
def test_values_that_do_not_fit(values: Any) -> None:
    with pytest.raises(dgmm.InvalidParameterError, match="1 finite numbers"):
        mixture_of("full").conditional([1], values)


def test_nothing_left_to_predict() -> None:
    with pytest.raises(dgmm.InvalidParameterError, match="all 3 features are given"):
        mixture_of("full").conditional([0, 1, 2], [0.0, 0.0, 0.0])
    with pytest.raises(dgmm.InvalidParameterError, match="given and be a target"):
        mixture_of("full").regress([[0.0]], 0, targets=[0, 1])


def test_an_ill_conditioned_covariance_stays_definite() -> None:
    rng = np.random.default_rng(0)
    axes, _ = np.linalg.qr(rng.normal(size=(4, 4)))
    covariance = (axes * [1e8, 1.0, 1e-4, 1e-7]) @ axes.T
    one = dgmm.Mixture([1.0], np.zeros((1, 4)), [(covariance + covariance.T) / 2])
    assert one.conditional([0, 1], [0.0, 0.0]).singular_components == ()
