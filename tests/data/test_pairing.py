"""Weights and labels belong to the rows they were given for, whatever their chunks are."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import zarr

import dgmm
from dgmm.data.arrays import open_array
from dgmm.errors import InvalidDataError, InvalidDtypeError, InvalidParameterError, SourceError
from dgmm.testing.sources import travelled

X = np.random.default_rng(0).normal(size=(1000, 3))
W = np.random.default_rng(1).integers(0, 5, 1000).astype(float)


def stored(kind, values, place):
    if kind == "npy":
        np.save(place / "w.npy", values)
        return place / "w.npy"
    if kind == "memmap":
        np.save(place / "w.npy", values)
        return np.load(place / "w.npy", mmap_mode="r")
    if kind.startswith("zarr"):
        shape = (1000, 1) if kind == "zarr 2-D" else (1000,)
        array = zarr.create_array(
            zarr.storage.MemoryStore() if kind == "zarr in memory" else place / "w.zarr",
            shape=shape,
            chunks=(77, 1)[: len(shape)],
            shards=(231,) if kind == "zarr in shards" else None,
            dtype="f8",
        )
        array[...] = values.reshape(shape)
        return str(place / "w.zarr") if kind == "zarr path" else array
    if kind == "dask":
        return da.from_array(values, chunks=(130, 500, 370))
    return {"array": values, "list": values.tolist(), "column": values[:, None]}[kind]


KINDS = ("array", "list", "column", "npy", "memmap", "zarr", "zarr path", "zarr 2-D", "dask")
KINDS += ("zarr in memory", "zarr in shards")


@pytest.mark.parametrize("kind", KINDS)
def test_every_source_of_weights_is_aligned_with_the_rows(kind, tmp_path):
    dataset = open_array(X, block_bytes=2400).with_weights(stored(kind, W, tmp_path))
    assert len(dataset.blocks) == 10
    for block in map(travelled, dataset.blocks):
        rows = block.read()
        here = slice(rows.first_row, rows.first_row + rows.n_rows)
        np.testing.assert_array_equal(rows.weight, W[here])
        np.testing.assert_array_equal(rows.x, X[here])


@pytest.mark.parametrize("column", ["w", 1, -2])
def test_a_column_of_the_rows_is_taken_out_of_them(column):
    frame = Frame({"a": X[:, 0], "w": W, "b": X[:, 1]})
    dataset = dgmm.open_dataset(frame).with_weights(column)
    assert dataset.feature_names == ("a", "b")
    rows = travelled(dataset).blocks[0].read()
    np.testing.assert_array_equal(rows.weight, W)
    np.testing.assert_array_equal(rows.x, X[:, :2])


class Frame(dict):
    """As much of a data frame as counts."""

    @property
    def columns(self):
        return list(self)

    def to_numpy(self):
        return np.column_stack(list(self.values()))


def test_weights_and_labels_go_together():
    labels = np.where(np.arange(1000) % 3, -1, 2)
    dataset = open_array(X, block_bytes=2400).with_weights(W).with_labels(labels)
    rows = dataset.blocks[3].read()
    np.testing.assert_array_equal(rows.weight, W[300:400])
    np.testing.assert_array_equal(rows.labels, labels[300:400])
    assert dataset.has_weights
    assert dataset.has_labels


def test_other_weights_are_another_dataset():
    plain = open_array(X, block_bytes=2400)
    prints = {d.fingerprint for d in (plain, plain.with_weights(W), plain.with_weights(W + 1))}
    assert len(prints) == 3


def test_rows_of_weight_zero_are_left_out_and_the_others_know_their_place():
    rows = open_array(X, block_bytes=2400).with_weights(W).blocks[2].read().part(10, 60).counted()
    kept = 210 + np.flatnonzero(W[210:260])
    np.testing.assert_array_equal(rows.x, X[kept])
    assert [rows.position(i) for i in range(rows.n_rows)] == kept.tolist()


@pytest.mark.parametrize(
    ("value", "message"),
    [(-2.0, "negative.*row 437.*-2"), (np.nan, "not finite.*row 437.*nan"), (np.inf, "row 437")],
)
def test_bad_weights_are_refused_by_row_and_block(value, message):
    weights = W.copy()
    weights[437] = value
    dataset = open_array(X, block_bytes=2400).with_weights(weights)
    with pytest.raises(InvalidDataError, match=message) as error:
        dataset.blocks[4].read()
    assert "rows 400 to 499" in str(error.value)


@pytest.mark.parametrize("value", [-2, 0.5, np.nan])
def test_labels_that_are_no_components_are_refused(value):
    labels = np.full(1000, -1.0)
    labels[5] = value
    with pytest.raises(InvalidDataError, match=r"labels: row 5 .*-1 where it is unknown"):
        open_array(X, block_bytes=2400).with_labels(labels).blocks[0].read()


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        (W[:-1], InvalidDataError, "sample_weight: there are 999 values for 1000 rows"),
        (X, InvalidDataError, "sample_weight has 3 columns"),
        (np.ones((10, 10, 10)), InvalidDataError, "one value for each row"),
        (np.array(["a"] * 1000), InvalidDtypeError, "sample_weight: .*real number"),
        (3, InvalidParameterError, "sample_weight=3 is no column of X, which has 3"),
        ("nowhere.zarr", SourceError, "sample_weight: .*nowhere"),
    ],
)
def test_what_does_not_fit_the_rows_is_refused(weights, error, message):
    with pytest.raises(error, match=message):
        open_array(X, block_bytes=2400).with_weights(weights)


def test_a_name_that_is_no_column_is_refused():
    frame = dgmm.open_dataset(Frame({"a": W, "b": W}))
    with pytest.raises(InvalidParameterError, match=r"'c' is neither a column of X .*a, b"):
        frame.with_weights("c")


def test_weights_cannot_be_given_twice():
    with pytest.raises(InvalidParameterError, match="carries weights already"):
        open_array(X, block_bytes=2400).with_weights(W).with_weights(W)


def test_blocks_of_a_lazy_column_are_small() -> None:
    # Each block of rows computes the blocks of weights that it touches, all of them.
    weights = da.ones(2**20, chunks=2**14)
    rows = da.ones((2**20, 4), chunks=(2**15, 4))
    dataset = dgmm.open_dataset(rows, block_bytes=2**20).with_weights(weights)
    assert max(sum(p.block.n_rows for p in block.weights) for block in dataset.blocks) <= 2**18
