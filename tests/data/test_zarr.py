"""Zarr arrays: formats, chunks and shards, bad arrays, memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import cloudpickle
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from dgmm.data.opening import open_dataset
from dgmm.data.zarr_layout import layout_of
from dgmm.errors import (
    InvalidDataError,
    InvalidDtypeError,
    SourceError,
)
from dgmm.testing.sources import SourceSuite, read_all, travelled
from tests.data.zarr_arrays import CHECKED, write


class TestZarr(SourceSuite):
    options: ClassVar = {}

    def store(self, values, place):
        write(place / "x", values, **self.options)
        return place / "x"


class TestColumnChunks(TestZarr):
    options: ClassVar = {"chunks": (30, 2)}


class TestLargeChunks(TestZarr):
    options: ClassVar = {"chunks": (150, 5), **CHECKED}


class TestShards(TestZarr):
    options: ClassVar = {"chunks": (10, 5), "shards": (40, 5)}


class TestColumnShards(TestZarr):
    options: ClassVar = {"chunks": (10, 1), "shards": (70, 2)}


class TestVersion2(TestZarr):
    options: ClassVar = {"zarr_format": 2, "order": "F"}


class TestFileUrl(TestZarr):
    def store(self, values, place):
        return f"file://{super().store(values, place)}"


class TestLocalArray(TestZarr):
    def store(self, values, place):
        return write(place / "x", values, **self.options)


class TestMemoryStore(TestZarr):
    sees_content = False

    def store(self, values, place):
        return write(zarr.storage.MemoryStore(), values, chunks=(20, 5))


class TestMemoryUrl(TestZarr):
    sees_content = False  # fsspec's clock for files in memory may be too coarse

    def store(self, values, place):
        url = f"memory://{place.name}/x"
        write(zarr.storage.FsspecStore.from_url(url), values)
        return url


class TestGivenUrl(TestMemoryUrl):
    def store(self, values, place):
        return zarr.open_array(zarr.storage.FsspecStore.from_url(super().store(values, place)))


class TestZip(TestZarr):
    sees_content = False

    def store(self, values, place):
        with zarr.storage.ZipStore(place / "x.zip", mode="w") as store:
            array = zarr.create_array(store, shape=values.shape, dtype=values.dtype, chunks=(20, 5))
            array[:] = values
        return place / "x.zip"

    def test_dtypes(self, tmp_path):
        pytest.skip("as for a folder")


@given(
    shape=st.tuples(st.integers(1, 60), st.integers(1, 6)),
    chunk=st.tuples(st.integers(1, 20), st.integers(1, 7)),
    shard=st.none() | st.tuples(st.integers(1, 4), st.integers(1, 3)),
    block_bytes=st.integers(1, 1500),
)
@settings(max_examples=40, deadline=None)
def test_any_chunks(shape, chunk, shard, block_bytes):
    values = np.arange(np.prod(shape), dtype="i4").reshape(shape) + 1
    shards = None if shard is None else (shard[0] * chunk[0], shard[1] * chunk[1])
    array = write(zarr.storage.MemoryStore(), values, chunks=chunk, shards=shards)
    dataset = open_dataset(array, block_bytes=block_bytes)
    np.testing.assert_array_equal(read_all(dataset), values)
    # A chunk belongs to one block, so that it is decoded once.
    assert all(block.first_row % chunk[0] == 0 for block in dataset.blocks)
    whole_shards = shards is not None and shards[0] * shape[1] * 4 <= block_bytes
    if whole_shards:
        assert all(block.first_row % shards[0] == 0 for block in dataset.blocks)
    for block in dataset.blocks:
        assert block.nbytes <= block_bytes or block.n_rows <= chunk[0]


def test_each_chunk_is_read_once(tmp_path, monkeypatch):
    write(tmp_path / "x", np.ones((200, 5)), chunks=(20, 3))
    seen = []
    original = zarr.storage.LocalStore.get

    async def get(self, key, *args, **kwargs):
        seen.append(key)
        return await original(self, key, *args, **kwargs)

    dataset = open_dataset(tmp_path / "x", block_bytes=2000)
    dataset.blocks[0].read()
    monkeypatch.setattr(zarr.storage.LocalStore, "get", get)
    read_all(dataset)
    assert sorted(seen) == sorted(f"c/{row}/{column}" for row in range(10) for column in range(2))


def test_handles_are_small_and_open_once(tmp_path):
    write(tmp_path / "x", np.ones((1000, 5)))
    dataset = open_dataset(tmp_path / "x", block_bytes=800)
    blocks = travelled(dataset.blocks)
    assert len(cloudpickle.dumps(dataset.blocks[0])) < 2000
    assert len({id(block.handle.array) for block in (*blocks, *dataset.blocks)}) == 1


def test_relative_paths_are_made_absolute(tmp_path, monkeypatch):
    write(tmp_path / "x", np.ones((10, 5)))
    monkeypatch.chdir(tmp_path)
    dataset = open_dataset("x")
    monkeypatch.chdir("/")
    assert read_all(dataset).sum() == 50


def test_group_lists_its_arrays(tmp_path):
    group = zarr.create_group(tmp_path / "g")
    group.create_array("one/values", shape=(3, 3), dtype="f4")
    for source in (tmp_path / "g", group):
        with pytest.raises(SourceError, match=r"Zarr group.*one/values; pass .*g/one/values"):
            open_dataset(source)
    assert open_dataset(tmp_path / "g" / "one/values").shape == (3, 3)
    assert open_dataset(group["one/values"]).shape == (3, 3)


@pytest.mark.parametrize(
    ("shape", "dtype", "error", "message"),
    [
        ((), "f8", InvalidDataError, "scalar array"),
        ((3,), "f8", InvalidDataError, "got 1D array"),
        ((3, 3, 3), "f8", InvalidDataError, "got 3D array"),
        ((3, 0), "f8", InvalidDataError, r"0 feature\(s\)"),
        ((3, 3), "c16", InvalidDtypeError, "complex128"),
        ((3, 3), "U4", InvalidDtypeError, "not a real number"),
        ((3, 3), "str", InvalidDtypeError, "not a real number"),
        ((3, 3), [("a", "f4")], InvalidDtypeError, "not a real number"),
        ((3, 3), "M8[s]", InvalidDtypeError, "datetime64"),
    ],
)
@pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning")
def test_bad_arrays_name_the_path(tmp_path, shape, dtype, error, message):
    zarr.create_array(tmp_path / "x", shape=shape, dtype=dtype)
    with pytest.raises(error, match=f"/x: .*{message}"):
        open_dataset(tmp_path / "x")


def test_broken_metadata(tmp_path):
    write(tmp_path / "x", np.ones((4, 5)))
    (tmp_path / "x" / "zarr.json").write_text("{")
    with pytest.raises(SourceError, match=r"cannot open .*x as a Zarr array"):
        open_dataset(tmp_path / "x")


def test_an_array_that_changed_is_noticed(tmp_path):
    write(tmp_path / "x", np.ones((40, 5)))
    block = open_dataset(tmp_path / "x").blocks[0]
    write(tmp_path / "x", np.ones((20, 5)))
    with pytest.raises(SourceError, match="changed its shape"):
        block.read()


def test_unknown_packages_are_named():
    with pytest.raises(SourceError, match="Protocol not known"):
        open_dataset("nonsense://bucket/x")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    "options",
    [
        {"chunks": (200_000, 8)},
        {"chunks": (200_000, 8), **CHECKED},
        {"chunks": (10_000, 8)},
        {"chunks": (10_000, 8), "shards": (200_000, 8), **CHECKED},
        {"chunks": (200_000, 8), "zarr_format": 2},
        None,
    ],
)
def test_reading_stays_within_what_it_says(tmp_path, options):
    values = np.random.default_rng(0).normal(size=(420_000, 8)).astype("f4")
    if options is None:
        np.save(tmp_path / "x.npy", np.asfortranarray(values))
    else:
        write(tmp_path / "x", values, **options)
    program = Path(__file__).with_name("read_memory.py")
    path = tmp_path / ("x" if options else "x.npy")
    out = subprocess.run(
        [sys.executable, program, "6.5MB", path], capture_output=True, text=True, check=True
    )
    measured, projected = map(int, out.stdout.split())
    # The kernel counts resident pages in batches for each thread.
    assert measured <= projected + 2**18
    # A projection that nothing ever comes near would waste memory.
    assert projected < 3 * measured


@pytest.mark.skipif(not hasattr(zarr.Array, "read_chunk_sizes"), reason="needs a newer Zarr")
def test_rectilinear_chunks(tmp_path):
    values = np.random.default_rng(0).normal(size=(60, 4))
    with zarr.config.set({"array.rectilinear_chunks": True}):
        write(tmp_path / "x", values, chunks=[[10, 20, 30], [4]])
        dataset = open_dataset(tmp_path / "x", block_bytes=960)
        assert layout_of(zarr.open_array(tmp_path / "x")).sizes == (10, 20, 30)
        assert [block.n_rows for block in dataset.blocks] == [30, 30]
        np.testing.assert_array_equal(read_all(dataset), values)
