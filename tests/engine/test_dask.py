"""A cluster of processes: the conformance suite, and what only a cluster can do wrong."""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import signal
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from time import sleep
from types import SimpleNamespace
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
from distributed import Client, LocalCluster, futures_of, wait

from dgmm.data.arrays import open_array
from dgmm.data.dask import open_dask
from dgmm.data.dataset import Rows
from dgmm.engine import dask_cluster, dask_suspects, worker
from dgmm.engine.choice import engine_for
from dgmm.engine.dask import DaskEngine
from dgmm.engine.dask_graph import assign
from dgmm.engine.local import LocalEngine
from dgmm.engine.spreading import lend
from dgmm.engine.work import select
from dgmm.errors import DeadlyBlockError, EngineError, InvalidParameterError, MemoryLimitError
from dgmm.testing.engines import EngineSuite, SlicedTask, ToyTask, Trace, serial_oracle, toy
from tests.chaos.clusters import eventually, send, settle

MIB = 2**20


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with (
        # As it is by default, a poisonous range takes four workers with it, a second each.
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1"
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def scale(client: Client, n_workers: int) -> None:
    client.cluster.scale(n_workers)
    # Workers that the test before killed are gone then, and others are in their place.
    settle(client, n_workers)


@dataclass(frozen=True)
class TraceTask(ToyTask):
    """Like the toy, of any values."""

    def evaluate(self, rows: Rows, workspace: Any) -> Trace:
        return Trace(float(rows.x.sum()), rows.n_rows, str(rows.first_row))


@dataclass(frozen=True)
class DyingTask(ToyTask):
    """Kills the worker that evaluates one row; only as long as a file is there, if one is named."""

    row: int = 0
    while_there: str | None = field(default=None)

    def evaluate(self, rows: Rows, workspace: Any) -> Trace:
        if rows.first_row == self.row and self._deadly():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().evaluate(rows, workspace)

    def _deadly(self) -> bool:
        if self.while_there is None:
            return True
        try:
            os.remove(self.while_there)
        except FileNotFoundError:
            return False
        return True


@dataclass(frozen=True)
class DyingSlices(SlicedTask):
    """Kills one worker, once."""

    while_there: str = ""

    def evaluate(self, rows: Rows, workspace: Any) -> Any:
        with suppress(FileNotFoundError):
            os.remove(self.while_there)
            os.kill(os.getpid(), signal.SIGKILL)
        return super().evaluate(rows, workspace)


class TestDaskEngine(EngineSuite):
    sizes = (1, 3, 2)

    @pytest.fixture(autouse=True)
    def _on(self, client: Client) -> None:
        self.client = client

    def engine(self, size: int) -> AbstractContextManager[Any]:
        scale(self.client, size)
        return nullcontext(DaskEngine(self.client))


@pytest.fixture
def engine(client: Client) -> DaskEngine:
    scale(client, 2)
    return DaskEngine(client)


def test_same_bits_as_threads(engine: DaskEngine) -> None:
    values = np.random.default_rng(0).normal(size=(5000, 3))
    dataset = open_array(values, block_bytes=2400)
    with LocalEngine(2).session(dataset) as session:
        expected = session.run(TraceTask()).total
    with engine.session(dataset) as session:
        assert session.run(TraceTask()).total == expected
        assert session.run(TraceTask()).total == expected


def test_workers_without_rows_of_their_own_take_slices(engine: DaskEngine) -> None:
    dataset = toy((2**19,), part_rows=2**18)
    expected = serial_oracle(dataset, SlicedTask()).total
    # Room for the block in flight, none to keep it.
    with engine.session(dataset, memory_limit=30 * MIB + dataset.nbytes) as session:
        for passes in (1, 2):
            found = session.run(SlicedTask()).total
            assert found == expected
            assert len({process for process, _ in found.threads}) == 2
            # The exception to one read of each block: a worker that helps reads it, too.
            assert session.counters.block_reads == 2 * passes
        assert session.counters.slices == 2
        assert session.counters.nodes_received == 2


@pytest.mark.parametrize("persisted", [False, True])
def test_rows_in_memory_are_lent_to_other_workers(engine: DaskEngine, persisted: bool) -> None:
    values = np.random.default_rng(2).normal(size=(300, 2))
    dataset = open_array(values, block_bytes=9600)
    expected = serial_oracle(dataset, SlicedTask()).total
    if persisted:
        array = engine.client.persist(da.from_array(values, chunks=(300, 2)))
        dataset = open_dask(array, block_bytes=9600)
    with engine.session(dataset) as session:
        for _ in range(2):
            found = session.run(SlicedTask()).total
            assert found == expected
            assert len({process for process, _ in found.threads}) == 2
        assert session.plan.items["rows brought from other workers"] == 4800
        assert session.counters.block_reads == 0


def test_rows_that_cannot_be_lent_stay_where_they_are(engine: DaskEngine) -> None:
    dataset = open_array(np.ones((2**21, 2)), block_bytes=2**26)
    with engine.session(dataset, memory_limit=60 * MIB) as session:
        session.run(SlicedTask())
        assert session.counters.slices == 1


def test_a_lost_worker_does_not_change_slices(engine: DaskEngine, tmp_path: Any) -> None:
    dataset, flag = toy((3,)), tmp_path / "once"
    flag.touch()
    with engine.session(dataset) as session:
        found = session.run(DyingSlices(while_there=str(flag))).total
        assert not flag.exists()
        assert found == serial_oracle(dataset, SlicedTask()).total


def test_rows_in_memory_are_shipped_once(engine: DaskEngine) -> None:
    dataset = open_array(np.ones((1000, 2)), block_bytes=1600)
    with engine.session(dataset) as session:
        session.run(TraceTask())
        handles = list(session._held.handles)
        session.run(TraceTask())
        assert all(one is two for one, two in zip(handles, session._held.handles, strict=True))


def test_rows_in_memory_that_a_worker_lost_are_shipped_again(engine: DaskEngine) -> None:
    dataset = open_array(np.arange(2000.0).reshape(1000, 2), block_bytes=1600)
    with engine.session(dataset) as session:
        expected = session.run(TraceTask()).total
        home = session._held.workers[0]
        send(engine.client.run(os.getpid, workers=[home])[home], signal.SIGKILL)
        assert session.run(TraceTask()).total == expected


@pytest.mark.parametrize(
    "error",
    [KeyError("tcp://gone:1"), TimeoutError("No valid workers found"), OSError("in scatter")],
    ids=lambda error: type(error).__name__,
)
def test_rows_that_a_worker_did_not_take_are_sent_again(
    engine: DaskEngine, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    scatter, errors = engine.client.scatter, [error]

    async def failing(*arguments: Any, **options: Any) -> Any:
        if errors:
            raise errors.pop()
        return await scatter(*arguments, **options)

    monkeypatch.setattr(engine.client, "scatter", failing)
    dataset = open_array(np.arange(2000.0).reshape(1000, 2), block_bytes=1600)
    with engine.session(dataset) as session:
        found = session.run(TraceTask()).total
        assert session.counters.retries == 1
        assert found == session.run(TraceTask()).total
    assert not errors


def test_persisted_blocks_stay_where_they_are(engine: DaskEngine) -> None:
    client = engine.client
    lazy = da.random.default_rng(1).normal(size=(4000, 3), chunks=(250, 3))
    array = client.persist(lazy)
    dataset = open_dask(array, block_bytes=6000)
    with client.as_current():
        wait(array)
    # Dask itself drops copies that it made, and not always the younger one: not while we look.
    client.amm.stop()
    try:
        before = {key: set(where) for key, where in client.who_has(futures_of(array)).items()}
        with engine.session(dataset) as session:
            total = session.run(TraceTask()).total
            assert session.run(TraceTask()).total == total
            assert session.counters.block_reads == 0
            assert [value.count for _, value in session.stream(TraceTask())] == [250] * 16
        # A busy worker's task may move and copy its block; the block stays all the same.
        after = {key: set(where) for key, where in client.who_has(futures_of(array)).items()}
    finally:
        client.amm.start()
    assert all(where <= after[key] for key, where in before.items())
    dense = open_array(array.compute(scheduler=client), block_bytes=6000)
    with LocalEngine(2).session(dense) as session:
        assert session.run(TraceTask()).total == total


def test_persisted_chunks_that_are_joined(engine: DaskEngine) -> None:
    array = engine.client.persist(da.ones((4000, 3), chunks=(100, 3)))
    with engine.session(open_dask(array, block_bytes=24_000)) as session:
        assert session.run(TraceTask()).total.count == 4000


def test_persisted_blocks_that_alternate_make_few_ranges(engine: DaskEngine) -> None:
    client, blocks = engine.client, [np.full((20, 2), float(i)) for i in range(200)]
    # A home of its own for every second block: no two neighbours live together.
    homes = [
        client.scatter(blocks[number::2], workers=[worker], hash=False)
        for number, worker in enumerate(sorted(client.nthreads()))
    ]
    futures = [one for pair in zip(*homes, strict=True) for one in pair]
    # No graph in between, whose tasks would run where Dask likes.
    parts = {("parts", number, 0): one for number, one in enumerate(futures)}
    array = da.Array(parts, "parts", chunks=((20,) * 200, (2,)), dtype=float)
    with engine.session(open_dask(array, block_bytes=320)) as session:
        assert session.run(TraceTask()).total.total == 40 * sum(range(200))
        assert 2 * 3 <= len(session._held.shares) <= 2 * 6


def test_any_graph(engine: DaskEngine) -> None:
    array = da.arange(3000, chunks=300).astype(float).reshape(1000, 3)
    with engine.session(open_dask(array, block_bytes=2400)) as session:
        assert session.run(TraceTask()).total.total == 3000 * 2999 / 2


def test_persisted_data_runs_where_it_is_by_default(client: Client) -> None:
    array = client.persist(da.ones((400, 3), chunks=(100, 3)))
    assert engine_for(None, open_dask(array, block_bytes=2400)).client is client
    assert engine_for(None, toy()) == LocalEngine()


@dataclass(frozen=True)
class LargeTask(ToyTask):
    """Carries many parameters."""

    parameters: Any = None


def test_large_parameters(engine: DaskEngine) -> None:
    dataset, task = toy(), LargeTask(parameters=np.ones(2**17))
    with engine.session(dataset) as session:
        assert session.run(task).total == serial_oracle(dataset, ToyTask()).total


def test_a_pass_takes_few_tasks(engine: DaskEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    submit, sizes = dask_cluster.Cluster.submit, []

    def counted(cluster: Any, graph: Any, keys: list[str]) -> Any:
        sizes.append(len(graph.keys()))
        return submit(cluster, graph, keys)

    with engine.session(toy((4,) * 64)) as session:
        session.run(ToyTask())
        monkeypatch.setattr(dask_cluster.Cluster, "submit", counted)
        for _ in range(3):
            session.run(ToyTask())
    # A task costs milliseconds: there are some for each worker, not one for each block.
    assert len(sizes) == 3
    assert max(sizes) <= 16


def test_lost_worker_does_not_change_the_result(engine: DaskEngine, tmp_path: Any) -> None:
    dataset, flag = toy(), tmp_path / "once"
    flag.touch()
    with engine.session(dataset) as session:
        found = session.run(DyingTask(row=26, while_there=str(flag))).total
        assert not flag.exists()
        assert found == serial_oracle(dataset, ToyTask()).total
        assert session.run(ToyTask()).total == found


def test_a_block_that_kills_its_workers_is_named(
    engine: DaskEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask_suspects, "_CALM_SECONDS", (0.5, 1.0))
    with engine.session(toy((9, 9, 9, 9))) as session:
        with pytest.raises(DeadlyBlockError, match=r"^block 2 .*lost its worker, every time"):
            session.run(DyingTask(row=21))
        assert session.run(ToyTask()).total.count == 36


def test_no_workers_is_an_error_within_the_deadline(client: Client) -> None:
    # First all of them: one that starts again would come back after the last had gone.
    scale(client, 2)
    scale(client, 0)
    engine = DaskEngine(client, no_workers_timeout=0.2)
    with pytest.raises(EngineError, match=r"no workers for 0\.2 seconds"):
        engine.session(toy())


def test_workers_forget_a_closed_session(engine: DaskEngine) -> None:
    dataset = toy()
    with engine.session(dataset) as session:
        name = session._name
        session.run(ToyTask())
        # A task that a busy worker gave away leaves its blocks in two caches.
        assert sum(engine.client.run(cached_bytes, name).values()) >= dataset.nbytes
    eventually(lambda: not any(engine.client.run(cached_bytes, name).values()), "empty caches")


def test_a_task_that_comes_late_does_not_open_its_session_again() -> None:
    dataset = toy()
    whole = worker.Range(select(dataset).work)
    settings = worker.Settings("late", "run", n_threads=1, window=2, cache_bytes=MIB)
    first = worker.reduce_range(ToyTask(), whole, settings, ())
    assert cached_bytes("late") == dataset.nbytes
    asyncio.run(worker.close_session("late"))
    assert "late" not in worker._sessions
    again = worker.reduce_range(ToyTask(), whole, settings, ())
    assert again.value == first.value
    assert again.reads.blocks == sum(block.n_rows > 0 for block in dataset.blocks)
    assert "late" not in worker._sessions


def test_a_task_at_work_when_its_session_is_closed_leaves_nothing_behind() -> None:
    settings = worker.Settings("closing", "run", n_threads=1, window=2, cache_bytes=MIB)
    session = worker._session(settings)
    asyncio.run(worker.close_session("closing"))
    session.cache.offer(0, toy().blocks[0].read())
    assert session.cache.nbytes == 0


def test_a_session_at_work_keeps_what_it_holds_beside_others() -> None:
    dataset = toy()
    whole = worker.Range(select(dataset).work)

    def settings(name: str) -> worker.Settings:
        return worker.Settings(name, "run", n_threads=1, window=2, cache_bytes=MIB)

    names = [f"busy {number}" for number in range(4)]
    try:
        worker.reduce_range(ToyTask(), whole, settings(names[0]), ())
        with worker._at_work(settings(names[0])) as session:
            for name in names[1:]:
                worker.reduce_range(ToyTask(), whole, settings(name), ())
            assert worker._session(settings(names[0])) is session
            session.n_tasks -= 1
            held = [cached_bytes(name) > 0 for name in names]
            # Beside it there is room for one.
            assert held == [True, False, False, True]
        worker.reduce_range(ToyTask(), whole, settings(names[1]), ())
        worker.reduce_range(ToyTask(), whole, settings(names[2]), ())
        assert [cached_bytes(name) > 0 for name in names] == [False, True, True, False]
    finally:
        for name in names:
            asyncio.run(worker.close_session(name))


def test_the_list_of_closed_sessions_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_closed", deque(maxlen=3))
    for number in range(10):
        asyncio.run(worker.close_session(f"session {number}"))
        asyncio.run(worker.close_session(f"session {number}"))
    assert list(worker._closed) == ["session 7", "session 8", "session 9"]


def cached_bytes(name: str) -> int:
    session = worker._sessions.get(name)
    return 0 if session is None else session.cache.nbytes


def test_scheduler_forgets_the_tasks_of_a_pass(engine: DaskEngine) -> None:
    def n_tasks(dask_scheduler: Any = None) -> int:
        return len(dask_scheduler.tasks)

    # An error that a task raised is in a cycle with frames that hold futures: distributed's.
    gc.collect()
    with engine.session(toy()) as session:
        session.run(ToyTask())
        handles = engine.client.run_on_scheduler(n_tasks)
        for _ in range(3):
            session.run(ToyTask())
        # Releasing a task is a message on its way: what counts is that none stays.
        eventually(lambda: engine.client.run_on_scheduler(n_tasks) <= handles, "the handles alone")
    eventually(lambda: not engine.client.run_on_scheduler(n_tasks), "no tasks")


@dataclass(frozen=True)
class SlowTask(ToyTask):
    """Takes longer than the driver waits at a time."""

    def evaluate(self, rows: Rows, workspace: Any) -> Trace:
        sleep(0.1)
        return super().evaluate(rows, workspace)


def test_slow_passes_leave_nothing_to_the_garbage_collector(
    engine: DaskEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def held(dask_scheduler: Any = None) -> list[str]:
        return [str(key) for key in dask_scheduler.tasks if "range" in str(key)]

    monkeypatch.setattr(dask_cluster, "WATCH_SECONDS", 0.02)
    gc.collect()
    gc.disable()
    try:
        with engine.session(toy((3, 3))) as session:
            session.run(SlowTask())
            # A future that waits in a cycle of references would keep its result on a worker.
            eventually(lambda: not engine.client.run_on_scheduler(held), "no ranges")
    finally:
        gc.enable()


def test_limit_of_a_worker_is_held(engine: DaskEngine) -> None:
    with pytest.raises(MemoryLimitError, match="blocks in flight"):
        engine.session(toy((2**22,) * 2, part_rows=2**20), memory_limit=60 * MIB)
    big = open_array(np.ones((2**21, 4)), block_bytes=MIB)
    with pytest.raises(MemoryLimitError, match="Zarr"):
        engine.session(big, memory_limit=48 * MIB)


@pytest.fixture
def brittle() -> Iterator[Client]:
    """A cluster in this process, to be closed in the middle of things."""
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        LocalCluster(
            n_workers=1,
            processes=False,
            protocol="tcp",
            dashboard_address=None,
            host="127.0.0.1",
        ) as cluster,
        Client(cluster, set_as_default=False, timeout=1) as client,
    ):
        yield client


def test_client_that_is_closed_is_said_to_be(brittle: Client) -> None:
    engine = DaskEngine(brittle)
    with engine.session(toy()) as session:
        session.run(ToyTask())
        brittle.close()
        for use in (lambda: session.run(ToyTask()), lambda: list(session.stream(ToyTask()))):
            with pytest.raises(EngineError, match="client is closed; make a new one"):
                use()
    with pytest.raises(EngineError, match="client is closed; make a new one"):
        engine.session(toy())


@dataclass(frozen=True)
class ClosingTask(ToyTask):
    """Closes the client, or the cluster, that it runs on, in a thread of its own."""

    what: str = "client"

    def evaluate(self, rows: Rows, workspace: Any) -> Trace:
        if rows.first_row == 0:
            target = CLOSING[0] if self.what == "client" else CLOSING[0].cluster
            threading.Thread(target=target.close, daemon=True).start()
            self._await_the_end(CLOSING[0])
        return super().evaluate(rows, workspace)

    def _await_the_end(self, client: Client) -> None:
        """The task must not be done before, or nothing of the pass would be lost."""
        scheduler = client.cluster.scheduler
        with suppress(AssertionError):
            if self.what == "client":
                eventually(lambda: client.status == "closed", "a closed client", 10)
            else:
                eventually(lambda: not scheduler.workers, "a scheduler without workers", 10)


# What runs in this process can reach what no pickle can bring there.
CLOSING: list[Client] = []


@pytest.mark.parametrize("what", ["client", "cluster"])
def test_what_is_closed_during_a_pass_is_an_error_that_says_so(brittle: Client, what: str) -> None:
    CLOSING[:] = [brittle]
    with (
        DaskEngine(brittle, no_workers_timeout=2).session(toy()) as session,
        pytest.raises(EngineError, match=r"make a new|start workers"),
    ):
        session.run(ClosingTask(what=what))
    with pytest.raises(EngineError, match="make a new"):
        DaskEngine(brittle, no_workers_timeout=2).session(toy())


def test_asynchronous_client_is_refused() -> None:
    with pytest.raises(InvalidParameterError, match="asynchronous"):
        DaskEngine(SimpleNamespace(asynchronous=True))  # type: ignore[arg-type]


def test_pickle_drops_the_client(engine: DaskEngine) -> None:
    assert pickle.loads(pickle.dumps(engine)).client is None
    assert engine.client.scheduler.address in repr(engine)
    assert engine == DaskEngine(engine.client)
    assert engine != DaskEngine()


def test_assignment_keeps_what_it_can() -> None:
    first = assign([1] * 8, ["b", "a"], [None] * 8)
    assert first == ["a"] * 4 + ["b"] * 4
    assert assign([1] * 8, ["b", "c"], first) == ["c"] * 4 + ["b"] * 4
    assert assign([1] * 8, ["a", "b", "c"], first) == first
    assert assign([1] * 8, ["b"], first) == ["b"] * 8


def test_ranges_are_lent_to_threads_that_have_none() -> None:
    # Home first, then whoever has threads to spare.
    assert lend(["a"], 2, {"a": 1, "b": 1}) == [["a", "b"]]
    assert lend(["b"], 4, {"a": 2, "b": 2}) == [["b", "b", "a", "a"]]
    assert lend(["a", "b"], 3, {"a": 1, "b": 1, "c": 1}) == [["a", "a", "c"], ["b", "b", "c"]]
    # A home that is gone is nobody's.
    assert lend(["x"], 2, {"a": 1, "b": 1}) == [["a", "b"]]


@pytest.mark.parametrize("client", ["tcp://127.0.0.1:8786", 3])
def test_what_is_no_client_is_refused(client: Any) -> None:
    with pytest.raises(InvalidParameterError, match=r"is not a dask\.distributed\.Client"):
        DaskEngine(client)
