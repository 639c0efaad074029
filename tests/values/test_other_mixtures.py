"""Divergences, merged components and changes of family."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.integrate import quad
from scipy.stats import entropy, multivariate_normal

import dgmm
from tests.numerics.problems import dense
from tests.values.cases import FAMILIES, density, mixture_of, moments

EACH = [name for name in FAMILIES if not name.startswith("tied")]
TIED = [name for name in FAMILIES if name.startswith("tied")]


@pytest.fixture(params=FAMILIES)
def mixture(request: pytest.FixtureRequest) -> dgmm.Mixture:
    return mixture_of(request.param)


# ---------------------------------------------------------------------------------- divergence


def integral(f: dgmm.Mixture, g: dgmm.Mixture) -> float:
    """KL of one-dimensional mixtures by quadrature."""

    def integrand(x: float) -> float:
        p, q = (density(one, np.array([[x]]))[0] for one in (f, g))
        return p * np.log(p / q)

    return quad(integrand, -12, 12, limit=200)[0]


def test_single_gaussians_are_exact(mixture: dgmm.Mixture) -> None:
    f = mixture_of(mixture.covariance_type, n_components=1, n_features=1)
    g = mixture_of("full", n_components=1, n_features=1, seed=5)
    found = f.kl_divergence(g)
    assert (found.method, found.standard_error) == ("exact", 0.0)
    assert float(found) == pytest.approx(integral(f, g), rel=1e-7)


def test_single_gaussians_are_exact_in_many_dimensions(mixture: dgmm.Mixture) -> None:
    f = mixture_of(mixture.covariance_type, n_components=1)
    g = mixture_of("full", n_components=1, seed=5)
    # KL = cross entropy − entropy; the first by the mean of a quadratic form.
    p, q = (multivariate_normal(one.means[0], dense(one)[0]) for one in (f, g))
    inverse, shift = np.linalg.inv(dense(g)[0]), f.means[0] - g.means[0]
    cross = 0.5 * (np.trace(inverse @ dense(f)[0]) + shift @ inverse @ shift)
    assert float(f.kl_divergence(g)) == pytest.approx(cross - q.logpdf(g.means[0]) - p.entropy())


def test_monte_carlo_is_right_within_its_error(mixture: dgmm.Mixture) -> None:
    f = mixture_of(mixture.covariance_type, n_features=1)
    g = mixture_of("full", n_components=2, n_features=1, seed=5)
    found = f.kl_divergence(g, n_samples=200_000, random_state=1)
    assert found.method == "monte_carlo"
    assert found.standard_error is not None
    assert 0 < found.standard_error < 0.02
    assert abs(found.value - integral(f, g)) < 4 * found.standard_error


def test_the_standard_error_is_the_spread_of_estimates() -> None:
    f, g = mixture_of("full"), mixture_of("full", seed=5)
    found = [f.kl_divergence(g, n_samples=500, random_state=i) for i in range(200)]
    spread = np.std([one.value for one in found])
    assert np.mean([one.standard_error for one in found]) == pytest.approx(spread, rel=0.2)


def test_a_mixture_does_not_differ_from_itself(mixture: dgmm.Mixture) -> None:
    for method in ("monte_carlo", "variational"):
        assert float(mixture.kl_divergence(mixture, method=method)) == pytest.approx(0, abs=1e-12)


def test_the_variational_approximation_of_separate_components_is_exact() -> None:
    far = np.array([[0.0, 0.0], [1000.0, 0.0]])
    f = dgmm.Mixture([0.3, 0.7], far, [1.0, 2.0], "spherical")
    g = dgmm.Mixture([0.6, 0.4], far + 0.5, [1.5, 1.0], "spherical")
    parts = [
        float(one.kl_divergence(other)) for one, other in zip(singles(f), singles(g), strict=True)
    ]
    expected = f.weights @ parts + entropy(f.weights, g.weights)
    assert float(f.kl_divergence(g, method="variational")) == pytest.approx(expected)


def singles(mixture: dgmm.Mixture) -> list[dgmm.Mixture]:
    parts = zip(mixture.means, mixture.covariances, strict=True)
    return [dgmm.Mixture([1.0], [mean], [cov], mixture.covariance_type) for mean, cov in parts]


def test_divergences_that_cannot_be() -> None:
    f = mixture_of("full")
    for other, options, message in [
        (mixture_of("full", n_features=2), {}, "3 and 2 features"),
        (f, {"method": "exact"}, "no exact divergence"),
        (f, {"method": "euclid"}, "must be one of"),
        (f, {"n_samples": 1}, "at least 2"),
        (f, {"n_samples": 2.5}, "an integer of at least 2"),
        ("f", {}, "no dgmm.Mixture"),
    ]:
        with pytest.raises(dgmm.InvalidParameterError, match=message):
            f.kl_divergence(other, **options)


def test_a_divergence_compares_features_of_the_same_names() -> None:
    f = dgmm.Mixture([1.0], [[0.0, 5.0]], [1.0], "spherical", ["height", "width"])
    g = dgmm.Mixture([1.0], [[5.0, 0.0]], [1.0], "spherical", ["width", "height"])
    with pytest.raises(dgmm.InvalidParameterError, match=r"\['height', 'width'\] and \['width'"):
        f.kl_divergence(g)
    assert float(f.kl_divergence(g.marginal(["height", "width"]))) == pytest.approx(0.0)
    unnamed = dgmm.Mixture([1.0], [[0.0, 5.0]], [1.0], "spherical")
    assert float(f.kl_divergence(unnamed)) == pytest.approx(0.0)


# ------------------------------------------------------------------------------------- merging


@pytest.mark.parametrize("name", FAMILIES)
def test_merging_keeps_what_the_family_can_of_the_whole(name: str) -> None:
    mixture = mixture_of(name, n_components=5)
    merged = mixture.merge_components([[0, 3], [1, 4]])
    assert merged.n_components == 3
    (mean, old), (merged_mean, new) = moments(mixture), moments(merged)
    assert_allclose(merged_mean, mean)
    assert_allclose(np.trace(new), np.trace(old))
    if name.endswith("full"):
        assert_allclose(new, old)
    if name.endswith("diag"):
        assert_allclose(np.diagonal(new), np.diagonal(old))


@pytest.mark.parametrize("name", EACH)
def test_a_merged_component_has_the_moments_of_its_group(name: str) -> None:
    mixture = mixture_of(name, n_components=4)
    merged = mixture.merge_components(1, 3)
    assert merged.n_components == 3
    assert_array_equal(merged.means[[0, 2]], mixture.means[[0, 2]])
    pair = mixture.weights[[1, 3]]
    group = dgmm.Mixture(
        pair / pair.sum(), mixture.means[[1, 3]], mixture.covariances[[1, 3]], name
    )
    mean, covariance = moments(group)
    assert merged.weights[1] == pytest.approx(pair.sum())
    assert_allclose(merged.means[1], mean)
    expected = group.family.shape.project(covariance) / group.family.shape.divisor(3)
    assert_allclose(merged.covariances[1], expected)


def test_components_without_weight_can_be_merged() -> None:
    empty = dgmm.Mixture([1.0, 0.0, 0.0], [[0.0], [2.0], [4.0]], [1.0, 1.0, 1.0], "spherical")
    merged = empty.merge_components(1, 2)
    assert_array_equal(merged.weights, [1.0, 0.0])
    assert_array_equal(merged.means, [[0.0], [3.0]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "one component given"),
        ((0, 3), "component 3 is not known"),
        ((1, 1), "disjoint"),
        (([[0, 1], [1, 2]],), "disjoint"),
        (([[]],), "not empty"),
        (([0, 1],), "must be sequences"),
        ((None,), "must be sequences"),
        (([[0.5, 1]],), "as integers"),
        ((["01"],), "as integers"),
        (([[0, 1]], 2), "not both"),
    ],
)
def test_groups_that_cannot_be_merged(arguments: Any, message: str) -> None:
    with pytest.raises(dgmm.InvalidParameterError, match=message):
        mixture_of("full").merge_components(*arguments)


# ------------------------------------------------------------------------------------ families


def test_every_family_is_a_full_one(mixture: dgmm.Mixture) -> None:
    full = mixture.with_covariance_type("full")
    assert_allclose(full.covariances, dense(mixture), rtol=1e-14)


@pytest.mark.parametrize("name", TIED)
def test_a_tied_mixture_comes_back_from_its_untied_form(name: str) -> None:
    mixture = mixture_of(name)
    untied = mixture.with_covariance_type(name.removeprefix("tied_"))
    assert not untied.family.is_tied
    assert_allclose(untied.with_covariance_type(name).covariances, mixture.covariances)


@pytest.mark.parametrize(
    ("name", "wanted"), [("full", "diag"), ("diag", "spherical"), ("diag", "tied_diag")]
)
def test_no_family_is_forced_on_covariances(name: str, wanted: str) -> None:
    with pytest.raises(dgmm.InvalidParameterError, match="without changing the densities"):
        mixture_of(name).with_covariance_type(wanted)
