"""Peak resident memory of fits under a limit, on a store several times as large, on both engines.

Each fit runs in a process of its own. The baseline of a process, the driver or a worker, is what it
uses when dgmm and the modules that read the store have been imported.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

from benchmarks.settings import Settings
from benchmarks.stores import MIB, write_store
from benchmarks.tables import Table

TITLE = "Peak resident memory above the imported baseline, under a limit, in MiB"


def run(settings: Settings) -> list[Table]:
    """One row of the table for each engine and limit."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for limit in settings.pick((128,), (128, 256)):
            store = Path(folder) / f"rows-{limit}.zarr"
            size = write_store(store, settings.pick(1, 5) * limit * MIB)
            for engine in ("local", "dask"):
                measured = fit_in_subprocess(store, engine, limit * MIB)
                rows.append({"engine": engine, "limit": limit, "store": size // MIB, **measured})
    return [Table("memory", TITLE, rows)]


def fit_in_subprocess(store: Path, engine: str, limit: int) -> dict[str, Any]:
    """Peaks above the baseline in MiB, of the driver and of the worst worker, of a fresh fit."""
    command = [sys.executable, "-m", "benchmarks.memory", str(store), engine, str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure(store: str, engine: str, limit: int) -> dict[str, Any]:
    """Fit in this process, which must be fresh."""
    import_all()
    warnings.simplefilter("ignore")
    return _local(store, limit) if engine == "local" else _dask(store, limit)


def _fit(store: str, limit: int, engine: Any) -> dict[str, Any]:
    from dgmm import GaussianMixture

    model = GaussianMixture(16, max_iter=3, tol=0.0, random_state=0, memory_limit=limit)
    record = model.set_params(engine=engine).fit(store).record_
    return {"passes": record.passes, "seconds": round(record.seconds, 1)}


def _local(store: str, limit: int) -> dict[str, Any]:
    import dgmm

    before = resident()
    facts = _fit(store, limit, dgmm.LocalEngine())
    return {"driver": (resident(peak=True) - before) // MIB, "worker": None, **facts}


def _dask(store: str, limit: int) -> dict[str, Any]:
    from distributed import Client, LocalCluster

    import dgmm

    with (
        LocalCluster(2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        client.run(import_all)
        before, workers = resident(), client.run(resident)
        facts = _fit(store, limit, dgmm.DaskEngine(client))
        peaks = client.run(resident, peak=True)
        worst = max(peaks[address] - workers[address] for address in workers)
        driver = resident(peak=True) - before
    return {"driver": driver // MIB, "worker": worst // MIB, **facts}


def import_all() -> None:
    """Import what a fit of a Zarr store imports sooner or later: the baseline."""
    import dgmm.data.zarr
    import dgmm.engine.dask
    import dgmm.engine.worker
    import dgmm.estimator  # noqa: F401


def resident(peak: bool = False) -> int:
    """Resident memory of this process now, or the most it ever was, in bytes."""
    key = "VmHWM:" if peak else "VmRSS:"
    with open("/proc/self/status", encoding="utf-8") as status:
        line = next(line for line in status if line.startswith(key))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
