"""A whole fit on an emulated device, from the estimator's face."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest

import dgmm
from dgmm.arrays import explain_device
from dgmm.device_profile import profile_on
from dgmm.guard import Level, first_level
from tests.cuda.emulator import DeviceArray, Tensor, needs_compiler
from tests.numerics.problems import profile_task, random_mixture, rows_of

pytestmark = needs_compiler

MIXTURE = random_mixture(np.random.default_rng(3), "full", 3, 5, reach=6.0)
X = rows_of(MIXTURE, 200, 3)


def _fit(x, sample_weight=None, **options):
    model = dgmm.GaussianMixture(3, random_state=0, max_iter=3, tol=0.0, **options)
    with pytest.warns(UserWarning, match="did not converge"):
        return model.fit(x, sample_weight=sample_weight)


def test_a_fit_goes_the_way_of_the_one_on_processors(cupy):
    cupy()
    right, found = _fit(X, device="cpu"), _fit(X, device="auto")
    np.testing.assert_allclose(found.lower_bounds_, right.lower_bounds_, rtol=1e-12)
    np.testing.assert_allclose(found.covariances_, right.covariances_, rtol=1e-9)
    assert found.record_.device == "cuda"
    assert found.record_.device_reason == "found 1 × Emulation"
    assert right.record_.device_reason == "asked for"


def test_rows_on_a_device_give_results_on_it(cupy):
    there = cupy()
    x = there.asarray(X)
    found = _fit(x)
    np.testing.assert_allclose(found.means_, _fit(X).means_, rtol=1e-12)
    for name in ("predict", "score_samples", "predict_proba"):
        values = getattr(found, name)(x)
        assert isinstance(values, DeviceArray)
        np.testing.assert_array_equal(values.get(), getattr(found, name)(X))


def test_weights_and_labels_on_a_device(cupy):
    cupy()
    weights, labels = np.arange(200) % 3.0, np.where(np.arange(200) % 7 == 0, 1, -1)
    found = []
    for make in (np.array, Tensor):
        model = dgmm.GaussianMixture(3, random_state=0, max_iter=3, tol=0.0, device="cuda")
        with pytest.warns(UserWarning, match="did not converge"):
            model.fit(X, sample_weight=make(weights), labels=make(labels))
        found.append(model.means_)
    np.testing.assert_array_equal(found[1], found[0])


def test_rows_on_a_device_can_be_fitted_by_processors(cupy):
    x = cupy().asarray(X)
    np.testing.assert_array_equal(_fit(x, device="cpu").means_, _fit(X, device="cpu").means_)


def test_a_dask_array_of_blocks_on_a_device(cupy):
    there = cupy()
    x = da.from_array(X, chunks=(60, 5)).map_blocks(there.asarray, meta=there.empty((0, 0)))
    assert isinstance(x.blocks[0].compute(), DeviceArray)
    found = _fit(x)
    np.testing.assert_allclose(found.means_, _fit(X).means_, rtol=1e-12)
    assert isinstance(found.predict(x).compute(), DeviceArray)


def test_what_speaks_dlpack_is_read():
    class Tensor:
        def __dlpack__(self, **options):
            return X.__dlpack__(**options)

        def __dlpack_device__(self):
            return X.__dlpack_device__()

    assert dgmm.open_dataset(Tensor()).shape == X.shape


def test_products_are_in_what_the_device_is_good_at(cupy):
    cupy(ratio=2)
    assert first_level(np.dtype("float32"), None, "cuda") is Level.FLOAT64
    assert first_level(np.dtype("float32"), "float32", "cuda") is Level.FLOAT32
    cupy(ratio=64)
    assert first_level(np.dtype("float64"), None, "cuda:0") is Level.FLOAT32
    assert first_level(np.dtype("float64"), "float64", "cuda") is Level.FLOAT64
    assert _fit(X).record_.restarts[0].kernel in ("float32", "float64")


def test_the_reason_for_a_processor(cupy):
    cupy(0)
    device, reason = explain_device("auto", 10)
    assert device == "cpu"
    assert reason.startswith("CuPy finds no GPU, and ")


def test_without_a_gpu_one_line_says_what_to_install(cupy):
    cupy(0)
    with pytest.raises(dgmm.MissingDependencyError, match=r"CuPy finds no GPU") as caught:
        dgmm.GaussianMixture(3, device="cuda").fit(X)
    assert "\n" not in str(caught.value)


def test_weights_and_several_restarts(cupy):
    cupy(2)
    weights = np.random.default_rng(4).integers(0, 3, 200).astype(float)
    fits = [_fit(X, weights, n_init=2, device=device) for device in ("cpu", "cuda")]
    np.testing.assert_allclose(fits[1].lower_bounds_, fits[0].lower_bounds_, rtol=1e-12)


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_the_profile_on_a_device(weighted, dense, cupy):
    cupy()
    weight = np.random.default_rng(5).integers(0, 3, 200).astype(float) if weighted else None
    task = profile_task(X, size=20, weighted=weighted, dense=dense, digested=True)
    dataset = dgmm.open_dataset(X, block_bytes=40 * 60)
    if weighted:
        dataset = dataset.with_weights(weight)
    found = []
    for device in ("cpu", "cuda"):
        with dgmm.LocalEngine().session(dataset) as session:
            found.append(session.run(profile_on(task, device)).total)
    right, there = found
    for name in ("mean", "scatter", "least", "most", "weight", "n_rows"):
        np.testing.assert_allclose(getattr(there, name), getattr(right, name), rtol=1e-12)
    assert there.digest == right.digest != 0
    np.testing.assert_array_equal(there.sample.rows, right.sample.rows)
    np.testing.assert_array_equal(there.sample.x, right.sample.x)


def test_a_bad_row_of_the_profile_is_named(cupy):
    cupy()
    x = X.copy()
    x[150, 3] = np.inf
    with pytest.raises(dgmm.InvalidDataError, match=r"row 150, feature 3 is inf.*in block"):
        dgmm.GaussianMixture(2, device="cuda").fit(x)
