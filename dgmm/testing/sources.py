"""What every source of rows must do, as tests to inherit. Needs pytest.

Subclass :class:`SourceSuite`, say how an array is stored, and pytest runs the rest::

    class TestMySource(SourceSuite):
        def store(self, values, place):
            my_format.write(place / "x.my", values)
            return place / "x.my"
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]  # it has no annotations
import numpy as np
import pytest

from dgmm.data.dataset import Dataset
from dgmm.data.opening import open_dataset

__all__ = ["SourceSuite", "read_all", "travelled"]

DTYPES = ("?", "i1", "u2", "i4", "u8", "i8", "f2", "f4", "f8", ">i4", ">f4", ">f8")


def read_all(dataset: Dataset) -> np.ndarray[Any, Any]:
    """All rows of a dataset, block by block, in native byte order."""
    empty = np.empty((0, dataset.n_features), dataset.dtype)
    return np.concatenate([empty, *(block.read().x for block in dataset.blocks)])


def travelled(value: Any) -> Any:
    """What a worker gets that is sent ``value``."""
    return cloudpickle.loads(cloudpickle.dumps(value))


class SourceSuite:
    """The laws of a source.

    Attributes
    ----------
    sees_content : bool
        True if the fingerprint changes when a value in the first row does.
    dtypes : tuple of str
        The dtypes that the format can hold.
    """

    sees_content = True
    dtypes: tuple[str, ...] = DTYPES

    def store(self, values: np.ndarray[Any, Any], place: Path) -> Any:
        """Store ``values`` under the folder ``place``, replacing what is there.

        Returns
        -------
        object
            What :func:`dgmm.open_dataset` takes.
        """
        raise NotImplementedError

    def open(self, source: Any, block_bytes: int) -> Dataset:
        """Open what :meth:`store` returned. Override it to pass options."""
        return open_dataset(source, block_bytes=block_bytes)

    @pytest.fixture
    def values(self) -> np.ndarray[Any, Any]:
        """An oracle of 203 rows and 5 features."""
        return np.random.default_rng(0).normal(size=(203, 5))

    @pytest.fixture
    def source(self, values: np.ndarray[Any, Any], tmp_path: Path) -> Any:
        """The oracle, stored."""
        return self.store(values, tmp_path)

    @pytest.mark.parametrize("block_bytes", [1, 400, 1000, 4001, 10**6])
    def test_blocks_give_every_row_once_in_order(
        self, values: np.ndarray[Any, Any], source: Any, block_bytes: int
    ) -> None:
        dataset = self.open(source, block_bytes)
        assert dataset.shape == values.shape
        assert dataset.n_rows == sum(block.n_rows for block in dataset.blocks)
        for block in dataset.blocks:
            rows = block.read()
            assert rows.first_row == block.first_row
            assert rows.n_rows == block.n_rows > 0
            assert (block.n_features, block.dtype) == (5, dataset.dtype)
            stop = block.first_row + block.n_rows
            np.testing.assert_array_equal(rows.x, values[block.first_row : stop])

    def test_parts_tile_the_blocks(self, source: Any) -> None:
        dataset = self.open(source, 1000)
        assert dataset.part_rows == 25
        assert sum(part.stop - part.start for part in dataset.parts) == dataset.n_rows
        assert all(0 < part.stop - part.start <= 25 for part in dataset.parts)

    def test_blocks_travel(self, values: np.ndarray[Any, Any], source: Any) -> None:
        dataset = self.open(source, 1000)
        copy = travelled(dataset)
        np.testing.assert_array_equal(read_all(copy), values)
        assert copy.parts == dataset.parts
        assert copy.fingerprint == dataset.fingerprint
        for block in dataset.blocks:
            one = travelled(block)
            np.testing.assert_array_equal(one.read().x, block.read().x)
            assert (one.first_row, one.n_rows) == (block.first_row, block.n_rows)

    def test_a_block_pickles_no_more_than_its_own_rows(self, tmp_path: Path) -> None:
        values = np.random.default_rng(0).normal(size=(2000, 5))
        dataset = self.open(self.store(values, tmp_path), 4000)
        assert len(dataset.blocks) > 1
        limit = max(block.nbytes for block in dataset.blocks) + 10000
        assert all(len(cloudpickle.dumps(block)) < limit for block in dataset.blocks[:3])

    def test_reading_again_gives_the_same(self, source: Any) -> None:
        block = self.open(source, 1000).blocks[0]
        np.testing.assert_array_equal(block.read().x, np.array(block.read().x))

    def test_the_manifest_is_stable(self, source: Any) -> None:
        one, two = self.open(source, 1000), self.open(source, 1000)
        assert one.fingerprint == two.fingerprint
        assert one.parts == two.parts
        assert one.part_rows == two.part_rows

    def test_the_fingerprint_sees_content(
        self, values: np.ndarray[Any, Any], tmp_path: Path
    ) -> None:
        if not self.sees_content:
            pytest.skip("this source cannot tell its content")
        before = self.open(self.store(values, tmp_path), 1000).fingerprint
        values[0, 0] += 1
        assert self.open(self.store(values, tmp_path), 1000).fingerprint != before

    def test_the_fingerprint_sees_shape(self, values: np.ndarray[Any, Any], tmp_path: Path) -> None:
        before = self.open(self.store(values, tmp_path), 1000).fingerprint
        assert self.open(self.store(values[:-1], tmp_path), 1000).fingerprint != before

    def test_dtypes(self, tmp_path: Path) -> None:
        for dtype in self.dtypes:
            values = np.arange(60).reshape(12, 5).astype(dtype)
            dataset = self.open(self.store(values, tmp_path), 10**4)
            block = dataset.blocks[0].read().x
            assert dataset.dtype.kind == values.dtype.kind, dtype
            assert block.dtype == dataset.dtype, dtype
            assert block.dtype.itemsize == values.dtype.itemsize, dtype
            np.testing.assert_array_equal(read_all(dataset), values)

    def test_sizes_are_told(self, source: Any) -> None:
        dataset = self.open(source, 1000)
        assert dataset.nbytes == sum(block.read().x.nbytes for block in dataset.blocks)
        for block in dataset.blocks:
            assert block.peak_read_bytes >= (0 if block.is_resident else block.nbytes)
            assert block.name == f"rows {block.first_row} to {block.first_row + block.n_rows - 1}"

    def test_no_rows(self, tmp_path: Path) -> None:
        dataset = self.open(self.store(np.empty((0, 5)), tmp_path), 1000)
        assert dataset.shape == (0, 5)
        assert dataset.blocks == ()
