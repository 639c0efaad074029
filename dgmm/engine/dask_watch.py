"""The watch over a pass: whether there are workers, they answer, and something moves."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from time import monotonic
from typing import Any

from distributed import CancelledError, Future
from distributed.scheduler import NoValidWorkerError, heartbeat_interval

from dgmm.engine.dask_calls import Calls
from dgmm.engine.dask_graph import PassGraph
from dgmm.engine.dask_heartbeat import METRIC
from dgmm.engine.dask_local import Supervisor
from dgmm.engine.dask_progress import Stillness
from dgmm.engine.dask_timeouts import Timeouts
from dgmm.errors import NoWorkersError, StalledError

__all__ = ["Vigil", "deserted", "evict", "given_up"]

_log = logging.getLogger("dgmm.engine")

# Most seconds between two looks at the heartbeats.
_LOOK_SECONDS = 5.0

# Heartbeats that a worker has to miss in any case.
_BEATS = 5

# How long a nanny may take to end a process that does not answer.
_NANNY_SECONDS = 10.0

_MOST_NAMED = 3


class Vigil:
    """What the driver keeps an eye on while it waits for a pass.

    Parameters
    ----------
    calls : Calls
    supervisor : Supervisor
    timeouts : Timeouts
    session : str
    graph : PassGraph, optional
        The tasks of the pass; without one, the tasks of somebody else are waited for.
    futures : sequence of Future
    workers : collection of str
        Those that tasks of the graph asked for.
    still : Stillness, optional
        Of the pass so far.
    """

    def __init__(
        self,
        calls: Calls,
        supervisor: Supervisor,
        timeouts: Timeouts,
        session: str,
        graph: PassGraph | None,
        futures: Sequence[Future[Any]],
        workers: Collection[str] = (),
        still: Stillness | None = None,
    ) -> None:
        self._calls, self._supervisor, self._timeouts = calls, supervisor, timeouts
        self._session, self._futures, self._workers = session, futures, set(workers)
        self._keys = set() if graph is None else graph.keys()
        self._names: Mapping[str, str] = {} if graph is None else graph.ranges
        self._suffix = "" if graph is None else f"-{graph.name}"
        self._still = Stillness() if still is None else still
        self._peopled = self._looked = self._counted = monotonic()
        self._beats: dict[str, tuple[Any, float]] = {}

    def look(self) -> None:
        """Act on what can be healed.

        Raises
        ------
        NoWorkersError, SchedulerLostError, StalledError
            When the time for it is over.
        distributed.CancelledError
            If the tasks have to be submitted again.
        """
        here, now = self._calls.ask(self._calls.client.nthreads), monotonic()
        self._supervisor.look(len(here))
        if not here and now - self._peopled > self._timeouts.no_workers_timeout:
            raise deserted(self._timeouts)
        if not here:
            # There is nobody who could be expected to make progress.
            self._counted = now
            return
        self._peopled = now
        if self._workers and not self._workers & set(here):
            # A task that asks for a worker, while there is none at all, is forgotten by the
            # scheduler when other workers come, in spite of allow_other_workers.
            raise CancelledError("all workers were replaced")
        if now - self._looked > self._pause():
            self._looked = now
            self._look_closely()

    def _pause(self) -> float:
        """Seconds between two looks at the heartbeats."""
        limits = self._timeouts.worker_timeout, self._timeouts.progress_timeout
        return min(_LOOK_SECONDS, min(limits) / 4)

    def _look_closely(self) -> None:
        client = self._calls.client
        info = self._calls.ask(self._calls.scheduler.identity, n_workers=-1)["workers"]
        at_work = {
            worker: sorted(self._keys.intersection(map(str, keys)))
            for worker, keys in self._calls.ask(client.processing).items()
        }
        if silent := self._silent(info):
            evict(self._calls, silent, f"has not been heard of for {self._limit()}")
        # Of this session: what a worker does for others says nothing of ours.
        pulses = {
            one: info[one]["metrics"].get(METRIC, {}).get(self._session, {})
            for one in at_work
            if one in info
        }
        now = monotonic()
        self._still.wait(now - self._counted)
        self._counted = now
        done = {worker: pulse["done"] for worker, pulse in pulses.items() if "done" in pulse}
        self._still.observe(self._steps(at_work), done)
        still, limit = self._still.seconds, self._timeouts.progress_timeout
        if still > limit:
            raise self._stalled(at_work)
        # A worker that is busy for somebody else has not begun with ours.
        stuck = {
            worker: info[worker]["nanny"]
            for worker, keys in at_work.items()
            if keys and pulses.get(worker, {}).get("running")
        }
        if still > limit / 2 and stuck and not self._still.handed_on:
            self._still.hand_on()
            evict(self._calls, stuck, f"got nowhere in {still:.0f} seconds")

    def _steps(self, at_work: Mapping[str, Sequence[str]]) -> set[str]:
        """What happens once in a pass, by names that it has in every attempt."""
        begun = {key for keys in at_work.values() for key in keys}
        ended = {str(one.key) for one in self._futures if one.status == "finished"}
        return {
            f"{what} {key.removesuffix(self._suffix)}"
            for what, keys in (("begun", begun), ("ended", ended))
            for key in keys
        }

    def _silent(self, info: Mapping[str, Any]) -> dict[str, str | None]:
        """Workers whose heartbeat is overdue: stopped, cut off, or out of memory and swapping.

        With their nannies.
        """
        now, silent = monotonic(), {}
        # In large clusters, they are heard of less often.
        limit = max(self._timeouts.worker_timeout, _BEATS * heartbeat_interval(len(info)))
        for worker, one in info.items():
            seen = one["last_seen"]
            # By our clock, which need not agree with the scheduler's.
            if self._beats.get(worker, (None, now))[0] != seen:
                self._beats[worker] = (seen, now)
            elif now - self._beats[worker][1] > limit:
                silent[worker] = one["nanny"]
        return silent

    def _limit(self) -> str:
        return f"{self._timeouts.worker_timeout:g} seconds"

    def _stalled(self, at_work: Mapping[str, Sequence[str]]) -> StalledError:
        stuck = [
            f"{self._names.get(key, 'a merge of results')} on {worker}"
            for worker, keys in at_work.items()
            for key in keys
        ]
        more = f" and {len(stuck) - _MOST_NAMED} more" if len(stuck) > _MOST_NAMED else ""
        where = ", ".join(stuck[:_MOST_NAMED]) + more or "no task of it is at work"
        return StalledError(
            f"the pass has made no progress for {self._timeouts.progress_timeout:g} seconds: "
            f"{where}; see what the workers wait for (a store that does not answer, tasks of "
            "others), or raise progress_timeout of DaskEngine"
        )


def evict(calls: Calls, workers: Mapping[str, str | None], why: str) -> None:
    """Have the scheduler give workers' tasks to others, as it does when they die.

    Their nannies, if there are some that can be reached, start others: ``workers`` has them.
    """
    for worker in workers:
        _log.warning("worker %s %s; its share goes to others", worker, why)
    if nursed := [worker for worker, nanny in workers.items() if nanny is not None]:
        again = calls.client.restart_workers
        calls.tell(again, nursed, timeout=_NANNY_SECONDS, raise_for_error=False, seconds=1.0)
    # Told to close, a worker would tell its nanny that no other is wanted.
    remove = calls.scheduler.unregister
    for worker, nanny in workers.items():
        calls.ask(remove, address=worker, stimulus_id=f"dgmm-{worker}", close=nanny is None)


def deserted(timeouts: Timeouts) -> NoWorkersError:
    """The error of a cluster without workers."""
    return NoWorkersError(
        f"the cluster has had no workers for {timeouts.no_workers_timeout:g} seconds; start "
        "workers, or raise no_workers_timeout of DaskEngine"
    )


def given_up(error: NoValidWorkerError) -> NoWorkersError:
    """The error of a task that the scheduler kept for a worker until its own patience ended."""
    return NoWorkersError(
        f"the scheduler found no worker for a task of the pass and gave it up ({error}); start "
        "workers, or raise distributed.scheduler.no-workers-timeout where the scheduler runs"
    )
