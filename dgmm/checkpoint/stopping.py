"""A request to stop a fit between two iterations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["StopRequest"]


class StopRequest:
    """Asks a fit to end after the iteration that is running, with a checkpoint.

    It may be made from a signal handler or another thread: it does nothing but set an attribute.
    """

    def __init__(self) -> None:
        self.reason = ""
        self._is_heeded = False

    def make(self, reason: str) -> bool:
        """Ask.

        Parameters
        ----------
        reason : str
            Who asks, for the message: ``"SIGTERM"``.

        Returns
        -------
        bool
            False if it will not be heeded: nothing runs that would end with a checkpoint, or the
            same has been asked before. The caller then ends things its own way.
        """
        if not self._is_heeded or self.reason:
            return False
        self.reason = reason
        return True

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """While iterations run."""
        self._is_heeded = True
        try:
            yield
        finally:
            self._is_heeded = False
