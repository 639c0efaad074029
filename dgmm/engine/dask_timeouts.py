"""How long a session waits for a cluster before it acts or gives up."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from numbers import Real

from dgmm.errors import InvalidParameterError

__all__ = ["Timeouts"]


@dataclass(frozen=True)
class Timeouts:
    """Seconds, all finite; see :class:`dgmm.engine.dask.DaskEngine`.

    Raises
    ------
    InvalidParameterError
        For what is no positive number of seconds.
    """

    no_workers_timeout: float = 45.0
    worker_timeout: float = 30.0
    progress_timeout: float = 600.0
    scheduler_timeout: float = 30.0

    def __post_init__(self) -> None:
        for name, seconds in asdict(self).items():
            number = isinstance(seconds, Real) and not isinstance(seconds, bool)
            if not (number and math.isfinite(seconds) and seconds > 0):
                raise InvalidParameterError(
                    f"{name}={seconds!r}; it must be a number of seconds above 0, and finite: "
                    "nothing waits for ever"
                )
