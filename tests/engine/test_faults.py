"""What a session does when a cluster does not answer, gets nowhere, or is not there any more."""

from __future__ import annotations

import logging
import os
import pickle
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from time import monotonic
from typing import Any
from uuid import uuid4

import dask
import numpy as np
import pytest
from distributed import CancelledError, Client

import dgmm
from dgmm.data.dataset import Rows
from dgmm.engine import dask_local, dask_session, dask_stream, dask_watch
from dgmm.engine.dask import DaskEngine
from dgmm.engine.dask_attempts import IN_ALL, UNEXPLAINED, Attempts
from dgmm.engine.dask_cluster import TasksKilledError
from dgmm.engine.dask_graph import PassGraph
from dgmm.engine.dask_heartbeat import METRIC, Pulse
from dgmm.errors import (
    DeadlyBlockError,
    EngineError,
    InvalidParameterError,
    NoWorkersError,
    SchedulerLostError,
    StalledError,
)
from dgmm.testing.toys import ToyTask, Trace, serial_oracle, toy
from tests.chaos.clusters import eventually, local, send, settle, worker_pids


@pytest.fixture(scope="module")
def started() -> Iterator[Client]:
    with local(2) as client:
        yield client


@pytest.fixture
def client(started: Client) -> Client:
    """Two workers that live, whatever the test before did to them."""
    settle(started, 2)
    return started


@dataclass(frozen=True)
class WaitingTask(ToyTask):
    """Evaluates a row when a file is there, and not before.

    ``first`` names a file that whoever comes first takes away, and only he waits.
    """

    row: int = 0
    until: str = ""
    first: str = ""

    def evaluate(self, rows: Rows, workspace: Any) -> Trace:
        if rows.first_row <= self.row < rows.first_row + rows.n_rows and self._mine():
            pause = Event()
            while not os.path.exists(self.until):
                pause.wait(0.05)
        return super().evaluate(rows, workspace)

    def _mine(self) -> bool:
        try:
            os.remove(self.first)
        except FileNotFoundError:
            return not self.first
        return True


# ------------------------------------------------------------------------------------- timeouts


@pytest.mark.parametrize(
    "name", ["no_workers_timeout", "worker_timeout", "progress_timeout", "scheduler_timeout"]
)
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "30s", None, True])
def test_timeouts_are_finite(name: str, value: Any) -> None:
    with pytest.raises(InvalidParameterError, match=name):
        DaskEngine(**{name: value})


@pytest.mark.parametrize("value", [0, -1, 2.0, "2", True])
def test_numbers_of_workers(value: Any) -> None:
    with pytest.raises(InvalidParameterError, match="n_workers"):
        DaskEngine(n_workers=value)


def test_a_client_has_the_workers_that_it_has(client: Client) -> None:
    with pytest.raises(InvalidParameterError, match="leave one of them out"):
        DaskEngine(client, n_workers=2)


def test_a_pickle_keeps_the_timeouts() -> None:
    engine = DaskEngine(n_workers=3, worker_timeout=7, scheduler_timeout=9)
    again = pickle.loads(pickle.dumps(engine))
    assert (again.n_workers, again.timeouts) == (3, engine.timeouts)


# ------------------------------------------------------------------------------------- progress


def test_results_are_fetched_while_others_are_waited_for(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    until, gather = tmp_path / "go", client.gather

    def fetching(*arguments: Any, **options: Any) -> Any:
        until.touch()
        return gather(*arguments, **options)

    monkeypatch.setattr(client, "gather", fetching)
    data = toy((9, 9, 9, 9))
    with DaskEngine(client).session(data) as session:
        found = session.run(WaitingTask(row=35, until=str(until)))
        assert session.counters.retries == 0
        assert found.total == session.run(ToyTask()).total


def test_a_pass_that_gets_nowhere_is_an_error_that_names_it(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask_watch, "_LOOK_SECONDS", 0.5)
    until = tmp_path / "go"
    engine = DaskEngine(client, progress_timeout=2, worker_timeout=1000)
    with engine.session(toy((9, 9, 9, 9))) as session:
        session.run(ToyTask())
        begin = monotonic()
        with pytest.raises(StalledError, match=r"no progress for 2 seconds: .*block.* on tcp"):
            session.run(WaitingTask(row=21, until=str(until)))
        # Two workers tried, one after the other.
        assert monotonic() - begin < 2 + 15
        until.touch()
        assert session.run(ToyTask()).total == serial_oracle(toy((9, 9, 9, 9)), ToyTask()).total


def test_others_try_what_a_worker_gets_nowhere_with(
    client: Client,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dask_watch, "_LOOK_SECONDS", 0.5)
    dataset, first = toy((9, 9, 9, 9)), tmp_path / "first"
    task = WaitingTask(row=21, until=str(tmp_path / "never"), first=str(first))
    first.touch()
    # Half of this is what the pass has to stand still for, with a second worker at hand.
    engine = DaskEngine(client, progress_timeout=5, worker_timeout=1000)
    with engine.session(dataset) as session, caplog.at_level(logging.WARNING, "dgmm.engine"):
        assert session.run(task).total == serial_oracle(dataset, ToyTask()).total
    # Lets the process go, which its nanny then replaces.
    Path(task.until).touch()
    assert not first.exists()
    assert "got nowhere" in caplog.text


def test_a_heartbeat_says_what_a_worker_does_for_each_session(client: Client) -> None:
    engine = DaskEngine(client)
    with engine.session(toy()) as session, engine.session(toy()) as other:
        session.run(ToyTask())
        other.run(ToyTask())

        def told() -> bool:
            workers = client.scheduler_info(n_workers=-1)["workers"].values()
            pulses = [one["metrics"].get(METRIC, {}) for one in workers]
            names = session._name, other._name
            done = [sum(one.get(name, {}).get("done", 0) for one in pulses) for name in names]
            return all(n >= len(toy().parts) for n in done)

        eventually(told, "heartbeats")


def test_the_pulse_counts_the_tasks_of_each_session_that_is_open() -> None:
    pulse = Pulse()
    pulse.open("mine")
    pulse.open("theirs")
    with pulse.at_work("mine"), pulse.at_work("theirs"), pulse.at_work("mine"):
        pulse.beat("theirs")
        mine, theirs = {"done": 0, "running": 2}, {"done": 1, "running": 1}
        assert pulse.read(None) == {"mine": mine, "theirs": theirs}
        # Closed while its tasks are at work, as after an error; and a task that comes late.
        pulse.close("mine")
        with pulse.at_work("mine"):
            pulse.beat("mine")
        assert pulse.read(None) == {"theirs": theirs}
    assert pulse.read(None) == {"theirs": {"done": 1, "running": 0}}


def test_a_session_that_stands_still_is_seen_beside_one_that_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask_watch, "_LOOK_SECONDS", 0.5)
    until, before = tmp_path / "until", deepcopy(dask.config.config)
    stuck, found = Event(), []

    def move(client: Client) -> None:
        with DaskEngine(client).session(toy()) as session:
            while not stuck.is_set():
                found.append(session.run(ToyTask()).total)

    # A thread of each worker for either session.
    with local(2, threads_per_worker=2) as client, ThreadPoolExecutor(1) as pool:
        moving = pool.submit(move, client)
        try:
            engine = DaskEngine(client, progress_timeout=2, worker_timeout=1000)
            stalled = pytest.raises(StalledError, match="no progress for 2 seconds")
            with engine.session(toy((9, 9, 9, 9))) as session, stalled:
                session.run(WaitingTask(row=21, until=str(until)))
        finally:
            until.touch()
            stuck.set()
        moving.result(120)
    assert len(found) > 10
    assert all(one == serial_oracle(toy(), ToyTask()).total for one in found)
    # What Dask is told for a while is told to all threads.
    assert dask.config.config == before


# ------------------------------------------------------------------------------------- clusters


def test_a_cluster_of_its_own_is_started_again() -> None:
    dataset = toy()
    expected = serial_oracle(dataset, ToyTask()).total
    with DaskEngine(n_workers=1) as engine, engine.session(dataset) as session:
        assert session.run(ToyTask()).total == expected
        lost = engine._own._client
        lost.cluster.close()
        assert session.run(ToyTask()).total == expected
        assert session.counters.retries >= 1
        assert session.counters.workers_lost == 1
        assert engine._own._client is not lost
        with engine.session(dataset) as another:
            assert another.run(ToyTask()).total == expected


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("when", ["between two calls", "during the call"])
def test_a_cluster_of_its_own_is_started_again_for_answers(
    when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = np.random.default_rng(0).normal(size=(4000, 2))
    rows = dgmm.open_dataset(x, block_bytes=4096)
    here = dgmm.GaussianMixture(2, random_state=0, max_iter=5).fit(x)
    take = dask_stream.Ahead.take
    taken: list[Any] = []

    def die(engine: DaskEngine) -> None:
        cluster = engine._own.client().cluster
        cluster.sync(cluster.scheduler.close)

    def taking(ahead: Any) -> Any:
        found = take(ahead)
        taken.append(found)
        if len(taken) == 2:
            die(engine)
        return found

    with DaskEngine(n_workers=1, scheduler_timeout=5) as engine:
        there = dgmm.GaussianMixture(2, random_state=0, max_iter=5, engine=engine).fit(x)
        if when == "between two calls":
            die(engine)
            assert there.score(rows) == here.score(rows)
            die(engine)
        else:
            monkeypatch.setattr(dask_stream.Ahead, "take", taking)
        found = there.predict(rows, out=str(tmp_path / "labels"))
        assert np.array_equal(found[:], here.predict(x))
        assert when == "between two calls" or len(taken) > 2


def test_a_cluster_that_scales_from_nothing_is_asked_for_workers() -> None:
    dataset = toy()
    with local(1) as client:
        client.cluster.scale(0)
        eventually(lambda: not client.nthreads(), "no workers")
        client.cluster.adapt(minimum=0, maximum=1, interval="200ms")
        with DaskEngine(client).session(dataset) as session:
            assert session.run(ToyTask()).total == serial_oracle(dataset, ToyTask()).total


def test_a_supervisor_replaces_a_worker_that_its_nanny_gave_up(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask_local, "DEAD_SECONDS", 0.5)
    nanny = next(iter(client.cluster.workers.values()))
    # As when the worker dies as it starts: it hears of it, and does nothing.
    nanny.process.on_exit = int
    send(nanny.pid, signal.SIGKILL)
    eventually(lambda: len(client.nthreads()) == 1, "one worker")
    with DaskEngine(client).session(toy()) as session:

        def healed() -> bool:
            session.run(ToyTask())
            return len(client.nthreads()) == 2

        eventually(healed, "a second worker")


def test_other_clusters_are_left_alone() -> None:
    class Foreign:
        def __getattr__(self, name: str) -> Any:
            raise AssertionError(name)

    dask_local.Supervisor(Foreign()).look(0)


def test_no_workers_is_typed() -> None:
    with local(1) as client:
        client.cluster.scale(0)
        eventually(lambda: not client.nthreads(), "no workers")
        with pytest.raises(NoWorkersError, match=r"no workers for 0\.2 seconds"):
            DaskEngine(client, no_workers_timeout=0.2).session(toy())
    with pytest.raises(SchedulerLostError, match="make a new one"):
        DaskEngine(client).session(toy())


@dataclass(frozen=True)
class LoggingTask(WaitingTask):
    """Leaves a file for each part that it evaluates."""

    folder: str = ""

    def evaluate(self, rows: Rows, workspace: Any) -> Trace:
        Path(self.folder, f"{rows.first_row}-{uuid4().hex}").touch()
        return super().evaluate(rows, workspace)


def test_nodes_that_have_arrived_outlive_all_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[Attempts] = []

    class Seen(Attempts):
        def __init__(self) -> None:
            super().__init__()
            passes.append(self)

    monkeypatch.setattr(dask_session, "Attempts", Seen)
    dataset, until, log = toy((9, 9, 9, 9)), tmp_path / "until", tmp_path / "log"
    log.mkdir()
    task = LoggingTask(row=21, until=str(until), folder=str(log))
    arrived: set[int] = set()

    def kill(cluster: Any) -> None:
        eventually(lambda: passes and passes[0].results, "a first node")
        arrived.update(passes[0].results)
        for pid in worker_pids(cluster):
            send(pid, signal.SIGKILL)
        until.touch()

    with local(2) as client, DaskEngine(client).session(dataset) as session:
        thread = Thread(target=kill, args=(client.cluster,), daemon=True)
        thread.start()
        assert session.run(task).total == serial_oracle(dataset, ToyTask()).total
        thread.join(120)
    # Four blocks are four ranges, whose nodes the driver merges by itself.
    assert arrived
    assert 2 not in arrived
    for block in arrived:
        for row in range(9 * block, 9 * block + 9, 3):
            assert len(list(log.glob(f"{row}-*"))) == 1


def test_a_client_that_connects_again_goes_on(client: Client, tmp_path: Path) -> None:
    dataset, first, until = toy((9, 9, 9, 9)), tmp_path / "first", tmp_path / "until"
    first.touch()
    task = WaitingTask(row=21, until=str(until), first=str(first))

    def cut() -> None:
        eventually(lambda: not first.exists(), "the pass")
        _cut_connection(client)
        until.touch()

    thread = Thread(target=cut, daemon=True)
    with DaskEngine(client).session(dataset) as session:
        thread.start()
        found = session.run(task).total
        thread.join(120)
        assert found == serial_oracle(dataset, ToyTask()).total
        assert session.counters.retries >= 1


@dataclass(frozen=True)
class PlacedTask(WaitingTask):
    """A :class:`WaitingTask` that says in which process it was evaluated."""

    def evaluate(self, rows: Rows, workspace: Any) -> Any:
        return super().evaluate(rows, workspace), os.getpid()


def _cut_connection(client: Client) -> None:
    before = client.scheduler_comm
    client.loop.add_callback(before.comm.abort)
    eventually(lambda: client.scheduler_comm not in (None, before), "another connection")


@pytest.mark.parametrize("trouble", ["killed", "cut off"])
def test_a_stream_outlives_what_it_was_asked_of(
    trouble: str, client: Client, tmp_path: Path
) -> None:
    dataset, first, until = toy((9,) * 12), tmp_path / "first", tmp_path / "until"
    first.touch()
    task = PlacedTask(row=50, until=str(until), first=str(first))
    pids = worker_pids(client.cluster)

    def cause() -> None:
        eventually(lambda: not first.exists(), "the row that waits")
        if trouble == "killed":
            for pid in pids:
                send(pid, signal.SIGKILL)
        else:
            _cut_connection(client)
        until.touch()

    thread = Thread(target=cause, daemon=True)
    with DaskEngine(client).session(dataset) as session:
        thread.start()
        found = list(session.stream(task))
        thread.join(120)
    with dgmm.LocalEngine(1).session(dataset) as here:
        expected = list(here.stream(ToyTask()))
    assert [(row, trace) for row, (trace, _) in found] == expected
    if trouble == "killed":
        # Those that it began with are dead, and others went on.
        assert {pid for _, (_, pid) in found} - set(pids)


def test_a_question_is_asked_again_where_the_client_connects_again(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = DaskEngine(client).session(toy())
    asked = []

    def workers(*_: Any) -> Any:
        asked.append(len(asked))
        if len(asked) < 3:
            raise CancelledError("the client had to connect again")
        return found

    cluster = session._cluster
    found = cluster._find_workers()
    monkeypatch.setattr(cluster, "_find_workers", workers)
    assert cluster.workers() == found
    assert len(asked) == 3
    monkeypatch.setattr(cluster, "_find_workers", _never_again)
    with pytest.raises(SchedulerLostError, match="connect again"):
        cluster.workers()
    session.close()


def _never_again() -> None:
    raise CancelledError("the client had to connect again")


# ------------------------------------------------------------------------------------- attempts


def test_unexplained_losses_are_few() -> None:
    attempts, lost = Attempts(), CancelledError("key")
    assert attempts.begin(["a"])
    for _ in range(UNEXPLAINED - 1):
        attempts.lost(lost, ["a"])
        assert not attempts.begin(["a"])
    with pytest.raises(EngineError, match="dropped the tasks of a pass 4 times"):
        attempts.lost(lost, ["a"])


def test_losses_that_deaths_explain_are_many_and_not_without_end() -> None:
    attempts, lost = Attempts(), CancelledError("key")
    with pytest.raises(EngineError, match="workers die faster"):
        for number in range(IN_ALL + 1):
            attempts.begin([str(number)])
            attempts.lost(lost, [str(number + 1)])
    assert number == IN_ALL - 1


def test_deaths_that_nothing_alone_explains_end_in_a_name() -> None:
    attempts, killed = Attempts(), TasksKilledError([], "blocks 0 to 7", "4 times")
    for _ in range(10):
        # Workers that did nothing died, too.
        attempts.killed(killed, innocent=False)
        attempts.begin(["a"])
    attempts.killed(killed, innocent=True)
    attempts.killed(killed, innocent=True)
    with pytest.raises(DeadlyBlockError, match=r"blocks 0 to 7 lost its worker, 4 times"):
        attempts.killed(killed, innocent=True)


def test_a_graph_is_cut_to_what_is_asked_for() -> None:
    graph = PassGraph("x")
    keys = [graph.add_pickled(str(number), b"") for number in range(4)]
    merge = graph._add("merge", (sum, keys[:2]), None, needs=keys[:2])
    assert set(graph.graph([merge]).layers) == {merge, *keys[:2]}
    assert set(graph.graph(keys[3:]).layers) == {keys[3]}
    assert graph.keys() == {merge, *keys}


def test_every_error_of_a_cluster_is_an_engine_error() -> None:
    for error in (NoWorkersError, SchedulerLostError, StalledError, DeadlyBlockError):
        assert issubclass(error, EngineError)
        assert getattr(dgmm, error.__name__) is error
