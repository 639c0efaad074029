"""The demo's rows: right to the bit, written once, and damage to them is seen."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import zarr

import dgmm
from dgmm.demo.patches import (
    Patches,
    is_written,
    local_contrast,
    sample_photographs,
    write_patches,
)
from dgmm.errors import DamagedBlockError, InvalidParameterError


def photographs() -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(0)
    return tuple(rng.random(shape, dtype=np.float32) for shape in ((9, 13), (6, 8)))


def oracle(pictures: tuple[np.ndarray, ...], size: int) -> np.ndarray:
    """Every patch of every symmetry, by the definition."""
    rows = []
    for picture in pictures:
        for transposed in (False, True):
            for turns in range(4):
                turned = np.rot90(picture, turns)
                one = turned.T if transposed else turned
                windows = np.lib.stride_tricks.sliding_window_view(one, (size, size))
                rows.append(windows.reshape(-1, size * size))
    return np.concatenate(rows)


@pytest.fixture
def patches() -> Patches:
    return Patches(photographs(), size=4)


@pytest.fixture
def store(tmp_path: Path, patches: Patches) -> Path:
    path = tmp_path / "patches.zarr"
    assert write_patches(path, patches, chunk_bytes=64 * 64)
    return path


def test_the_store_holds_every_patch_of_every_symmetry(store: Path, patches: Patches) -> None:
    array = zarr.open_array(store, mode="r")
    expected = oracle(photographs(), 4)
    assert array.shape == expected.shape == (patches.n_rows, patches.n_features)
    assert array.chunks == (64, 16)
    np.testing.assert_array_equal(array[:], expected)


def test_the_eight_symmetries_are_different() -> None:
    rows = Patches((np.arange(9, dtype=np.float32).reshape(3, 3),), size=3).rows(0, 8)
    assert len(np.unique(rows, axis=0)) == 8


def test_rows_can_be_taken_in_any_order(patches: Patches) -> None:
    wanted = np.array([500, 3, 3, patches.n_rows - 1, 250])
    np.testing.assert_array_equal(patches.take(wanted), oracle(photographs(), 4)[wanted])


def test_a_complete_store_is_not_written_again(store: Path, patches: Patches) -> None:
    before = {file: file.stat().st_mtime_ns for file in store.rglob("*")}
    assert not write_patches(store, patches, chunk_bytes=64 * 64)
    assert {file: file.stat().st_mtime_ns for file in store.rglob("*")} == before


def test_other_patches_replace_a_store(store: Path) -> None:
    other = Patches(photographs(), size=4, n_symmetries=2)
    assert not is_written(store, other)
    assert write_patches(store, other)
    np.testing.assert_array_equal(zarr.open_array(store)[:], other.rows(0, other.n_rows))


def test_other_photographs_are_not_taken_for_the_same(store: Path) -> None:
    brighter = tuple(one + 1 for one in photographs())
    assert not is_written(store, Patches(brighter, size=4))


def test_an_interrupted_store_is_written_again(tmp_path: Path, patches: Patches) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    path = tmp_path / "patches.zarr"
    with pytest.raises(KeyboardInterrupt):
        write_patches(path, patches, chunk_bytes=64 * 64, on_chunk=interrupt)
    assert not is_written(path, patches)
    assert write_patches(path, patches, chunk_bytes=64 * 64)
    assert is_written(path, patches)


def test_a_lost_chunk_is_noticed(store: Path, patches: Patches) -> None:
    (store / "c" / "1" / "0").unlink()
    assert not is_written(store, patches)


def test_a_flipped_byte_is_an_error_and_not_a_number(store: Path) -> None:
    chunk = store / "c" / "2" / "0"
    content = bytearray(chunk.read_bytes())
    content[100] ^= 1
    chunk.write_bytes(content)
    dataset = dgmm.open_dataset(store)
    with pytest.raises(DamagedBlockError):
        for block in dataset.blocks:
            block.read()


def test_chunks_of_zeros_are_stored(tmp_path: Path) -> None:
    patches = Patches((np.zeros((10, 10), np.float32),), size=4)
    write_patches(tmp_path / "zeros.zarr", patches)
    assert is_written(tmp_path / "zeros.zarr", patches)


def test_local_contrast_has_no_mean_and_keeps_patches_regular() -> None:
    (photograph, _) = sample_photographs()
    contrast = local_contrast(photograph)
    assert contrast.dtype == np.float32
    assert abs(contrast.mean()) < 0.02
    patches = Patches((contrast,))
    rows = patches.take(np.arange(0, patches.n_rows, 97))
    variances = np.linalg.eigvalsh(np.cov(rows.T))
    assert variances[-1] / variances[0] < 1e3


@pytest.mark.parametrize(
    "change", [{"size": 7}, {"size": 0}, {"n_symmetries": 9}, {"n_symmetries": 0}]
)
def test_impossible_patches_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(InvalidParameterError):
        Patches(photographs(), **change)


def test_writing_holds_a_few_chunks_in_memory(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).random((120, 120), dtype=np.float32)
    patches, chunk_bytes = Patches((picture,)), 2**20
    assert patches.n_rows * patches.n_features * 4 > 20 * chunk_bytes
    tracemalloc.start()
    try:
        write_patches(tmp_path / "patches.zarr", patches, chunk_bytes=chunk_bytes)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * chunk_bytes
