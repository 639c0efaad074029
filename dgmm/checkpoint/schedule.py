"""When a checkpoint is due: every so many iterations, or every so many seconds."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dgmm.errors import InvalidParameterError

__all__ = ["Interval", "Schedule"]

_UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}
_TEXT = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*(s|min|h)\s*")


@dataclass(frozen=True)
class Interval:
    """The time between two checkpoints; one of the two is set.

    Parameters
    ----------
    iterations : int, optional
    seconds : float, optional
    """

    iterations: int | None = None
    seconds: float | None = None

    @classmethod
    def of(cls, value: Any, name: str = "checkpoint_every") -> Interval:
        """The interval of an argument: ``10`` iterations, or ``"30s"``, ``"5min"``, ``"1h"``.

        Raises
        ------
        InvalidParameterError
            If it is neither, or not above zero.
        """
        if isinstance(value, str):
            match = _TEXT.fullmatch(value)
            seconds = 0.0 if match is None else float(match[1]) * _UNITS[match[2]]
            if seconds > 0.0:
                return cls(seconds=seconds)
        elif isinstance(value, int | np.integer) and not isinstance(value, bool) and value >= 1:
            return cls(iterations=int(value))
        raise InvalidParameterError(
            f"{name}={value!r}; it must be a number of iterations of at least 1, or a time such as "
            "'30s', '5min' or '1h'"
        )


class Schedule:
    """Which iterations a checkpoint is due after. Clocks decide when to write, never what.

    Parameters
    ----------
    interval : Interval
    clock : callable, optional
        Seconds since some moment.
    """

    def __init__(self, interval: Interval, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval, self._clock = interval, clock
        self.wrote(0)

    def wrote(self, iteration: int) -> None:
        """Count from here: a checkpoint was written, or could not be."""
        self._iteration, self._time = iteration, self._clock()

    def is_due(self, iteration: int) -> bool:
        """True if one is due after an iteration."""
        if self._interval.iterations is not None:
            return iteration - self._iteration >= self._interval.iterations
        assert self._interval.seconds is not None
        return self._clock() - self._time >= self._interval.seconds
