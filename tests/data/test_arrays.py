"""NumPy arrays, memory maps, .npy files and tables."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgmm.data import arrays
from dgmm.data.arrays import ArrayBlock, FileBlock
from dgmm.data.opening import open_dataset
from dgmm.data.planning import resident_block_bytes
from dgmm.engine.work import load
from dgmm.errors import (
    DamagedBlockError,
    DataChangedError,
    InvalidDataError,
    InvalidDtypeError,
    StoreUnavailableError,
)
from dgmm.testing.sources import SourceSuite, read_all, travelled


class TestArray(SourceSuite):
    def store(self, values, place):
        return values.copy()


class TestFortranArray(SourceSuite):
    def store(self, values, place):
        return np.asfortranarray(values)


class TestLists(SourceSuite):
    dtypes = ("i8", "f8")

    def store(self, values, place):
        return values.tolist() if len(values) else values


class TestNpy(SourceSuite):
    order = "C"

    def store(self, values, place):
        np.save(place / "x.npy", np.asarray(values, order=self.order))
        return place / "x.npy"


class TestFortranNpy(TestNpy):
    order = "F"


class TestMemmap(TestNpy):
    def store(self, values, place):
        return np.load(super().store(values, place), mmap_mode="r")


def test_in_memory_blocks_are_views():
    values = np.zeros((100, 3))
    for block in open_dataset(values, block_bytes=240).blocks:
        assert block.is_resident
        assert np.shares_memory(block.read().x, values)


def test_origin_is_kept_but_does_not_travel():
    values = np.zeros((100, 3))
    dataset = open_dataset(values)
    assert dataset.origin is values
    assert travelled(dataset).origin is None


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(
    "cut", [np.s_[:], np.s_[17:80], np.s_[::3], np.s_[5:90, 1:4], np.s_[::-1], np.s_[:, ::-1]]
)
def test_a_slice_of_a_map_reads_its_own_rows(tmp_path, order, cut):
    values = np.random.default_rng(0).normal(size=(100, 6))
    np.save(tmp_path / "x.npy", np.asarray(values, order=order))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")[cut]
    np.testing.assert_array_equal(read_all(open_dataset(mapped, block_bytes=500)), values[cut])


def test_a_map_of_a_file_is_read_through_the_file(tmp_path):
    raw = np.memmap(tmp_path / "x.bin", "f4", "w+", offset=5000, shape=(50, 4))
    raw[:] = np.arange(200).reshape(50, 4)
    dataset = open_dataset(raw[10:], block_bytes=160)
    assert all(isinstance(block, FileBlock) for block in dataset.blocks)
    np.testing.assert_array_equal(read_all(dataset), raw[10:])


def test_a_private_map_is_read_in_memory(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((10, 2)))
    private = np.load(tmp_path / "x.npy", mmap_mode="c")
    private[0, 0] = 7
    dataset = open_dataset(private)
    assert isinstance(dataset.blocks[0], ArrayBlock)
    assert read_all(dataset)[0, 0] == 7


@given(
    n_rows=st.integers(1, 50),
    n_features=st.integers(1, 6),
    block_bytes=st.integers(1, 600),
    order=st.sampled_from("CF"),
)
@settings(max_examples=30, deadline=None)
def test_any_shape(tmp_path_factory, n_rows, n_features, block_bytes, order):
    values = np.arange(n_rows * n_features, dtype="f4").reshape(n_rows, n_features)
    path = tmp_path_factory.getbasetemp() / "any.npy"
    np.save(path, np.asarray(values, order=order))
    for source in (path, values):
        dataset = open_dataset(source, block_bytes=block_bytes)
        np.testing.assert_array_equal(read_all(dataset), values)
        assert all(block.n_rows <= dataset.part_rows for block in dataset.blocks)


class Table:
    """A data frame as far as it matters here."""

    def __init__(self, values, columns):
        self.values, self.columns = values, columns

    def to_numpy(self):
        return self.values


def test_table_keeps_its_names():
    dataset = open_dataset(Table(np.zeros((3, 2)), ["height", "weight"]))
    assert dataset.feature_names == ("height", "weight")


def test_table_with_text_is_refused():
    with pytest.raises(InvalidDtypeError, match=r"select the numeric ones.*height, name"):
        open_dataset(Table(np.array([[1, "a"]], object), ["height", "name"]))


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        (np.zeros(3), InvalidDataError, "Expected 2D array, got 1D array.*Reshape your data"),
        (np.zeros(()), InvalidDataError, "Expected 2D array, got scalar array"),
        (np.zeros((2, 2, 2)), InvalidDataError, "got 3D array"),
        (np.zeros((2, 0)), InvalidDataError, r"0 feature\(s\)"),
        ([[1], [2, 3]], InvalidDataError, "rectangular"),
        (np.ma.masked_array([[1.0]]), InvalidDataError, "masked"),
        ([["a"]], InvalidDtypeError, "not a real number"),
        (np.array([[None]]), InvalidDtypeError, "dtype object"),
        (np.zeros((2, 2), "c8"), InvalidDtypeError, "complex64"),
        (np.zeros((2, 2), "M8[s]"), InvalidDtypeError, "datetime64"),
        (np.zeros((2, 2), [("a", "f4")]), InvalidDtypeError, "not a real number"),
    ],
)
def test_bad_arrays(values, error, message):
    with pytest.raises(error, match=message):
        open_dataset(values)


def test_sparse_matrix_is_refused():
    sparse = pytest.importorskip("scipy.sparse")
    with pytest.raises(InvalidDataError, match="Sparse data"):
        open_dataset(sparse.eye(3))


def test_npy_of_objects(tmp_path):
    np.save(tmp_path / "x.npy", np.array([[None]]), allow_pickle=True)
    with pytest.raises(InvalidDtypeError, match=r"x\.npy.*dtype object"):
        open_dataset(tmp_path / "x.npy")


def test_npy_of_one_dimension_names_the_file(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(3))
    with pytest.raises(InvalidDataError, match=r"x\.npy: Expected 2D array"):
        open_dataset(tmp_path / "x.npy")


def test_truncated_npy(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.zeros((100, 3)))
    whole = path.read_bytes()
    dataset = open_dataset(path, block_bytes=240)
    path.write_bytes(whole[:-600])
    with pytest.raises(DamagedBlockError, match=r"truncated or not a \.npy file"):
        open_dataset(path)
    for block in dataset.blocks[0], dataset.blocks[7]:
        with pytest.raises(DataChangedError, match=rf"block {block.name} changed after"):
            block.read()


def test_npy_that_went_away(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((10, 3)))
    block = open_dataset(tmp_path / "x.npy").blocks[0]
    (tmp_path / "x.npy").unlink()
    with pytest.raises(DataChangedError, match=r"rows 0 to 9 changed .* and is in no file"):
        block.read()


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE])
class TestPassingFailures:
    """A file system that fails for a moment is a store that is unavailable: it is asked again."""

    @pytest.fixture
    def path(self, tmp_path):
        np.save(tmp_path / "x.npy", np.arange(30.0).reshape(10, 3))
        return tmp_path / "x.npy"

    @pytest.fixture
    def fail(self, monkeypatch, code):
        def fail(times):
            left = iter(range(times))

            def opened(path, *args, **kwargs):
                if next(left, None) is not None:
                    raise OSError(code, os.strerror(code), str(path))
                return open(path, *args, **kwargs)

            monkeypatch.setattr(arrays, "open", opened, raising=False)

        return fail

    def test_reading(self, path, fail, code):
        block = open_dataset(path).blocks[0]
        fail(2)
        waits = []
        np.testing.assert_array_equal(load(block, waits.append).x, np.load(path))
        assert len(waits) == 2
        fail(1)
        said = rf"cannot read rows 0 to 9 of {path}: .*{os.strerror(code)}"
        with pytest.raises(StoreUnavailableError, match=said):
            block.read()

    def test_opening(self, path, fail):
        for argument in ("X", "sample_weight"):
            fail(1)
            with pytest.raises(StoreUnavailableError, match=f"cannot open {path}"):
                if argument == "X":
                    open_dataset(path)
                else:
                    open_dataset(np.ones((10, 3))).with_weights(path)

    def test_mapping(self, path, code, monkeypatch):
        def fail(*args, **kwargs):
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(np, "load", fail)
        with pytest.raises(StoreUnavailableError, match=f"cannot open {path}"):
            open_dataset(path)


@pytest.mark.parametrize(
    ("nbytes", "block"),
    [(1000, 2**19), (2**22, 2**19), (6 * 2**20, 6 * 2**17), (2**25, 2**20), (2**29, 2**22)],
)
def test_rows_in_memory_are_cut_by_how_many_there_are(nbytes, block):
    assert resident_block_bytes(nbytes) == block
    rows = np.broadcast_to(np.float64(1.0), (nbytes // 8, 1))
    sizes = [one.nbytes for one in open_dataset(rows).blocks]
    assert set(sizes[:-1]) <= {block}
    assert sizes[-1] <= block
    asked = open_dataset(rows, block_bytes=4096)
    assert {one.nbytes for one in asked.blocks} <= {4096, nbytes % 4096}
