"""Single-threaded BLAS while a pass runs: the threads of the engine are the only ones.

The number of BLAS threads is a setting of the whole process, so passes that overlap share it: the
first sets it, the last restores what was there before.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["single_threaded_blas"]


class _SharedLimit:
    """A limit that holds while anyone uses it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._limiter: Any = None
        self._controller: Any = None
        self._modules_seen = 0

    def acquire(self) -> None:
        with self._lock:
            if self._users == 0:
                self._limiter = self._libraries().limit(limits=1, user_api="blas")
            self._users += 1

    def release(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._limiter.restore_original_limits()
                self._limiter = None

    def _libraries(self) -> Any:
        """The controller of the BLAS libraries, searched again only after imports.

        A search walks all libraries of the process; another BLAS (that of SciPy beside NumPy's)
        can only have come with an import.
        """
        if self._controller is None or self._modules_seen != len(sys.modules):
            from threadpoolctl import ThreadpoolController

            self._controller, self._modules_seen = ThreadpoolController(), len(sys.modules)
        return self._controller


_shared = _SharedLimit()


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Hold BLAS at one thread in this process."""
    _shared.acquire()
    try:
        yield
    finally:
        _shared.release()
