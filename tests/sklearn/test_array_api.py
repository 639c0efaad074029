"""Arrays of other libraries: they come in as they are, and go out where dispatching is on."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import sklearn

import dgmm

xp = pytest.importorskip("array_api_strict")

FAMILIES = ("full", "diag", "spherical", "tied_full", "tied_diag", "tied_spherical")
# NumPy cannot take an array of the second for its own, as of a GPU's.
DEVICES = ("CPU_DEVICE", "device1")
RNG = np.random.default_rng(0)
X = RNG.normal(size=(300, 2)) + 6.0 * (np.arange(300) % 2)[:, None]
FITTED = ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_")


def on(device: str, values: Any) -> Any:
    return xp.asarray(values, device=xp.Device(device))


def host(values: Any) -> np.ndarray[Any, Any]:
    return np.from_dlpack(values)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("family", FAMILIES)
def test_results_are_of_the_library_and_device_of_the_rows(family: str, device: str) -> None:
    weight = 1.0 + np.arange(300) % 3
    numpys = dgmm.GaussianMixture(2, covariance_type=family, random_state=0).fit(X, None, weight)
    with sklearn.config_context(array_api_dispatch=True):
        x = on(device, X)
        model = sklearn.clone(numpys).fit(x, None, on(device, weight))
        found = {name: getattr(model, name) for name in FITTED}
        found |= {"labels": model.predict(x), "tail": model.tail_probability(x)}
        found |= {"proba": model.predict_proba(x), "drawn": model.sample(7)[0]}
        for name, value in found.items():
            assert value.__array_namespace__() is x.__array_namespace__(), name
            assert value.device == x.device, name
        assert isinstance(model.bic(x), float)
    expected = {name: getattr(numpys, name) for name in FITTED}
    expected |= {"labels": numpys.predict(X), "tail": numpys.tail_probability(X)}
    expected |= {"proba": numpys.predict_proba(X), "drawn": numpys.sample(7)[0]}
    for name, value in expected.items():
        np.testing.assert_array_equal(host(found[name]), value, err_msg=name)


@pytest.mark.parametrize("device", DEVICES)
def test_without_dispatching_they_are_numpys(device: str) -> None:
    model = dgmm.GaussianMixture(2, random_state=0).fit(on(device, X))
    same = dgmm.GaussianMixture(2, random_state=0).fit(X)
    for found, expected in (
        (model.means_, same.means_),
        (model.predict(on(device, X)), same.predict(X)),
        (model.sample(3)[0], same.sample(3)[0]),
    ):
        assert isinstance(found, np.ndarray)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("device", DEVICES)
def test_starts_and_parameters_may_be_such_arrays(device: str) -> None:
    start = np.array([[0.0, 0.0], [6.0, 6.0]])
    model = dgmm.GaussianMixture(2, means_init=on(device, start), random_state=0).fit(X)
    same = dgmm.GaussianMixture(2, means_init=start, random_state=0).fit(X)
    np.testing.assert_array_equal(model.means_, same.means_)
    model.means_ = on(device, start)
    np.testing.assert_array_equal(model.means_, start)
    given = (np.full(2, 0.5), start, np.ones(2))
    made = dgmm.GaussianMixture.from_parameters(
        *(on(device, one) for one in given), covariance_type="spherical"
    )
    np.testing.assert_array_equal(made.means_, start)


def test_a_later_fit_of_numpys_arrays_and_a_loaded_model_are_numpys(tmp_path: Any) -> None:
    with sklearn.config_context(array_api_dispatch=True):
        model = dgmm.GaussianMixture(2, random_state=0).fit(on("CPU_DEVICE", X))
        assert not isinstance(model.means_, np.ndarray)
        model.save(tmp_path / "model.safetensors")
        assert isinstance(pickle.loads(pickle.dumps(model)).mixture_.means, np.ndarray)
        loaded = dgmm.GaussianMixture.load(tmp_path / "model.safetensors")
        assert isinstance(loaded.means_, np.ndarray)
        theirs = model.to_sklearn()
        assert isinstance(theirs.means_, np.ndarray)
        assert isinstance(model.fit(X).means_, np.ndarray)
