"""The model file's digest on 1, 2 and 4 threads and on 1, 2 and 3 workers: one value."""

from __future__ import annotations

import hashlib
import tempfile
import warnings
from pathlib import Path
from typing import Any

from benchmarks.settings import Settings
from benchmarks.stores import MIB, write_store
from benchmarks.tables import Table

TITLE = "SHA-256 of the model file on any number of threads and workers"


def run(settings: Settings) -> list[Table]:
    """One row of the table for each engine and size."""
    import dgmm

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "rows.zarr"
        write_store(store, settings.pick(32, 256) * MIB)
        for threads in (1, 2, 4):
            engine = dgmm.LocalEngine(n_threads=threads)
            rows.append({"engine": f"{threads} threads", "sha256": digest(store, engine)})
        for workers in (1, 2, 3):
            rows.append({"engine": f"{workers} workers", "sha256": _on_cluster(store, workers)})
    return [Table("bits", TITLE, rows)]


def _on_cluster(store: Path, workers: int) -> str:
    from distributed import Client, LocalCluster

    import dgmm

    with LocalCluster(workers, threads_per_worker=1, dashboard_address=None) as cluster, \
            Client(cluster) as client:  # fmt: skip
        return digest(store, dgmm.DaskEngine(client))


def digest(store: Path, engine: Any) -> str:
    """SHA-256 of the file of a model that was fitted on this engine."""
    import dgmm

    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        model = dgmm.GaussianMixture(
            8, max_iter=5, tol=0.0, n_init=2, random_state=0, engine=engine
        )
        path = Path(folder) / "model.safetensors"
        model.fit(str(store)).save(path)
        return hashlib.sha256(path.read_bytes()).hexdigest()
