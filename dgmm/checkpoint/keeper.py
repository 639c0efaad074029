"""The last few checkpoints of a fit: written, numbered, pruned, and the newest whole one found."""

from __future__ import annotations

import errno
import logging
from dataclasses import dataclass, field
from typing import Any

from dgmm.checkpoint.places import Place, place_at
from dgmm.checkpoint.state import FitState, decode, encode
from dgmm.data.location import Location
from dgmm.errors import CheckpointError, InvalidParameterError, SourceError

__all__ = ["Checkpoints", "Found", "Keeper"]

_log = logging.getLogger("dgmm.checkpoint")


@dataclass(frozen=True)
class Checkpoints:
    """Where a fit keeps its checkpoints, and how many.

    Parameters
    ----------
    place : str or path
        A directory, which is made if it is not there, or the URL of a prefix in anything that
        fsspec reaches. One fit has it for itself.
    keep : int, default=3
        How many are kept.
    storage_options : dict, optional
        Options for fsspec, for a URL. Never shown.

    Examples
    --------
    >>> import dgmm
    >>> from dgmm.checkpoint import Checkpoints
    >>> gm = dgmm.GaussianMixture(2, checkpoint=Checkpoints("progress", keep=5))
    """

    place: Any
    keep: Any = 3
    storage_options: Any = field(default=None, repr=False)

    def __repr__(self) -> str:
        # A URL may hold a key.
        name = Location.of(self.place).name if isinstance(self.place, str) else str(self.place)
        return f"Checkpoints({name!r}, keep={self.keep!r})"

    def open(self) -> Keeper:
        """What writes and reads them.

        Raises
        ------
        InvalidParameterError, SourceError, MissingDependencyError
            If there can be no such place.
        """
        if not isinstance(self.keep, int) or isinstance(self.keep, bool) or self.keep < 1:
            raise InvalidParameterError(f"keep={self.keep!r}; it must be an integer of at least 1")
        try:
            location = Location.of(self.place, self.storage_options)
        except TypeError as error:
            raise InvalidParameterError(
                f"checkpoint is a {type(self.place).__name__}; it must be a path, a URL or a "
                "dgmm.checkpoint.Checkpoints"
            ) from error
        if location.path is not None and not location.path.is_absolute():
            # "memory://" alone, say, whose slashes are gone by now.
            raise InvalidParameterError(
                f"checkpoint={self.place!r} names no prefix; checkpoints need one of their own"
            )
        return Keeper(place_at(location), self.keep)


@dataclass(frozen=True)
class Found:
    """The newest checkpoint that is whole.

    Parameters
    ----------
    state : FitState
    label : str
        Where it is.
    damaged : tuple of str
        What was wrong with newer ones.
    """

    state: FitState
    label: str
    damaged: tuple[str, ...] = ()


class Keeper:
    """Writes and reads the checkpoints of one fit.

    Parameters
    ----------
    place : Place
    keep : int, default=3
    """

    def __init__(self, place: Place, keep: int = 3) -> None:
        self.place = place
        self._keep = keep
        self._next: int | None = None
        self._is_foreign: set[int] = set()

    def newest(self) -> Found | None:
        """The newest checkpoint that is whole, None if there is none at all.

        Raises
        ------
        CheckpointError
            If there are some and all are damaged.
        SourceError
            If the place cannot be read: that is no damage, and an older one would be wrong.
        """
        damaged: list[str] = []
        useless: set[int] = set()
        for number in reversed(self.place.numbers()):
            label = self.place.label(number)
            try:
                file, size = self.place.open(number)
                with file:
                    found = Found(decode(label, file, size), label, tuple(damaged))
                # They count for none of those that are kept, and go once there is a newer one.
                self._is_foreign |= useless
                return found
            except CheckpointError as error:
                damaged.append(str(error))
            except OSError as error:
                # A disk that cannot give back what was written has damaged it.
                if getattr(error, "errno", None) != errno.EIO:
                    raise
                damaged.append(f"{label} cannot be read: {error}")
            useless.add(number)
        if damaged:
            raise CheckpointError(
                f"none of the {len(damaged)} checkpoints in {self.place.name} can be used: "
                f"{'; '.join(damaged)}; pass resume='never' to start anew"
            )
        return None

    def disown(self) -> None:
        """Take what is there to be of another fit: it goes once this one has a checkpoint."""
        self._is_foreign = set(self.place.numbers())

    def write(self, state: FitState) -> None:
        """Write a checkpoint, then remove what is more than is kept.

        What cannot be removed stays, which is logged: it hinders nobody from going on.

        Raises
        ------
        SourceError
            If it cannot be written. Those that are there are as they were.
        """
        content = encode(state)
        if self._next is None:
            self.place.prepare()
            self._next = max(self.place.numbers(), default=0) + 1
        # A number is used once: one that failed may have left something.
        number, self._next = self._next, self._next + 1
        self.place.write(number, content)
        try:
            self._prune()
        except SourceError as error:
            _log.warning("%s was written, and older ones stay: %s", self.place.label(number), error)

    def _prune(self) -> None:
        numbers = self.place.numbers()
        ours = [number for number in numbers if number not in self._is_foreign]
        for number in numbers:
            if number in self._is_foreign or number not in ours[-self._keep :]:
                self.place.remove(number)
        self._is_foreign = set()
        self.place.sweep()
