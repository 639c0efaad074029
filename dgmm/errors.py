"""The exceptions that dgmm raises, one tree, each also the nearest built-in.

::

    DgmmError
    ├── InvalidParameterError   (ValueError)    an argument out of range or of the wrong shape
    ├── InvalidDataError        (ValueError)    rows that cannot be fitted: NaN, too few, too wide
    ├── InvalidDtypeError       (TypeError)     strings, objects, complex numbers
    │   └── ComplexDataError                    complex numbers: an InvalidDataError as well
    ├── SingularMixtureError    (ValueError)    every restart collapsed
    │   └── EmptyComponentError                 or lost a component, with empty_components='raise'
    ├── SourceError             (OSError)       a source that cannot be opened or read
    │   ├── MissingChunkError                   a chunk that was never written
    │   ├── DamagedBlockError                   a block whose bytes do not pass their check
    │   ├── DataChangedError                    a block that was rewritten after it was opened
    │   └── StoreUnavailableError               no network, credentials, permission or space
    ├── ModelFileError          (ValueError)    a model file truncated, altered or too new
    ├── CheckpointError         (ValueError)    a checkpoint missing, truncated, altered or too new
    │   └── CheckpointMismatchError             one of another fit: an InvalidParameterError as well
    ├── FitStoppedError         (RuntimeError)  a fit that was asked to stop, and can be resumed
    ├── MemoryLimitError        (MemoryError)   the projected memory exceeds the limit
    ├── EngineError             (RuntimeError)  the engine could not finish a pass
    │   ├── NoWorkersError                      a cluster without workers for too long
    │   ├── SchedulerLostError                  a scheduler that is gone or does not answer
    │   ├── StalledError                        a pass that makes no progress
    │   └── DeadlyBlockError                    blocks that kill the workers that evaluate them
    ├── MissingDependencyError  (ImportError)   an optional dependency is not installed
    └── NotFittedError          (ValueError)    a mixture is needed and none is fitted yet

The last one lives with the estimator, since it is scikit-learn's error of that name as well, and
nothing here imports scikit-learn; ``dgmm.NotFittedError`` is the same class.

A message says what went wrong, where (block, row, component), the value seen and what to change.

Warnings of what may be meant, and has been done, are ``DgmmWarning`` (a ``UserWarning``)::

    DgmmWarning
    ├── ConstantFeatureWarning      a column holds one value throughout
    ├── EmptyComponentWarning       a component was left without rows
    └── MixedProcessorsWarning      workers of a cluster compute with different loops
"""

from __future__ import annotations

__all__ = [
    "CheckpointError",
    "CheckpointMismatchError",
    "ComplexDataError",
    "ConstantFeatureWarning",
    "DamagedBlockError",
    "DataChangedError",
    "DeadlyBlockError",
    "DgmmError",
    "DgmmWarning",
    "EmptyComponentError",
    "EmptyComponentWarning",
    "EngineError",
    "FitStoppedError",
    "InvalidDataError",
    "InvalidDtypeError",
    "InvalidParameterError",
    "MemoryLimitError",
    "MissingChunkError",
    "MissingDependencyError",
    "MixedProcessorsWarning",
    "ModelFileError",
    "NoWorkersError",
    "SchedulerLostError",
    "SingularMixtureError",
    "SourceError",
    "StalledError",
    "StoreUnavailableError",
]


class DgmmError(Exception):
    """Base of every exception that dgmm raises on purpose."""


class InvalidParameterError(DgmmError, ValueError):
    """An argument is out of range, of the wrong shape or contradicts another."""


class InvalidDataError(DgmmError, ValueError):
    """The rows cannot be fitted or scored: not finite, too few, of the wrong width."""


class InvalidDtypeError(DgmmError, TypeError):
    """The rows are not real numbers."""


class ComplexDataError(InvalidDtypeError, InvalidDataError):
    """The rows are complex numbers, which scikit-learn refuses with a ValueError."""


class SingularMixtureError(DgmmError, ValueError):
    """Every restart ended in a covariance that is not positive definite."""


class EmptyComponentError(SingularMixtureError):
    """Every restart was given up, one at least because a component was left without rows.

    Only with ``empty_components="raise"``.
    """


class SourceError(DgmmError, OSError):
    """A source cannot be opened or read."""


class MissingChunkError(SourceError):
    """A chunk that the store declares was never written."""


class DamagedBlockError(SourceError):
    """A block's bytes do not pass their checksum or cannot be decoded."""


class DataChangedError(SourceError):
    """A source is not the one that was opened: a file was replaced, rewritten, cut off or removed.

    What was computed from it so far is given up: it would be a result of two sets of data.
    """


class StoreUnavailableError(SourceError):
    """A store could not be reached, or refused: the same call may succeed later.

    No network, no credentials, no permission, a full disk. What is stored is not to blame.
    """


class ModelFileError(DgmmError, ValueError):
    """A model file is truncated, altered or of a newer format."""


class CheckpointError(DgmmError, ValueError):
    """A checkpoint is asked for and there is none, or none that is whole and can be read."""


class CheckpointMismatchError(CheckpointError, InvalidParameterError):
    """A checkpoint is of another fit: other data, or arguments that would change the result."""


class FitStoppedError(DgmmError, RuntimeError):
    """A fit ended early because it was asked to; its checkpoint is what to go on from."""


class MemoryLimitError(DgmmError, MemoryError):
    """The memory projected for a run exceeds the limit that was asked for."""


class EngineError(DgmmError, RuntimeError):
    """An engine could not finish a pass."""


class NoWorkersError(EngineError):
    """A cluster has had no workers for longer than ``no_workers_timeout``."""


class SchedulerLostError(EngineError):
    """The scheduler of a cluster is gone, or has not answered for ``scheduler_timeout``.

    A new client, of the same cluster or another, and the fit's checkpoint are what to go on from.
    """


class StalledError(EngineError):
    """A pass has made no progress for ``progress_timeout``, on workers that are there."""


class DeadlyBlockError(EngineError):
    """Evaluating these blocks kills one worker after another: the same again would do the same."""


class MissingDependencyError(DgmmError, ImportError):
    """An optional dependency is needed and not installed."""


class DgmmWarning(UserWarning):
    """Base of the warnings that dgmm gives of its own."""


class ConstantFeatureWarning(DgmmWarning):
    """A column holds one value throughout, so that its variance is what regularises it."""


class EmptyComponentWarning(DgmmWarning):
    """A component was left without rows: it stayed as it was, or was reseeded or dropped."""


class MixedProcessorsWarning(DgmmWarning):
    """Workers of a cluster compute with different loops: a run is not repeated to the last bit."""
