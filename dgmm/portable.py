"""Errors that arrive in another process as what they are.

An error is pickled with what led to it. Where that does not come back from a pickle (the errors of
some libraries do not), Dask sends a plain ``Exception`` with the text of ours in its place.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager

from dgmm.errors import DgmmError

__all__ = ["portable_errors"]


@contextmanager
def portable_errors() -> Iterator[None]:
    """Take from an error of ours what led to it, where it could not travel or is to be hidden."""
    try:
        yield
    except DgmmError as error:
        # "from None" hides what may show a credential, in the pickle as well.
        hidden = error.__cause__ is None and error.__suppress_context__
        if hidden or not all(map(_travels, _origins(error))):
            error.__cause__ = error.__context__ = None
        raise


def _origins(error: BaseException) -> Iterator[BaseException]:
    """What an error's pickle would hold beside it, in the end."""
    todo, seen = [error], {id(error)}
    while todo:
        one = todo.pop()
        for origin in (one.__cause__, one.__context__, *getattr(one, "exceptions", ())):
            if isinstance(origin, BaseException) and id(origin) not in seen:
                seen.add(id(origin))
                todo.append(origin)
                yield origin


def _travels(error: BaseException) -> bool:
    """True for an error of Python's or ours that a pickle gives back.

    Those of libraries may be given back here, and fail where Dask has taught pickle tracebacks.
    """
    if type(error).__module__ not in ("builtins", DgmmError.__module__):
        return False
    try:
        # Made in the line itself, not read from anywhere.
        return type(pickle.loads(pickle.dumps(error))) is type(error)  # noqa: S301
    except Exception:  # noqa: BLE001 (what is in it may be anyone's, and raise what it likes)
        return False
