"""Figures that are drawn without a screen and closed after each test, and rows to draw."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import zarr
from distributed import Client, LocalCluster
from matplotlib import pyplot as plt

import dgmm
from tests.numerics.problems import blobs


@pytest.fixture(autouse=True)
def figures(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    plt.switch_backend("Agg")
    yield
    plt.close("all")


@pytest.fixture(scope="session")
def rows() -> np.ndarray:
    return blobs(5, n_rows=2000, n_features=3, n_components=3, reach=3.0)


@pytest.fixture(scope="session")
def model(rows: np.ndarray) -> dgmm.GaussianMixture:
    return dgmm.GaussianMixture(3, random_state=0).fit(rows)


@pytest.fixture(scope="session")
def client() -> Iterator[Client]:
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, processes=False
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


SOURCES = ("numpy", "zarr", "dask")


@pytest.fixture(params=SOURCES)
def source(request: pytest.FixtureRequest, rows: np.ndarray, tmp_path: Path) -> Any:
    """The same rows in memory, on disk and as a graph, in several blocks."""
    if request.param == "zarr":
        zarr.create_array(str(tmp_path / "rows.zarr"), data=rows, chunks=(300, 2))
        return str(tmp_path / "rows.zarr")
    if request.param == "dask":
        return da.from_array(rows, chunks=(450, 3))
    return dgmm.open_dataset(rows, block_bytes=4800)
