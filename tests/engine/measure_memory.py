"""Run a pass over a file several times the memory limit, and print what it took. A script."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

from dgmm.data.dataset import Dataset, Rows
from dgmm.data.opening import open_dataset
from dgmm.engine.local import LocalEngine
from dgmm.engine.memory import MemoryMeter, MemoryPlan

MIB = 2**20
TILE = 2048


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
    n_components: int = 64

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
    meter = MemoryMeter()
    with LocalEngine(4).session(dataset, memory_limit=limit) as session:
        for _ in range(3):
            session.run(ProductTask())
        return [meter.peak()], session.plan


def start_meter(dask_worker: Any) -> None:
    # What dgmm itself imports belongs to the baseline.
    import dgmm.engine.worker  # noqa: F401

    dask_worker.memory_meter = MemoryMeter()


def read_meter(dask_worker: Any) -> int:
    return int(dask_worker.memory_meter.peak())


def run_dask(dataset: Dataset, limit: int) -> tuple[list[int], MemoryPlan]:
    from distributed import Client, LocalCluster

    from dgmm.engine.dask import DaskEngine

    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1"
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.run(start_meter)
        with DaskEngine(client).session(dataset, memory_limit=limit) as session:
            for _ in range(3):
                session.run(ProductTask())
            return list(client.run(read_meter).values()), session.plan


def main(engine: str, path: str, limit: int) -> None:
    dataset = open_dataset(path)
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
