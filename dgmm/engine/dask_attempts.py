"""How often a pass is begun again after a loss, and when it is given up."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from dgmm.engine.dask_cluster import Held, TasksKilledError
from dgmm.engine.dask_progress import Stillness
from dgmm.engine.dask_suspects import verdict
from dgmm.errors import EngineError

__all__ = ["Attempts"]

# Losses of a pass in a row while the workers stayed the same: nothing explains them.
UNEXPLAINED = 4

# Losses of a pass in all: workers die faster than it can be done.
IN_ALL = 50

# Times that its tasks may lose their workers over and over, without a block that is to blame.
KILLED = 3


class Attempts:
    """The attempts at one pass, and what they have brought home.

    Attributes
    ----------
    held : Held, optional
        The ranges of the first.
    slices : tuple of BlockTask
        The slices of its task; none before that.
    results : dict of int to NodeResult
        By the place among the nodes that the driver receives.
    still : Stillness
        How long nothing has been done.
    """

    def __init__(self) -> None:
        self.held: Held | None = None
        self.slices: tuple[Any, ...] = ()
        self.results: dict[int, Any] = {}
        self.still = Stillness()
        self._workers: set[str] = set()
        self._n = self._unexplained = self._killed = 0

    def begin(self, workers: Collection[str]) -> bool:
        """Another attempt, on these workers. True if it is the first."""
        self._workers = set(workers)
        self._n += 1
        return self._n == 1

    def lost(self, error: BaseException, workers: Collection[str]) -> None:
        """The attempt was in vain; those workers are there now.

        Raises
        ------
        EngineError
            If there is no point in another one.
        """
        self._unexplained = 0 if set(workers) != self._workers else self._unexplained + 1
        if self._unexplained >= UNEXPLAINED or self._n >= IN_ALL:
            raise EngineError(
                f"the cluster dropped the tasks of a pass {self._n} times ({error}); its scheduler "
                "or the workers that held the rows are gone, or workers die faster than a pass can "
                "be done"
            ) from error

    def killed(self, killed: TasksKilledError, innocent: bool) -> None:
        """Its tasks lost their workers, and no block alone kills one.

        Parameters
        ----------
        killed : TasksKilledError
        innocent : bool
            That was seen; if False, the cluster loses workers that do nothing, too.

        Raises
        ------
        DeadlyBlockError
            If that was so too often.
        """
        self._killed += innocent
        if not innocent:
            self.lost(killed, ())
        if self._killed >= KILLED:
            raise verdict(killed.names, f"{killed}, though nothing alone kills one") from killed
