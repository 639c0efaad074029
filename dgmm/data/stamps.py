"""What a storage says of the files behind some rows, for as little as it charges.

A file has a size and a mark: its etag (or checksum, or generation) where the storage keeps one, the
time it was last written otherwise. The stamp of a block sums up those of its files in one digest,
so that it stays small however many files there are. Taken when a dataset is opened and again after
each read, it tells that the source has changed in between.

Nothing here shows a URL: names are those of :class:`~dgmm.data.location.Location`, without secrets.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from dgmm.data.location import Location
from dgmm.errors import DataChangedError, SourceError

__all__ = [
    "FileMark",
    "SpecialFileError",
    "Stamp",
    "changed",
    "joint_stamp",
    "mark_of",
    "mark_of_path",
    "stamp_of",
    "tells_content",
]

# What tells content apart comes before what tells times.
_CONTENT = ("ETag", "etag", "md5Hash", "Content-MD5", "content_md5", "crc32c", "generation")
_TIMES = ("LastModified", "last_modified", "mtime", "modified", "updated", "created")


class SpecialFileError(SourceError):
    """There is a pipe, a socket or a device in the place of a file."""


class FileMark(NamedTuple):
    """A file as its storage describes it.

    Attributes
    ----------
    size : int or None
        Bytes, where they are told.
    version : str
        The etag, checksum, generation or time of writing.
    """

    size: int | None
    version: str


@dataclass(frozen=True)
class Stamp:
    """What the storage says of some files together.

    Parameters
    ----------
    n_files : int
        Those that are there.
    n_bytes : int
        All of them together.
    version : str
        Of the one file, or the greatest of several: the latest time, where it is a time.
    digest : str
        SHA-256 over names, sizes and versions, cut to 128 bits.
    """

    n_files: int
    n_bytes: int
    version: str
    digest: str

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def __str__(self) -> str:
        if not self.n_files:
            return "no file"
        files = "one file" if self.n_files == 1 else f"{self.n_files} files"
        return f"{files} of {self.n_bytes} bytes, version {self.version or 'unknown'}"


def stamp_of(files: Iterable[tuple[str, FileMark | None]]) -> Stamp:
    """The stamp of files given by name; None stands for one that is not there."""
    from dgmm.data.dataset import fingerprint_of

    listed = list(files)
    found = [mark for _, mark in listed if mark is not None]
    return Stamp(
        n_files=len(found),
        n_bytes=sum(mark.size or 0 for mark in found),
        version=max((mark.version for mark in found), default=""),
        digest=fingerprint_of([(name, mark and tuple(mark)) for name, mark in listed])[:32],
    )


def joint_stamp(stamps: Iterable[Stamp | None]) -> Stamp | None:
    """The stamp of several sets of files; None if there is none."""
    from dgmm.data.dataset import fingerprint_of

    found = [one for one in stamps if one is not None]
    if len(found) < 2:
        return found[0] if found else None
    return Stamp(
        n_files=sum(one.n_files for one in found),
        n_bytes=sum(one.n_bytes for one in found),
        version=max(one.version for one in found),
        digest=fingerprint_of([one.digest for one in found])[:32],
    )


def mark_of(info: Mapping[str, Any]) -> FileMark:
    """The mark of a file from what fsspec tells of it."""
    size = info.get("size", info.get("Size"))
    found = (info[name] for name in (*_CONTENT, *_TIMES) if info.get(name) not in (None, ""))
    return FileMark(size, str(next(found, "")).strip('"'))


def tells_content(info: Mapping[str, Any]) -> bool:
    """True if there is an etag or a checksum, which a listing and a request of its own agree on.

    File systems give times in more than one form.
    """
    return any(info.get(name) not in (None, "") for name in _CONTENT)


def mark_of_path(path: str | os.PathLike[str]) -> FileMark | None:
    """The mark of a local file: its size and the nanosecond it was last written in.

    None if it is gone.

    Raises
    ------
    StoreUnavailableError
        If the system cannot say: no permission, a disk or a network that does not answer.
    SpecialFileError
        If it is no file: a pipe would be waited for, a device read without end.
    """
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise Location(str(path)).failure("cannot look at", error) from error
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        raise SpecialFileError(
            f"{path} is a pipe, a socket or a device, which is never read; put a regular file there"
        )
    return FileMark(found.st_size, str(found.st_mtime_ns))


def changed(location: Location, block: str, before: Stamp, after: Stamp) -> DataChangedError:
    """The exception for a block whose files are not those that were opened."""
    return DataChangedError(
        f"{location.name}: block {block} changed after the dataset was opened: it was in {before}, "
        f"and is in {after}; open it again when nothing writes to it any more (copies of local "
        "files on other machines must keep their times: cp -p, rsync -a)"
    )
