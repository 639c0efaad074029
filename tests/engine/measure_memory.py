"""Run a pass over a file several times the memory limit, and print what it took. A script."""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dgmm.data.dataset import Dataset, Rows
from dgmm.data.opening import open_dataset
from dgmm.engine.local import LocalEngine
from dgmm.engine.memory import MemoryPlan, rss

MIB = 2**20
TILE = 2048


class HighWater:
    """The kernel's own mark of the peak, started anew: this process is ours alone."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")
        self.baseline = rss()

    def peak(self) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        most = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
        return 1024 * most - self.baseline


@dataclass
class Product:
    values: np.ndarray[Any, Any]

    def merge(self, other: Product) -> Product:
        self.values += other.values
        return self


@dataclass(frozen=True)
class ProductTask:
    """Tiles of features times a matrix: the arithmetic of a fit, in its proportions."""

    n_features: int = 256
    n_components: int = 16

    @property
    def workspace_bytes(self) -> int:
        return 8 * (self.n_features * TILE + self.n_components * TILE + self.result_bytes // 8)

    @property
    def result_bytes(self) -> int:
        return 8 * self.n_components * self.n_features

    def workspace(self) -> Any:
        wide, narrow = self.n_features, self.n_components
        return np.empty((wide, TILE)), np.empty((narrow, TILE)), np.empty((narrow, wide))

    def evaluate(self, rows: Rows, workspace: Any) -> Product:
        features, densities, product = workspace
        theta = np.ones((self.n_components, self.n_features))
        total = np.zeros_like(product)
        for start in range(0, rows.n_rows, TILE):
            x = rows.x[start : start + TILE]
            width = len(x)
            for row in range(0, self.n_features, x.shape[1]):
                features[row : row + x.shape[1], :width] = x.T
            np.matmul(theta, features[:, :width], out=densities[:, :width])
            np.matmul(densities[:, :width], features[:, :width].T, out=product)
            total += product
        return Product(total)


def run_local(dataset: Dataset, limit: int) -> tuple[list[int], MemoryPlan]:
    meter = HighWater()
    with LocalEngine(4).session(dataset, memory_limit=limit) as session:
        for _ in range(3):
            session.run(ProductTask())
        return [meter.peak()], session.plan


def start_meter(dask_worker: Any) -> None:
    # What dgmm itself imports belongs to the baseline.
    import dgmm.engine.worker  # noqa: F401

    dask_worker.memory_meter = HighWater()


def read_meter(dask_worker: Any) -> int:
    return int(dask_worker.memory_meter.peak())


@contextmanager
def metered_client() -> Iterator[Any]:
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1"
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.run(start_meter)
        yield client


def run_dask(dataset: Dataset, limit: int) -> tuple[list[int], MemoryPlan]:
    from dgmm.engine.dask import DaskEngine

    with (
        metered_client() as client,
        DaskEngine(client).session(dataset, memory_limit=limit) as session,
    ):
        for _ in range(3):
            session.run(ProductTask())
        return list(client.run(read_meter).values()), session.plan


def predict(path: str, limit: int, engine: Any, read_peaks: Any) -> dict[str, Any]:
    """Responsibilities of a model that was fitted to a few rows, written to a Zarr array."""
    import dgmm

    rows = open_dataset(path).blocks[0].read().x[:4096]
    model = dgmm.GaussianMixture(
        32, max_iter=2, tol=0, random_state=0, engine=engine, memory_limit=limit
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(rows)
    with tempfile.TemporaryDirectory() as folder:
        meter = HighWater()
        written = model.predict_proba(path, out=f"{folder}/out.zarr")
        return {"peaks": [meter.peak(), *read_peaks()], "written": written.nbytes}


def predict_local(path: str, limit: int) -> dict[str, Any]:
    return predict(path, limit, LocalEngine(2), list)


def predict_dask(path: str, limit: int) -> dict[str, Any]:
    from dgmm.engine.dask import DaskEngine

    with metered_client() as client:
        return predict(
            path, limit, DaskEngine(client), lambda: list(client.run(read_meter).values())
        )


def fit_local(path: str, limit: int) -> dict[str, Any]:
    import dgmm

    model = dgmm.GaussianMixture(
        4,
        covariance_type="diag",
        max_iter=3,
        tol=0,
        random_state=0,
        engine=LocalEngine(2),
        memory_limit=limit,
    )
    meter = HighWater()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(path)
    return {"peaks": [meter.peak()]}


def fit_weighted(path: str, limit: int) -> dict[str, Any]:
    """Fits on two workers, with weights from three places; each has a peak of its own."""
    import dask.array as da

    import dgmm
    from dgmm.engine.dask import DaskEngine

    stored = path.replace("rows.zarr", "weights.zarr")
    rows = dgmm.open_dataset(path, block_bytes=4 * MIB)
    lazy = dgmm.open_dataset(da.from_zarr(path), block_bytes=4 * MIB)
    cases = [
        (rows, stored),
        # Chunks that are none of the rows' blocks, and a graph to compute in every read.
        (lazy, da.from_zarr(stored).rechunk(90_000) + 0.0),
        (rows, 7),
    ]
    peaks, records = [], []
    with metered_client() as client:

        def fit(data: Any, weights: Any) -> Any:
            model = dgmm.GaussianMixture(
                3,
                covariance_type="diag",
                max_iter=1,
                random_state=0,
                engine=DaskEngine(client),
                # What compiling loops takes is another matter.
                device="cpu",
                memory_limit=limit,
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return model.fit(data, sample_weight=weights).record_

        # What a first fit imports is no part of what the others take.
        fit(rows.blocks[0].read().x[:1000], None)
        for data, weights in cases:
            meter = HighWater()
            client.run(start_meter)
            records.append(fit(data, weights))
            peaks += [meter.peak(), *client.run(read_meter).values()]
    return {
        "peaks": peaks,
        "rows": [record.rows for record in records],
        "read": [record.bytes_read for record in records],
    }


WHOLE = {
    "fit-weighted": fit_weighted,
    "predict-local": predict_local,
    "predict-dask": predict_dask,
    "fit-local": fit_local,
}


def main(engine: str, path: str, limit: int) -> None:
    dataset = open_dataset(path)
    if engine in WHOLE:
        print(json.dumps({**WHOLE[engine](path, limit), "nbytes": dataset.nbytes}))  # noqa: T201
        return
    peaks, plan = (run_local if engine == "local" else run_dask)(dataset, limit)
    print(  # noqa: T201  the script's result
        json.dumps(
            {
                "peaks": peaks,
                "projected": plan.projected,
                "limit": limit,
                "threads": plan.n_threads,
                "window": plan.window,
                "cache": plan.cache_bytes,
                "nbytes": dataset.nbytes,
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
