"""GPUs in the worker processes of a cluster: blocks kept on them, and what to do when they fail.

A worker has one device, the first that it sees: clusters start one worker for each
(:mod:`dgmm.engine.gpu_cluster`).
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from dgmm.data.dataset import Rows
from dgmm.devices import is_out_of_memory, is_sticky, let_go
from dgmm.engine.cache import BlockCache
from dgmm.engine.devices import DeviceStore, devices_of, explained
from dgmm.engine.feed import Reads
from dgmm.engine.work import BlockWork

__all__ = ["WorkerDevice"]

R = TypeVar("R")

# Exit code of a worker whose device is lost: "service unavailable" (sysexits.h).
_LOST = 69


class WorkerDevice:
    """What a session of a worker holds on its device. Nothing for tasks that need none."""

    def __init__(self) -> None:
        self._store: DeviceStore | None = None
        self._kept_bytes = 2**62

    def loader(
        self, task: Any, host: BlockCache, work: Sequence[BlockWork], window: int
    ) -> Callable[[BlockWork], tuple[Rows, Reads]] | None:
        """What a feed loads blocks with; None for a task that runs on processors.

        Parameters
        ----------
        task : BlockTask
        host : BlockCache
        work : sequence of BlockWork
            What will be loaded.
        window : int
            Most blocks in flight.
        """
        devices = devices_of(task)
        if not devices:
            return None
        if self._store is None or self._store.device != devices[0]:
            self._store = DeviceStore(devices[0])
        in_flight = window * max(item.block.nbytes for item in work)
        own = task.device_bytes + task.result_bytes
        self._store.keep(self._kept_bytes, own + in_flight)
        return self._store.loader(host)

    def forget(self) -> None:
        """Let go of all blocks."""
        if self._store is not None:
            self._store.cache.resize(0)

    def guard(self, call: Callable[[], R]) -> R:
        """Call until the device has memory enough; end the worker if the device is lost.

        A worker with a lost device would fail every task that it is given, and be given more for
        being so quick. When it is gone, its tasks go to others.
        """
        while True:
            try:
                return call()
            except Exception as error:
                if is_sticky(error):
                    raise self._ended(error) from error
                if not is_out_of_memory(error) or not self._shrink():
                    raise
                let_go(error)

    def _shrink(self) -> bool:
        """Keep half of what is kept; False if that is nothing."""
        kept = 0 if self._store is None else self._store.cache.nbytes
        if self._store is None or not kept:
            return False
        self._kept_bytes = kept // 2
        self._store.cache.resize(self._kept_bytes)
        self._store.shrink()
        return True

    def _ended(self, error: BaseException) -> BaseException:
        # The process of a nanny's worker is a child that is started again; any other process may
        # be the user's own.
        if multiprocessing.parent_process() is None:
            return explained(error)
        print(f"dgmm: this worker ends, its GPU is lost: {error}", file=sys.stderr, flush=True)  # noqa: T201  the worker's log
        os._exit(_LOST)
