"""Dask arrays in, lazy Dask arrays out."""

from __future__ import annotations

import os
import threading

import dask
import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgmm.data.dask import to_dask
from dgmm.data.opening import open_dataset
from dgmm.errors import InvalidDataError, InvalidDtypeError, InvalidParameterError, SourceError
from dgmm.testing.sources import SourceSuite, read_all, travelled

VALUES = np.random.default_rng(0).normal(size=(100, 4))


class TestDask(SourceSuite):
    def store(self, values, place):
        return da.from_array(values.copy(), chunks=(30, 2))


class TestGraph(SourceSuite):
    def store(self, values, place):
        array = da.from_array(values.copy(), chunks=(17, 5))
        return da.concatenate([array, array])[: len(values)].map_blocks(np.copy)


class TestPersistedInMemory(SourceSuite):
    def store(self, values, place):
        return da.from_array(values.copy(), chunks=(30, 5)).persist(scheduler="synchronous")


@given(
    sizes=st.lists(st.integers(0, 20), min_size=1, max_size=8),
    columns=st.integers(1, 4),
    block_bytes=st.integers(1, 800),
)
@settings(max_examples=25, deadline=None)
def test_any_chunks(sizes, columns, block_bytes):
    values = np.random.default_rng(0).normal(size=(sum(sizes), 4))
    parts = np.split(values, np.cumsum(sizes)[:-1])
    array = da.concatenate([da.from_array(part, chunks=(20, columns)) for part in parts])
    dataset = open_dataset(array, block_bytes=block_bytes)
    np.testing.assert_array_equal(read_all(dataset), values)
    edges = {0, *np.cumsum(array.chunks[0]).tolist()}
    assert all(block.first_row in edges for block in dataset.blocks)


def test_reading_a_block_computes_that_block_alone():
    seen = []

    def load(block_info=None):
        seen.append((block_info[None]["chunk-location"][0], threading.get_ident()))
        return np.ones((10, 2))

    array = da.map_blocks(load, chunks=((10,) * 5, (2,)), dtype="f8", meta=np.empty((0, 2)))
    open_dataset(array, block_bytes=160).blocks[3].read()
    assert seen == [(3, threading.get_ident())]


def test_a_block_carries_its_own_graph_alone():
    array = da.from_array(np.zeros((100_000, 4)), chunks=(1000, 4))
    blocks = open_dataset(array + 1, block_bytes=32_000).blocks
    assert all(len(block.delayed.dask) < 5 for block in blocks)


def test_unknown_sizes():
    array = da.from_array(VALUES, chunks=(30, 4))
    chosen = array[array[:, 0] > 0]
    with pytest.raises(InvalidDataError, match=r"x\.compute_chunk_sizes\(\)"):
        open_dataset(chosen)
    known = open_dataset(chosen.compute_chunk_sizes())
    np.testing.assert_array_equal(read_all(known), VALUES[VALUES[:, 0] > 0])


def test_bad_arrays():
    with pytest.raises(InvalidDataError, match="got 1D array"):
        open_dataset(da.zeros(3))
    with pytest.raises(InvalidDtypeError, match="complex"):
        open_dataset(da.zeros((3, 3), dtype="c8"))
    with pytest.raises(InvalidParameterError, match="Dask Delayed"):
        open_dataset(dask.delayed(np.zeros)((3, 3)))


def test_an_array_that_lies_about_itself():
    array = da.zeros((10, 2), chunks=(5, 2)).map_blocks(lambda x: x[:-1], dtype="f8")
    with pytest.raises(SourceError, match=r"declares shape \(5, 2\).*gave \(4, 2\)"):
        open_dataset(array, block_bytes=80).blocks[0].read()


def test_an_error_in_the_graph_names_the_block():
    def fail(x):
        raise ZeroDivisionError("no")

    array = da.zeros((10, 2), chunks=(5, 2)).map_blocks(fail, dtype="f8", meta=np.empty((0, 2)))
    with pytest.raises(SourceError, match="block rows 5 to 9: ZeroDivisionError: no"):
        open_dataset(array, block_bytes=80).blocks[1].read()


def test_shared_work_is_pointed_out():
    array = da.random.default_rng(0).normal(size=(2000, 4), chunks=(50, 4))
    with pytest.warns(UserWarning, match=r"persist it \(x.persist\(\)\)"):
        open_dataset(array - array.mean(axis=0), block_bytes=1600)


def test_lazy_rows(tmp_path):
    np.save(tmp_path / "x.npy", VALUES)
    for source in (tmp_path / "x.npy", VALUES):
        lazy = to_dask(open_dataset(source, block_bytes=640))
        assert lazy.chunks == ((20,) * 5, (4,))
        assert lazy.dtype == VALUES.dtype
        np.testing.assert_array_equal(lazy.compute(scheduler="synchronous"), VALUES)
        np.testing.assert_array_equal(lazy[15:33, 1].compute(scheduler="threads"), VALUES[15:33, 1])


def test_lazy_rows_of_nothing():
    assert to_dask(open_dataset(np.empty((0, 3)))).compute().shape == (0, 3)


def test_lazy_rows_of_a_dask_array_are_that_array():
    array = da.from_array(VALUES, chunks=(30, 2))
    assert to_dask(open_dataset(array)) is array


def test_lazy_rows_are_read_when_computed(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, VALUES)
    lazy = to_dask(open_dataset(path))
    written = path.stat()
    np.save(path, VALUES + 1)
    # As if it had not been written again, which would be refused.
    os.utime(path, ns=(written.st_atime_ns, written.st_mtime_ns))
    np.testing.assert_array_equal(lazy.compute(scheduler="synchronous"), VALUES + 1)


@pytest.fixture(scope="module")
def client():
    distributed = pytest.importorskip("distributed")
    with distributed.Client(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address=":0"
    ) as client:
        yield client


class TestCluster:
    """Persisted blocks stay on the cluster and can be read from it."""

    @pytest.fixture
    def persisted(self, client):
        return da.from_array(VALUES, chunks=(20, 4)).persist()

    def test_a_block_is_a_future(self, persisted):
        dataset = open_dataset(persisted, block_bytes=640)
        assert [block.future.key for block in dataset.blocks] == [
            (persisted.name, index, 0) for index in range(5)
        ]
        np.testing.assert_array_equal(read_all(dataset), VALUES)

    def test_futures_can_be_arguments(self, client, persisted):
        block = open_dataset(persisted, block_bytes=640).blocks[1]
        total = client.submit(np.sum, block.future).result()
        assert total == VALUES[20:40].sum()
        assert client.compute(block.delayed).result().shape == (20, 4)

    def test_joined_blocks_are_joined_on_the_cluster(self, persisted):
        dataset = open_dataset(persisted, block_bytes=1280)
        assert [block.n_rows for block in dataset.blocks] == [40, 40, 20]
        assert all(block.future is None for block in dataset.blocks)
        assert all(block.futures for block in dataset.blocks)
        np.testing.assert_array_equal(read_all(dataset), VALUES)

    def test_chunks_of_a_usual_size_are_not_joined(self, client):
        lazy = da.ones((2**19, 4), chunks=(2**17, 4), dtype="f4")
        assert len(open_dataset(lazy).blocks) == 1
        persisted = client.persist(lazy)
        assert all(block.future is not None for block in open_dataset(persisted).blocks)
        assert len(open_dataset(persisted, block_bytes="16MiB").blocks) == 1

    def test_threads_read(self, persisted):
        dataset = open_dataset(persisted, block_bytes=640)
        found = {}

        def read(index):
            found[index] = dataset.blocks[index].read().x

        threads = [threading.Thread(target=read, args=(index,)) for index in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        np.testing.assert_array_equal(np.concatenate([found[i] for i in range(5)]), VALUES)

    def test_lazy_blocks_are_read_by_workers(self, client):
        blocks = open_dataset(da.from_array(VALUES, chunks=(20, 4)), block_bytes=640).blocks
        assert not blocks[0].futures
        block = travelled(blocks[2])
        rows = client.submit(lambda block: block.read().x, block).result()
        np.testing.assert_array_equal(rows, VALUES[40:60])


@pytest.fixture(scope="module")
def other():
    distributed = pytest.importorskip("distributed")
    options = {"processes": False, "n_workers": 1, "threads_per_worker": 2}
    with (
        distributed.LocalCluster(**options, dashboard_address=":0") as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        yield client


class TestColumnsOnAnotherCluster:
    """Weights and labels that are held by a client which is not the default one."""

    @pytest.mark.parametrize("given", ["array", "dataset"])
    @pytest.mark.parametrize("holds", ["weight", "labels"])
    def test_they_are_brought(self, other, holds, given):
        column = other.persist(da.arange(100, chunks=30))
        if given == "dataset":
            column = open_dataset(column[:, None])
        dataset = open_dataset(VALUES, block_bytes=640)
        paired = dataset.with_weights(column) if holds == "weight" else dataset.with_labels(column)
        rows = travelled(paired).blocks[2].read()
        np.testing.assert_array_equal(getattr(rows, holds), np.arange(40, 60))

    def test_a_chunk_that_fails_is_named(self, other):
        def fail(values):
            raise RuntimeError("no such weight")

        column = other.persist(da.ones(100, chunks=30).map_blocks(fail, dtype="f8"))
        said = r"sample_weight: the Dask array failed at block rows 0 to 99: .*no such weight"
        with pytest.raises(SourceError, match=said):
            open_dataset(VALUES).with_weights(column)
