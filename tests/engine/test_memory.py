"""What is projected is enough: plans, the cache, and measured peaks against the limit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from dgmm.data.dataset import Rows
from dgmm.engine.cache import BlockCache, held_bytes
from dgmm.engine.memory import Demand, MemoryMeter, plan_memory
from dgmm.errors import MemoryLimitError

MIB = 2**20
SCRIPT = Path(__file__).with_name("measure_memory.py")

demand = Demand(16 * MIB, 1, 1000 * MIB, workspace_bytes=8 * MIB, result_bytes=MIB, height=6)


@given(st.integers(1, 4096), st.integers(1, 64), st.integers(1, 50))
def test_a_plan_stays_within_its_limit(limit: int, n_threads: int, block_parts: int) -> None:
    try:
        plan = plan_memory(replace(demand, block_parts=block_parts), n_threads, limit * MIB)
    except MemoryLimitError:
        assert limit < 200
        return
    assert plan.projected <= plan.limit
    assert 1 <= plan.n_threads <= n_threads
    assert plan.window >= 1


def test_more_memory_is_never_worse() -> None:
    plans = [plan_memory(demand, 8, limit * MIB) for limit in range(80, 2000, 20)]
    threads = [plan.n_threads for plan in plans]
    assert threads == sorted(threads)
    assert (threads[0], threads[-1]) == (1, 8)
    assert plans[-1].cache_bytes == demand.dataset_bytes


def test_threads_share_a_block_of_many_parts() -> None:
    assert demand.computing(8) == 8
    assert replace(demand, block_parts=100).computing(8) == 2
    assert demand.computing(1) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block_bytes": 500 * MIB}, "blocks in flight 500 MiB.*smaller chunks"),
        ({"workspace_bytes": 500 * MIB}, "workspaces of threads 500 MiB.*fewer components"),
        ({"result_bytes": 50 * MIB}, "results waiting in the tree.*fewer components"),
        ({"other": {"reserved by the caller": 500 * MIB}}, "reserved by the caller 500 MiB"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(MemoryLimitError, match=f"(?s)memory_limit is 256 MiB.*{message}"):
        plan_memory(replace(demand, **change), 2, 256 * MIB)


@pytest.mark.parametrize(
    ("limit", "words"),
    [(512, "is 512 B, and"), (3 * MIB // 2, r"is 1\.5 MiB, and")],
)
def test_a_limit_is_shown_as_it_is(limit: int, words: str) -> None:
    with pytest.raises(MemoryLimitError, match=words):
        plan_memory(demand, 1, limit)


def test_asking_for_what_the_message_says_is_enough() -> None:
    with pytest.raises(MemoryLimitError) as caught:
        plan_memory(demand, 2, MIB)
    needed = int(str(caught.value).split("projected to need ")[1].split()[0])
    assert plan_memory(demand, 2, needed * MIB).n_threads == 1
    with pytest.raises(MemoryLimitError):
        plan_memory(demand, 2, (needed - 1) * MIB)


def test_cache_keeps_what_came_first() -> None:
    cache = BlockCache(250)
    for number in range(4):
        cache.offer(number, Rows(np.zeros((1, 100), np.int8)))
    assert [number in cache for number in range(4)] == [True, True, False, False]
    cache.resize(150)
    assert [number in cache for number in range(4)] == [True, False, False, False]
    assert cache.nbytes == 100
    cache.clear()
    assert cache.get(0) is None
    assert cache.nbytes == 0


def test_cache_finds_what_somebody_works_on_though_it_keeps_it_not() -> None:
    cache, rows = BlockCache(0), Rows(np.zeros((1, 100), np.int8))
    cache.offer(7, rows)
    assert cache.get(7) is rows
    assert cache.nbytes == 0
    del rows
    assert cache.get(7) is None


def test_blocks_are_read_by_one_of_those_that_want_them() -> None:
    cache, reads = BlockCache(0), []
    all_in = threading.Barrier(4)
    done = threading.Barrier(4)

    def want() -> None:
        all_in.wait(30)
        rows = cache.get(0)
        if rows is None:
            with cache.turn(0):
                rows = cache.get(0)
                if rows is None:
                    rows = Rows(np.zeros((1, 1)))
                    reads.append(rows)
                    cache.offer(0, rows)
        done.wait(30)
        assert rows is reads[0]

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(want) for _ in range(4)]:
            future.result(60)
    assert len(reads) == 1


def test_a_read_that_fails_lets_the_next_one_try() -> None:
    cache = BlockCache(0)
    for _ in range(2):
        with pytest.raises(OSError, match="no"), cache.turn(0):
            raise OSError("no")


def test_a_view_counts_as_the_array_that_it_keeps() -> None:
    whole = np.zeros((10, 10))
    assert held_bytes(Rows(whole[:2], weight=np.ones(2))) == 800 + 16


def test_meter_sees_a_passing_peak() -> None:
    before = threading.active_count()
    with MemoryMeter() as meter:
        array = np.ones(64 * MIB, np.int8)
        # Long enough to be seen: the meter looks every 20 ms.
        Event().wait(0.2)
        del array
        assert 60 * MIB < meter.peak() < 80 * MIB
    assert 60 * MIB < meter.peak() < 80 * MIB
    assert threading.active_count() == before


def test_meter_leaves_the_peak_of_the_process_alone() -> None:
    array = np.ones(64 * MIB, np.int8)
    del array
    before = high_water()
    with MemoryMeter():
        pass
    assert high_water() >= before


def high_water() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


@pytest.mark.parametrize("engine", ["local", "dask"])
def test_peak_stays_within_the_limit(engine: str, tmp_path: Path) -> None:
    limit = 80 * MIB
    path = tmp_path / "rows.npy"
    rows = np.lib.format.open_memmap(path, "w+", np.float32, (5 * limit // 256, 64))
    rows[:] = np.arange(64)
    del rows
    found = measured(engine, path, limit)
    assert found["nbytes"] >= 4 * limit
    assert found["projected"] <= limit
    assert max(found["peaks"]) <= limit


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 MiB in chunks of 4 MiB."""
    return make_store(tmp_path_factory.mktemp("rows") / "rows.zarr", 12)


def make_store(path: Path, n_chunks: int) -> Path:
    rows = 4 * MIB // 32
    array = zarr.create_array(path, shape=(n_chunks * rows, 8), chunks=(rows, 8), dtype="f4")
    rng = np.random.default_rng(0)
    for start in range(0, n_chunks * rows, rows):
        centres = rng.integers(0, 4, (rows, 1)) * 5
        array[start : start + rows] = rng.normal(size=(rows, 8)) + centres
    return path


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", "dask"])
def test_peak_of_predicting_into_a_store_stays_within_the_limit(engine: str, store: Path) -> None:
    limit = 112 * MIB
    found = measured(f"predict-{engine}", store, limit)
    # 192 MiB of responsibilities.
    assert found["written"] == 4 * found["nbytes"]
    assert max(found["peaks"]) <= limit


@pytest.mark.slow
def test_peak_of_a_fit_stays_within_the_limit(tmp_path: Path) -> None:
    limit = 96 * MIB
    found = measured("fit-local", make_store(tmp_path / "rows.zarr", 96), limit)
    assert found["nbytes"] >= 4 * limit
    assert max(found["peaks"]) <= limit


@pytest.mark.slow
def test_peak_of_weighted_fits_on_a_cluster_stays_within_the_limit(tmp_path: Path) -> None:
    limit, n_chunks = 88 * MIB, 88
    n_rows = 4 * MIB // 32
    chunk = np.random.default_rng(0).normal(size=(n_rows, 8)).astype("f4")
    chunk[:, 7] = np.abs(chunk[:, 7])
    shape = (n_chunks * n_rows, 8)
    rows = zarr.create_array(
        tmp_path / "rows.zarr", shape=shape, chunks=(n_rows, 8), dtype="f4", compressors=None
    )
    weights = zarr.create_array(
        tmp_path / "weights.zarr", shape=shape[0], chunks=100_000, dtype="f8"
    )
    for start in range(0, shape[0], n_rows):
        rows[start : start + n_rows] = chunk
    weights[:] = np.tile(np.arange(8.0) // 2, shape[0] // 8)
    found = measured("fit-weighted", tmp_path / "rows.zarr", limit)
    assert found["nbytes"] >= 4 * limit
    # The column is nowhere zero, of the others a quarter is.
    assert [count / shape[0] for count in found["rows"]] == [0.75, 0.75, 1.0]
    # Two passes, of which at most the first blocks were kept.
    assert min(found["read"]) > 1.5 * found["nbytes"]
    assert len(found["peaks"]) == 9
    assert max(found["peaks"]) <= limit


def measured(engine: str, path: Path, limit: int) -> dict[str, Any]:
    root = str(SCRIPT.parents[2])
    done = subprocess.run(
        [sys.executable, str(SCRIPT), engine, str(path), str(limit)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
