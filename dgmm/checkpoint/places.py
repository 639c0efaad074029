"""Where checkpoints are: a directory, or a prefix of an object store.

A directory's file is complete once it has its name: it is written under another one, brought to
the disk and renamed. An object store has no rename that holds everywhere, so a marker with the
size and the digest of the data is written after the data; what has no marker is not there.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar

from dgmm.data.location import Location
from dgmm.durable import Disk, replace_file
from dgmm.errors import CheckpointError, DgmmError, MissingDependencyError, SourceError

__all__ = ["Bucket", "Directory", "Place", "place_at"]

_NAME = re.compile(r"checkpoint-([0-9]{8,15})\.safetensors")
_MARKER = re.compile(r"checkpoint-([0-9]{8,15})\.commit")
_LEFTOVER = re.compile(r"\.checkpoint-[0-9]{8,15}\.safetensors\.[0-9a-f]{16}\.tmp")
_MOST_MARKER_BYTES = 1000

T = TypeVar("T")


class Place(Protocol):
    """Numbered checkpoints. Every failure is a SourceError that names the place."""

    name: str

    def prepare(self) -> None:
        """Make the place, so far as it has to be made."""
        ...

    def numbers(self) -> list[int]:
        """The numbers of the checkpoints that were completed, ascending."""
        ...

    def label(self, number: int) -> str:
        """How messages call a checkpoint."""
        ...

    def write(self, number: int, content: bytes) -> None:
        """Write a checkpoint, whole or not at all."""
        ...

    def open(self, number: int) -> tuple[BinaryIO, int]:
        """A checkpoint to read, and its size. To be closed by the caller."""
        ...

    def remove(self, number: int) -> None:
        """Remove a checkpoint."""
        ...

    def sweep(self) -> None:
        """Remove what writes that were cut short have left."""
        ...


def place_at(location: Location) -> Place:
    """The place at a path or URL.

    Raises
    ------
    MissingDependencyError
        If the URL needs a package that is not installed.
    SourceError
        If the URL is not one that fsspec knows.
    """
    return Directory(location.path) if location.path is not None else Bucket(location)


def _file_name(number: int) -> str:
    return f"checkpoint-{number:08d}.safetensors"


class Directory:
    """A directory of this machine.

    Parameters
    ----------
    path : Path
    disk : Disk, optional
        Through which everything is written.
    """

    def __init__(self, path: Path, disk: Disk | None = None) -> None:
        self.name = str(path)
        self._path = path
        self._disk = Disk() if disk is None else disk

    def prepare(self) -> None:
        def make() -> None:
            missing = [self._path, *self._path.parents]
            missing = missing[: next(i for i, one in enumerate(missing) if one.is_dir())]
            # The name of each is brought to the disk before there is anything in it.
            for path in reversed(missing):
                self._disk.make_directory(path)
                self._disk.sync_directory(path.parent)

        self._tried("make the directory", make)

    def numbers(self) -> list[int]:
        # Anything else that lies there is none of our business, links and pipes of that name too.
        return sorted(
            int(match[1])
            for entry in self._entries()
            if (match := _NAME.fullmatch(entry.name)) and entry.is_file(follow_symlinks=False)
        )

    def label(self, number: int) -> str:
        return str(self._path / _file_name(number))

    def write(self, number: int, content: bytes) -> None:
        path = self._path / _file_name(number)
        self._tried("write a checkpoint to", lambda: replace_file(path, content, self._disk))

    def open(self, number: int) -> tuple[BinaryIO, int]:
        def open_file() -> tuple[BinaryIO, int]:
            file = (self._path / _file_name(number)).open("rb")
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                file.close()
                raise FileNotFoundError(f"{_file_name(number)} is not a regular file")
            return file, status.st_size

        return self._tried("read a checkpoint in", open_file)

    def remove(self, number: int) -> None:
        path = self._path / _file_name(number)
        self._tried("remove a checkpoint in", lambda: self._disk.remove(path))

    def sweep(self) -> None:
        for entry in self._entries():
            if _LEFTOVER.fullmatch(entry.name):
                path = self._path / entry.name
                self._tried("remove a leftover in", partial(self._disk.remove, path))

    def _entries(self) -> list[os.DirEntry[str]]:
        def entries() -> list[os.DirEntry[str]]:
            if not self._path.exists():
                return []
            with os.scandir(self._path) as found:
                return list(found)

        return self._tried("list", entries)

    def _tried(self, what: str, action: Callable[[], T]) -> T:
        try:
            return action()
        except (OSError, ValueError) as error:
            # ValueError: a name with a null character, which no system call takes.
            raise Location.of(self._path).failure(f"cannot {what}", error) from error


class Bucket:
    """A prefix of anything that fsspec reaches.

    Parameters
    ----------
    location : Location
    """

    def __init__(self, location: Location) -> None:
        self.name = location.name
        self._location = location
        self._files, self._root = self._tried("open", lambda: _filesystem(location))

    def prepare(self) -> None:
        # There are no directories to make, and a store that refuses does so at the first write.
        return None

    def numbers(self) -> list[int]:
        names = self._names()
        found = {int(match[1]) for name in names if (match := _MARKER.fullmatch(name))}
        return sorted(number for number in found if _file_name(number) in names)

    def label(self, number: int) -> str:
        return f"{self.name}/{_file_name(number)}"

    def write(self, number: int, content: bytes) -> None:
        seal = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        marker = json.dumps(seal, sort_keys=True).encode()

        def write() -> None:
            self._files.pipe_file(self._data(number), content)
            self._files.pipe_file(self._commit(number), marker)

        self._tried("write a checkpoint to", write)

    def open(self, number: int) -> tuple[BinaryIO, int]:
        size, digest = self._expected(number)
        found = self._tried("read", lambda: int(self._files.size(self._data(number))))
        if found != size:
            raise CheckpointError(
                f"the checkpoint {self.label(number)} has {found} bytes and its marker says {size}"
            )
        content = self._tried("read", lambda: self._files.cat_file(self._data(number)))
        actual = hashlib.sha256(content).hexdigest()
        if actual != digest:
            raise CheckpointError(
                f"the checkpoint {self.label(number)} was altered after it was written: its "
                f"SHA-256 is {actual} and its marker says {digest}"
            )
        return BytesIO(content), len(content)

    def remove(self, number: int) -> None:
        # The marker first: a removal that is cut short leaves nothing that looks whole.
        for path in (self._commit(number), self._data(number)):
            self._tried("remove a checkpoint in", partial(self._delete, path))

    def sweep(self) -> None:
        kept = self.numbers()
        newest = kept[-1] if kept else -1
        for name in self._names():
            match = _NAME.fullmatch(name)
            # What is newer than all that is complete may be on its way.
            if match and int(match[1]) < newest and int(match[1]) not in kept:
                path = f"{self._root}/{name}"
                self._tried("remove a leftover in", partial(self._delete, path))

    def _expected(self, number: int) -> tuple[Any, Any]:
        """Size and digest, as the marker has them."""
        path = self._commit(number)
        size = self._tried("read", lambda: int(self._files.size(path)))
        if size > _MOST_MARKER_BYTES:
            raise CheckpointError(f"the marker of {self.label(number)} has {size} bytes")
        raw = self._tried("read", lambda: self._files.cat_file(path))
        try:
            marker = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise CheckpointError(
                f"the marker of {self.label(number)} is damaged: {error}"
            ) from error
        if not isinstance(marker, dict) or marker.keys() != {"bytes", "sha256"}:
            raise CheckpointError(f"the marker of {self.label(number)} is damaged")
        return marker["bytes"], marker["sha256"]

    def _data(self, number: int) -> str:
        return f"{self._root}/{_file_name(number)}"

    def _commit(self, number: int) -> str:
        return f"{self._root}/checkpoint-{number:08d}.commit"

    def _names(self) -> set[str]:
        def names() -> set[str]:
            self._files.invalidate_cache()
            try:
                found = self._files.ls(self._root, detail=False)
            except FileNotFoundError:
                return set()
            return {str(path).rsplit("/", 1)[-1] for path in found}

        return self._tried("list", names)

    def _delete(self, path: str) -> None:
        try:
            self._files.rm_file(path)
        except FileNotFoundError:
            return

    def _tried(self, what: str, action: Callable[[], T]) -> T:
        try:
            return action()
        except (DgmmError, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001 (each file system has errors of its own)
            failure = self._location.failure(f"cannot {what}", error)
            raise failure from self._location.cause(error)


def _filesystem(location: Location) -> tuple[Any, str]:
    import fsspec

    try:
        files, root = fsspec.core.url_to_fs(location.url, **location.storage_options)
    except ImportError as error:
        raise MissingDependencyError(
            f"{location.name} needs a package that is not installed: {location.scrub(error)}"
        ) from location.cause(error)
    # A bucket alone is its name, and whatever else lies in it would be listed every time.
    if "/" not in root.rstrip("/"):
        raise SourceError(
            f"{location.name} names no prefix; checkpoints need one of their own, such as "
            f"{location.name}/checkpoints"
        )
    return files, root.rstrip("/")
