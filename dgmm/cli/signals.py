"""Signals to a fit that keeps checkpoints: the iteration is finished, then the process ends.

Schedulers announce the end of an allocation by SIGTERM or SIGUSR1, people by Ctrl-C. A second
signal ends the command at once, as the first does where there is nothing to finish.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dgmm.checkpoint import StopRequest

__all__ = ["stoppable", "stopped_by_signals"]

_NAMES = ("SIGTERM", "SIGINT", "SIGUSR1")
_SAID = b"\ndgmm: %s: finishing the iteration, then a checkpoint; once more to end at once\n"


def stoppable(estimator: Any) -> AbstractContextManager[None]:
    """Signals end its fit between two iterations if that leaves a checkpoint, else as ever."""
    if getattr(estimator, "checkpoint", None) is None:
        return nullcontext()
    from dgmm.checkpoint import StopRequest

    estimator._stop = StopRequest()
    return stopped_by_signals(estimator._stop)


@contextmanager
def stopped_by_signals(stop: StopRequest) -> Iterator[None]:
    """Make the request for the first signal; raise KeyboardInterrupt where it is not heeded.

    Parameters
    ----------
    stop : StopRequest
    """

    def ask(number: int, frame: FrameType | None) -> None:
        del frame
        name = signal.Signals(number).name
        if not stop.make(name):
            raise KeyboardInterrupt
        # Straight to the descriptor: the handler may have interrupted a print.
        with suppress(OSError):
            os.write(2, _SAID % name.encode())

    # Python allows it in the main thread alone, and not every system has every signal.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
    previous = {number: signal.signal(number, ask) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
