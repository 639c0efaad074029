"""How a fit is followed: a bar on a terminal, plain lines elsewhere, always on standard error."""

from __future__ import annotations

import math
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from dgmm.cli.output import print_line, redact

if TYPE_CHECKING:
    from dgmm.record import FitEvent

__all__ = ["Bar", "Follower", "Lines", "Silence", "describe", "follow"]

# Lines in a log: often enough to see that it lives, seldom enough to read.
SECONDS_BETWEEN_LINES = 1.0


class Follower(ABC):
    """Takes the events of a fit; a context manager."""

    @abstractmethod
    def __call__(self, event: FitEvent) -> None:
        """Take an event."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None


class Silence(Follower):
    """Shows nothing."""

    def __call__(self, event: FitEvent) -> None:
        """Ignore an event."""


class Lines(Follower):
    """Shows a line for an event; for iterations at most one a second unless ``every`` is set.

    Parameters
    ----------
    every : bool, default=False
        Show every iteration.
    clock : callable, optional
        Seconds since some moment.
    """

    def __init__(self, *, every: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self._every = every
        self._clock = clock
        self._next = clock()

    def __call__(self, event: FitEvent) -> None:
        """Print the event, if it is due."""
        now = self._clock()
        if event.kind == "iteration" and not self._every and now < self._next:
            return
        self._next = now + SECONDS_BETWEEN_LINES
        print_line(describe(event))


class Bar(Follower):
    """A bar over the iterations that are allowed, with the latest event beside it."""

    def __init__(self, max_iter: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._progress = Progress(
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            # Markup would read the brackets of a path as a style.
            TextColumn("{task.description}", markup=False),
            console=Console(file=sys.stderr),
        )
        self._task = self._progress.add_task("starting", total=max(1, max_iter))

    def __call__(self, event: FitEvent) -> None:
        """Move the bar."""
        text = redact(describe(event))
        if event.kind == "retired":
            self._progress.console.print(text, markup=False, highlight=False)
            return
        if event.kind == "done":
            self._progress.update(self._task, total=1, completed=1, description=text)
        else:
            self._progress.update(self._task, completed=event.iteration, description=text)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()


def follow(max_iter: int, *, quiet: bool, verbose: bool) -> Follower:
    """The follower for the options given and for where standard error goes."""
    if quiet:
        return Silence()
    if sys.stderr.isatty() and not verbose:
        return Bar(max_iter)
    return Lines(every=verbose)


def describe(event: FitEvent) -> str:
    """An event in a line."""
    if event.kind not in {"iteration", "done"}:
        return f"{event.kind}: {event.message}" if event.message else event.kind
    counted = f"{event.iteration} iteration{'s' * (event.iteration != 1)}"
    parts = [f"done after {counted}" if event.kind == "done" else f"iteration {event.iteration}"]
    # Before the first M-step there is nothing to compare with.
    if math.isfinite(event.lower_bound):
        parts.append(f"lower bound {event.lower_bound:.6f} per row")
    if math.isfinite(event.change):
        parts.append(f"change {event.change:.2e}")
    if event.active > 1:
        parts.append(f"{event.active} restarts running")
    return ", ".join(parts + ([event.message] if event.message else []))
