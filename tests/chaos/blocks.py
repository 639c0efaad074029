"""Blocks that do harm, and files that were harmed."""

from __future__ import annotations

import os
import random
import re
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import dask
import numpy as np

import dgmm
from dgmm.checkpoint.state import decode
from dgmm.data.dataset import Rows
from dgmm.engine import dask_suspects
from dgmm.errors import DgmmError
from dgmm.storage import read_model
from dgmm.testing.toys import MIB, ToyTask, Trace, serial_oracle, toy
from tests.chaos.clusters import eventually, local, worker_pids
from tests.chaos.scenarios import fit

FLIPS = 60


@dataclass(frozen=True)
class DeadlyTask(ToyTask):
    """Kills the worker that evaluates a row."""

    row: int = 0

    def evaluate(self, rows: Rows, workspace: Any) -> Trace:
        if rows.first_row <= self.row < rows.first_row + rows.n_rows:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().evaluate(rows, workspace)


@dataclass(frozen=True)
class HungryTask(ToyTask):
    """Takes all the memory that it can get, once: as long as a file is there."""

    while_there: str = ""
    nbytes: int = 0

    def evaluate(self, rows: Rows, workspace: Any) -> Trace:
        with suppress(FileNotFoundError):
            os.remove(self.while_there)
            held = [np.ones(16 * MIB // 8) for _ in range(self.nbytes // (16 * MIB))]
            # Until the nanny sees it; if it never does, the test notices.
            Event().wait(30)
            del held
        return super().evaluate(rows, workspace)


def deadly_block(calm_seconds: float | None = None) -> dict[str, Any]:
    """A block that kills whoever evaluates it is named, in a typed error; others are not."""
    least, most = dask_suspects._CALM_SECONDS
    dask_suspects._CALM_SECONDS = (calm_seconds or least, calm_seconds or most)
    dataset = toy((9, 9, 9, 9))
    try:
        with (
            dask.config.set({"distributed.scheduler.allowed-failures": 1}),
            local() as client,
            dgmm.DaskEngine(client).session(dataset) as session,
        ):
            named = ""
            try:
                session.run(DeadlyTask(row=21))
            except dgmm.DeadlyBlockError as error:
                named = re.match(r"block \d+", str(error))[0]  # type: ignore[index]
            assert session.run(ToyTask()).total == serial_oracle(dataset, ToyTask()).total
    finally:
        dask_suspects._CALM_SECONDS = (least, most)
    return {"named": named}


def out_of_memory(folder: Path) -> dict[str, Any]:
    """A worker takes more memory than it may, is killed for it, and others do its work."""
    dataset, flag = toy(), folder / "hungry"
    flag.touch()
    task = HungryTask(while_there=str(flag), nbytes=800 * MIB)
    with local(1, memory_limit="700MiB") as client:
        before = worker_pids(client.cluster)
        with dgmm.DaskEngine(client).session(dataset) as session:
            found = session.run(task).total
        eventually(lambda: set(before).isdisjoint(worker_pids(client.cluster)), "a new worker")
    assert not flag.exists()
    return {"bits_equal": found == serial_oracle(dataset, ToyTask()).total}


# -------------------------------------------------------------------------------------- damage


def damage(folder: Path, *, seed: int) -> dict[str, int]:
    """Of 60 flipped bits in each kind of file, how many are found."""
    chosen = random.Random(seed)  # noqa: S311
    x = np.random.default_rng(seed).normal(size=(400, 3))
    found = {}
    for kind, (path, spans, read) in _files(folder, x).items():
        whole, found[kind] = path.read_bytes(), 0
        places = [place for start, stop in spans for place in range(start, stop)]
        for _ in range(FLIPS):
            data = bytearray(whole)
            data[chosen.choice(places)] ^= 1 << chosen.randrange(8)
            path.write_bytes(data)
            try:
                read()
            except DgmmError:
                found[kind] += 1
        path.write_bytes(whole)
        read()
    return found


def _files(folder: Path, x: np.ndarray) -> dict[str, tuple[Path, Any, Callable[[], Any]]]:
    """By kind: the file, the spans of bytes in question, and what reads it."""
    import pyarrow as pa
    import zarr
    from pyarrow import parquet

    zarr.create_array(
        folder / "x.zarr", data=x, chunks=x.shape, compressors=[zarr.codecs.Crc32cCodec()]
    )
    chunk = folder / "x.zarr" / "c" / "0" / "0"
    table = folder / "x.parquet"
    parquet.write_table(
        pa.table({f"x{i}": x[:, i] for i in range(3)}), table, write_page_checksum=True
    )
    group = parquet.read_metadata(table).row_group(0)
    columns = [group.column(i) for i in range(group.num_columns)]
    ends = [
        (one.dictionary_page_offset or one.data_page_offset) + one.total_compressed_size
        for one in columns
    ]
    gm = fit(x, 4, checkpoint=folder / "kept", checkpoint_every=1)
    gm.save(folder / "model")
    kept = max((folder / "kept").iterdir())

    def everything(path: Path) -> list[tuple[int, int]]:
        return [(0, path.stat().st_size)]

    def resumed() -> Any:
        with kept.open("rb") as file:
            return decode(str(kept), file, kept.stat().st_size)

    def rows(path: Path) -> Callable[[], Any]:
        return lambda: [block.read() for block in dgmm.open_dataset(str(path)).blocks]

    return {
        "zarr": (chunk, everything(chunk), rows(folder / "x.zarr")),
        # The last bytes of a column are surely in a page, and not in its header.
        "parquet": (table, [(end - 64, end) for end in ends], rows(table)),
        "model": (
            folder / "model",
            everything(folder / "model"),
            lambda: read_model(folder / "model"),
        ),
        "checkpoint": (kept, everything(kept), resumed),
    }
