"""Exit codes, and which of them an exception ends with.

They follow sysexits.h, so that a scheduler can tell a run worth repeating (75) from one that will
fail again (2, 65).
"""

from __future__ import annotations

from enum import IntEnum

import click

from dgmm.errors import (
    DeadlyBlockError,
    DgmmError,
    EngineError,
    FitStoppedError,
    InvalidParameterError,
    MemoryLimitError,
    MissingDependencyError,
    StoreUnavailableError,
)

__all__ = ["Exit", "exit_of"]


class Exit(IntEnum):
    """What a command's exit code says."""

    DONE = 0
    BUG = 1
    USAGE = 2  # change the command (or install what it asks for)
    DATA = 65  # change the data or the model
    AGAIN = 75  # a cluster, a store, a disk, a signal: the same command may succeed later


def exit_of(error: BaseException) -> Exit:
    """The exit code for an exception that ended a command."""
    # A limit that is too small for one block is a matter of the options, as a missing extra is.
    if isinstance(error, InvalidParameterError | MemoryLimitError | MissingDependencyError):
        return Exit.USAGE
    # The same blocks would kill other workers.
    if isinstance(error, DeadlyBlockError):
        return Exit.DATA
    if isinstance(error, EngineError | FitStoppedError | StoreUnavailableError):
        return Exit.AGAIN
    if isinstance(error, DgmmError):
        return Exit.DATA
    if isinstance(error, click.exceptions.Abort | KeyboardInterrupt):
        return Exit.AGAIN
    if isinstance(error, click.ClickException):
        return Exit.USAGE
    # A full disk, a machine out of memory.
    if isinstance(error, OSError | MemoryError):
        return Exit.AGAIN
    return Exit.BUG
