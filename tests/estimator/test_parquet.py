"""Parquet through the estimator: engines, weights and labels by name, results, selection."""

from __future__ import annotations

import numpy as np
import pytest
from distributed import Client, LocalCluster

import dgmm
from dgmm.data.opening import open_dataset
from dgmm.errors import InvalidDataError, InvalidParameterError

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")

N = 3000
GM = {"n_components": 2, "random_state": 0}


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    label = rng.integers(2, size=N)
    rows = rng.normal(size=(N, 2)) + 6.0 * label[:, None]
    known = np.where(np.arange(N) < 20, label, -1)
    return {"a": rows[:, 0], "b": rows[:, 1], "w": rng.uniform(0.5, 2, N), "label": known}


@pytest.fixture
def path(table, tmp_path):
    for number in range(3):
        part = {
            name: column[number * 1000 : number * 1000 + 1000] for name, column in table.items()
        }
        place = tmp_path / "rows" / f"part={number}"
        place.mkdir(parents=True)
        parquet.write_table(pa.table(part), place / "0.parquet", row_group_size=300)
    return tmp_path / "rows"


def features(table):
    return np.stack([table["a"], table["b"]], axis=1)


def assert_same(one, other):
    np.testing.assert_array_equal(one.means_, other.means_)
    np.testing.assert_array_equal(one.covariances_, other.covariances_)
    assert one.lower_bound_ == other.lower_bound_


def opened(path, columns=("a", "b")):
    return open_dataset(path, columns=list(columns), block_bytes=8000)


def test_a_fit_is_that_of_the_rows_on_every_engine(path, table):
    expected = dgmm.GaussianMixture(**GM).fit(features(table))
    fits = [
        dgmm.GaussianMixture(**GM, engine=dgmm.LocalEngine(n)).fit(opened(path)) for n in (1, 3)
    ]
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None
        ) as c,
        Client(c) as client,
    ):
        fits.append(dgmm.GaussianMixture(**GM, engine=dgmm.DaskEngine(client)).fit(opened(path)))
    np.testing.assert_allclose(fits[0].means_, expected.means_, rtol=1e-9)
    for other in fits[1:]:
        assert_same(fits[0], other)
    assert list(fits[0].feature_names_in_) == ["a", "b"]


def test_what_is_asked_of_a_fit(path, table, tmp_path):
    model = dgmm.GaussianMixture(**GM).fit(opened(path))
    rows = features(table)
    assert model.score(opened(path)) == pytest.approx(model.score(rows), rel=1e-12)
    lazy = model.predict(opened(path))
    np.testing.assert_array_equal(lazy.compute(scheduler="synchronous"), model.predict(rows))
    streamed = model.predict_proba(opened(path), out=tmp_path / "out")
    np.testing.assert_allclose(streamed[:], model.predict_proba(rows), atol=1e-12)
    found = dgmm.select_model(opened(path), [1, 2, 3])
    assert found.best_row.n_components == 2
    model.partial_fit(opened(path))
    with pytest.raises(InvalidDataError, match="Feature names"):
        model.predict(opened(path, "ba"))


@pytest.mark.parametrize("source", ["parquet", "frame"])
def test_weights_and_labels_are_columns_by_name(path, table, source):
    if source == "parquet":
        rows = opened(path, ["w", "a", "label", "b"])
    else:
        pandas = pytest.importorskip("pandas")
        rows = open_dataset(pandas.DataFrame(table)[["w", "a", "label", "b"]], block_bytes=8000)
    named = dgmm.GaussianMixture(**GM).fit(rows, sample_weight="w", labels="label")
    given = dgmm.GaussianMixture(**GM).fit(
        opened(path), sample_weight=table["w"], labels=table["label"]
    )
    assert list(named.feature_names_in_) == ["a", "b"]
    np.testing.assert_allclose(named.means_, given.means_, rtol=1e-12)
    np.testing.assert_allclose(named.covariances_, given.covariances_, rtol=1e-9)
    with pytest.raises(InvalidParameterError, match="labels='nope' is neither a column"):
        dgmm.GaussianMixture(**GM).fit(rows, labels="nope")


def test_a_label_column_does_not_widen_the_features(path):
    narrow = {"a": np.ones(10, "f4"), "label": np.zeros(10, "i8")}
    parquet.write_table(pa.table(narrow), path / "x.parquet")
    dataset = open_dataset(path / "x.parquet").with_labels("label")
    assert dataset.dtype == dataset.blocks[0].read().x.dtype == np.float32
    assert dataset.blocks[0].read().labels.tolist() == [0] * 10
