"""Stored columns of weights and labels: damage, gaps, stores that fail, what is declared."""

from __future__ import annotations

import errno
import json
import os

import numpy as np
import pytest
import zarr
from zarr.codecs import Crc32cCodec

import dgmm
from dgmm.data.opening import open_dataset
from dgmm.engine.work import load
from dgmm.errors import (
    DamagedBlockError,
    DataChangedError,
    DgmmError,
    InvalidDataError,
    MissingChunkError,
    SourceError,
    StoreUnavailableError,
)

X = np.random.default_rng(0).normal(size=(1000, 3))
VALUES = np.arange(1000) % 3


@pytest.fixture(params=["weights", "labels"])
def paired(request):
    """Pairs rows, ten blocks of them, with a column that is at some place."""

    def paired(place, **options):
        dataset = open_dataset(X, block_bytes=2400, **options)
        if request.param == "weights":
            return dataset.with_weights(place)
        return dataset.with_labels(place)

    return paired


def column(place, *, written=VALUES, **options):
    array = zarr.create_array(
        place, shape=(1000,), chunks=(100,), dtype="i8", compressors=(Crc32cCodec(),), **options
    )
    array[: len(written)] = written
    return array


def flip(path):
    data = bytearray(path.read_bytes())
    data[100] ^= 4
    path.write_bytes(bytes(data))


def declare(place, **changes):
    document = json.loads((place / "zarr.json").read_text())
    (place / "zarr.json").write_text(json.dumps({**document, **changes}))


def test_a_damaged_chunk_is_named(tmp_path, paired):
    column(tmp_path / "w")
    flip(tmp_path / "w/c/4")
    said = r"w: block rows 0 to 999 is damaged in c/4 \(rows 400 to 499\): its bytes"
    with pytest.raises(DamagedBlockError, match=said):
        paired(tmp_path / "w").blocks[4].read()


def test_a_chunk_that_was_never_written_is_named(tmp_path, paired):
    column(tmp_path / "w", written=VALUES[:900])
    with pytest.raises(MissingChunkError, match=r"chunk c/9 of block .* never written; write it$"):
        paired(tmp_path / "w").blocks[9].read()


def test_a_gap_in_a_shard_is_named(tmp_path, paired):
    column(tmp_path / "w", written=VALUES[:700], shards=(500,))
    with pytest.raises(MissingChunkError, match=r"chunk \(7,\) in shard c/1 of block"):
        paired(tmp_path / "w").blocks[9].read()


def test_a_gap_in_memory_is_no_zero(paired):
    array = column(zarr.storage.MemoryStore(), written=VALUES[:900])
    with pytest.raises(MissingChunkError, match="chunk c/9 of block"):
        paired(array).blocks[9].read()


@pytest.mark.parametrize("harm", ["damage", "gap"])
def test_rows_whose_values_are_lost_are_skipped_on_request(tmp_path, paired, harm):
    column(tmp_path / "w")
    (tmp_path / "w/c/4").unlink() if harm == "gap" else flip(tmp_path / "w/c/4")
    rows = paired(tmp_path / "w", on_bad_block="skip").blocks[4].read()
    assert rows.bad.all()
    assert not rows.weight.any()
    assert "c/4" in rows.lost


def test_a_column_that_changed_is_noticed(tmp_path, paired):
    array = column(tmp_path / "w")
    dataset = paired(tmp_path / "w")
    array[:100] = 2
    with pytest.raises(DataChangedError, match="changed after the dataset was opened"):
        dataset.blocks[0].read()


class TestUnavailable:
    """A store that fails is asked again, with the rows that wait for its values."""

    @pytest.fixture
    def fail(self, monkeypatch):
        store = zarr.storage.LocalStore

        def fail(times):
            left = iter(range(times))
            get, get_sync = store.get, getattr(store, "get_sync", None)

            def check(key):
                # The metadata can be read: a worker may have them already.
                if key.startswith("c/") and next(left, None) is not None:
                    raise OSError(errno.EIO, os.strerror(errno.EIO))

            async def failing(self, key, *args, **kwargs):
                check(key)
                return await get(self, key, *args, **kwargs)

            def failing_sync(self, key, *args, **kwargs):
                check(key)
                return get_sync(self, key, *args, **kwargs)

            monkeypatch.setattr(store, "get", failing)
            if get_sync is not None:
                monkeypatch.setattr(store, "get_sync", failing_sync)

        return fail

    def test_for_a_moment(self, tmp_path, paired, fail):
        column(tmp_path / "w")
        block = paired(tmp_path / "w").blocks[3]
        fail(1)
        waits = []
        rows = load(block, waits.append)
        assert waits
        values = rows.labels if rows.weight is None else rows.weight
        np.testing.assert_array_equal(values, VALUES[300:400])

    def test_for_good(self, tmp_path, paired, fail):
        column(tmp_path / "w")
        block = paired(tmp_path / "w").blocks[3]
        fail(10**6)
        with pytest.raises(StoreUnavailableError, match=r"cannot read block rows .*Input/output"):
            block.read()


@pytest.mark.parametrize("rows", [2**40, 2**60, 999])
def test_another_number_of_values_is_refused_before_a_chunk_is_looked_at(
    tmp_path, paired, rows, monkeypatch
):
    column(tmp_path / "w")
    declare(tmp_path / "w", shape=[rows])
    looked_at = []
    monkeypatch.setattr("dgmm.data.zarr_identity.mark_of_path", looked_at.append)
    with pytest.raises(InvalidDataError, match=rf": there are {rows} values for 1000 rows"):
        paired(tmp_path / "w")
    assert not looked_at


def test_of_many_chunks_some_are_looked_at(tmp_path, paired, monkeypatch):
    column(tmp_path / "w")
    looked_at = []
    monkeypatch.setattr("dgmm.data.zarr_identity._MOST_LOOKED_AT", 5)
    monkeypatch.setattr("dgmm.data.zarr_identity._SPREAD", 2)
    monkeypatch.setattr("dgmm.data.zarr_identity.mark_of_path", looked_at.append)
    dataset = paired(tmp_path / "w")
    # Two of ten, and the one that a shape too small would leave out.
    assert len(looked_at) == 3
    assert dataset.blocks[0].stamp is None


@pytest.mark.parametrize("place", ["filters", "compressor"])
def test_nothing_is_unpickled(tmp_path, paired, place):
    array = zarr.create_array(
        tmp_path / "w", shape=(1000,), chunks=(100,), dtype="i8", zarr_format=2, compressors=None
    )
    array[:] = VALUES
    document = json.loads((tmp_path / "w/.zarray").read_text())
    codec = {"id": "pickle", "protocol": 4}
    document[place] = [codec] if place == "filters" else codec
    (tmp_path / "w/.zarray").write_text(json.dumps(document))
    with pytest.raises(DgmmError, match=r"by pickling|cannot open"):
        paired(tmp_path / "w")


def test_what_is_encoded_by_pickling_is_refused_by_name(tmp_path, paired, monkeypatch):
    # Some versions of Zarr refuse such metadata themselves.
    array = column(tmp_path / "w")
    monkeypatch.setattr("dgmm.data.zarr.codec_names", lambda _: ["Pickle(protocol=4)"])
    with pytest.raises(SourceError, match="is encoded by pickling"):
        paired(array)


def test_a_fit_says_that_its_weights_are_damaged(tmp_path):
    column(tmp_path / "w")
    flip(tmp_path / "w/c/4")
    with pytest.raises(DamagedBlockError, match="c/4"):
        dgmm.GaussianMixture(1).fit(X, sample_weight=str(tmp_path / "w"))
