"""Priors, fixed parameters and the floor as arguments of the estimator."""

from __future__ import annotations

import tracemalloc
import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import BayesianGaussianMixture

import dgmm
from dgmm.covariance import family_names, family_of

FAMILIES = pytest.mark.parametrize("family", family_names())
K, D = 3, 2
RNG = np.random.default_rng(0)
CENTRES = np.array([[0.0, 0.0], [6.0, 0.0], [0.0, 6.0]])
X = RNG.normal(size=(400, D)) + CENTRES[RNG.integers(K, size=400)]


def fit(x: Any = X, k: int = K, **options: Any) -> dgmm.GaussianMixture:
    common = {"random_state": 0, "tol": 1e-5, "engine": dgmm.LocalEngine(1), "max_iter": 200}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return dgmm.GaussianMixture(k, **(common | options)).fit(x)


def covariances_of(family: str, scale: float = 1.0) -> np.ndarray:
    one = family_of(family)
    dense = scale * np.array([[1.0, 0.3], [0.3, 0.7]])
    stored = one.shape.project(dense) / one.shape.divisor(D)
    return np.broadcast_to(stored, one.covariances_shape(K, D)).copy()


# --------------------------------------------------------------------------------------- priors


@FAMILIES
def test_suggested_priors_fit_what_maximum_likelihood_cannot(family: str) -> None:
    # Five rows stand alone: without a prior their component collapses onto them.
    x = np.concatenate([X, np.full((5, D), 50.0)])
    means = np.concatenate([CENTRES, [[50.0, 50.0]]])
    priors = dgmm.suggest_priors(x, 4, family)
    model = fit(x, 4, covariance_type=family, reg_covar=0.0, means_init=means, **priors)
    assert model.converged_
    assert np.all(np.diff(model.lower_bounds_) >= -1e-12)
    assert model.means_[3] == pytest.approx([50.0, 50.0], rel=1e-2)


@FAMILIES
def test_the_likelihood_is_reported_apart_from_the_posterior(family: str) -> None:
    priors = dgmm.suggest_priors(X, K, family)
    model = fit(covariance_type=family, weight_concentration_prior=5.0, **priors)
    start = fit(covariance_type=family, weight_concentration_prior=5.0, max_iter=1, **priors)
    assert model.record_.log_likelihood == pytest.approx(model.score(X), abs=1e-4)
    assert start.lower_bound_ != start.record_.log_likelihood
    assert model.lower_bound_ < model.record_.log_likelihood
    plain = fit(covariance_type=family)
    assert plain.record_.log_likelihood == plain.lower_bound_
    assert plain.score(X) >= model.score(X)


def test_suggested_priors_are_those_of_fraley_and_raftery() -> None:
    full = dgmm.suggest_priors(X, 4, "full")
    np.testing.assert_allclose(full["mean_prior"], X.mean(axis=0))
    np.testing.assert_allclose(full["covariance_prior"], np.cov(X.T) / 4 ** (2 / D))
    assert (full["mean_precision_prior"], full["degrees_of_freedom_prior"]) == (0.01, D + 2)
    np.testing.assert_allclose(dgmm.suggest_priors(X)["covariance_prior"], np.cov(X.T))
    for family in ("diag", "spherical", "tied_diag", "tied_spherical"):
        scale = dgmm.suggest_priors(X, 4, family)["covariance_prior"]
        assert scale == pytest.approx(np.trace(np.cov(X.T)) / D / 4 ** (2 / D))


@FAMILIES
def test_priors_are_suggested_for_weighted_rows(family: str) -> None:
    copies = np.random.default_rng(3).integers(0, 3, len(X))
    weighted = dgmm.suggest_priors(X, K, family, sample_weight=copies)
    repeated = dgmm.suggest_priors(np.repeat(X, copies, axis=0), K, family)
    column = dgmm.suggest_priors(np.column_stack([X, copies]), K, family, sample_weight=D)
    for name, value in repeated.items():
        np.testing.assert_allclose(weighted[name], value, rtol=1e-12)
        np.testing.assert_allclose(column[name], value, rtol=1e-12)


def test_suggesting_priors_reads_every_block_once(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    dataset = dgmm.open_dataset(tmp_path / "x.npy", block_bytes=1600)
    engine = dgmm.LocalEngine(1)
    sessions = []
    opened = engine.session
    engine.session = lambda *args, **options: (
        sessions.append(opened(*args, **options)) or sessions[-1]
    )
    dgmm.suggest_priors(dataset, K, engine=engine)
    assert sessions[0].counters.block_reads == len(dataset.blocks) > 1


@pytest.mark.parametrize(
    ("x", "family", "message"),
    [
        (np.column_stack([X, np.ones(len(X))]), "full", "constant features: 2"),
        (np.ones((10, 2)), "diag", "constant features: 0, 1"),
        (X[:1], "full", "at least 2 rows"),
    ],
)
def test_rows_without_a_scale_suggest_no_priors(x: Any, family: str, message: str) -> None:
    with pytest.raises(dgmm.InvalidDataError, match=message):
        dgmm.suggest_priors(x, K, family)


@pytest.mark.parametrize("k", [0, 2.0, True, "3"])
def test_priors_are_suggested_for_a_number_of_components(k: Any) -> None:
    with pytest.raises(dgmm.InvalidParameterError, match="n_components"):
        dgmm.suggest_priors(X, k)


@FAMILIES
def test_numbers_stand_for_the_same_of_every_component(family: str) -> None:
    shape = family_of(family).covariances_shape(K, D)
    unit = np.broadcast_to(np.eye(D) if shape[-2:] == (D, D) else 1.0, shape)
    nu = 7.0 if family_of(family).is_tied else np.full(K, 7.0)
    short = {
        "weight_concentration_prior": 2.0,
        "mean_prior": 0.5,
        "mean_precision_prior": 3.0,
        "covariance_prior": 4.0,
        "degrees_of_freedom_prior": 7.0,
    }
    long = {
        "weight_concentration_prior": np.full(K, 2.0),
        "mean_prior": np.full((K, D), 0.5),
        "mean_precision_prior": np.full(K, 3.0),
        "covariance_prior": 4.0 * unit,
        "degrees_of_freedom_prior": nu,
    }
    one = fit(covariance_type=family, max_iter=5, tol=0.0, **short)
    other = fit(covariance_type=family, max_iter=5, tol=0.0, **long)
    np.testing.assert_array_equal(one.covariances_, other.covariances_)
    assert one.lower_bounds_ == other.lower_bounds_


def test_one_component_has_its_posterior_mode_in_closed_form() -> None:
    psi, nu, kappa, mu = np.array([[3.0, 1.0], [1.0, 2.0]]), 9.0, 40.0, np.array([1.0, -2.0])
    model = fit(
        k=1, reg_covar=0.0, mean_prior=mu, mean_precision_prior=kappa,
        covariance_prior=psi, degrees_of_freedom_prior=nu,
    )  # fmt: skip
    n, mean = len(X), X.mean(axis=0)
    np.testing.assert_allclose(model.means_[0], (kappa * mu + n * mean) / (kappa + n))
    # Murphy, "Conjugate Bayesian analysis of the Gaussian distribution" (2007), eq. 250 to 254.
    gap = mean - mu
    posterior = psi + (X - mean).T @ (X - mean) + kappa * n / (kappa + n) * np.outer(gap, gap)
    np.testing.assert_allclose(model.covariances_[0], posterior / (nu + n + D + 2))


@pytest.mark.parametrize("x_dtype", ["float32", "float64"])
def test_the_posterior_is_the_same_for_engines_and_dtypes(x_dtype: str) -> None:
    priors = dgmm.suggest_priors(X, K)
    wide = fit(tol=0.0, max_iter=5, **priors)
    other = fit(X.astype(x_dtype), tol=0.0, max_iter=5, engine=dgmm.LocalEngine(2), **priors)
    np.testing.assert_allclose(other.lower_bounds_, wide.lower_bounds_, atol=1e-5)


FIRM: dict[str, Any] = {
    "weight_concentration_prior": 20.0,
    "mean_prior": 0.0,
    "mean_precision_prior": 100.0,
    "covariance_prior": 40.0,
    "degrees_of_freedom_prior": 50.0,
    "init_params": lambda *_: CENTRES,
    "max_iter": 0,
}


@FAMILIES
def test_a_start_sets_priors_against_all_rows(family: str, monkeypatch: Any) -> None:
    """Not against those that were sampled, beside which they would count for far more."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(4000, D)) + CENTRES[rng.integers(K, size=4000)]
    whole = fit(x, covariance_type=family, **FIRM)
    monkeypatch.setattr("dgmm.initialization._SAMPLE_ROWS", 100)
    part = fit(x, covariance_type=family, **FIRM)
    # Three standard errors of the mean of some thirty rows.
    np.testing.assert_allclose(part.means_, whole.means_, atol=0.6)
    np.testing.assert_allclose(part.weights_, whole.weights_, atol=0.15)
    np.testing.assert_allclose(part.covariances_, whole.covariances_, atol=0.8)


@FAMILIES
def test_a_start_sets_priors_against_weights(family: str) -> None:
    model = dgmm.GaussianMixture(K, covariance_type=family, random_state=0, **FIRM)
    doubled = clone(model).fit(np.repeat(X, 2, axis=0)).mixture_
    weighted = model.fit(X, sample_weight=np.full(len(X), 2.0)).mixture_
    for name in ("weights", "means", "covariances"):
        found, expected = getattr(weighted, name), getattr(doubled, name)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("family", ["full", "tied", "diag", "spherical"])
def test_hyperparameters_of_scikit_learn_translate_as_documented(family: str) -> None:
    # So far apart that responsibilities are 0 or 1, in the variational treatment as in ours.
    x = X[:300] + 500.0 * CENTRES[np.arange(300) % K]
    nu, alpha = 20.0, 2.5
    psi = np.array([[3.0, 0.5], [0.5, 2.0]])
    scale = {"full": psi, "tied": psi, "diag": np.diag(psi), "spherical": 3.0}[family]
    ours = {
        "full": (psi, nu - D - 2),
        "tied": (K * psi, K * nu - K - D - 1),
        "diag": (np.diag(psi), nu - 3),
        "spherical": (D * 3.0, D * nu - D - 2),
    }[family]
    shared = {"covariance_type": family, "mean_prior": [900.0, 1100.0], "mean_precision_prior": 0.3}
    shared |= {"reg_covar": 0.0, "random_state": 0, "tol": 1e-9}
    theirs = BayesianGaussianMixture(
        n_components=K,
        weight_concentration_prior_type="dirichlet_distribution",
        weight_concentration_prior=alpha,
        covariance_prior=scale,
        degrees_of_freedom_prior=nu,
        **shared,
    ).fit(x)
    model = fit(
        x,
        weight_concentration_prior=alpha + 1.0,
        covariance_prior=ours[0],
        degrees_of_freedom_prior=ours[1],
        means_init=theirs.means_,
        **shared,
    )
    np.testing.assert_allclose(model.weights_, theirs.weights_, rtol=1e-9)
    np.testing.assert_allclose(model.means_, theirs.means_, rtol=1e-9)
    np.testing.assert_allclose(model.covariances_, theirs.covariances_, rtol=1e-9)


# ------------------------------------------------------------------------------------ fixed


@FAMILIES
@pytest.mark.parametrize("given", ["covariances_init", "precisions_init", None])
def test_fixed_covariances_come_back_bit_for_bit(family: str, given: str | None) -> None:
    values = {} if given is None else {given: covariances_of(family)}
    options = {"covariance_type": family, "fixed": {"covariances"}, "reg_covar": 0.1, **values}
    model, start = fit(**options), fit(max_iter=0, **options)
    assert model.n_iter_ > 1
    np.testing.assert_array_equal(model.covariances_, start.covariances_)
    if given == "covariances_init":
        np.testing.assert_array_equal(model.covariances_, values[given])
    if given == "precisions_init":
        # Their inverses are what is held.
        np.testing.assert_allclose(model.precisions_, values[given], rtol=1e-14, atol=1e-15)
    assert not np.array_equal(model.means_, start.means_)
    free = fit(covariance_type=family)
    held = family_of(family).n_parameters(K, D)
    assert free.n_parameters_ - model.n_parameters_ == held
    assert model.bic(X) - model.aic(X) == pytest.approx(model.n_parameters_ * (np.log(len(X)) - 2))


@FAMILIES
def test_fixed_means_and_weights_come_back_bit_for_bit(family: str) -> None:
    weights, means = np.array([0.2, 0.3, 0.5]), CENTRES + RNG.normal(size=(K, D)) / 3
    model = fit(
        covariance_type=family, means_init=means, weights_init=weights,
        fixed={"means": [0, 2], "weights": [1]},
    )  # fmt: skip
    np.testing.assert_array_equal(model.means_[[0, 2]], means[[0, 2]])
    assert model.weights_[1] == weights[1]
    assert model.weights_.sum() == pytest.approx(1.0)
    assert model.weights_[0] != weights[0]
    assert np.all(model.means_[1] != means[1])
    assert model.n_parameters_ == model.mixture_.n_parameters - 2 * D - 1


def test_fixed_float32_rows_keep_the_values_in_float64() -> None:
    means = CENTRES + 1 / 3
    model = fit(X.astype("float32"), means_init=means, fixed="means")
    np.testing.assert_array_equal(model.mixture_.means, means)


def test_everything_fixed_is_the_start() -> None:
    given = {"weights_init": np.full(K, 1 / K), "means_init": CENTRES}
    names = {"weights", "means", "covariances"}
    model = fit(fixed=names, covariances_init=covariances_of("full"), **given)
    np.testing.assert_array_equal(model.means_, CENTRES)
    np.testing.assert_array_equal(model.weights_, given["weights_init"])
    assert model.n_parameters_ == 0
    assert model.converged_


def test_fixing_nothing_changes_nothing() -> None:
    plain = fit()
    for nothing in ({}, set(), {"means": []}, {"means": False}):
        np.testing.assert_array_equal(fit(fixed=nothing).means_, plain.means_)


def test_warm_start_holds_what_the_last_fit_found() -> None:
    model = fit(max_iter=3, tol=0.0, warm_start=True)
    covariances = model.covariances_
    model.set_params(fixed={"covariances"}, max_iter=100, tol=1e-3).fit(X)
    np.testing.assert_array_equal(model.covariances_, covariances)


def starts_of(family: str, scale: str = "covariances_init") -> dict[str, Any]:
    stored = covariances_of(family)
    if scale == "precisions_init":
        stored = fit(covariance_type=family, covariances_init=stored, max_iter=0).precisions_
    return {"weights_init": [0.2, 0.3, 0.5], "means_init": CENTRES, scale: stored}


@FAMILIES
@pytest.mark.parametrize("scale", ["covariances_init", "precisions_init"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("step", ["fit", "partial_fit"])
def test_going_on_refuses_another_value_of_what_is_held(
    family: str, scale: str, dtype: str, step: str
) -> None:
    x, fixed = X.astype(dtype), {"weights", "means", "covariances"}
    starts = starts_of(family, scale)
    model = fit(x, covariance_type=family, fixed=fixed, warm_start=True, dtype="float64", **starts)
    # What the fit has, given back, is the same, if only to the rounding of the rows' dtype.
    same = {"weights_init": model.weights_, "means_init": model.means_}
    for given in (starts, same | {scale: getattr(model, f"{scale.removesuffix('_init')}_")}):
        getattr(model.set_params(**given), step)(x)
    np.testing.assert_array_equal(model.mixture_.means, CENTRES)
    others = {
        "weights": {"weights_init": [0.3, 0.2, 0.5]},
        "means": {"means_init": CENTRES + 1.0},
        "covariances": {scale: 1.001 * starts[scale]},
    }
    for held, other in others.items():
        again = deepcopy(model).set_params(**starts | other)
        with pytest.raises(
            dgmm.InvalidParameterError, match=f"fixed holds the {held}.*{next(iter(other))}"
        ):
            getattr(again, step)(x)
        # Of what is free, starts say where a fit begins, and this one has begun.
        getattr(again.set_params(fixed=fixed - {held}), step)(x)


def test_going_on_compares_the_components_that_are_held() -> None:
    model = fit(means_init=CENTRES, fixed={"means": [0, 2]}, warm_start=True)
    moved = CENTRES + np.array([[0.0], [3.0], [0.0]])
    model.set_params(means_init=moved).fit(X).partial_fit(X)
    np.testing.assert_array_equal(model.means_[[0, 2]], CENTRES[[0, 2]])
    moved[2] += 1.0
    with pytest.raises(dgmm.InvalidParameterError, match=r"components \[0, 2\].*up to 1;"):
        model.set_params(means_init=moved).fit(X)
    with pytest.raises(dgmm.InvalidParameterError, match=r"shape of \(3, 2\)"):
        model.set_params(means_init=moved[:2]).fit(X)
    anew = model.set_params(means_init=moved, warm_start=False).fit(X)
    np.testing.assert_array_equal(anew.means_[[0, 2]], moved[[0, 2]])


def test_going_on_compares_before_any_row_is_read() -> None:
    model = fit(means_init=CENTRES, fixed={"means"}, warm_start=True)
    model.set_params(means_init=CENTRES + 1.0)
    x = X.copy()
    x[7] = np.nan
    for go_on in (model.fit, model.partial_fit):
        with pytest.raises(dgmm.InvalidParameterError, match="fixed holds the means"):
            go_on(x)


# ------------------------------------------------------------------------------------ floor


@FAMILIES
def test_a_floor_bounds_the_eigenvalues_and_keeps_the_bound_rising(family: str) -> None:
    model = fit(covariance_type=family, covariance_floor=1.2)
    shape = family_of(family).shape
    assert np.linalg.eigvalsh(shape.dense(model.covariances_, D)).min() >= 1.2 * (1 - 1e-12)
    assert np.all(np.diff(model.lower_bounds_) >= -1e-12)


def test_a_floor_raises_a_start_that_is_below_it() -> None:
    low = covariances_of("full", 1e-3)
    model = fit(covariances_init=low, means_init=CENTRES, covariance_floor=1.2)
    assert np.all(np.diff(model.lower_bounds_) >= -1e-12)
    fixed = fit(covariances_init=low, covariance_floor=1.2, fixed={"covariances": [1]})
    np.testing.assert_array_equal(fixed.covariances_[1], low[1])


def test_a_constant_column_is_given_the_floor() -> None:
    x = np.column_stack([X, np.full(len(X), 7.0)])
    model = fit(x, covariance_floor=1e-4)
    np.testing.assert_allclose(model.covariances_[:, 2, 2], 1e-4)


# ------------------------------------------------------------------------------------ bad input

NIW = {
    "mean_prior": 0.0,
    "mean_precision_prior": 1.0,
    "covariance_prior": 1.0,
    "degrees_of_freedom_prior": 5.0,
}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_concentration_prior": 0.5}, r"weight_concentration_prior=0\.5.*at least 1"),
        ({"weight_concentration_prior": [1.0, 2.0, 0.9]}, r"weight_concentration_prior\[2\]=0\.9"),
        ({"weight_concentration_prior": [1.0, 2.0]}, r"shape \(2,\).*\(3,\)"),
        ({"weight_concentration_prior": "a"}, "weight_concentration_prior='a'"),
        ({"weight_concentration_prior": np.nan}, "weight_concentration_prior.*finite"),
        ({"mean_prior": 0.0}, "mean_prior is given without mean_precision_prior"),
        ({"mean_precision_prior": 1.0}, "mean_precision_prior=1.0 is given without mean_prior"),
        ({"covariance_prior": 1.0}, "covariance_prior is given without degrees_of_freedom"),
        ({"degrees_of_freedom_prior": 5.0}, "degrees_of_freedom_prior=5.0 is given without"),
        ({**NIW, "mean_prior": np.zeros(3)}, r"mean_prior has shape \(3,\)"),
        ({**NIW, "mean_prior": [np.inf, 0.0]}, "mean_prior.*finite"),
        ({**NIW, "mean_precision_prior": -1.0}, "mean_precision_prior=-1; it must be at least 0"),
        ({**NIW, "mean_precision_prior": [[1.0]]}, "mean_precision_prior has shape"),
        ({**NIW, "covariance_prior": -1.0}, "covariance_prior.*positive definite.*eigenvalue -1"),
        ({**NIW, "covariance_prior": np.ones((2, 2))}, "covariance_prior.*positive definite"),
        ({**NIW, "covariance_prior": [[1.0, 0.9], [0.0, 1.0]]}, "covariance_prior.*symmetric"),
        ({**NIW, "covariance_prior": [[1.0], [0.0, 1.0]]}, "covariance_prior=.*real numbers"),
        ({**NIW, "covariance_prior": np.ones(2)}, r"covariance_prior has shape \(2,\)"),
        ({**NIW, "covariance_prior": 1e-12 * np.array([[2, 1], [0, 2]])}, "is not symmetric"),
        ({**NIW, "covariance_prior": np.eye(2) + 1j}, "(?s)covariance_prior=.*real numbers"),
        (
            {**NIW, "mean_prior": np.ma.masked_equal([0.0, 1.0], 1.0)},
            "(?s)mean_prior=.*real numbers",
        ),
        ({**NIW, "mean_prior": np.array(["2020"], "M8[D]")}, "mean_prior=.*real numbers"),
        ({**NIW, "mean_prior": 1e200}, "mean_prior goes up to 1e.200, which overflows"),
        ({"means_init": np.full((3, 2), -1e200)}, "means_init goes up to 1e.200, which overflows"),
        ({**NIW, "mean_precision_prior": 1e200}, "mean_precision_prior goes up to 1e.200; it coun"),
        ({**NIW, "degrees_of_freedom_prior": [5, 5, 1e150]}, "degrees_of_freedom_prior goes up to"),
        ({**NIW, "degrees_of_freedom_prior": "5"}, "degrees_of_freedom_prior='5'"),
        ({"weight_concentration_prior": 1e308}, "weight_concentration_prior goes up to 1e.308"),
        ({"covariances_init": 1e-12 * np.array([[[2, 1], [0, 2]]] * 3)}, "covariances_init"),
        ({"means_init": np.zeros((3, 2)) + 1j}, "means_init is not an array of numbers"),
        ({"means_init": np.full((3, 2), "1")}, "means_init is not an array of numbers"),
        ({"init_params": lambda *_: np.zeros((3, 2)) + 1j}, "init_params returned ndarray"),
        ({"init_params": lambda *_: "rows"}, "init_params returned str"),
        ({**NIW, "degrees_of_freedom_prior": 1.0}, "degrees_of_freedom_prior=1; for.*exceed 1"),
        (
            {**NIW, "degrees_of_freedom_prior": [5.0, 5.0, 0.5]},
            r"degrees_of_freedom_prior\[2\]=0\.5.*exceed 1",
        ),
        ({"covariance_floor": 0.0}, "covariance_floor=0.0.*above 0"),
        ({"covariance_floor": -1.0}, "covariance_floor=-1.0"),
        ({"covariance_floor": "1"}, "covariance_floor='1'"),
        ({"covariance_floor": True}, "covariance_floor=True"),
        ({"fixed": {"precisions"}}, "fixed=.*'precisions' cannot be fixed; use 'weights'"),
        ({"fixed": 3}, "fixed=3; it must be"),
        ({"fixed": [0, 1]}, r"fixed=\[0, 1\]; it must be"),
        ({"fixed": {"means": [3]}}, r"fixed\['means'\]=\[3\]: there is no component 3; use 0 to 2"),
        ({"fixed": {"means": [-1]}}, "no component -1"),
        ({"fixed": {"means": [0.5]}}, "as integers"),
        ({"fixed": {"means": [[0, 1]]}}, "as integers"),
        ({"fixed": {"means": [[0], [1, 2]]}}, "as integers"),
        ({"fixed": {"means": None}}, "as integers"),
        ({"fixed": {"means": "all"}}, "as integers"),
        ({"fixed": {"means": {0, "all"}}}, "as integers"),
        ({"fixed": {"means": [True, False, True]}}, "as integers"),
        (
            {"fixed": {"weights": [0, 1]}, "weights_init": [0.5, 0.5, 0.0]},
            r"components \[0, 1\] sum to 1 and leave nothing",
        ),
        ({"covariances_init": np.ones((3, 2))}, "covariances_init"),
        ({"covariances_init": np.ones((3, 2, 2))}, "covariances_init"),
        (
            {"covariances_init": covariances_of("full"), "precisions_init": covariances_of("full")},
            "covariances_init and precisions_init are both given",
        ),
    ],
)
def test_an_argument_out_of_range_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(dgmm.InvalidParameterError, match=message):
        fit(**options)


@pytest.mark.parametrize("family", ["diag", "spherical", "tied_diag", "tied_spherical"])
def test_priors_of_variances_need_degrees_of_freedom_above_zero(family: str) -> None:
    fit(covariance_type=family, **(NIW | {"degrees_of_freedom_prior": 0.1}))
    with pytest.raises(dgmm.InvalidParameterError, match=r"degrees_of_freedom_prior=0; .*exceed 0"):
        fit(covariance_type=family, **(NIW | {"degrees_of_freedom_prior": 0.0}))


@FAMILIES
def test_bad_priors_are_named_for_every_family(family: str) -> None:
    one = family_of(family)
    single, least = one.shape.trailing(D), one.shape.least_degrees_of_freedom(D)
    bad = [
        ({"weight_concentration_prior": 0.9}, r"weight_concentration_prior=0\.9; .*at least 1"),
        (
            {"weight_concentration_prior": [1.0, 2.0]},
            r"weight_concentration_prior has shape \(2,\)",
        ),
        ({"mean_prior": np.zeros((K, D + 1))}, r"mean_prior has shape \(3, 3\)"),
        ({"mean_precision_prior": [1.0, -2.0, 1.0]}, r"mean_precision_prior\[1\]=-2"),
        ({"covariance_prior": 0.0}, "positive definite.*eigenvalue 0"),
        (
            {"covariance_prior": -covariances_of(family)},
            f"positive definite.*'{family}'.*component 0",
        ),
        ({"covariance_prior": np.ones((*single, 4))}, "covariance_prior has shape"),
        ({"covariance_prior": np.nan}, "covariance_prior.*finite"),
        ({"degrees_of_freedom_prior": least}, f"degrees_of_freedom_prior={least:g}; .*'{family}'"),
        ({"degrees_of_freedom_prior": np.full(K + 1, 9.0)}, "degrees_of_freedom_prior has shape"),
    ]
    if not one.is_tied:
        part = covariances_of(family)
        part[2] *= -1.0
        bad.append(({"covariance_prior": part}, "positive definite.*component 2"))
    if one.shape.uses_whitening():
        skew = covariances_of(family)
        skew[..., 0, 1] += 0.1
        bad.append(({"covariance_prior": skew}, "is not symmetric"))
    for options, message in bad:
        with pytest.raises(dgmm.InvalidParameterError, match=message):
            fit(covariance_type=family, **(NIW | options))


@pytest.mark.parametrize("family", ["tied", "tied_full", "tied_diag", "tied_spherical"])
def test_a_single_covariance_of_a_tied_family_cannot_be_fixed(family: str) -> None:
    with pytest.raises(dgmm.InvalidParameterError, match="share one"):
        fit(covariance_type=family, fixed={"covariances": [0]})
    fit(covariance_type=family, fixed={"covariances": [0, 1, 2]}, max_iter=2)


def traced_peak(call: Any) -> int:
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("family", ["diag", "spherical", "tied_diag", "tied_spherical"])
@pytest.mark.parametrize("device", ["cpu", "cpu-compiled"])
@pytest.mark.parametrize(
    "options",
    [
        {"covariance_prior": 1.0, "degrees_of_freedom_prior": 5.0},
        {"acceleration": "computing"},
        {"init_params": "k-means||"},
        {"init_params": "small_em"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_no_matrix_is_made_for_families_without_one(
    family: str, device: str, options: dict[str, Any]
) -> None:
    if device == "cpu-compiled":
        pytest.importorskip("numba")
    d = 2500
    x = np.random.default_rng(0).normal(size=(30, d)).astype(np.float32)
    model = dgmm.GaussianMixture(
        2, covariance_type=family, max_iter=1, random_state=0, device=device, **options
    )
    model.fit(x)
    # One of d x d would take 50 MB.
    assert traced_peak(lambda: model.fit(x).predict(x)) < 8 * d**2


@pytest.mark.parametrize("family", ["diag", "spherical", "tied_diag", "tied_spherical"])
def test_none_is_made_far_from_the_origin_and_by_batches_either(family: str) -> None:
    d = 2500
    x = np.random.default_rng(0).normal(size=(30, d))
    x[::2] += 1e9
    model = dgmm.GaussianMixture(
        2, covariance_type=family, max_iter=1, random_state=0, device="cpu", reg_covar=1e-3
    )
    model.fit(x)
    assert model.record_.restarts[0].kernel == "centred"
    assert traced_peak(lambda: model.fit(x)) < 8 * d**2
    near = x % 1.0
    assert traced_peak(lambda: model.fit(near).partial_fit(near)) < 8 * d**2


def test_none_is_projected_either() -> None:
    x = np.random.default_rng(0).normal(size=(40, 8000)).astype(np.float32)
    for options in ({}, {"init_params": "small_em"}):
        dgmm.GaussianMixture(
            3, covariance_type="diag", max_iter=1, random_state=0, memory_limit="600MiB",
            engine=dgmm.LocalEngine(1), device="cpu", **options,
        ).fit(x)  # fmt: skip


def test_a_matrix_is_the_prior_of_families_with_matrices() -> None:
    options = {"degrees_of_freedom_prior": 6.0, "random_state": 0, "max_iter": 2}
    with pytest.raises(dgmm.InvalidParameterError, match=r"\(2, 2\) \(full\), \(2,\) \(diag\)"):
        dgmm.select_model(
            X, [2], covariance_types=("full", "diag"), covariance_prior=np.eye(2), **options
        )
    found = dgmm.select_model(
        X, [2], covariance_types=("full", "tied"), covariance_prior=np.eye(2), **options
    )
    assert len(found.table) == 2


def test_bad_arguments_are_refused_before_any_row_is_read() -> None:
    x = X.copy()
    x[7] = np.nan
    with pytest.raises(dgmm.InvalidParameterError, match="weight_concentration_prior"):
        fit(x, weight_concentration_prior=0.5)


# ---------------------------------------------------------------------------------- model files


def test_a_model_file_keeps_them(tmp_path: Path) -> None:
    options = {
        "fixed": {"means": [0, 2], "covariances": True},
        "means_init": CENTRES,
        "covariances_init": covariances_of("full"),
        "covariance_floor": 0.2,
        "weight_concentration_prior": 2.0,
        **dgmm.suggest_priors(X, K),
    }
    model = fit(**options)
    model.save(tmp_path / "one")
    fit(**options).save(tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    back = dgmm.GaussianMixture.load(tmp_path / "one")
    assert back.n_parameters_ == model.n_parameters_
    for name, value in options.items():
        np.testing.assert_array_equal(getattr(back, name), value)
    refitted = back.set_params(tol=1e-5, max_iter=200, engine=dgmm.LocalEngine(1)).fit(X)
    np.testing.assert_array_equal(refitted.means_, model.means_)


def test_how_fixed_is_spelled_does_not_show_in_the_file(tmp_path: Path) -> None:
    given = {"means_init": CENTRES, "weights_init": np.full(K, 1 / K)}
    spellings = (
        ["means", "weights"],
        ("weights", "means"),
        {"means", "weights"},
        {"weights": {0, 1, 2}, "means": np.arange(3), "covariances": ()},
    )
    for position, spelling in enumerate(spellings):
        fit(fixed=spelling, **given).save(tmp_path / str(position))
    assert len({(tmp_path / str(i)).read_bytes() for i in range(len(spellings))}) == 1


@pytest.mark.slow
def test_a_cluster_gives_the_same_bytes(tmp_path: Path) -> None:
    from distributed import Client, LocalCluster

    options = {"fixed": {"means": [1]}, "means_init": CENTRES}
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        engine = dgmm.DaskEngine(client)
        for family in family_names():
            for name, one in (("threads", dgmm.LocalEngine()), ("workers", engine)):
                priors = dgmm.suggest_priors(X, K, family, engine=one)
                model = fit(covariance_type=family, engine=one, **options, **priors)
                model.save(tmp_path / name)
            files = [(tmp_path / name).read_bytes() for name in ("threads", "workers")]
            assert files[0] == files[1], family
