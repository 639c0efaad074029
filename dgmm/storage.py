"""The model file: a sealed file (:mod:`dgmm.sealed`) on a local disk.

Nothing here knows what the arrays mean.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dgmm.durable import replace_file
from dgmm.errors import (
    InvalidParameterError,
    ModelFileError,
    SourceError,
    StoreUnavailableError,
)
from dgmm.sealed import PREFIX_BYTES, Seal

__all__ = [
    "FORMAT",
    "FORMAT_VERSION",
    "local_path",
    "looks_like_model",
    "read_model",
    "write_model",
]

FORMAT = "dgmm-model"
FORMAT_VERSION = 1

_MODEL = Seal(
    FORMAT,
    FORMAT_VERSION,
    noun="model",
    error=ModelFileError,
    damaged="take it from a backup or fit the model again",
    truncated="copy it again or fit the model again",
    foreign="give a file that dgmm fit or GaussianMixture.save wrote",
)


def write_model(
    path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray[Any, Any]], facts: dict[str, Any]
) -> None:
    """Write arrays and facts to a file, all of it or nothing.

    The file appears under its name once it is complete and on the disk; a file of that name is
    replaced in one step, and a crash leaves the old one.

    Parameters
    ----------
    path : str or path-like
        A local path. Its directory has to exist.
    tensors : mapping of str to array
        float64 or float32 arrays of any shape.
    facts : dict
        Whatever JSON can hold, without NaN and infinities.

    Raises
    ------
    InvalidParameterError
        If an array or a fact cannot be stored, or ``path`` is a URL or no path at all.
    SourceError
        If there is no such directory.
    StoreUnavailableError
        If the file cannot be written: no permission, a full disk.
    """
    target = Path(os.path.realpath(local_path(path, "a model")))
    content = _MODEL.close(tensors, facts)
    try:
        replace_file(target, content)
    except OSError as error:
        raise _failure("write", target, error) from error


def read_model(
    path: str | os.PathLike[str],
) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, Any]]:
    """Read what :func:`write_model` wrote, and check every byte of it.

    Parameters
    ----------
    path : str or path-like
        A local path.

    Returns
    -------
    tensors : dict of str to array
        The arrays, by name, in order of the names.
    facts : dict
        The facts.

    Raises
    ------
    InvalidParameterError
        If ``path`` is a URL or no path at all.
    SourceError
        If there is no such file.
    StoreUnavailableError
        If it cannot be read.
    ModelFileError
        If it is not a model, was cut short or altered, or is of a newer format.
    """
    path = local_path(path, "a model")
    try:
        # A pipe would block for ever, and a directory gives a message that nobody understands.
        if not stat.S_ISREG(path.stat().st_mode):
            raise SourceError(f"cannot read the model {path}: it is not a regular file")
        with path.open("rb") as file:
            return _MODEL.open(str(path), file, os.fstat(file.fileno()).st_size)
    except OSError as error:
        if isinstance(error, SourceError):
            raise
        raise _failure("read", path, error) from error


def local_path(path: Any, what: str) -> Path:
    """The path of a file of this machine, or an InvalidParameterError that says of what."""
    if not isinstance(path, str | os.PathLike):
        raise InvalidParameterError(f"the path of {what} is {path!r}; it must be a str or a path")
    if "://" in str(path):
        raise InvalidParameterError(
            f"the path of {what} starts with {str(path).partition('://')[0]}://; it must be a file "
            "of this machine: write to one and copy it, or copy it here and read it"
        )
    return Path(path)


def looks_like_model(path: str | os.PathLike[str]) -> bool:
    """True if a path is a regular file that is named or starts like a model file.

    For programs that accept models and data alike; :func:`read_model` decides.
    """
    path = Path(path)
    if not path.is_file():
        return False
    if path.suffix == ".safetensors":
        return True
    with path.open("rb") as file:
        return file.read(PREFIX_BYTES + 1)[PREFIX_BYTES:] == b"{"


def _failure(verb: str, path: Path, error: OSError) -> SourceError:
    """A path that is wrong, or a disk that failed."""
    wrong = isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError)
    kind = SourceError if wrong else StoreUnavailableError
    return kind(f"cannot {verb} the model {path}: {error.strerror or error}")
