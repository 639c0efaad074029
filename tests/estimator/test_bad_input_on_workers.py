"""Bad input that a worker process meets is the error that threads would have raised."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import zarr
from distributed import Client, LocalCluster

import dgmm

X = np.random.default_rng(0).normal(size=(300, 3))


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def stored(path: str, x: np.ndarray) -> None:
    checked = [zarr.codecs.Crc32cCodec()]
    array = zarr.create_array(path, shape=x.shape, chunks=(50, 3), dtype="f8", compressors=checked)
    array[:] = x


def not_finite(folder: Path) -> Any:
    x = X.copy()
    x[137, 2] = np.nan
    stored(str(folder / "x.zarr"), x)
    return folder / "x.zarr"


def not_finite_in_memory(folder: Path) -> Any:
    return dgmm.open_dataset(np.where(np.arange(300)[:, None] == 137, np.inf, X), block_bytes=2400)


def never_written(folder: Path) -> Any:
    stored(str(folder / "x.zarr"), X)
    (folder / "x.zarr" / "c" / "2" / "0").unlink()
    return folder / "x.zarr"


def damaged(folder: Path) -> Any:
    stored(str(folder / "x.zarr"), X)
    chunk = folder / "x.zarr" / "c" / "1" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-8] + b"\0" * 8)
    return folder / "x.zarr"


def removed(folder: Path) -> Any:
    np.save(folder / "x.npy", X)
    dataset = dgmm.open_dataset(folder / "x.npy")
    (folder / "x.npy").unlink()
    return dataset


def group_by_now(folder: Path) -> Any:
    stored(str(folder / "x.zarr"), X)
    dataset = dgmm.open_dataset(folder / "x.zarr")
    # zarr says so in errors that do not come back from a pickle.
    (folder / "x.zarr" / "zarr.json").unlink()
    return dataset


class OwnError(Exception):
    def __init__(self, code: int, where: str) -> None:
        super().__init__(f"{code} at {where}")


def failing(x: np.ndarray) -> np.ndarray:
    raise OwnError(7, "sensor")


def failing_graph(folder: Path) -> Any:
    array = da.from_array(X, chunks=(100, 3))
    return array.map_blocks(failing, dtype="f8", meta=np.empty((0, 3)))


BAD: dict[Callable[[Path], Any], tuple[type[Exception], str]] = {
    not_finite: (dgmm.InvalidDataError, "row 137, feature 2 is nan"),
    not_finite_in_memory: (dgmm.InvalidDataError, r"row 137, feature 0 is inf.*block 1"),
    never_written: (dgmm.MissingChunkError, "c/2/0"),
    damaged: (dgmm.DamagedBlockError, "rows 0 to 299"),
    removed: (dgmm.DataChangedError, "x.npy"),
    group_by_now: (dgmm.SourceError, "x.zarr"),
    failing_graph: (dgmm.SourceError, "OwnError: 7 at sensor"),
}


@pytest.mark.parametrize("make", BAD, ids=lambda make: make.__name__)
@pytest.mark.parametrize("where", ["threads", "workers"])
def test_the_error_is_the_same(make: Any, where: str, client: Client, tmp_path: Path) -> None:
    engine = dgmm.DaskEngine(client) if where == "workers" else dgmm.LocalEngine(1)
    error, message = BAD[make]
    with pytest.raises(error, match=message) as caught:
        dgmm.GaussianMixture(2, engine=engine, device="cpu").fit(make(tmp_path))
    assert type(caught.value) is error


def test_a_lazy_result_fails_alike_on_a_cluster(client: Client, tmp_path: Path) -> None:
    model = dgmm.GaussianMixture(2, random_state=0).fit(X)
    lazy = model.predict(group_by_now(tmp_path))
    with pytest.raises(dgmm.SourceError, match=r"x\.zarr"):
        client.compute(lazy).result()


def test_a_store_in_memory_is_sent_to_workers(client: Client) -> None:
    stored("memory://rows/x.zarr", X)
    fits = [
        dgmm.GaussianMixture(2, random_state=0, engine=engine, device="cpu").fit(
            "memory://rows/x.zarr"
        )
        for engine in (dgmm.DaskEngine(client), dgmm.LocalEngine(1))
    ]
    np.testing.assert_array_equal(fits[0].means_, fits[1].means_)
