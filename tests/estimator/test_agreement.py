"""From the same start, the trace and the results are scikit-learn's."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.mixture import GaussianMixture as Reference

import dgmm

FAMILIES = ("full", "tied", "diag", "spherical")


def start(family: str, k: int, d: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    shapes = {"full": (k, d, d), "tied": (d, d), "diag": (k, d), "spherical": (k,)}
    base = np.eye(d) if family in ("full", "tied") else 1.0
    return {
        "weights_init": rng.dirichlet(np.full(k, 5.0)),
        "means_init": rng.normal(scale=2.0, size=(k, d)),
        "precisions_init": np.broadcast_to(base, shapes[family]).copy(),
    }


@pytest.mark.parametrize(
    ("family", "offset"),
    # scikit-learn takes the tied covariance from raw second moments, which an offset spoils.
    [(family, 0.0) for family in FAMILIES]
    + [(family, 1e3) for family in FAMILIES if family != "tied"],
)
def test_the_trace_is_that_of_scikit_learn(family: str, offset: float) -> None:
    rng = np.random.default_rng(7)
    x = rng.normal(size=(3000, 5)) @ rng.normal(size=(5, 5)) + offset
    given = start(family, 4, 5, rng)
    given["means_init"] = given["means_init"] + offset
    common = {"tol": 0.0, "max_iter": 30, "reg_covar": 1e-3}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours = dgmm.GaussianMixture(4, covariance_type=family, **common, **given).fit(x)
        reference = Reference(
            4, covariance_type=family, init_params="random_from_data", **common, **given
        ).fit(x)
    np.testing.assert_allclose(ours.lower_bounds_, reference.lower_bounds_, rtol=1e-9)
    np.testing.assert_allclose(ours.means_, reference.means_, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(ours.covariances_, reference.covariances_, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(ours.score_samples(x), reference.score_samples(x), rtol=1e-7)
    assert ours.bic(x) == pytest.approx(reference.bic(x), rel=1e-9)
    assert ours.aic(x) == pytest.approx(reference.aic(x), rel=1e-9)
    assert np.mean(ours.predict(x) == reference.predict(x)) > 0.999


@pytest.mark.parametrize("family", FAMILIES)
def test_precisions_are_those_of_scikit_learn(family: str) -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(500, 3)) @ rng.normal(size=(3, 3))
    given = start(family, 2, 3, rng)
    ours = dgmm.GaussianMixture(2, covariance_type=family, max_iter=5, tol=1e3, **given).fit(x)
    reference = Reference(2, covariance_type=family, max_iter=5, tol=1e3, **given).fit(x)
    for name in ("precisions_", "precisions_cholesky_", "covariances_"):
        mine, theirs = getattr(ours, name), getattr(reference, name)
        assert mine.shape == theirs.shape
        np.testing.assert_allclose(mine, theirs, rtol=1e-7, atol=1e-9)


def test_a_fit_from_its_own_start_finds_what_scikit_learn_finds() -> None:
    rng = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0], [6.0, 0.0], [0.0, 6.0]])
    x = rng.normal(size=(1500, 2)) + centres[rng.integers(3, size=1500)]
    ours = dgmm.GaussianMixture(3, random_state=0, n_init=3, tol=1e-6).fit(x)
    reference = Reference(3, random_state=0, n_init=3, tol=1e-6).fit(x)
    assert ours.score(x) == pytest.approx(reference.score(x), abs=1e-4)
    assert ours.converged_
    assert ours.n_iter_ == len(ours.lower_bounds_)
    assert ours.lower_bound_ == ours.lower_bounds_[-1]


def test_max_iter_zero_keeps_the_start() -> None:
    x = np.random.default_rng(0).normal(size=(200, 2))
    given = start("full", 2, 2, np.random.default_rng(1))
    model = dgmm.GaussianMixture(2, max_iter=0, **given).fit(x)
    np.testing.assert_array_equal(model.means_, given["means_init"])
    assert model.n_iter_ == 0
    assert not model.converged_
    assert model.lower_bounds_ == []


def test_warm_start_goes_on_where_it_stopped() -> None:
    x = np.random.default_rng(0).normal(size=(2000, 3))
    given = start("full", 3, 3, np.random.default_rng(1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = dgmm.GaussianMixture(3, tol=0.0, max_iter=10, **given).fit(x)
        steps = dgmm.GaussianMixture(3, tol=0.0, max_iter=5, warm_start=True, **given).fit(x)
        steps.fit(x)
    assert steps.lower_bound_ == whole.lower_bound_
    np.testing.assert_array_equal(steps.means_, whole.means_)


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"n_components": 3}, "n_components was 2"), ({"covariance_type": "diag"}, "was 'full'")],
)
def test_warm_start_refuses_a_fit_of_another_shape(changed: dict, message: str) -> None:
    x = np.random.default_rng(0).normal(size=(300, 3))
    model = dgmm.GaussianMixture(2, warm_start=True, random_state=0, tol=1e-2).fit(x)
    with pytest.raises(dgmm.InvalidParameterError, match=message):
        model.set_params(**changed).fit(x)
    model.set_params(n_components=2, covariance_type="full")
    with pytest.raises(dgmm.InvalidParameterError, match="features was 3"):
        model.fit(x[:, :2])


@pytest.mark.parametrize("method", ["kmeans", "k-means++", "random", "random_from_data"])
def test_the_same_seed_gives_the_same_bits(method: str) -> None:
    x = np.random.default_rng(0).normal(size=(1000, 3))
    options = {"init_params": method, "random_state": 5, "n_init": 2, "tol": 1e-2}
    one = dgmm.GaussianMixture(3, **options).fit(x)
    other = dgmm.GaussianMixture(3, **options).fit(x)
    np.testing.assert_array_equal(one.means_, other.means_)
    assert one.lower_bounds_ == other.lower_bounds_


def test_float32_comes_back_as_float32() -> None:
    x = np.random.default_rng(0).normal(size=(1000, 3)).astype(np.float32)
    model = dgmm.GaussianMixture(2, random_state=0).fit(x)
    for values in (model.means_, model.weights_, model.covariances_, model.precisions_):
        assert values.dtype == np.float32
    assert model.score_samples(x).dtype == np.float32
    assert model.predict(x).dtype == np.int64


def test_samples_come_from_the_mixture() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4000, 2)) @ np.array([[2.0, 0.0], [1.0, 0.5]]) + [3.0, -1.0]
    model = dgmm.GaussianMixture(1, random_state=0).fit(x)
    drawn, labels = model.sample(20000)
    assert drawn.shape == (20000, 2)
    assert set(labels) == {0}
    np.testing.assert_allclose(drawn.mean(axis=0), x.mean(axis=0), atol=0.1)
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(x.T), atol=0.15)
