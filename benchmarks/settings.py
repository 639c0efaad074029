"""How much to measure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from benchmarks.systems import compiled_device

T = TypeVar("T")

Size = Literal["quick", "default", "complete"]


@dataclass(frozen=True)
class Settings:
    """Of one run.

    Parameters
    ----------
    size : {"quick", "default", "complete"}
        ``quick`` shows whether everything works, not how fast it is.
    out : Path
        Where results go.
    peers_python : str, optional
        The interpreter of an environment that has the peers; None: this one.
    """

    size: Size = "default"
    out: Path = Path("benchmarks/results")
    peers_python: str | None = None

    @property
    def device(self) -> str:
        """Of dgmm on its own: compiled loops, for which a quick run does not wait."""
        return self.pick("cpu", compiled_device())

    def pick(self, quick: T, default: T, complete: T | None = None) -> T:
        """What goes with the size; ``complete`` is as ``default`` if it is not given."""
        if self.size == "quick":
            return quick
        return complete if self.size == "complete" and complete is not None else default
