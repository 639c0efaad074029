"""What a worker's heartbeat says of dgmm, for each session: parts done so far, tasks at work.

The scheduler keeps the latest heartbeat of each worker. A driver that waits reads there whether a
long task gets on, without asking a worker that may not be able to answer.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["METRIC", "PULSE", "Pulse"]

METRIC = "dgmm"


class Pulse:
    """The work of this process, for the sessions that are open in it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._done: dict[str, int] = {}
        self._running: dict[str, int] = {}

    def open(self, session: str) -> None:
        """Tell of a session from now on."""
        with self._lock:
            self._done.setdefault(session, 0)
            self._running.setdefault(session, 0)

    def close(self, session: str) -> None:
        """Tell of it no more: nobody waits for what its tasks may still be at."""
        with self._lock:
            self._done.pop(session, None)
            self._running.pop(session, None)

    def beat(self, session: str) -> None:
        """A part of a block was evaluated."""
        with self._lock:
            if session in self._done:
                self._done[session] += 1

    @contextmanager
    def at_work(self, session: str) -> Iterator[None]:
        """A task runs; where that is in a worker, its heartbeat says so."""
        _attach(self)
        self._count(session, 1)
        try:
            yield
        finally:
            self._count(session, -1)

    def _count(self, session: str, more: int) -> None:
        with self._lock:
            if session in self._running:
                # One that was closed and opened again in between has counted fewer.
                self._running[session] = max(0, self._running[session] + more)

    def read(self, worker: Any) -> dict[str, dict[str, int]]:
        """As the heartbeat has it: parts done and tasks at work, by session."""
        del worker
        with self._lock:
            return {
                session: {"done": done, "running": self._running[session]}
                for session, done in self._done.items()
            }


PULSE = Pulse()


def _attach(pulse: Pulse) -> None:
    from distributed import get_worker

    try:
        worker = get_worker()
    except ValueError:
        # Called by a test, or by a program of its own.
        return
    worker.metrics.setdefault(METRIC, pulse.read)
