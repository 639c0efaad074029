"""Rows written to Zarr, in whole chunks and in order."""

from __future__ import annotations

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from dgmm.data.opening import open_dataset
from dgmm.data.sink import ZarrSink, open_sink
from dgmm.errors import DamagedBlockError, InvalidParameterError, SourceError
from dgmm.testing.sources import read_all


@given(
    pieces=st.lists(st.integers(0, 25), max_size=8),
    chunk=st.integers(1, 12),
    chunks_in_shard=st.none() | st.integers(1, 4),
    columns=st.none() | st.integers(1, 3),
)
@settings(max_examples=40, deadline=None)
def test_rows_arrive_in_whole_units(pieces, chunk, chunks_in_shard, columns):
    tail = () if columns is None else (columns,)
    shape = (sum(pieces), *tail)
    values = np.arange(np.prod(shape, dtype=int), dtype="f4").reshape(shape) + 1
    shards = None if chunks_in_shard is None else (chunk * chunks_in_shard, *tail)
    array = zarr.create_array({}, shape=shape, dtype="f4", chunks=(chunk, *tail), shards=shards)
    written = []
    sink = ZarrSink(array, "out")
    sink.array = Recorder(sink.array, written)
    with sink:
        for part in np.split(values, np.cumsum(pieces)[:-1]) if pieces else []:
            sink.write(part)
            part[...] = -1  # the caller may use its memory again
    assert [start for start, _ in written] == [0, *(stop for _, stop in written)][: len(written)]
    unit = (shards or (chunk,))[0]
    assert all(start % unit == 0 for start, _ in written)
    expected = np.arange(values.size, dtype="f4").reshape(shape) + 1
    np.testing.assert_array_equal(array[:], expected)


class Recorder:
    """An array that notes the rows that are written to it."""

    def __init__(self, array, written):
        self.array, self.written = array, written
        self.shape, self.dtype = array.shape, array.dtype

    def __setitem__(self, rows, values):
        self.written.append((rows.start, rows.stop))
        self.array[rows] = values


def test_a_new_array_is_checksummed_and_complete(tmp_path):
    with open_sink(tmp_path / "out", (100, 2), "f4", chunk_rows=30) as sink:
        sink.write(np.zeros((100, 2)))
    assert sorted(path.name for path in (tmp_path / "out/c").iterdir()) == list("0123")
    assert read_all(open_dataset(tmp_path / "out")).shape == (100, 2)
    chunk = tmp_path / "out/c/1/0"
    data = bytearray(chunk.read_bytes())
    assert len(data) == 30 * 2 * 4 + 4
    data[7] ^= 1
    chunk.write_bytes(data)
    with pytest.raises(DamagedBlockError):
        read_all(open_dataset(tmp_path / "out"))


def test_labels(tmp_path):
    with open_sink(tmp_path / "out", (10,), "i4") as sink:
        sink.write(np.arange(10))
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "out")[:], np.arange(10))


def test_nothing_is_replaced_unasked(tmp_path):
    open_sink(tmp_path / "out", (4, 2), "f4")
    with pytest.raises(InvalidParameterError, match="overwrite=True"):
        open_sink(tmp_path / "out", (4, 2), "f4")
    assert open_sink(tmp_path / "out", (6, 2), "f4", overwrite=True).array.shape == (6, 2)


def test_nothing_but_an_array_is_ever_replaced(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for path in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(InvalidParameterError, match="not a Zarr array; choose another path"):
            open_sink(path, (4, 2), "f4", overwrite=True)
    zarr.create_group(tmp_path / "group").create_array("x", shape=(3,), dtype="f4")
    with pytest.raises(InvalidParameterError, match="group exists and is not a Zarr array"):
        open_sink(tmp_path / "group", (4, 2), "f4", overwrite=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert (tmp_path / "group/x").exists()


def test_too_few_and_too_many_rows(tmp_path):
    sink = open_sink(tmp_path / "few", (10, 2), "f4")
    sink.write(np.ones((4, 2)))
    with pytest.raises(SourceError, match="holds 10 rows and only 4 were written"):
        sink.close()
    sink = open_sink(tmp_path / "many", (10, 2), "f4")
    sink.write(np.ones((8, 2)))
    with pytest.raises(InvalidParameterError, match="holds 10 rows, got at least 12"):
        sink.write(np.ones((4, 2)))
    with pytest.raises(InvalidParameterError, match=r"rows of shape \(2,\), got \(3,\)"):
        sink.write(np.ones((1, 3)))


def test_an_exception_is_not_replaced(tmp_path):
    def interrupted():
        with open_sink(tmp_path / "x", (10, 2), "f4") as sink:
            sink.write(np.ones((4, 2)))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        interrupted()


def test_given_array_is_checked(tmp_path):
    array = zarr.create_array(tmp_path / "x", shape=(10, 2), dtype="f4")
    assert open_sink(array, (10, 2), "f8").array.shape == (10, 2)
    with pytest.raises(InvalidParameterError, match=r"the result has shape \(9, 2\)"):
        open_sink(array, (9, 2), "f4")
    with pytest.raises(InvalidParameterError, match="dtype"):
        open_sink(zarr.create_array({}, shape=(10, 2), dtype="i4"), (10, 2), "f4")
    with pytest.raises(InvalidParameterError, match="reading only"):
        open_sink(zarr.open_array(tmp_path / "x", mode="r"), (10, 2), "f4")
    with pytest.raises(InvalidParameterError, match="must be a path"):
        open_sink(5, (10, 2), "f4")
