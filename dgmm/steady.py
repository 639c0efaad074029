"""A session that refuses a pass over other rows than those that the profile counted.

Where damaged blocks are skipped, one that becomes unreadable (or readable again) in the middle of a
fit would change the data under it without a word.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from dgmm.engine.base import BlockTask, Reduced, Session
from dgmm.errors import DataChangedError

__all__ = ["SteadySession", "steadied"]


def steadied(session: Session, n_rows: int) -> Session:
    """The session, with its passes checked if blocks may be skipped.

    Parameters
    ----------
    session : Session
    n_rows : int
        Rows that count, by the profile.
    """
    if session.dataset.skipping is None:
        return session
    # What it does not check it hands on.
    return cast("Session", SteadySession(session, n_rows))


class SteadySession:
    """The session it is given, whose passes over all rows are checked.

    Parameters
    ----------
    session : Session
    n_rows : int
        Rows that count, by the profile.
    """

    def __init__(self, session: Session, n_rows: int) -> None:
        self._session = session
        self._n_rows = n_rows

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(
        self, task: BlockTask[Any], *, blocks: Sequence[int] | None = None, **options: Any
    ) -> Reduced[Any]:
        """Evaluate the task as the session does; see :class:`dgmm.engine.base.Session`.

        Raises
        ------
        DataChangedError
            If statistics of mixtures are of another number of rows.
        """
        found: Reduced[Any] = self._session.run(task, blocks=blocks, **options)
        if blocks is None:
            for one in getattr(found.total, "members", ()):
                n_rows = getattr(one, "n_rows", self._n_rows)
                if n_rows != self._n_rows:
                    raise DataChangedError(
                        f"a pass counted {n_rows} rows, and the first one {self._n_rows}: blocks "
                        "that are skipped became damaged, or readable, in the meantime; repair the "
                        "data and fit it again"
                    )
        return found
