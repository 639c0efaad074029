"""Files that are there whole or not at all, whatever happens while they are written."""

from __future__ import annotations

import errno
import os
import secrets
from pathlib import Path

__all__ = ["Disk", "replace_file"]


_NOT_FOR_DIRECTORIES = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP})


class Disk:
    """What is asked of the system of files, one call for each thing that can be cut short.

    All raise OSError. A test that lets each of the calls in turn be the last one shows what a
    crash leaves behind.
    """

    def write(self, path: Path, content: bytes) -> None:
        """Write a new file; a crash may leave any part of it."""
        with path.open("xb") as file:
            file.write(content)

    def sync(self, path: Path) -> None:
        """Bring a file's content to the disk itself."""
        with path.open("rb+") as file:
            os.fsync(file.fileno())

    def rename(self, path: Path, new: Path) -> None:
        """Give a file another name, in place of what bears it."""
        path.replace(new)

    def sync_directory(self, path: Path) -> None:
        """Make names durable, where the system can."""
        if os.name != "posix":
            return
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            # Some systems of files (FUSE, SMB) do not do so for directories.
            if error.errno not in _NOT_FOR_DIRECTORIES:
                raise
        finally:
            os.close(descriptor)

    def make_directory(self, path: Path) -> None:
        """Make a directory, if it is not there; its parent has to be."""
        path.mkdir(exist_ok=True)

    def remove(self, path: Path) -> None:
        """Remove a file, if it is there."""
        path.unlink(missing_ok=True)


def replace_file(path: Path, content: bytes, disk: Disk | None = None) -> None:
    """Put the content under a path in one step: a crash leaves the old file or the new one.

    Parameters
    ----------
    path : Path
        Its directory has to exist.
    content : bytes
    disk : Disk, optional

    Raises
    ------
    OSError
        As the system gives it. The old file is then as it was.
    """
    disk = Disk() if disk is None else disk
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        disk.write(temporary, content)
        disk.sync(temporary)
        disk.rename(temporary, path)
    except BaseException:
        disk.remove(temporary)
        raise
    disk.sync_directory(path.parent)
