"""What a system under measurement has to do."""

from __future__ import annotations

from importlib.metadata import version
from typing import Protocol

from benchmarks.problems import Problem, Start

__all__ = ["System", "versions_of"]


class System(Protocol):
    """A system that fits Gaussian mixtures by EM.

    Its module may be imported anywhere; whatever it needs is imported when it is made, and an
    ImportError then is the reason why it is left out.
    """

    def versions(self) -> dict[str, str]:
        """Of the packages that do its arithmetic."""
        ...

    def refusal(self, problem: Problem) -> str | None:
        """Why it cannot solve a problem; None if it can."""
        ...

    def load(self, problem: Problem) -> None:
        """Convert the rows and the start to what it works with; not measured."""
        ...

    def own_start(self, n_components: int) -> Start | None:
        """Where its fits of the rows begin, if no other start can be given to it; else None."""
        ...

    def fit(self, iterations: int) -> None:
        """Fit the loaded rows from the loaded start with exactly that many iterations."""
        ...

    def fitted(self) -> Start:
        """The parameters after the last fit."""
        ...


def versions_of(*packages: str) -> dict[str, str]:
    """Versions of installed packages."""
    return {name: version(name) for name in packages}
