"""Zarr arrays with missing and damaged chunks, and stores that fail."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import zarr
from numcodecs import Zstd
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec, ZstdCodec

from dgmm.data.opening import open_dataset
from dgmm.errors import (
    DamagedBlockError,
    MissingChunkError,
    SourceError,
    StoreUnavailableError,
)
from dgmm.testing.sources import read_all
from tests.data.zarr_arrays import CHECKED, write


class TestShrunken:
    """Metadata have no checksum: a shape that leaves chunks out is not believed."""

    values = np.random.default_rng(0).normal(size=(100, 4))

    @pytest.mark.parametrize("shards", [None, (20, 4)])
    @pytest.mark.parametrize("version", [2, 3])
    @pytest.mark.parametrize("shape", [(30, 4), (100, 2)])
    def test_chunks_beyond_the_shape(self, tmp_path, version, shards, shape):
        if version == 2 and shards:
            pytest.skip("version 2 has no shards")
        chunks = (10, 2) if shards is None else (10, 4)
        options = {} if shards is None else {"shards": shards}
        write(tmp_path / "x", self.values, chunks=chunks, zarr_format=version, **options)
        path = tmp_path / "x" / ("zarr.json" if version == 3 else ".zarray")
        document = json.loads(path.read_text())
        document["shape"] = shape
        path.write_text(json.dumps(document))
        if shards and shape == (100, 2):
            # The only column of chunks is as wide as before: nothing lies beyond it.
            return
        with pytest.raises(SourceError, match=r"beyond the shape .* damaged"):
            open_dataset(tmp_path / "x")

    def test_an_array_that_zarr_shrinks_has_none(self, tmp_path):
        write(tmp_path / "x", self.values, chunks=(10, 2))
        zarr.open_array(tmp_path / "x").resize((30, 2))
        assert open_dataset(tmp_path / "x").shape == (30, 2)


class TestMissing:
    """A chunk that was never written is an error, never the fill value."""

    values = np.random.default_rng(0).normal(size=(100, 4))

    def check(self, source, block_bytes, message, good_blocks=()):
        dataset = open_dataset(source, block_bytes=block_bytes)
        for index in good_blocks:
            dataset.blocks[index].read()
        with pytest.raises(MissingChunkError, match=message):
            read_all(dataset)
        filled = open_dataset(source, block_bytes=block_bytes, on_missing_chunk="fill")
        assert (read_all(filled) == 0).any()

    @pytest.mark.parametrize("version", [2, 3])
    def test_chunk(self, tmp_path, version):
        write(tmp_path / "x", self.values, chunks=(10, 2), zarr_format=version)
        key = {2: "3.1", 3: "c/3/1"}[version]
        os.remove(tmp_path / "x" / key)
        self.check(tmp_path / "x", 640, f"x: chunk {key} of block rows 20 to 39 was never", [0, 2])

    def test_given_array(self):
        store = zarr.storage.MemoryStore()
        array = zarr.create_array(store, shape=(100, 4), chunks=(10, 4), dtype="f8")
        array[:70] = self.values[:70]
        self.check(array, 320, "chunk c/7/0 of block rows 70 to 79", [0, 6, 5])

    def test_shard(self, tmp_path):
        write(tmp_path / "x", self.values, chunks=(10, 4), shards=(50, 4))
        os.remove(tmp_path / "x" / "c/1/0")
        self.check(tmp_path / "x", 320, "chunk c/1/0 of block rows 50 to 59", [0, 4])
        self.check(tmp_path / "x", 10**6, "chunk c/1/0 of block rows 0 to 99")

    @pytest.mark.parametrize("block_bytes", [320, 1600, 10**6])
    @pytest.mark.parametrize("place", ["start", "end"])
    def test_chunk_in_a_shard(self, tmp_path, block_bytes, place):
        array = zarr.create_array(
            tmp_path / "x",
            shape=(95, 4),
            dtype="f8",
            chunks=(10, 4),
            shards={"shape": (50, 4), "index_location": place},
        )
        array[:60] = self.values[:60]
        array[70:] = self.values[70:95]
        self.check(tmp_path / "x", block_bytes, r"chunk \(6, 0\) in shard c/1/0 of block rows")

    @pytest.mark.parametrize("place", ["start", "end"])
    def test_chunk_in_a_shard_on_a_server_that_knows_no_ranges(self, tmp_path, monkeypatch, place):
        array = zarr.create_array(
            tmp_path / "x",
            shape=(100, 4),
            dtype="f8",
            chunks=(10, 4),
            shards={"shape": (50, 4), "index_location": place},
        )
        array[:60] = self.values[:60]
        array[70:] = self.values[70:]
        get = zarr.storage.LocalStore.get

        async def whole(store, key, prototype, byte_range=None):
            return await get(store, key, prototype)

        monkeypatch.setattr(zarr.storage.LocalStore, "get", whole)
        self.check(tmp_path / "x", 10**6, r"chunk \(6, 0\) in shard c/1/0 of block rows")
        array[60:70] = self.values[60:70]
        np.testing.assert_array_equal(read_all(open_dataset(tmp_path / "x")), self.values)

    def test_edge_shards_are_whole(self, tmp_path):
        write(tmp_path / "x", self.values[:41], chunks=(10, 3), shards=(40, 6))
        np.testing.assert_array_equal(read_all(open_dataset(tmp_path / "x")), self.values[:41])

    def test_shards_that_cannot_be_checked(self, tmp_path):
        inner = zarr.codecs.ShardingCodec(chunk_shape=(5, 4))
        outer = zarr.codecs.ShardingCodec(chunk_shape=(10, 4), codecs=(inner,))
        array = zarr.create(
            store=tmp_path / "x", shape=(100, 4), chunks=(50, 4), dtype="f8", codecs=(outer,)
        )
        array[:] = self.values
        with pytest.raises(SourceError, match="on_missing_chunk='fill'"):
            open_dataset(tmp_path / "x")
        filled = open_dataset(tmp_path / "x", on_missing_chunk="fill")
        np.testing.assert_array_equal(read_all(filled), self.values)


class TestDamaged:
    """Damage that a codec can see names the array and the block."""

    values = np.random.default_rng(0).normal(size=(100, 4))

    def damage(self, path, change):
        path.write_bytes(change(bytearray(path.read_bytes())))

    def check(self, place):
        dataset = open_dataset(place, block_bytes=640)
        dataset.blocks[0].read()
        with pytest.raises(DamagedBlockError, match="x: block rows 60 to 79 is damaged"):
            dataset.blocks[3].read()

    @staticmethod
    def flip(data):
        data[len(data) // 2] ^= 0x10
        return data

    @staticmethod
    def garbage(data):
        return np.random.default_rng(1).bytes(len(data))

    @staticmethod
    def truncate(data):
        return data[: len(data) // 2]

    @pytest.mark.parametrize("codec", [Crc32cCodec(), ZstdCodec(checksum=True)])
    @pytest.mark.parametrize("change", ["flip", "garbage", "truncate"])
    def test_checksum(self, tmp_path, codec, change):
        write(tmp_path / "x", self.values, chunks=(20, 4), compressors=(codec,))
        self.damage(tmp_path / "x/c/3/0", getattr(self, change))
        self.check(tmp_path / "x")

    @pytest.mark.parametrize("codec", [BloscCodec(), GzipCodec(), ZstdCodec(), None])
    @pytest.mark.parametrize("change", ["garbage", "truncate"])
    def test_no_checksum(self, tmp_path, codec, change):
        if codec is None and change == "garbage":
            pytest.skip("nothing can tell")
        write(tmp_path / "x", self.values, chunks=(20, 4), compressors=codec)
        self.damage(tmp_path / "x/c/3/0", getattr(self, change))
        self.check(tmp_path / "x")

    @pytest.mark.parametrize(
        ("options", "chunk", "where"),
        [
            ({"chunks": (10, 4)}, "c/4/0", r"c/4/0 \(rows 40 to 49\)"),
            ({"chunks": (10, 2)}, "c/4/1", r"c/4/1 \(rows 40 to 49\)"),
            ({"chunks": (10, 4), "zarr_format": 2}, "4.0", r"4\.0 \(rows 40 to 49\)"),
            ({"chunks": (10, 4), "shards": (50, 4)}, "c/1/0", r"c/1/0 \(rows 70 to 79\)"),
        ],
    )
    def test_the_chunk_is_named_among_those_of_its_block(self, tmp_path, options, chunk, where):
        codec = Crc32cCodec() if options.get("zarr_format") != 2 else Zstd(checksum=True)
        write(tmp_path / "x", self.values, compressors=(codec,), **options)
        self.damage(tmp_path / "x" / chunk, self.flip)
        (block,) = open_dataset(tmp_path / "x").blocks
        with pytest.raises(DamagedBlockError, match=rf"rows 0 to 99 is damaged in {where}: its"):
            block.read()

    def test_version_2(self, tmp_path):
        write(tmp_path / "x", self.values, chunks=(20, 4), zarr_format=2)
        self.damage(tmp_path / "x/3.0", self.garbage)
        self.check(tmp_path / "x")

    @pytest.mark.parametrize("change", ["flip", "truncate"])
    def test_shard(self, tmp_path, change):
        write(tmp_path / "x", self.values, chunks=(10, 4), shards=(20, 4), **CHECKED)
        self.damage(tmp_path / "x/c/3/0", getattr(self, change))
        self.check(tmp_path / "x")

    def test_the_table_of_a_shard(self, tmp_path):
        write(tmp_path / "x", self.values, chunks=(10, 4), shards=(20, 4))

        def blank(data):
            # Damage that looks as if the chunks had never been written.
            data[-36:-4] = b"\xff" * 32
            return data

        self.damage(tmp_path / "x/c/3/0", blank)
        self.check(tmp_path / "x")


@pytest.mark.parametrize(
    "error", [PermissionError("no right to read"), RuntimeError("no right at all")]
)
class TestUnavailable:
    """A store that fails, in whatever way, is neither damaged nor missing."""

    @pytest.fixture(autouse=True)
    def _failing(self, tmp_path, monkeypatch, error):
        write(tmp_path / "x", np.ones((100, 5)))
        self.block = open_dataset(tmp_path / "x").blocks[0]
        self.block.read()

        async def get(*args, **kwargs):
            raise error

        monkeypatch.setattr(zarr.storage.LocalStore, "get", get)

    def test_reading(self):
        with pytest.raises(StoreUnavailableError, match=r"block rows 0 to 99 of .*/x: no right"):
            self.block.read()

    def test_opening(self, tmp_path):
        with pytest.raises(StoreUnavailableError, match=r"cannot open .*/x: no right"):
            open_dataset(tmp_path / "x")


def test_a_folder_that_cannot_be_listed_is_unavailable(tmp_path, monkeypatch):
    group = zarr.create_group(tmp_path / "g")

    def members(*args, **kwargs):
        raise PermissionError("no right to list")

    monkeypatch.setattr(zarr.Group, "members", members)
    with pytest.raises(StoreUnavailableError, match=r"cannot list .*/g: no right"):
        open_dataset(group)


def test_a_file_that_is_no_zip_is_not_unavailable(tmp_path):
    (tmp_path / "x.zip").write_text("not a zip file")
    with pytest.raises(SourceError, match="not a zip file") as caught:
        open_dataset(tmp_path / "x.zip")
    assert not isinstance(caught.value, StoreUnavailableError)
