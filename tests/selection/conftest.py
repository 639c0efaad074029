"""Rows in a small store, and engines that keep nothing between passes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr

import dgmm
from dgmm.data.dataset import Dataset
from dgmm.engine.cache import BlockCache
from tests.numerics.problems import blobs


@pytest.fixture
def uncached(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pass reads every block, as it does where the rows are much larger than memory."""
    resize = BlockCache.resize
    monkeypatch.setattr(BlockCache, "resize", lambda cache, _: resize(cache, 0))


@pytest.fixture(scope="session")
def rows() -> np.ndarray:
    return blobs(11, n_rows=3000, n_features=3, n_components=3, reach=6.0)


@pytest.fixture(scope="session")
def store(rows: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("selection") / "rows.zarr"
    zarr.create_array(path, data=rows, chunks=(500, 3))
    return path


@pytest.fixture
def dataset(store: Path) -> Dataset:
    """Six blocks."""
    return dgmm.open_dataset(store, block_bytes=500 * 24)
