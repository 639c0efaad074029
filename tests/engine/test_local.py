"""Threads: the conformance suite, and what only threads can do wrong."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from dgmm.data.dataset import Dataset, Rows
from dgmm.engine.blas import single_threaded_blas
from dgmm.engine.choice import engine_from
from dgmm.engine.local import LocalEngine, _n_cores
from dgmm.errors import InvalidParameterError, MemoryLimitError, SourceError
from dgmm.testing.engines import (
    EngineSuite,
    SlicedTask,
    ToyBlock,
    ToyTask,
    Trace,
    serial_oracle,
    toy,
)

MIB = 2**20


class Relay:
    """Lets the even calls of two threads return only after the odd one that follows."""

    def __init__(self, n_calls: int) -> None:
        self._n_calls, self._calls = n_calls, 0
        self._lock = threading.Lock()
        self._returned = [threading.Event() for _ in range(n_calls + 1)]

    def enter(self) -> int:
        with self._lock:
            self._calls += 1
            return self._calls - 1

    def leave(self, call: int) -> None:
        if call % 2 == 0 and call + 1 < self._n_calls:
            # One thread alone would wait for itself.
            self._returned[call + 1].wait(0.01)
        self._returned[call].set()


@dataclass(frozen=True)
class ShuffledTask(ToyTask):
    relay: Any = None

    def evaluate(self, rows: Rows, workspace: Any) -> Trace:
        call = self.relay.enter()
        value = super().evaluate(rows, workspace)
        self.relay.leave(call)
        return value


class TestLocalEngine(EngineSuite):
    def engine(self, size: int) -> Any:
        return nullcontext(LocalEngine(size))

    def shuffled(self, task: ToyTask) -> ToyTask:
        return ShuffledTask(relay=Relay(len(toy().parts)))

    def expected_slices(self, dataset: Dataset, size: int) -> int:
        # Threads share the parts of a block, too.
        n = len(dataset.parts)
        if n >= size:
            return 1
        return min(range(1, 5), key=lambda slices: -(-n * slices // size) / slices)


@dataclass(frozen=True)
class WaitingTask(ToyTask):
    """Says that it has begun, and waits to be let go."""

    begun: Any = field(default_factory=threading.Event)
    go: Any = field(default_factory=threading.Event)

    def evaluate(self, rows: Rows, workspace: Any) -> Trace:
        self.begun.set()
        assert self.go.wait(30)
        return super().evaluate(rows, workspace)


def test_number_of_threads_is_checked() -> None:
    for wrong in (0, -1, 2.5, 2.0, "2", True):
        with pytest.raises(InvalidParameterError, match=f"n_threads={wrong!r}"):
            LocalEngine(wrong)  # type: ignore[arg-type]
    assert LocalEngine(np.int64(2)) == LocalEngine(2)


def test_threads_follow_the_quota_of_the_container(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = toy((3,) * 64)
    expected = serial_oracle(dataset, ToyTask()).total
    for quota in (1, 3):
        monkeypatch.setattr("joblib.cpu_count", lambda quota=quota: quota)
        with LocalEngine().session(dataset) as session:
            assert session.run(ToyTask()).total == expected
            assert session.plan.n_threads == quota


def test_a_quota_of_the_control_group_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    from joblib.externals.loky.backend import context

    monkeypatch.setattr("os.cpu_count", lambda: 64)
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: set(range(48)), raising=False)
    assert _n_cores() <= 48
    monkeypatch.setattr(context, "_cpu_count_cgroup", lambda _n: 2)
    assert _n_cores() == 2


def test_equality_and_repr() -> None:
    assert LocalEngine(2) == LocalEngine(2)
    assert LocalEngine(2) != LocalEngine(3)
    assert repr(LocalEngine(2)) == "LocalEngine(n_threads=2)"
    assert len({LocalEngine(), LocalEngine(None)}) == 1


def test_survives_clone_of_an_estimator() -> None:
    from sklearn.base import BaseEstimator, clone

    class Estimator(BaseEstimator):
        def __init__(self, engine: Any = None) -> None:
            self.engine = engine

    engine = LocalEngine(3)
    assert clone(Estimator(engine)).engine is engine


def test_engine_from() -> None:
    assert engine_from(None) == engine_from("local") == LocalEngine()
    assert engine_from(LocalEngine(3)) == LocalEngine(3)
    for wrong in ("spark", 3, LocalEngine):
        with pytest.raises(InvalidParameterError, match="engine="):
            engine_from(wrong)  # type: ignore[arg-type]


def test_one_huge_block_is_shared_by_all_threads() -> None:
    barrier = threading.Barrier(4)

    @dataclass(frozen=True)
    class Together(ToyTask):
        def evaluate(self, rows: Rows, workspace: Any) -> Trace:
            barrier.wait(30)
            return super().evaluate(rows, workspace)

    dataset = toy((24,))
    with LocalEngine(4).session(dataset) as session:
        assert session.run(Together()).total == serial_oracle(dataset, ToyTask()).total


@dataclass(frozen=True)
class MeetingTask(SlicedTask):
    """Waits until as many threads are at it as the barrier says."""

    barrier: Any = None

    def evaluate(self, rows: Rows, workspace: Any) -> Any:
        self.barrier.wait(30)
        return super().evaluate(rows, workspace)


@pytest.mark.parametrize(("n_threads", "blocks"), [(4, (3,)), (4, (3, 3)), (3, (3, 2))])
def test_threads_without_rows_of_their_own_take_slices(n_threads: int, blocks: Any) -> None:
    dataset = toy(blocks)
    expected = serial_oracle(dataset, SlicedTask()).total
    task = MeetingTask(barrier=threading.Barrier(n_threads))
    with LocalEngine(n_threads).session(dataset) as session:
        found = session.run(task).total
        assert session.counters.block_reads == len(blocks)
    assert found == expected
    assert len(found.threads) == n_threads


def test_slices_share_one_read_even_where_nothing_can_be_kept() -> None:
    dataset = toy((2**19, 2**19), part_rows=2**19)
    limit = 30 * MIB + 3 * dataset.blocks[0].nbytes
    with LocalEngine(8).session(dataset, memory_limit=limit) as session:
        for passes in (1, 2):
            session.run(SlicedTask())
            assert session.plan.cache_bytes < dataset.blocks[0].nbytes
            assert session.counters.block_reads == 2 * passes
        assert session.counters.slices == 4


def test_memory_is_projected_for_the_slices() -> None:
    @dataclass(frozen=True)
    class Heavy(SlicedTask):
        def slices(self, n: int) -> tuple[SlicedTask, ...]:
            size = self.workspace_bytes // n
            return tuple(replace(one, workspace_bytes=size) for one in super().slices(n))

    with LocalEngine(4).session(toy((3,)), memory_limit=120 * MIB) as session:
        session.run(Heavy(workspace_bytes=80 * MIB))
        assert session.counters.slices == 4
        # Whole workspaces would let one thread in.
        assert session.plan.n_threads == 4
        assert session.plan.items["workspaces of threads"] == 80 * MIB
        assert session.plan.projected <= 120 * MIB


def test_stream_looks_ahead_a_bounded_number_of_parts() -> None:
    evaluated: list[int] = []

    @dataclass(frozen=True)
    class Noted(ToyTask):
        def evaluate(self, rows: Rows, workspace: Any) -> Trace:
            evaluated.append(rows.first_row)
            return super().evaluate(rows, workspace)

    with LocalEngine(2).session(toy((3,) * 500)) as session:
        for count, _ in enumerate(session.stream(Noted()), start=1):
            assert len(evaluated) <= count + 8


def test_threads_end_with_the_session_and_the_stream() -> None:
    before = threading.active_count()
    with LocalEngine(3).session(toy((3,) * 500)) as session:
        session.run(ToyTask())
        stream = session.stream(ToyTask())
        next(stream)
        stream.close()
        del stream
    assert threading.active_count() == before


def test_passes_of_several_callers_take_turns() -> None:
    dataset, found = toy(), []
    with LocalEngine(2).session(dataset) as session:
        callers = [
            threading.Thread(target=lambda: found.append(session.run(ToyTask()).total))
            for _ in range(4)
        ]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join(30)
        assert session.counters.passes == 4
    assert found == [serial_oracle(dataset, ToyTask()).total] * 4


def test_interrupt_stops_the_pass_and_leaves_the_session_usable() -> None:
    task, dataset = WaitingTask(), toy()

    def interrupt() -> None:
        task.begun.wait(30)
        os.kill(os.getpid(), signal.SIGINT)
        task.go.set()

    # A shell that starts a program in the background has it ignore the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with LocalEngine(2).session(dataset) as session:
        helper = threading.Thread(target=interrupt)
        helper.start()
        with pytest.raises(KeyboardInterrupt):
            # A pass that happens to end first is followed by another.
            while True:
                session.run(task)
        helper.join(30)
        signal.signal(signal.SIGINT, before)
        assert session.run(ToyTask()).total == serial_oracle(dataset, ToyTask()).total


def test_block_that_changed_is_refused() -> None:
    @dataclass(frozen=True)
    class Shrunk(ToyBlock):
        def read(self) -> Rows:
            return super().read().part(0, 1)

    dataset = toy((4,))
    block = dataset.blocks[0]
    shrunk = replace(dataset, blocks=(Shrunk(0, 4, 2, block.dtype),))
    with (
        LocalEngine(1).session(shrunk) as session,
        pytest.raises(SourceError, match="may have changed"),
    ):
        session.run(ToyTask())


def test_limit_too_small_is_refused_before_anything_is_read() -> None:
    with pytest.raises(MemoryLimitError, match="raise memory_limit"):
        LocalEngine(2).session(toy(broken=0), memory_limit=MIB)
    with LocalEngine(2).session(toy(), memory_limit=64 * MIB) as session:
        with pytest.raises(MemoryLimitError, match="fewer components"):
            session.run(ToyTask(workspace_bytes=100 * MIB))
        session.run(ToyTask())


def blas_threads() -> set[int]:
    return {one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"}


def test_blas_is_single_threaded_within_and_restored_after() -> None:
    seen = []

    @dataclass(frozen=True)
    class Looking(ToyTask):
        def evaluate(self, rows: Rows, workspace: Any) -> Trace:
            seen.append(blas_threads())
            return super().evaluate(rows, workspace)

    np.ones((2, 2)) @ np.ones((2, 2))
    before = blas_threads()
    with LocalEngine(2).session(toy()) as outer, LocalEngine(2).session(toy()) as inner:
        stream = outer.stream(Looking())
        next(stream)
        inner.run(Looking())
        assert blas_threads() == {1}
        stream.close()
        assert blas_threads() == before
    assert all(threads == {1} for threads in seen)


def test_overlapping_limits_are_counted() -> None:
    before = blas_threads()
    with single_threaded_blas():
        with single_threaded_blas():
            pass
        assert blas_threads() == {1}
    assert blas_threads() == before


def test_blocks_are_read_for_the_next_pass_before_it_begins() -> None:
    reads = [threading.Event() for _ in range(3)]
    count = iter(range(10))

    @dataclass(frozen=True)
    class Watched(ToyBlock):
        def read(self) -> Rows:
            if self.first_row == 0:
                reads[next(count)].set()
            return super().read()

    size = 2**19
    watched = toy((size,) * 4, part_rows=2**18)
    dtype = watched.blocks[0].dtype
    watched = replace(watched, blocks=tuple(Watched(i * size, size, 2, dtype) for i in range(4)))
    limit = 30 * MIB + 2 * watched.blocks[0].nbytes
    with LocalEngine(2).session(watched, memory_limit=limit) as session:
        first = session.run(ToyTask(), again=True).total
        assert reads[1].wait(30), "nothing was read for a second pass"
        assert session.counters.block_reads == 4, "what no pass has used counts for none"
        assert session.run(ToyTask()).total == first
        assert session.counters.block_reads == 8
        assert not reads[2].is_set()


def test_an_error_while_reading_ahead_is_raised_by_the_next_pass() -> None:
    broken = threading.Event()

    @dataclass(frozen=True)
    class Breaking(ToyBlock):
        def read(self) -> Rows:
            if broken.is_set():
                raise SourceError("gone")
            return super().read()

    size = 2**19
    dataset = toy((size,) * 4, part_rows=2**18)
    dtype = dataset.blocks[0].dtype
    dataset = replace(dataset, blocks=tuple(Breaking(i * size, size, 2, dtype) for i in range(4)))
    limit = 30 * MIB + 2 * dataset.blocks[0].nbytes
    with LocalEngine(2).session(dataset, memory_limit=limit) as session:
        session.run(ToyTask())
        broken.set()
        session._ahead = session._begin_to_read(session._open_pool(), session._everything, 1)
        with pytest.raises(SourceError, match="gone"):
            session.run(ToyTask())
        broken.clear()
        assert session.run(ToyTask()).total.count == dataset.n_rows
