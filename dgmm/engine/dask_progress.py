"""How long a pass has stood still: a clock that nothing but work that is done sets back.

Workers that come and go, and tasks that are given to others, are not progress. What others do again
of a range that they were given stops the clock and does not set it back: the pass is where it was.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

__all__ = ["Stillness"]


class Stillness:
    """For how long nothing has been done of a pass, over all attempts at it.

    Attributes
    ----------
    handed_on : bool
        Others were given what nobody got on with, and no node has arrived since.
    """

    def __init__(self) -> None:
        self.handed_on = False
        self._before = self._since = 0.0
        self._steps: set[str] = set()
        self._done: dict[str, int] = {}

    @property
    def seconds(self) -> float:
        """Of those in which the pass was watched."""
        return self._before + self._since

    def wait(self, seconds: float) -> None:
        """So much time has gone by."""
        self._since += seconds

    def observe(self, steps: Collection[str], done: Mapping[str, int]) -> None:
        """See whether anything was done since the last time.

        Parameters
        ----------
        steps : collection of str
            What can happen once in a pass: a task that was given to a worker, since what it needs
            is there, or one that has ended.
        done : mapping of str to int
            Parts of blocks that each worker has done so far.
        """
        moved = not self._steps.issuperset(steps)
        self._steps.update(steps)
        for worker, count in done.items():
            moved |= count > self._done.get(worker, 0)
            # A process that was started anew at the same address counts from 0.
            self._done[worker] = count
        if moved:
            self._since = 0.0

    def hand_on(self) -> None:
        """Others try: the time so far stays counted, whatever they do again."""
        self.handed_on = True
        self._before, self._since = self.seconds, 0.0

    def arrive(self) -> None:
        """A node has arrived, which nobody has to do again."""
        self.handed_on = False
        self._before = self._since = 0.0
