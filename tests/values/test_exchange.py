"""Models from parameters, state dictionaries, scikit-learn and ONNX."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.mixture import BayesianGaussianMixture
from sklearn.mixture import GaussianMixture as Reference

import dgmm
from dgmm.storage import read_model, write_model
from tests.values.cases import FAMILIES, density, mixture_of

X = np.random.default_rng(1).normal(scale=2.0, size=(200, 3))
COMMON = {"full": "full", "diag": "diag", "spherical": "spherical", "tied_full": "tied"}


def model_of(name: str, dtype: str = "float64", **arguments: Any) -> dgmm.GaussianMixture:
    mixture = mixture_of(name)
    return dgmm.GaussianMixture.from_parameters(
        mixture.weights,
        mixture.means.astype(dtype),
        mixture.covariances,
        covariance_type=name,
        **arguments,
    )


@pytest.fixture(params=FAMILIES)
def fitted(request: pytest.FixtureRequest) -> dgmm.GaussianMixture:
    return dgmm.GaussianMixture(
        3, covariance_type=request.param, random_state=0, tol=0.1, max_iter=40
    ).fit(X)


# ------------------------------------------------------------------------------- from parameters


@pytest.mark.parametrize("name", FAMILIES)
def test_given_parameters_are_usable_at_once(name: str, tmp_path: Path) -> None:
    model = model_of(name, random_state=0)
    assert model.fitted_
    assert model.covariance_type == name
    assert_allclose(model.score_samples(X), np.log(density(mixture_of(name), X)), rtol=1e-9)
    assert model.sample(5)[0].shape == (5, 3)
    model.save(tmp_path / "model.safetensors")
    again = dgmm.GaussianMixture.load(tmp_path / "model.safetensors")
    assert_array_equal(again.score_samples(X), model.score_samples(X))
    assert not clone(model).fitted_


def test_arguments_names_and_dtype_are_kept() -> None:
    model = model_of("full", "float32", feature_names=list("abc"), tol=0.5, reg_covar=0.0)
    assert (model.tol, model.reg_covar, model.n_components) == (0.5, 0.0, 3)
    assert list(model.feature_names_in_) == ["a", "b", "c"]
    assert model.means_.dtype == model.predict_proba(X).dtype == np.float32
    assert model.mixture_.marginal("c").n_features == 1


ARGUMENTS = {
    "acceleration": "reading",
    "algorithm": "sem",
    "annealing": [4.0, 2.0],
    "halve_after": 3,
    "empty_components": "reseed",
    "step_size": 0.9,
    "step_offset": 3.0,
    "forgetting": 0.25,
    "n_init": 4,
    "tol": 1e-5,
    "init_params": "maxdist",
    "covariance_floor": 0.5,
    "weight_concentration_prior": np.array([1.0, 2.0, 3.0]),
    "random_state": 7,
    "dtype": "float32",
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_model_file_has_the_arguments_of_its_fit(name: str, tmp_path: Path) -> None:
    model = model_of("full", **{name: ARGUMENTS[name]})
    model.save(tmp_path / "m")
    assert_array_equal(
        getattr(dgmm.GaussianMixture.load(tmp_path / "m"), name), getattr(model, name)
    )
    if name != "dtype":  # a matter of where it runs
        state = model.state_dict()
        again = dgmm.GaussianMixture().load_state_dict(state)
        assert_array_equal(getattr(again, name), getattr(model, name))


def test_where_it_runs_is_said_when_it_is_read(tmp_path: Path) -> None:
    model_of("full", memory_limit="1GiB", device="cpu", engine="local").save(tmp_path / "m")
    load = dgmm.GaussianMixture.load
    plain = load(tmp_path / "m")
    assert (plain.device, plain.engine, plain.memory_limit) == ("auto", None, None)
    assert load(tmp_path / "m", device=None).device == "auto"
    engine = dgmm.LocalEngine(1)
    here = load(tmp_path / "m", "cpu", engine=engine, memory_limit="2GiB")
    assert (here.device, here.engine, here.memory_limit) == ("cpu", engine, "2GiB")


def test_a_file_from_before_an_argument_has_its_default(tmp_path: Path) -> None:
    model_of("full", acceleration="auto").save(tmp_path / "m")
    tensors, facts = read_model(tmp_path / "m")
    for name in ("acceleration", "algorithm", "annealing", "empty_components", "step_size"):
        del facts["arguments"][name]
    write_model(tmp_path / "old", tensors, facts)
    old = dgmm.GaussianMixture.load(tmp_path / "old")
    assert (old.acceleration, old.algorithm, old.empty_components) == (None, "em", "keep")
    assert (old.annealing, old.step_size) == (None, 0.7)


def test_no_code_is_kept(tmp_path: Path) -> None:
    model_of("full", step_size=lambda _: 1.0, init_params=lambda *_: None).save(tmp_path / "m")
    back = dgmm.GaussianMixture.load(tmp_path / "m")
    assert (back.step_size, back.init_params) == (0.7, "kmeans")


def test_a_fit_can_start_from_them() -> None:
    model = model_of("full", warm_start=True, max_iter=100, tol=1e-4)
    before = model.score(X)
    assert model.fit(X).score(X) > before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": [0.5, 0.6]}, "sum to 1"),
        ({"weights": [-0.5, 1.5]}, "non-negative"),
        ({"weights": [np.nan, 1.0]}, "sum to 1"),
        ({"weights": [1.0]}, "need"),
        ({"means": [0.0, 1.0]}, r"not \(K, D\)"),
        ({"means": [[0.0, np.inf], [0.0, 0.0]]}, "not finite"),
        ({"covariances": [np.eye(2)]}, r"need \(2, 2, 2\)"),
        ({"covariances": [np.eye(2), -np.eye(2)]}, "component 1 is not positive definite"),
        ({"covariances": [np.eye(2), np.ones((2, 2))]}, "component 1 is not positive definite"),
        ({"covariances": [np.eye(2), [[1.0, 0.5], [0.0, 1.0]]]}, "not symmetric"),
        ({"covariances": [np.eye(2), np.full((2, 2), np.nan)]}, "component 1 is not positive"),
        ({"covariance_type": "round"}, "is not known"),
        ({"feature_names": ["a"]}, "1 feature names for 2 features"),
    ],
)
def test_parameters_that_are_none(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {
        "weights": [0.5, 0.5],
        "means": [[0.0, 0.0], [1.0, 1.0]],
        "covariances": [np.eye(2), np.eye(2)],
    }
    with pytest.raises(dgmm.InvalidParameterError, match=message):
        dgmm.GaussianMixture.from_parameters(**(given | change))


# ------------------------------------------------------------------------------------------ state


def test_a_state_brings_the_model_back(fitted: dgmm.GaussianMixture) -> None:
    state = fitted.state_dict()
    other = dgmm.GaussianMixture(7, device="cpu").load_state_dict(state)
    assert other.get_params() == fitted.get_params() | {"device": "cpu"}
    assert_array_equal(other.score_samples(X), fitted.score_samples(X))
    assert (other.n_iter_, other.converged_) == (fitted.n_iter_, fitted.converged_)
    assert other.lower_bounds_ == fitted.lower_bounds_


def test_a_state_is_arrays_and_plain_facts(fitted: dgmm.GaussianMixture) -> None:
    state = fitted.state_dict()
    arrays = {name: value for name, value in state.items() if isinstance(value, np.ndarray)}
    assert set(arrays) == {"weights", "means", "covariances"}
    facts = json.dumps({name: value for name, value in state.items() if name not in arrays})
    other = dgmm.GaussianMixture().load_state_dict(arrays | json.loads(facts))
    assert_array_equal(other.covariances_, fitted.covariances_)
    arrays["means"][:] = 0.0
    assert np.any(fitted.means_)


def test_a_state_that_is_none_changes_nothing(fitted: dgmm.GaussianMixture) -> None:
    state = fitted.state_dict()
    other = model_of("full")
    before = other.state_dict()
    endless = {"fit": state["fit"] | {"n_iter": float("inf")}}
    for change in ({"means": [0.0]}, {"fit": None}, {"weights": state["weights"] * 2}, endless):
        with pytest.raises(dgmm.InvalidParameterError, match="does not describe"):
            other.load_state_dict(state | change)
    del state["covariances"]
    with pytest.raises(dgmm.InvalidParameterError, match="has no 'covariances'"):
        other.load_state_dict(state)
    assert_array_equal(other.state_dict()["means"], before["means"])


def test_a_state_leaves_nothing_of_an_earlier_fit() -> None:
    named = model_of("full", feature_names=list("abc"))
    named.load_state_dict(model_of("diag").state_dict())
    assert not hasattr(named, "feature_names_in_")


def test_a_state_leaves_no_argument_that_its_fit_did_not_have() -> None:
    told = dgmm.GaussianMixture(
        3, fixed={"means": True, "covariances": [2]}, covariance_floor=0.5, algorithm="cem",
        means_init=np.zeros((3, 3)), covariance_prior=1.0, degrees_of_freedom_prior=5.0,
        device="cpu", memory_limit="1GiB", verbose=0,
    )  # fmt: skip
    plain = model_of("full", tol=0.5)
    told.load_state_dict(plain.state_dict())
    assert told.get_params() == plain.get_params() | {"device": "cpu", "memory_limit": "1GiB"}
    # What this one would have held was not held by the fit of the state.
    assert told.n_parameters_ == plain.n_parameters_
    assert told.bic(X) == plain.bic(X)


def test_a_state_whose_arguments_contradict_it_changes_nothing() -> None:
    state = model_of("full").state_dict()
    state["arguments"]["fixed"] = {"means": [7]}
    other = model_of("diag", tol=0.25)
    with pytest.raises(dgmm.InvalidParameterError, match="no component 7"):
        other.load_state_dict(state)
    assert (other.tol, other.covariance_type, other.mixture_.covariance_type) == (
        0.25,
        "diag",
        "diag",
    )


def test_a_state_leaves_no_statistics_of_earlier_batches() -> None:
    state = model_of("full", random_state=0).state_dict()
    used, fresh = (
        dgmm.GaussianMixture(3, random_state=0).partial_fit(X + 50),
        dgmm.GaussianMixture(),
    )
    for model in (used, fresh):
        model.load_state_dict(state).partial_fit(X)
    assert_array_equal(used.means_, fresh.means_)


def test_what_is_not_fitted_cannot_leave() -> None:
    model = dgmm.GaussianMixture()
    assert not model.fitted_
    for leave in (model.state_dict, model.to_sklearn, lambda: model.to_onnx("never.onnx")):
        with pytest.raises(dgmm.DgmmError, match="not fitted"):
            leave()


# ----------------------------------------------------------------------------------- scikit-learn


@pytest.mark.parametrize("name", COMMON)
def test_scikit_learn_gives_the_same_values(name: str) -> None:
    model = dgmm.GaussianMixture(3, covariance_type=name, random_state=0).fit(X)
    theirs = model.to_sklearn()
    assert theirs.covariance_type == COMMON[name]
    assert_allclose(theirs.score_samples(X), model.score_samples(X), rtol=1e-9)
    assert_allclose(theirs.predict_proba(X), model.predict_proba(X), atol=1e-10)
    assert theirs.bic(X) == pytest.approx(model.bic(X))
    assert theirs.sample(3)[0].shape == (3, 3)
    assert theirs.n_iter_ == model.n_iter_


@pytest.mark.parametrize("name", COMMON)
def test_models_come_from_scikit_learn(name: str) -> None:
    theirs = Reference(3, covariance_type=COMMON[name], random_state=3, tol=0.01).fit(X)
    model = dgmm.GaussianMixture.from_sklearn(theirs, device="cpu", max_iter=7)
    assert (model.tol, model.random_state, model.device, model.max_iter) == (0.01, 3, "cpu", 7)
    assert (model.n_iter_, model.converged_) == (theirs.n_iter_, theirs.converged_)
    assert_allclose(model.score_samples(X), theirs.score_samples(X), rtol=1e-9)
    assert_array_equal(model.to_sklearn().covariances_, theirs.covariances_)


@pytest.mark.parametrize("name", ["tied_diag", "tied_spherical"])
def test_what_scikit_learn_lacks_is_written_as_its_equal(name: str) -> None:
    model = model_of(name)
    with pytest.raises(dgmm.InvalidParameterError, match=r"to_sklearn\(covariance_type='tied'\)"):
        model.to_sklearn()
    for wanted in ("tied", "diag", "full"):
        theirs = model.to_sklearn(wanted)
        assert_allclose(theirs.score_samples(X), model.score_samples(X), rtol=1e-9)
        # It counts the parameters of the family that they are written as.
        more = theirs._n_parameters() - model.n_parameters_
        assert theirs.bic(X) - model.bic(X) == pytest.approx(more * np.log(len(X)), rel=1e-6)
        assert more > 0
    with pytest.raises(dgmm.InvalidParameterError, match="without changing the densities"):
        model_of("full").to_sklearn("diag")


def test_only_fitted_gaussian_mixtures_come_in() -> None:
    with pytest.raises(dgmm.InvalidParameterError, match="not fitted"):
        dgmm.GaussianMixture.from_sklearn(Reference())
    with pytest.raises(dgmm.InvalidParameterError, match="BayesianGaussianMixture is no"):
        dgmm.GaussianMixture.from_sklearn(BayesianGaussianMixture().fit(X))


# ------------------------------------------------------------------------------------------- ONNX


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", FAMILIES)
def test_onnx_gives_the_same_values(name: str, dtype: str, tmp_path: Path) -> None:
    model = model_of(name, dtype)
    model.to_onnx(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    labels, posterior, scores = session.run(None, {"X": X.astype(dtype)})
    assert_array_equal(labels.ravel(), model.predict(X))
    tolerance = 1e-10 if dtype == "float64" else 1e-4
    assert_allclose(posterior, model.predict_proba(X), atol=tolerance)
    assert_allclose(scores.ravel(), model.score_samples(X), rtol=tolerance)


@pytest.mark.parametrize("path", [None, 3, b"model.onnx"])
def test_onnx_files_have_a_path(path: Any) -> None:
    with pytest.raises(dgmm.InvalidParameterError, match="path of an ONNX file is"):
        model_of("full").to_onnx(path)


def test_onnx_without_its_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skl2onnx", None)
    with pytest.raises(dgmm.MissingDependencyError, match=r"pip install 'dgmm\[onnx\]'"):
        model_of("full").to_onnx("never.onnx")
