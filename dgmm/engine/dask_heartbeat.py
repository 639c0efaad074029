"""What a worker's heartbeat says of dgmm: parts done so far, and tasks at work.

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
    """The work of this process.

    Attributes
    ----------
    done : int
        Parts of blocks that were evaluated.
    running : int
        Tasks that are at it now.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.done = 0
        self.running = 0

    def beat(self) -> None:
        """A part is done."""
        with self._lock:
            self.done += 1

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """A task runs; where that is in a worker, its heartbeat says so."""
        _attach(self)
        with self._lock:
            self.running += 1
        try:
            yield
        finally:
            with self._lock:
                self.running -= 1

    def read(self, worker: Any) -> dict[str, int]:
        """As the heartbeat has it."""
        del worker
        return {"done": self.done, "running": self.running}


PULSE = Pulse()


def _attach(pulse: Pulse) -> None:
    from distributed import get_worker

    try:
        worker = get_worker()
    except ValueError:
        # Called by a test, or by a program of its own.
        return
    worker.metrics.setdefault(METRIC, pulse.read)
