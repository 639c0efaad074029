"""What goes in and what comes back: arrays, files, stores, graphs; in memory, lazy, streamed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import zarr
from distributed import Client, LocalCluster
from sklearn.base import clone

import dgmm
from dgmm.parameters import check_parameters

X = np.random.default_rng(0).normal(size=(1000, 4)) + 5.0 * (np.arange(1000) % 2)[:, None]


@pytest.fixture
def model() -> dgmm.GaussianMixture:
    return dgmm.GaussianMixture(2, random_state=0).fit(X)


def sources(folder: Path) -> dict[str, Any]:
    np.save(folder / "x.npy", X)
    zarr.create_array(str(folder / "v3.zarr"), data=X, chunks=(130, 4))
    zarr.create_array(str(folder / "v2.zarr"), data=X, chunks=(130, 3), zarr_format=2)
    zarr.create_array(str(folder / "sharded.zarr"), data=X, chunks=(50, 2), shards=(200, 4))
    return {
        "list": X.tolist(),
        "npy": folder / "x.npy",
        "memmap": np.load(folder / "x.npy", mmap_mode="r"),
        "zarr 3": str(folder / "v3.zarr"),
        "zarr 2": str(folder / "v2.zarr"),
        "sharded": str(folder / "sharded.zarr"),
        "zarr.Array": zarr.open_array(str(folder / "v3.zarr"), mode="r"),
        "file URL": f"file://{folder / 'v3.zarr'}",
        "dask": da.from_array(X, chunks=(300, 2)),
        "dask graph": da.from_array(X / 2, chunks=(300, 4)) * 2,
        "dataset": dgmm.open_dataset(X),
    }


KINDS = (
    "list", "npy", "memmap", "zarr 3", "zarr 2", "sharded", "zarr.Array", "file URL", "dask",
    "dask graph", "dataset",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_source_gives_the_same_mixture(
    kind: str, tmp_path: Path, model: dgmm.GaussianMixture
) -> None:
    source = sources(tmp_path)[kind]
    fitted = dgmm.GaussianMixture(2, random_state=0).fit(source)
    np.testing.assert_allclose(fitted.means_, model.means_, rtol=1e-10)
    np.testing.assert_allclose(fitted.covariances_, model.covariances_, rtol=1e-10)
    np.testing.assert_array_equal(np.asarray(fitted.predict(source)), model.predict(X))
    for name in ("predict_proba", "score_samples"):
        found = np.asarray(getattr(fitted, name)(source))
        np.testing.assert_allclose(found, getattr(model, name)(X), rtol=1e-7, atol=1e-12)


def test_numpy_in_numpy_out(model: dgmm.GaussianMixture) -> None:
    assert isinstance(model.predict(X), np.ndarray)
    proba = model.predict_proba(X)
    assert proba.shape == (1000, 2)
    np.testing.assert_allclose(proba.sum(axis=1), 1.0)
    np.testing.assert_array_equal(proba.argmax(axis=1), model.predict(X))


def test_dask_in_lazy_dask_out(model: dgmm.GaussianMixture) -> None:
    touched = []

    def note(block: np.ndarray) -> np.ndarray:
        touched.append(len(block))
        return block

    x = da.from_array(X, chunks=(300, 4)).map_blocks(note, dtype=X.dtype, meta=X[:0])
    results = {name: getattr(model, name)(x) for name in ("predict", "predict_proba")}
    assert not touched
    for name, result in results.items():
        assert isinstance(result, da.Array)
        np.testing.assert_allclose(result.compute(), getattr(model, name)(X), rtol=1e-9)
    assert results["predict_proba"].shape == (1000, 2)


@pytest.mark.parametrize("name", ["predict", "predict_proba", "score_samples"])
def test_a_path_comes_back_lazy_or_streamed(
    name: str, tmp_path: Path, model: dgmm.GaussianMixture
) -> None:
    path = sources(tmp_path)["zarr 3"]
    expected = getattr(model, name)(X)
    lazy = getattr(model, name)(path)
    assert isinstance(lazy, da.Array)
    assert lazy.shape == expected.shape
    assert lazy.dtype == expected.dtype
    np.testing.assert_allclose(lazy.compute(), expected, rtol=1e-9)
    written = getattr(model, name)(path, out=tmp_path / "out.zarr")
    assert isinstance(written, zarr.Array)
    np.testing.assert_allclose(zarr.open_array(str(tmp_path / "out.zarr"))[:], expected, rtol=1e-9)


def test_a_lazy_result_names_the_row_that_is_not_finite(model: dgmm.GaussianMixture) -> None:
    x = X.copy()
    x[700, 2] = np.nan
    with pytest.raises(dgmm.InvalidDataError, match="row 700, feature 2"):
        model.predict(da.from_array(x, chunks=(300, 4))).compute()


def test_a_saved_model_is_the_same_model(tmp_path: Path, model: dgmm.GaussianMixture) -> None:
    path = tmp_path / "model.safetensors"
    model.save(path)
    loaded = dgmm.GaussianMixture.load(path)
    for name in ("weights_", "means_", "covariances_", "precisions_cholesky_"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(model, name))
    np.testing.assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))
    assert loaded.lower_bounds_ == model.lower_bounds_
    assert loaded.n_iter_ == model.n_iter_
    assert loaded.get_params()["tol"] == model.tol
    with pytest.raises(dgmm.InvalidParameterError, match="device='tpu'"):
        dgmm.GaussianMixture.load(path, device="tpu")
    loaded.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()
    loaded.partial_fit(X)
    assert loaded.state_dict()["fit"]["rows"] is None


def test_a_saved_model_computes_in_the_dtype_it_was_fitted_with(tmp_path: Path) -> None:
    x = X.astype(np.float32)
    fitted = dgmm.GaussianMixture(2, random_state=0, dtype="float64").fit(x)
    fitted.save(tmp_path / "m.safetensors")
    loaded = dgmm.GaussianMixture.load(tmp_path / "m.safetensors")
    assert loaded.dtype == "float64"
    far = x * np.float32(1e4)
    np.testing.assert_array_equal(loaded.score_samples(far), fitted.score_samples(far))


def test_rows_beyond_float32_are_scored_all_the_same() -> None:
    x = X.astype(np.float32)
    fitted = dgmm.GaussianMixture(2, random_state=0).fit(x)
    far = x.copy()
    far[17] = 1e20
    assert fitted.record_.restarts[0].kernel == "float32"
    assert fitted.score_samples(far)[17] == -np.inf
    np.testing.assert_allclose(fitted.predict_proba(far).sum(axis=1), 1.0, rtol=1e-6)
    np.testing.assert_array_equal(fitted.predict(far)[:17], fitted.predict(x)[:17])


def test_column_names_travel(tmp_path: Path) -> None:
    class Frame:
        columns = ("a", "b", "c", "d")

        def to_numpy(self) -> np.ndarray:
            return X

    fitted = dgmm.GaussianMixture(2, random_state=0).fit(Frame())
    assert list(fitted.feature_names_in_) == ["a", "b", "c", "d"]
    fitted.save(tmp_path / "m.safetensors")
    loaded = dgmm.GaussianMixture.load(tmp_path / "m.safetensors")
    assert list(loaded.feature_names_in_) == ["a", "b", "c", "d"]


def test_estimators_clone_with_their_engine() -> None:
    engine = dgmm.LocalEngine(n_threads=1)
    copy = clone(dgmm.GaussianMixture(2, engine=engine))
    assert copy.engine is engine
    assert copy.fit(X).record_.engine == repr(engine)


def test_one_block_is_read_once_a_pass(tmp_path: Path) -> None:
    path = sources(tmp_path)["zarr 3"]
    dataset = dgmm.open_dataset(path, block_bytes=130 * 32)
    model = dgmm.GaussianMixture(2, n_init=5, random_state=0, memory_limit="1GiB").fit(dataset)
    record = model.record_
    assert record.passes == 1 + max(one.n_iter for one in record.restarts)
    # What fits the limit is kept, so that later passes read nothing.
    assert record.block_reads == len(dataset.blocks)


@pytest.mark.parametrize("engine", ["local", "dask"])
def test_the_chunks_of_a_result_are_projected(engine: str, tmp_path: Path) -> None:
    limit = 100 * 2**20
    rows = np.zeros((2**23, 1), np.int8)
    narrow = dgmm.GaussianMixture.from_parameters([1.0], [[0.0]], [[[1.0]]])
    large = zarr.create_array(tmp_path / "l.zarr", shape=2**23, chunks=2**23, dtype="f8")
    if engine == "dask":
        with (
            LocalCluster(n_workers=1, processes=False, dashboard_address=None) as cluster,
            Client(cluster, set_as_default=False) as client,
        ):
            narrow.set_params(memory_limit=limit, engine=dgmm.DaskEngine(client))
            with pytest.raises(dgmm.MemoryLimitError, match="buffers of the consumer 132 MiB"):
                narrow.score_samples(rows, out=large)
        return
    narrow.set_params(memory_limit=limit)
    with pytest.raises(dgmm.MemoryLimitError, match=r"buffers of the consumer 132 MiB.*chunks"):
        narrow.score_samples(rows, out=large)


def test_labels_of_many_components_need_room(tmp_path: Path) -> None:
    k = 200
    means = np.arange(k, dtype=float)[:, None] * 10
    gm = dgmm.GaussianMixture.from_parameters(np.full(k, 1 / k), means, np.ones((k, 1, 1)))
    narrow = zarr.create_array(tmp_path / "n.zarr", shape=(k,), chunks=(k,), dtype="i1")
    with pytest.raises(dgmm.InvalidParameterError, match="takes at least int16"):
        gm.predict(means, out=narrow)


def test_one_pass_compiles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dgmm.arrays._WORTH_COMPILING", 1)
    monkeypatch.setattr("dgmm.arrays._gpu_count", lambda: 0)
    parameters = check_parameters(dgmm.GaussianMixture(2))
    assert parameters.device_for_once == "cpu"
    assert parameters.device_with_reason(10**9)[0] == "cpu-compiled"


def test_a_name_stands_for_one_column() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(np.zeros((5, 3)), columns=["a", "a", "b"])
    with pytest.raises(ValueError, match=r"unique column names, got: 'a' 2 times"):
        dgmm.GaussianMixture(1).fit(frame)
    with pytest.raises(dgmm.InvalidParameterError, match="'a' more than once"):
        dgmm.Mixture([1.0], [[1.0, 2.0]], [np.eye(2)], feature_names=["a", "a"])
