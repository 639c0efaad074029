"""What scikit-learn's tools ask of an estimator: checks, pipelines, searches, clones, pickles."""

from __future__ import annotations

import inspect
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn
from sklearn.base import clone
from sklearn.mixture import GaussianMixture as Reference
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import dgmm

RNG = np.random.default_rng(0)
X = RNG.normal(size=(400, 3)) + 6.0 * (np.arange(400) % 2)[:, None]
FAMILIES = ("full", "tied", "diag", "spherical", "tied_diag", "tied_spherical")
THEIRS = FAMILIES[:4]
ATTRIBUTES = ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_")


@parametrize_with_checks([dgmm.GaussianMixture(covariance_type=family) for family in FAMILIES])
def test_its_checks_pass(estimator: Any, check: Any) -> None:
    check(estimator)


def test_the_checks_are_those_of_its_own_mixture() -> None:
    from sklearn.utils.estimator_checks import estimator_checks_generator

    def names(estimator: Any) -> list[str]:
        found = (check for _, check in estimator_checks_generator(estimator))
        return [getattr(check, "func", check).__name__ for check in found]

    # partial_fit and sample_weight have checks of their own, which theirs is spared.
    more = ("partial_fit", "sample_weight")
    ours = names(dgmm.GaussianMixture())
    assert [one for one in ours if not any(name in one for name in more)] == names(Reference())


def test_it_ends_a_pipeline() -> None:
    pipeline = make_pipeline(StandardScaler(), dgmm.GaussianMixture(2, random_state=0)).fit(X)
    scaled = StandardScaler().fit_transform(X)
    alone = dgmm.GaussianMixture(2, random_state=0).fit(scaled)
    np.testing.assert_array_equal(pipeline.predict(X), alone.predict(scaled))
    assert pipeline.score(X) == alone.score(scaled)


def test_a_search_scores_by_the_log_likelihood() -> None:
    grid = {"n_components": [1, 2], "covariance_type": ["full", "spherical"]}
    search = GridSearchCV(dgmm.GaussianMixture(random_state=0), grid, cv=3).fit(X)
    assert search.best_params_ == {"n_components": 2, "covariance_type": "spherical"}
    best = search.best_estimator_
    assert search.score(X) == best.score(X)
    scores = cross_val_score(clone(best), X, cv=3)
    assert scores.mean() == pytest.approx(search.best_score_)


def test_there_is_nothing_to_transform() -> None:
    model = dgmm.GaussianMixture()
    assert not hasattr(model, "transform")
    assert not hasattr(model, "set_output")


def test_notebooks_show_it() -> None:
    model = dgmm.GaussianMixture(7, engine=dgmm.LocalEngine())
    html = model._repr_html_()
    assert "n_components" in html
    assert "Not fitted" in html
    assert "Not fitted" not in model.set_params(n_components=2).fit(X)._repr_html_()
    assert repr(model) == f"GaussianMixture(engine={model.engine!r}, n_components=2)"


def test_clones_are_unfitted_and_equal() -> None:
    model = dgmm.GaussianMixture(2, means_init=X[:2], step_size=1.0).fit(X)
    copy = clone(model)
    assert not hasattr(copy, "mixture_")
    np.testing.assert_array_equal(copy.means_init, model.means_init)
    ours, theirs = copy.get_params(), model.get_params()
    assert ours.keys() == theirs.keys()
    assert copy.step_size == 1.0


def _by_joblib(model: Any) -> Any:
    joblib = pytest.importorskip("joblib")
    buffer = io.BytesIO()
    joblib.dump(model, buffer)
    buffer.seek(0)
    return joblib.load(buffer)


def _by_cloudpickle(model: Any) -> Any:
    return pickle.loads(pytest.importorskip("cloudpickle").dumps(model))


@pytest.mark.parametrize(
    "copy_of", [lambda model: pickle.loads(pickle.dumps(model)), _by_joblib, _by_cloudpickle]
)
def test_pickles_are_the_model(copy_of: Any) -> None:
    model = dgmm.GaussianMixture(2, random_state=0, engine=dgmm.LocalEngine(n_threads=1)).fit(X)
    model.predict(X)
    copy = copy_of(model)
    for name in ATTRIBUTES:
        np.testing.assert_array_equal(getattr(copy, name), getattr(model, name))
    np.testing.assert_array_equal(copy.predict_proba(X), model.predict_proba(X))
    assert copy.record_ == model.record_
    assert copy.fit(X).lower_bound_ == model.lower_bound_


def test_a_pickle_holds_neither_rows_nor_clients() -> None:
    from distributed import Client, LocalCluster

    rows = np.concatenate([X] * 500)
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=1, dashboard_address=None, processes=False
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        model = dgmm.GaussianMixture(2, random_state=0, engine=dgmm.DaskEngine(client)).fit(rows)
        data = pickle.dumps(model)
    # The cluster is gone: what comes back must not need it until it runs something.
    copy = pickle.loads(data)
    assert len(data) < 20_000
    np.testing.assert_array_equal(copy.means_, model.means_)
    here = dgmm.GaussianMixture(2, random_state=0).fit(rows)
    assert copy.set_params(engine="local").score(X) == here.score(X)


# ------------------------------------------------------------------- weights


_WEIGHTED = "sample_weight" in inspect.signature(dgmm.GaussianMixture.fit).parameters


@pytest.mark.skipif(not _WEIGHTED, reason="fit takes no sample_weight")
def test_weights_are_routed() -> None:
    weights = (np.arange(400) % 2).astype(float)
    expected = dgmm.GaussianMixture(1).fit(X[1::2])
    with sklearn.config_context(enable_metadata_routing=True):
        model = dgmm.GaussianMixture(1).set_fit_request(sample_weight=True)
        pipeline = make_pipeline(StandardScaler(with_mean=False, with_std=False), model)
        pipeline[0].set_fit_request(sample_weight=False)
        found = pipeline.fit(X, sample_weight=weights)[-1]
    np.testing.assert_allclose(found.means_, expected.means_, rtol=1e-9)


# ------------------------------------------------- parameters set by hand


def _reference(family: str) -> Reference:
    return Reference(2, covariance_type=family, random_state=0).fit(X)


@pytest.mark.parametrize("family", THEIRS)
@pytest.mark.parametrize("third", ["covariances_", "precisions_", "precisions_cholesky_"])
def test_a_mixture_can_be_set_without_a_fit(family: str, third: str) -> None:
    reference = _reference(family)
    model = dgmm.GaussianMixture(2, covariance_type=family)
    for name in ("weights_", "means_"):
        setattr(model, name, getattr(reference, name))
        assert not hasattr(model, "means_")
    setattr(model, third, getattr(reference, third))
    for name in ATTRIBUTES:
        np.testing.assert_allclose(getattr(model, name), getattr(reference, name), rtol=1e-9)
    np.testing.assert_allclose(model.score_samples(X), reference.score_samples(X), rtol=1e-9)
    assert model.bic(X) == pytest.approx(reference.bic(X))


def test_a_mixture_that_was_set_is_saved_and_fitted_on(tmp_path: Path) -> None:
    reference = _reference("full")
    model = dgmm.GaussianMixture(2, warm_start=True, random_state=5)
    for name in ATTRIBUTES[:3]:
        setattr(model, name, getattr(reference, name))
    model.save(tmp_path / "m.safetensors")
    loaded = dgmm.GaussianMixture.load(tmp_path / "m.safetensors")
    np.testing.assert_array_equal(loaded.predict(X), reference.predict(X))
    # It starts where it was set, which is where scikit-learn's fit had ended.
    assert model.fit(X).n_iter_ <= 3
    np.testing.assert_allclose(model.means_, reference.means_, atol=1e-2)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_array_of_a_fitted_mixture_can_be_set(family: str) -> None:
    model = dgmm.GaussianMixture(2, covariance_type=family, random_state=0).fit(X)
    before = model.mixture_
    model.weights_ = [0.25, 0.75]
    model.means_ = model.means_ + 1.0
    assert model.sample(4000)[1].mean() == pytest.approx(0.75, abs=0.05)
    np.testing.assert_array_equal(model.means_, before.means + 1.0)
    model.precisions_ = model.precisions_ / 4.0
    np.testing.assert_allclose(model.covariances_, before.covariances * 4.0, rtol=1e-10)
    # The value that was there has not changed.
    assert before.weights[0] != 0.25


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("weights_", [0.5, 0.6]),
        ("means_", np.zeros((3, 3))),
        ("means_", np.full((2, 3), np.nan)),
        ("covariances_", -np.ones((2, 3, 3))),
        ("precisions_", np.zeros((2, 3, 3))),
    ],
)
def test_what_makes_no_mixture_cannot_be_set(name: str, value: Any) -> None:
    model = dgmm.GaussianMixture(2, random_state=0).fit(X)
    before = model.mixture_
    with pytest.raises(dgmm.InvalidParameterError):
        setattr(model, name, value)
    assert model.mixture_ is before


# ----------------------------------------------------- the messages of starts


@pytest.mark.parametrize(
    ("weights", "message"),
    [([0.5, 1.5], "between 0.50000 and 1.50000"), ([0.5, 0.4], r"sum\(weights\) = 0.90000")],
)
def test_weights_that_are_no_proportions_are_shown(weights: list[float], message: str) -> None:
    with pytest.raises(dgmm.InvalidParameterError, match=message):
        dgmm.GaussianMixture(2, weights_init=weights).fit(X)
