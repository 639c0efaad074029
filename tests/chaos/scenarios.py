"""What may befall a fit: each scenario mistreats one, and returns the figures of what came of it.

A scenario asserts what is promised: the bits of the calm run, or a typed error within its time.
Tests run them short, ``python -m tests.chaos`` runs them long.
"""

from __future__ import annotations

import random
import signal
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import psutil
from distributed import Client

import dgmm
from tests.chaos.clusters import (
    Processes,
    Trouble,
    eventually,
    local,
    send,
    signals_to_workers,
    two_networks,
    worker_pids,
)

MIB = 2**20

Figures = dict[str, Any]


class Watched:
    """A fit whose iterations are timed, and interrupted by ``act`` at one of them."""

    def __init__(self, at: int = -1, act: Callable[[], None] = lambda: None) -> None:
        self.at, self.act = at, act
        self.times: list[float] = []

    def __call__(self, event: Any) -> None:
        if event.kind in ("initialize", "iteration"):
            self.times.append(monotonic())
        if event.kind == "iteration" and event.iteration == self.at:
            self.act()

    @property
    def slowest(self) -> float:
        return round(float(max(np.diff(self.times), default=0.0)), 2)


def rows(folder: Path, n_rows: int) -> Path:
    """Overlapping clusters on disk."""
    place = folder / f"rows-{n_rows}.npy"
    if not place.exists():
        rng = np.random.default_rng(1)
        x = rng.normal(size=(n_rows, 4)) + 2.0 * rng.integers(4, size=(n_rows, 1))
        np.save(place, x)
    return place


def fit(
    data: Any, iterations: int, engine: Any = None, watched: Watched | None = None, **more: Any
) -> dgmm.GaussianMixture:
    arguments = {"n_components": 8, "init_params": "random", "tol": 0.0, "random_state": 0}
    gm = dgmm.GaussianMixture(**arguments, max_iter=iterations, engine=engine, **more)
    gm._on_event = watched
    with warnings.catch_warnings():
        # tol=0 does not converge, and a disk that is full is what is wanted.
        warnings.simplefilter("ignore")
        rows = str(data) if isinstance(data, Path) else data
        return gm.fit(dgmm.open_dataset(rows, block_bytes=MIB))


def same_bits(one: dgmm.GaussianMixture, other: dgmm.GaussianMixture) -> bool:
    assert one.lower_bounds_ == other.lower_bounds_
    for name in ("weights_", "means_", "covariances_"):
        assert getattr(one, name).tobytes() == getattr(other, name).tobytes(), name
    return True


# ------------------------------------------------------------------------------------- workers


def signals(
    folder: Path,
    *,
    iterations: int,
    n_rows: int,
    mean: float,
    seed: int,
    numbers: tuple[signal.Signals, ...] = (signal.SIGKILL,),
    **timeouts: float,
) -> Figures:
    """Workers get signals at random all the while."""
    data, watched = rows(folder, n_rows), Watched()
    calm = fit(data, iterations)
    with local() as client:
        act = signals_to_workers(client.cluster, *numbers)
        with Trouble(act, mean, seed) as trouble:
            found = fit(data, iterations, dgmm.DaskEngine(client, **timeouts), watched)
    return {
        "iterations": found.n_iter_,
        "signals": trouble.times,
        "seconds_between_signals": mean,
        "slowest_iteration_s": watched.slowest,
        "bits_equal": same_bits(found, calm),
    }


def signals_at_iterations(
    folder: Path,
    *,
    iterations: int,
    n_rows: int,
    every: int,
    seed: int,
    numbers: tuple[signal.Signals, ...],
) -> Figures:
    """A worker gets a signal each few iterations: what happens does not depend on clocks."""
    data, chosen, sent = rows(folder, n_rows), random.Random(seed), []  # noqa: S311
    calm = fit(data, iterations)
    with local() as client:
        act = signals_to_workers(client.cluster, *numbers)

        class Hit(Watched):
            def __call__(self, event: Any) -> None:
                super().__call__(event)
                if event.kind == "iteration" and event.iteration % every == 0:
                    sent.append(eventually(lambda: act(chosen), "a worker"))

        watched = Hit()
        found = fit(data, iterations, dgmm.DaskEngine(client), watched)
    return {
        "signals": len(sent),
        "slowest_iteration_s": watched.slowest,
        "bits_equal": same_bits(found, calm),
    }


def stopped_worker(folder: Path, *, n_rows: int, worker_timeout: float) -> Figures:
    """A worker is stopped and never goes on."""
    data = rows(folder, n_rows)
    calm = fit(data, 6)
    with local() as client:
        pid = worker_pids(client.cluster)[0]
        watched = Watched(2, lambda: send(pid, signal.SIGSTOP))
        found = fit(data, 6, dgmm.DaskEngine(client, worker_timeout=worker_timeout), watched)
    return {
        "worker_timeout_s": worker_timeout,
        "slowest_iteration_s": watched.slowest,
        "bits_equal": same_bits(found, calm),
    }


def all_workers_die_as_they_start(folder: Path, *, n_rows: int, rounds: int) -> Figures:
    """Every process of a cluster is killed, and those that nannies start in their place, too."""
    data = rows(folder, n_rows)
    calm = fit(data, 4)
    with local() as client:
        killed: set[int] = set()

        def kill() -> bool:
            new = set(worker_pids(client.cluster)) - killed
            for pid in new:
                send(pid, signal.SIGKILL)
            killed.update(new)
            return len(killed) >= 2 * rounds

        began: list[float] = []

        def act() -> None:
            eventually(kill, "workers to kill")
            began.append(monotonic())

        engine, watched = dgmm.DaskEngine(client, no_workers_timeout=60), Watched(1, act)
        found = fit(data, 4, engine, watched)
    after = [time for time in watched.times if time > began[0]]
    return {
        "killed": len(killed),
        "healed_after_s": round(after[0] - began[0], 2),
        "bits_equal": same_bits(found, calm),
    }


def no_workers(folder: Path, *, n_rows: int, no_workers_timeout: float) -> Figures:
    """Workers that nobody replaces all die."""
    with Processes(folder) as processes, _connected(processes, 2) as client:
        engine = dgmm.DaskEngine(client, no_workers_timeout=no_workers_timeout)

        def act() -> None:
            for process in processes.workers:
                send(process.pid, signal.SIGKILL)

        seconds = _fails(dgmm.NoWorkersError, rows(folder, n_rows), engine, act)
    return {"no_workers_timeout_s": no_workers_timeout, "error_after_s": seconds}


# ----------------------------------------------------------------------------------- scheduler


def scheduler_killed(folder: Path, *, n_rows: int) -> Figures:
    """The scheduler dies; another cluster and the checkpoint finish the fit."""
    data, place = rows(folder, n_rows), folder / "scheduler-killed"
    calm = fit(data, 8)
    keep = {"checkpoint": place, "checkpoint_every": 1}
    with Processes(folder) as processes, _connected(processes, 2) as client:
        engine = dgmm.DaskEngine(client, scheduler_timeout=5)
        seconds = _fails(dgmm.SchedulerLostError, data, engine, processes.kill, **keep)
    with Processes(folder) as processes, _connected(processes, 1) as client:
        found = fit(data, 8, dgmm.DaskEngine(client), resume="must", **keep)
    assert any("resumed" in note for note in found.record_.notes)
    return {"error_after_s": seconds, "bits_equal": same_bits(found, calm)}


def scheduler_stopped(folder: Path, *, n_rows: int, scheduler_timeout: float) -> Figures:
    """The scheduler is there and says nothing."""
    with Processes(folder) as processes, _connected(processes, 1) as client:
        engine = dgmm.DaskEngine(client, scheduler_timeout=scheduler_timeout)

        def act() -> None:
            processes.kill(signal.SIGSTOP)

        seconds = _fails(dgmm.SchedulerLostError, rows(folder, n_rows), engine, act)
        processes.kill(signal.SIGCONT)
    return {"scheduler_timeout_s": scheduler_timeout, "error_after_s": seconds}


def client_restarted(folder: Path, *, n_rows: int) -> Figures:
    """Somebody restarts all workers by the client."""
    data = rows(folder, n_rows)
    calm = fit(data, 6)
    with local() as client:
        threads = []

        def act() -> None:
            threads.append(threading.Thread(target=client.restart, daemon=True))
            threads[-1].start()

        watched = Watched(2, act)
        found = fit(data, 6, dgmm.DaskEngine(client), watched)
        threads[0].join(120)
    return {"slowest_iteration_s": watched.slowest, "bits_equal": same_bits(found, calm)}


# ----------------------------------------------------------------------------------- network


def network_cut(folder: Path, *, n_rows: int, worker_timeout: float) -> Figures:
    """One of two workers is cut off by pulling its cable, in namespaces of the kernel.

    Raises RuntimeError where there can be none.
    """
    from tests.chaos.cutoff import in_namespace

    data = rows(folder, n_rows)
    calm = fit(data, 6)
    with two_networks() as (here, there, address):
        found, slowest = in_namespace(here, there, address, folder, data, worker_timeout)
    assert found["lower_bounds"] == list(calm.lower_bounds_)
    assert found["means"] == calm.means_.tobytes().hex()
    return {
        "worker_timeout_s": worker_timeout,
        "slowest_iteration_s": slowest,
        "bits_equal": True,
    }


# ---------------------------------------------------------------------------------------- soak


def soak(folder: Path, *, iterations: int) -> Figures:
    """A long calm run: what the scheduler and the driver hold must not grow."""
    data, process = rows(folder, 4000), psutil.Process()
    held: list[int] = []

    class Weighed(Watched):
        def __call__(self, event: Any) -> None:
            super().__call__(event)
            if event.kind == "iteration":
                held.append(process.memory_info().rss)

    with local() as client:
        found = fit(data, iterations, dgmm.DaskEngine(client), Weighed())
        left = _tasks_left(client)
    # After a tenth, everything that is loaded once has been loaded.
    grown = max(held[len(held) // 10 :]) - held[len(held) // 10]
    assert grown <= 20 * MIB
    assert len(held) == iterations
    return {
        "iterations": found.n_iter_,
        "tasks_left": left,
        "driver_grew_by_MiB": round(grown / MIB, 2),
    }


def _tasks_left(client: Client) -> int:
    def count(dask_scheduler: Any = None) -> int:
        return len(dask_scheduler.tasks)

    # Releasing a task is a message on its way.
    eventually(lambda: not client.run_on_scheduler(count), "tasks to be forgotten", 30)
    return int(client.run_on_scheduler(count))


# ------------------------------------------------------------------------------------- helpers


def _connected(processes: Processes, n_workers: int) -> Client:
    client = Client(processes.start(n_workers), set_as_default=False, timeout=60)
    client.wait_for_workers(n_workers, timeout=120)
    return client


def _fails(
    error: type[Exception], data: Path, engine: Any, act: Callable[[], None], **more: Any
) -> float:
    """Seconds from the act to the error, which has to come."""
    began: list[float] = []

    def begin() -> None:
        began.append(monotonic())
        act()

    try:
        fit(data, 10**6, engine, Watched(3, begin), **more)
    except error:
        return round(monotonic() - began[0], 2)
    raise AssertionError(f"the fit came to an end without a {error.__name__}")
