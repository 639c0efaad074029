"""What sharing passes saves: restarts and candidates beside as many fits, in reads and seconds.

Nothing is kept between passes here, as where the rows are much larger than memory: every pass reads
and decodes all blocks.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.settings import Settings
from benchmarks.tables import Table

TITLE = "Shared passes: reads of each block in a pass, and seconds (of a pass, or of all of it)"

RESTARTS = 10


def run(settings: Settings) -> list[Table]:
    """Ten restarts beside one, and a selection beside its slowest candidate alone."""
    with tempfile.TemporaryDirectory() as folder, uncached(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        large = write_store(Path(folder) / "large.zarr", settings.pick(40_000, 1_000_000))
        small = write_store(Path(folder) / "small.zarr", settings.pick(10_000, 100_000))
        rows = [*restarts(large, 3), *selection(small, settings.pick(4, 10))]
    return [Table("sharing", TITLE, rows)]


def restarts(store: Path, iterations: int) -> list[dict[str, Any]]:
    """Seconds and reads of a pass with one restart and with ten, and what bounds them."""
    import dgmm

    rows = dgmm.open_dataset(store)
    reading = min(_seconds(lambda: _read(rows)) for _ in range(3))
    in_memory = np.concatenate([block.read().x for block in rows.blocks])
    compute = _of_a_pass(lambda n: _fit(in_memory, 1, n), iterations)[0]
    found = []
    for n_init in (1, RESTARTS):
        seconds, reads = _of_a_pass(lambda n, n_init=n_init: _fit(rows, n_init, n), iterations)
        found.append({
            "what": f"a pass with {n_init} restart{'s' * (n_init > 1)}",
            "reads": reads / len(rows.blocks),
            "seconds": seconds,
            "bound on reads": 1.0,
            "bound on seconds": n_init * compute + reading,
        })  # fmt: skip
    return found


def selection(store: Path, most: int) -> list[dict[str, Any]]:
    """A selection over six families, and the slowest candidate of it alone."""
    import dgmm
    from dgmm.covariance import family_names

    rows = dgmm.open_dataset(store)
    options = {"random_state": 0, "max_iter": 20}
    started = time.perf_counter()
    found = dgmm.select_model(rows, range(1, most + 1), covariance_types=family_names(), **options)
    together = time.perf_counter() - started
    slowest = max(found.table, key=lambda row: row.n_iter)
    singles = [
        dgmm.GaussianMixture(row.n_components, covariance_type=row.covariance_type, **options)
        for row in found.table
    ]
    records = [one.fit(rows).record_ for one in singles]
    alone = records[found.table.rows.index(slowest)]
    return [{
        "what": f"{len(found.table)} candidates",
        "reads": found.best_.record_.block_reads / len(rows.blocks),
        "seconds": together,
        "bound on reads": 1.2 * alone.block_reads / len(rows.blocks),
        "bound on seconds": sum(record.seconds for record in records),
    }]  # fmt: skip


def write_store(path: Path, n_rows: int, n_features: int = 16) -> Path:
    """A compressed Zarr array in float64."""
    import zarr

    rng = np.random.default_rng(0)
    chunk = max(1, n_rows // 20)
    array = zarr.create_array(
        store=str(path), shape=(n_rows, n_features), chunks=(chunk, n_features), dtype="float64"
    )
    centres = rng.normal(scale=4.0, size=(6, n_features))
    for start in range(0, n_rows, chunk):
        size = min(chunk, n_rows - start)
        rows = rng.standard_normal((size, n_features)) + centres[rng.integers(6, size=size)]
        # Digits that measurements would not have would not compress either.
        array[start : start + size] = rows.round(3)
    return path


@contextmanager
def uncached() -> Iterator[None]:
    """Keep no blocks between passes."""
    from dgmm.engine.cache import BlockCache

    resize = BlockCache.resize
    BlockCache.resize = lambda cache, _: resize(cache, 0)  # type: ignore[method-assign]
    try:
        yield
    finally:
        BlockCache.resize = resize  # type: ignore[method-assign]


@dataclass(frozen=True)
class Nothing:
    """A task that looks at no row."""

    workspace_bytes: int = 0
    result_bytes: int = 0

    def workspace(self) -> None:
        """Nothing."""

    def evaluate(self, rows: Any, workspace: None) -> Nothing:
        """Nothing."""
        return self

    def merge(self, other: Nothing) -> Nothing:
        """Nothing."""
        return self


def _read(rows: Any) -> None:
    import dgmm

    with dgmm.LocalEngine().session(rows) as session:
        session.run(Nothing())


def _fit(rows: Any, n_init: int, iterations: int) -> Any:
    import dgmm

    model = dgmm.GaussianMixture(
        8, n_init=n_init, tol=0.0, max_iter=iterations, random_state=0,
        init_params="random_from_data",
    )  # fmt: skip
    return model.fit(rows).record_


def _of_a_pass(fit: Callable[[int], Any], extra: int) -> tuple[float, float]:
    """Seconds and reads of an iteration: the difference of two fits, the best of two of each."""
    times, reads = [], []
    for _ in range(2):
        short, long = fit(1), fit(1 + extra)
        times.append((short.seconds, long.seconds))
        reads.append(long.block_reads - short.block_reads)
    short_time, long_time = (min(column) for column in zip(*times, strict=True))
    return (long_time - short_time) / extra, reads[0] / extra


def _seconds(call: Callable[[], None]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
