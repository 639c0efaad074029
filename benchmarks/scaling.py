"""How the cost of an iteration grows with rows, features, components, restarts and workers."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks import cluster, plots
from benchmarks.machine import cores
from benchmarks.problems import Problem, problem
from benchmarks.settings import Settings
from benchmarks.stores import MIB, write_store
from benchmarks.tables import Row, Table
from benchmarks.timing import per_pass

SWEEPS = ("rows", "D", "K", "restarts", "threads", "workers")


def run(settings: Settings) -> list[Table]:
    """One row of the table for each size of each sweep; plots go beside the other results."""
    rows = [row for sweep in (_sizes, _restarts, _threads, _workers) for row in sweep(settings)]
    note = _exponents(rows) + f' device="{settings.device}", restarts and workers with NumPy alone.'
    pictures = plots.draw(rows, SWEEPS, settings.out)
    return [Table("scaling", "How an iteration grows", rows, note, files=pictures)]


def _sizes(settings: Settings) -> Iterator[Row]:
    base = settings.pick(2_000, 100_000)
    for n in settings.pick((1_000, 2_000), (50_000, 100_000, 200_000, 400_000, 800_000, 1_600_000)):
        yield _row("rows", n, problem(n, 16, 16, "full", "float64"), settings)
    for d in settings.pick((2, 4), (2, 4, 8, 16, 32, 64, 128)):
        yield _row("D", d, problem(base // 2, d, 16, "full", "float64"), settings)
    for k in settings.pick((2, 4), (2, 4, 8, 16, 32, 64, 128, 256)):
        yield _row("K", k, problem(base // 2, 16, k, "full", "float64"), settings)


def _threads(settings: Settings) -> Iterator[Row]:
    data = problem(settings.pick(2_000, 200_000), 16, 16, "full", "float64")
    for n in _counts():
        yield _row("threads", n, data, settings, threads=n)


def _workers(settings: Settings) -> Iterator[Row]:
    import dgmm

    data = problem(settings.pick(2_000, 400_000), 16, 16, "full", "float64")
    for n in _counts():
        with cluster.cluster(n) as client:
            rows = cluster.persisted(data.x, max(4, data.x.nbytes // 2**22))
            model = cluster.model(data, dgmm.DaskEngine(client))
            seconds = per_pass(model, rows, settings.pick(2, 5)).seconds
        yield _line("workers", n, data, seconds, 1)


def _counts() -> list[int]:
    """1, 2, 4, ... and all cores, at least two: more workers than cores is no harm."""
    most = max(2, cores())
    return sorted({2**i for i in range(most.bit_length()) if 2**i <= most} | {most})


def _restarts(settings: Settings) -> Iterator[Row]:
    import dgmm

    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "rows.zarr"
        size = write_store(store, settings.pick(32, 256) * MIB, 16)
        n_rows = size // (4 * 16)
        for n in settings.pick((1, 2), (1, 2, 4, 8)):
            # NumPy alone: half the store has no room for what a compiler takes.
            model = dgmm.GaussianMixture(
                8, covariance_type="diag", n_init=n, init_params="random_from_data",
                random_state=0, device="cpu", memory_limit="128MiB",
            )  # fmt: skip
            found = per_pass(model, str(store), settings.pick(2, 4))
            yield {
                "sweep": "restarts", "value": n, "rows": n_rows, "D": 16, "K": 8,
                "family": "diag", "s": found.seconds, "s per restart": found.seconds / n,
                "MiB read": found.record.bytes_read / found.record.passes / MIB,
            }  # fmt: skip


def _row(
    sweep: str, value: int, data: Problem, settings: Settings, threads: int | None = None
) -> Row:
    import dgmm

    model = cluster.model(data, dgmm.LocalEngine(threads)).set_params(device=settings.device)
    found = [per_pass(model, data.x, settings.pick(2, 5)) for _ in range(settings.pick(1, 3))]
    return _line(sweep, value, data, min(one.seconds for one in found), 1)


def _line(sweep: str, value: int, data: Problem, seconds: float, restarts: int) -> Row:
    return {
        "sweep": sweep, "value": value, "rows": len(data.x), "D": data.x.shape[1],
        "K": data.n_components, "family": data.covariance_type, "s": seconds,
        "s per restart": seconds / restarts, "MiB read": None,
    }  # fmt: skip


def _exponents(rows: Sequence[Row]) -> str:
    """The power of each size with which cost grows, over the larger half of the sweep."""
    parts = []
    for sweep in SWEEPS:
        line = [(row["value"], row["s"]) for row in rows if row["sweep"] == sweep]
        upper = np.log(np.array(line[-max(2, len(line) // 2 + 1) :], dtype=float))
        parts.append(f"{sweep} {np.polyfit(upper[:, 0], upper[:, 1], 1)[0]:.2f}")
    return "Powers over the larger half of each sweep: " + ", ".join(parts) + "."
