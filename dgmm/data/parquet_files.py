"""Parquet files by path, URL, folder or pattern: which there are, their marks and how to open them.

A folder gives its ``*.parquet`` files in the order of their paths, those in folders named
``key=value`` (hive partitions) included, and leaves out what begins with ``_`` or ``.``.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

from dgmm.data.location import Location
from dgmm.data.stamps import FileMark, SpecialFileError, mark_of, mark_of_path, tells_content
from dgmm.errors import MissingDependencyError, SourceError

__all__ = [
    "ParquetPath",
    "StoreReadError",
    "find_files",
    "holds_parquet",
    "is_parquet_name",
    "open_parquet_file",
    "require_pyarrow",
]

_SUFFIXES = (".parquet", ".parq", ".pq")
_MAGIC = b"PAR1"
_PATTERN = re.compile(r"[*\[]")
# Footers of wide files take a megabyte and some milliseconds to parse.
_OPEN_FOOTERS = 16
# Pages are read through a buffer of this size, so that a column chunk is not held twice.
_BUFFER_BYTES = 2**20


@dataclass(frozen=True)
class ParquetPath:
    """One file.

    Parameters
    ----------
    path : str
        As its file system knows it. It may hold a query with credentials: show :attr:`name`.
    mark : FileMark
        What it was when the dataset was opened.
    location : Location
        The place that was opened, of which the file is a part.
    partitions : tuple of (str, str)
        What the folders on the way say, ``year=2024`` for instance.
    """

    path: str = field(repr=False)
    mark: FileMark
    location: Location = field(compare=False)
    partitions: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        """How messages call it."""
        return Location(self.path).name

    @property
    def is_local(self) -> bool:
        return self.location.path is not None

    def current_mark(self) -> FileMark | None:
        """What the storage says of it now; None if it is gone.

        Raises
        ------
        SourceError
            If the storage does not answer.
        """
        if self.is_local:
            return mark_of_path(self.path)
        fs = _file_system(self.location)
        try:
            fs.invalidate_cache()
            return mark_of(fs.info(self.path))
        except FileNotFoundError:
            return None
        except Exception as error:  # noqa: BLE001 (each file system has errors of its own)
            raise self.location.failure("cannot look at a file of", error) from (
                self.location.cause(error)
            )


def require_pyarrow() -> Any:
    """``pyarrow.parquet``.

    Raises
    ------
    MissingDependencyError
        If pyarrow is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MissingDependencyError(
            'Parquet files are read by pyarrow, which is not installed: pip install "dgmm[parquet]"'
        ) from error
    return pyarrow.parquet


def is_parquet_name(location: Location) -> bool:
    """True if the name alone says Parquet: its suffix, or a pattern."""
    name = location.name.lower()
    return name.endswith(_SUFFIXES) or bool(_PATTERN.search(name) and not _exists(location))


def holds_parquet(location: Location) -> bool:
    """True for a local Parquet file of any name, and for a folder of Parquet files."""
    path = location.path
    if path is not None and path.is_file():
        with open(path, "rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    try:
        return bool(find_files(location))
    except SpecialFileError:
        raise
    except SourceError:
        return False


def find_files(location: Location) -> list[ParquetPath]:
    """The files at a location, in the order of their paths.

    Raises
    ------
    SourceError
        If there is none, or they belong to a table whose log says which of them count.
    MissingDependencyError
        If a URL needs a package that is not installed.
    """
    local = location.path is not None
    found = _local_files(location) if local else _remote_files(location)
    if not found and local and not _PATTERN.search(location.url) and not _exists(location):
        raise SourceError(f"cannot open {location.name}: no such file or directory")
    if not found:
        raise SourceError(
            f"cannot open {location.name}: there is no Parquet file (*.parquet; files and folders "
            "whose names begin with _ or . are left out)"
        )
    return [found[path] for path in sorted(found)]


@contextmanager
def open_parquet_file(file: ParquetPath) -> Iterator[Any]:
    """A ``pyarrow.parquet.ParquetFile`` that checks pages which carry a checksum.

    Raises what pyarrow and the file system do.
    """
    parquet = require_pyarrow()
    with _opened(file) as source:
        yield parquet.ParquetFile(
            source,
            metadata=_footer(file),
            page_checksum_verification=True,
            pre_buffer=not file.is_local,
            buffer_size=_BUFFER_BYTES if file.is_local else 0,
        )


@contextmanager
def _opened(file: ParquetPath) -> Iterator[Any]:
    if file.is_local:
        import pyarrow as pa

        # A pipe would be waited for without end.
        mark_of_path(file.path)
        with pa.OSFile(file.path) as source:
            yield source
    else:
        with _opened_remotely(file) as source:
            yield source


@contextmanager
def _opened_remotely(file: ParquetPath) -> Iterator[_Reads]:
    try:
        # A cache of blocks would read, and hold, more than what is asked for.
        opened = _file_system(file.location).open(file.path, "rb", cache_type="none")
    except Exception as error:
        raise StoreReadError from error
    with opened:
        source = _Reads(opened)
        try:
            yield source
        except Exception:
            # Whatever pyarrow made of it on its way.
            if source.failure is not None:
                raise StoreReadError from source.failure
            raise


class StoreReadError(Exception):
    """A store failed to give bytes of a file: nothing is known of the bytes. Its cause says why.

    File systems raise what they like, plain OSError and ValueError too, which are also what
    pyarrow raises of damaged bytes.
    """


class _Reads:
    """A file of a store that remembers how a read failed."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.failure: Exception | None = None

    def read(self, size: int = -1) -> bytes:
        try:
            found: bytes = self._file.read(size)
        except Exception as error:
            self.failure = error
            raise
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@lru_cache(maxsize=_OPEN_FOOTERS)
def _footer(file: ParquetPath) -> Any:
    with _opened(file) as source:
        return require_pyarrow().read_metadata(source)


def _exists(location: Location) -> bool:
    return location.path is not None and location.path.exists()


def _local_files(location: Location) -> dict[str, ParquetPath]:
    assert location.path is not None
    place = str(location.path)
    if os.path.isfile(place):
        paths, root = [place], os.path.dirname(place)
    elif os.path.isdir(place):
        paths, root = _in_folder(place), place
    else:
        root = _fixed_part(place)
        matches = sorted(glob.glob(place, recursive=True))
        paths = [
            path
            for match in matches
            for path in (_in_folder(match) if os.path.isdir(match) else [match])
        ]
    marks = {path: mark_of_path(path) for path in paths}
    return {
        path: ParquetPath(path, mark, location, _partitions(path, root))
        for path, mark in marks.items()
        if mark is not None
    }


def _in_folder(folder: str) -> list[str]:
    found = [
        os.path.relpath(os.path.join(parent, name), folder)
        for parent, _, names in os.walk(folder, followlinks=False)
        for name in names
    ]
    _refuse_tables(folder, found)
    return [os.path.join(folder, path) for path in found if _counts(path)]


def _remote_files(location: Location) -> dict[str, ParquetPath]:
    fs = _file_system(location)
    try:
        place = str(fs._strip_protocol(location.url))
        fs.invalidate_cache()
        if _PATTERN.search(place):
            root = _fixed_part(place)
            infos = {p: i for p, i in fs.glob(place, detail=True).items() if i["type"] == "file"}
        elif (info := _info(fs, place)) is not None and info["type"] == "file":
            root, infos = place.rpartition("/")[0], {place: info}
        else:
            root = place
            infos = fs.find(place, detail=True)
            relative = {path: path[len(root) :].strip("/") for path in infos}
            _refuse_tables(location.name, list(relative.values()))
            infos = {path: infos[path] for path in infos if _counts(relative[path])}
        infos = {
            path: info if tells_content(info) else fs.info(path) for path, info in infos.items()
        }
    except SourceError:
        raise
    except Exception as error:  # noqa: BLE001 (each file system has errors of its own)
        raise location.failure("cannot list", error) from location.cause(error)
    return {
        path: ParquetPath(path, mark_of(info), location, _partitions(path, root))
        for path, info in infos.items()
    }


def _info(fs: Any, path: str) -> Any:
    try:
        return fs.info(path)
    except FileNotFoundError:
        return None


def _file_system(location: Location) -> Any:
    from fsspec.core import url_to_fs

    try:
        return url_to_fs(location.url, **location.storage_options)[0]
    except ImportError as error:
        raise MissingDependencyError(
            f"{location.name} needs a package that is not installed: {location.scrub(error)}"
        ) from location.cause(error)
    except Exception as error:  # noqa: BLE001 (each file system has errors of its own)
        raise location.failure("cannot open", error) from location.cause(error)


def _fixed_part(pattern: str) -> str:
    """The folder above the first part of a path that is a pattern."""
    match = _PATTERN.search(pattern)
    return os.path.dirname(pattern if match is None else pattern[: match.start()])


def _counts(relative: str) -> bool:
    parts = relative.split("/")
    hidden = any(part[:1] in ("_", ".") and "=" not in part for part in parts)
    return not hidden and relative.lower().endswith(_SUFFIXES)


def _refuse_tables(name: str, entries: list[str]) -> None:
    """Files that a table's log has dropped are still there: reading them all gives wrong rows."""
    delta = any(entry.startswith("_delta_log/") for entry in entries)
    iceberg = any(re.fullmatch(r"metadata/[^/]*\.metadata\.json", entry) for entry in entries)
    if delta or iceberg:
        raise SourceError(
            f"{name} is {'a Delta' if delta else 'an Iceberg'} table: its log says which of its "
            "files count, and reading them all would give rows that were deleted; write the rows "
            "you want to Parquet files of their own"
        )


def _partitions(path: str, root: str) -> tuple[tuple[str, str], ...]:
    folders = path[len(root) :].strip("/").split("/")[:-1]
    pairs = (folder.partition("=") for folder in folders)
    return tuple((unquote(key), unquote(value)) for key, sign, value in pairs if sign and key)
