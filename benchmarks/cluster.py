"""What the Dask engine adds to an iteration, and how it grows with blocks and rows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.problems import problem
from benchmarks.settings import Settings
from benchmarks.tables import Row, Table
from benchmarks.timing import per_pass

N_WORKERS = 2


def run(settings: Settings) -> list[Table]:
    """Overhead by the number of blocks, and seconds by the number of rows."""
    iterations = settings.pick(3, 30)
    with cluster(N_WORKERS) as client:
        overheads = [
            _overhead(client, blocks, iterations)
            for blocks in settings.pick((2, 4), (2, 8, 32, 128, 512))
        ]
        sizes = settings.pick((2_000, 4_000), (50_000, 200_000, 800_000, 1_600_000))
        rows = [_rows(client, n, settings.pick(2, 5)) for n in sizes]
    return [
        Table(
            "dask",
            "Overhead of the Dask engine for an iteration",
            overheads,
            f"{N_WORKERS} workers of one thread; 500 rows in each block, D = 2, K = 2, persisted. "
            "Overhead: less the same iteration on as many threads of one process.",
        ),
        Table("dask.rows", "Seconds per iteration on the cluster by rows", rows, _beyond(rows)),
    ]


@contextlib.contextmanager
def cluster(n_workers: int) -> Iterator[Any]:
    """The client of a cluster of processes on this machine."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers, threads_per_worker=1, host="127.0.0.1", dashboard_address=None
        ) as local,
        Client(local) as client,
    ):
        yield client


def persisted(x: Any, n_blocks: int) -> Any:
    """The rows as a Dask array that the workers hold."""
    import dask.array as da
    from distributed import wait

    array = da.from_array(x, chunks=(-(-len(x) // n_blocks), x.shape[1])).persist()
    wait(array)
    return array


def model(data: Any, engine: Any) -> Any:
    """A fit of NumPy alone, whose workers compile nothing."""
    import dgmm

    return dgmm.GaussianMixture(
        data.n_components,
        weights_init=data.start.weights,
        means_init=data.start.means,
        precisions_init=data.precisions,
        device="cpu",
        engine=engine,
    )


def _overhead(client: Any, blocks: int, iterations: int) -> Row:
    import dgmm

    data = problem(500 * blocks, 2, 2, "full", "float64")
    alone = per_pass(model(data, dgmm.LocalEngine(N_WORKERS)), data.x, iterations).seconds
    on_cluster = model(data, dgmm.DaskEngine(client))
    found = per_pass(on_cluster, persisted(data.x, blocks), iterations).seconds
    return {
        "blocks": blocks, "iteration ms": found * 1e3, "computing ms": alone * 1e3,
        "overhead ms": (found - alone) * 1e3,
    }  # fmt: skip


def _rows(client: Any, n_rows: int, iterations: int) -> Row:
    import dgmm

    data = problem(n_rows, 16, 16, "full", "float64")
    n_blocks = max(N_WORKERS, data.x.nbytes // 2**24)
    on_cluster = model(data, dgmm.DaskEngine(client))
    found = per_pass(on_cluster, persisted(data.x, n_blocks), iterations).seconds
    return {"rows": n_rows, "blocks": n_blocks, "s": found, "ns per row": found / n_rows * 1e9}


def _beyond(rows: list[Row]) -> str:
    sizes, seconds = np.array([row["rows"] for row in rows]), np.array([row["s"] for row in rows])
    slope, constant = np.polyfit(sizes, seconds, 1, w=1.0 / seconds)
    if slope <= 0:
        return "Too little was measured to say what more rows would take."
    return (
        f"D = 16, K = 16, full, float64, NumPy alone, {N_WORKERS} workers. A line through these, "
        f"{constant * 1e3:.0f} ms + {slope * 1e9:.0f} ns for each row, puts an iteration over 1e9 "
        f"rows at {constant + slope * 1e9:.0f} s of computing: extrapolated "
        f"{1e9 / sizes[-1]:.0f} times beyond the largest that was measured."
    )
