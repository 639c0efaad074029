"""How long a pass may stand still: by a clock of the test's own, with a scheduler that is none."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from dgmm.engine import dask_watch
from dgmm.engine.dask_heartbeat import METRIC
from dgmm.engine.dask_progress import Stillness
from dgmm.engine.dask_timeouts import Timeouts
from dgmm.engine.dask_watch import Vigil
from dgmm.errors import StalledError

LIMIT = 600.0


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Scheduler:
    """Two workers, the ranges that they are at, and what their heartbeats say.

    A worker that is given up comes back under another name, with its range and nothing done.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.done = {"a": 0, "b": 0}
        self.evicted = 0
        names = SimpleNamespace(name="run", ranges={}, keys=lambda: {"r0-run", "r1-run"})
        self.graph: Any = names

    # What a client and its scheduler are asked for.
    client = property(lambda self: self)
    scheduler = property(lambda self: self)

    def ask(self, question: Any, *arguments: Any, **options: Any) -> Any:
        return question(*arguments, **options)

    def tell(self, *arguments: Any, **options: Any) -> None:
        del arguments, options

    def nthreads(self) -> dict[str, int]:
        return dict.fromkeys(self.done, 1)

    def processing(self) -> dict[str, list[str]]:
        return {worker: [f"r{place}-run"] for place, worker in enumerate(self.done)}

    def identity(self, n_workers: int) -> dict[str, Any]:
        del n_workers
        return {"workers": {worker: self._told(done) for worker, done in self.done.items()}}

    def _told(self, done: int) -> dict[str, Any]:
        pulse = {METRIC: {"mine": {"done": done, "running": 1}}}
        return {"metrics": pulse, "nanny": "nanny", "last_seen": self.clock.now}

    def restart_workers(self) -> None:
        raise AssertionError("told, not asked")

    def unregister(self, address: str, stimulus_id: str, close: bool) -> None:
        del stimulus_id, close
        self.evicted += 1
        self.done = {
            f"{worker}'" if worker == address else worker: 0 if worker == address else done
            for worker, done in self.done.items()
        }


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(dask_watch, "monotonic", clock)
    return clock


def vigil(cluster: Any, still: Stillness | None = None, limit: float = LIMIT) -> Vigil:
    supervisor: Any = SimpleNamespace(look=int)
    timeouts = Timeouts(progress_timeout=limit)
    return Vigil(cluster, supervisor, timeouts, "mine", cluster.graph, (), (), still)


def seconds_until_stalled(clock: Clock, watched: Vigil, each: Any = lambda: None) -> float:
    begin = clock.now
    with pytest.raises(StalledError):
        while clock.now < begin + 100 * LIMIT:
            clock.now += 1.0
            each()
            watched.look()
    return clock.now - begin


@pytest.mark.parametrize("limit", [10.0, LIMIT])
def test_workers_that_are_given_up_buy_no_time(clock: Clock, limit: float) -> None:
    cluster = Scheduler(clock)
    seconds = seconds_until_stalled(clock, vigil(cluster, limit=limit))
    assert limit <= seconds <= limit + 15
    assert cluster.evicted == 2


def test_workers_that_come_and_go_buy_no_time(clock: Clock) -> None:
    cluster = Scheduler(clock)

    def die() -> None:
        if clock.now % 20 == 0:
            cluster.unregister(next(iter(cluster.done)), "", close=False)

    assert LIMIT <= seconds_until_stalled(clock, vigil(cluster), die) <= LIMIT + 15


def test_a_pass_that_is_begun_again_buys_no_time(clock: Clock) -> None:
    cluster, still = Scheduler(clock), Stillness()
    first = vigil(cluster, still)
    while clock.now < LIMIT / 3:
        clock.now += 1.0
        first.look()
    # What went by between two attempts is not the pass's.
    clock.now += 10 * LIMIT
    seconds = seconds_until_stalled(clock, vigil(cluster, still))
    assert LIMIT * 2 / 3 - 15 <= seconds <= LIMIT * 2 / 3 + 15


def test_what_is_done_again_stops_the_clock_and_what_arrives_sets_it_back(clock: Clock) -> None:
    cluster, still = Scheduler(clock), Stillness()
    watched = vigil(cluster, still)

    def redo() -> None:
        # For an hour the worker that was asked in the place of another does its parts again.
        if cluster.evicted and clock.now < 3600:
            cluster.done["a'"] += 1

    seconds = seconds_until_stalled(clock, watched, redo)
    assert 3600 + LIMIT / 2 - 15 <= seconds <= 3600 + LIMIT / 2 + 15
    assert cluster.evicted == 2
    still.arrive()
    assert LIMIT <= seconds_until_stalled(clock, watched) <= LIMIT + 15
    assert cluster.evicted == 4


def test_parts_that_are_done_are_progress(clock: Clock) -> None:
    cluster = Scheduler(clock)
    watched = vigil(cluster)
    for _ in range(20):
        # A little less than half of the limit, after which others would be asked.
        for _ in range(280):
            clock.now += 1.0
            watched.look()
        cluster.done["b"] += 1
    assert not cluster.evicted


def test_a_process_that_counts_from_nothing_again_is_heard() -> None:
    still = Stillness()
    for done, moved in ((5, True), (5, False), (1, False), (2, True), (2, False)):
        still.wait(1.0)
        still.observe((), {"a": done})
        assert (still.seconds == 0.0) == moved
