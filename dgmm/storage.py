"""The model file: named arrays and a few facts about them, and a proof that nothing has changed.

It is a `safetensors <https://github.com/huggingface/safetensors>`_ file, which many tools read and
which cannot run code. Its metadata holds one JSON object, the header::

    {"facts": {...}, "format": "dgmm-model", "library": "0.1.0", "sha256": "...", "version": 1}

safetensors itself notices a file that was cut short, not one in which a bit has flipped. The digest
covers the arrays (names, dtypes, shapes, bytes) and the rest of the header, and the header is held
to its canonical spelling, so a change anywhere in the file is found. The same arrays and facts
give the same bytes. Nothing here knows what the arrays mean.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from dgmm import __version__
from dgmm.errors import (
    InvalidParameterError,
    ModelFileError,
    SourceError,
    StoreUnavailableError,
)

__all__ = ["FORMAT", "FORMAT_VERSION", "looks_like_model", "read_model", "write_model"]

FORMAT = "dgmm-model"
FORMAT_VERSION = 1

# A header is names, shapes and facts. Past this size it is damage or an attack.
MAX_HEADER_BYTES = 16 * 2**20

# The key of safetensors' metadata. One only: safetensors promises no order among several.
_KEY = "dgmm"
_HEADER_KEYS = frozenset({"facts", "format", "library", "sha256", "version"})
_DTYPES = {"F32": np.dtype("<f4"), "F64": np.dtype("<f8")}
_PREFIX_BYTES = 8


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
        If an array or a fact cannot be stored.
    SourceError
        If there is no such directory.
    StoreUnavailableError
        If the file cannot be written: no permission, a full disk.
    """
    arrays = {name: _storable(name, tensors[name]) for name in sorted(tensors)}
    header = {
        "facts": facts,
        "format": FORMAT,
        "library": __version__,
        "version": FORMAT_VERSION,
    }
    try:
        header["sha256"] = _digest(arrays, header)
        text = _canonical(header)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidParameterError(
            f"the facts of a model have to be plain JSON (no NaN, no infinity): {error}"
        ) from error
    content = save(arrays, metadata={_KEY: text})
    length = int.from_bytes(content[:_PREFIX_BYTES], "little")
    if length > MAX_HEADER_BYTES:
        raise InvalidParameterError(
            f"the header of the model takes {length} bytes and may take {MAX_HEADER_BYTES}; "
            "store long lists as arrays, not as facts"
        )
    _replace(Path(os.path.realpath(path)), content)


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
    SourceError
        If there is no such file.
    StoreUnavailableError
        If it cannot be read.
    ModelFileError
        If it is not a model, was cut short or altered, or is of a newer format.
    """
    path = Path(path)
    layout = _read_layout(path)
    header = _read_header(path, layout)
    arrays = _read_arrays(path, layout)
    stored = header.pop("sha256")
    actual = _digest(arrays, header)
    if stored != actual:
        _refuse(
            path,
            f"was altered after it was written: its SHA-256 is {actual} and should be {stored}",
            "take it from a backup or fit the model again",
        )
    facts: dict[str, Any] = header["facts"]
    return arrays, facts


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
        return file.read(_PREFIX_BYTES + 1)[_PREFIX_BYTES:] == b"{"


# ---------------------------------------------------------------------------------------- header


def _canonical(value: Any) -> str:
    """The one spelling of a JSON value that we write and accept."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _digest(arrays: Mapping[str, np.ndarray[Any, Any]], header: Mapping[str, Any]) -> str:
    """SHA-256 over the arrays and over the header but for the digest itself."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        # The lengths are implied by dtype and shape, so no two sets of arrays collide.
        digest.update(_canonical([name, array.dtype.str, list(array.shape)]).encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    digest.update(_canonical(header).encode())
    return digest.hexdigest()


def _storable(name: str, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The array as it lies in the file: little-endian, in C order."""
    dtype = np.asarray(array).dtype.newbyteorder("<")
    if dtype not in _DTYPES.values():
        raise InvalidParameterError(
            f"array {name!r} of a model has dtype {dtype}; convert it to float64 or float32"
        )
    if name == "__metadata__":
        raise InvalidParameterError("an array of a model cannot be called '__metadata__'")
    return np.asarray(array, dtype=dtype, order="C")


def _read_layout(path: Path) -> dict[str, Any]:
    """The safetensors header: bounded, strict, and in agreement with the size of the file."""
    raw, size = _read_raw_header(path)
    layout = _strict_json(path, raw.rstrip(b" "), "header")
    # safetensors pads with spaces alone; any other white space is a change we would not notice.
    if not raw.rstrip(b" ").endswith(b"}"):
        _refuse_altered(path, "its header does not end where it should")
    expected = _PREFIX_BYTES + len(raw) + _data_bytes(path, layout)
    if size < expected:
        _refuse_truncated(path, size, expected)
    if size > expected:
        _refuse_altered(path, f"it has {size} bytes and should have {expected}")
    return layout


def _read_raw_header(path: Path) -> tuple[bytes, int]:
    try:
        # A pipe would block for ever, and a directory gives a message that nobody understands.
        if not stat.S_ISREG(path.stat().st_mode):
            raise SourceError(f"cannot read the model {path}: it is not a regular file")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(_PREFIX_BYTES), "little")
            if size < _PREFIX_BYTES:
                _refuse_truncated(path, size, _PREFIX_BYTES)
            if not 2 <= length <= MAX_HEADER_BYTES:
                _refuse_foreign(path, f"its header claims {length} bytes")
            if size < _PREFIX_BYTES + length:
                _refuse_truncated(path, size, _PREFIX_BYTES + length)
            return file.read(length), size
    except OSError as error:
        if isinstance(error, SourceError):
            raise
        raise _failure("read", path, error) from error


def _strict_json(path: Path, raw: bytes | str, what: str) -> dict[str, Any]:
    try:
        value = json.loads(raw, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        _refuse_foreign(path, f"its {what} is not JSON ({error})")
    if not isinstance(value, dict):
        _refuse_foreign(path, f"its {what} is not a JSON object")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _data_bytes(path: Path, layout: Mapping[str, Any]) -> int:
    """Where the last array ends, as the header has it."""
    end = 0
    for name, entry in layout.items():
        if name == "__metadata__":
            continue
        offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
        if not isinstance(offsets, list) or not all(type(offset) is int for offset in offsets):
            _refuse_altered(path, f"array {name!r} has no place in the file")
        end = max([end, *offsets])
    return end


def _read_header(path: Path, layout: Mapping[str, Any]) -> dict[str, Any]:
    """Our own header, out of safetensors' metadata."""
    metadata = layout.get("__metadata__")
    metadata = metadata if isinstance(metadata, dict) else {}
    text = metadata.get(_KEY)
    if not isinstance(text, str):
        _refuse_foreign(path, f"its metadata has no {_KEY!r} header")
    header = _strict_json(path, text, "dgmm header")
    if header.get("format") != FORMAT:
        _refuse_foreign(path, f"its format is {header.get('format')!r}, not {FORMAT!r}")
    version = header.get("version")
    if type(version) is int and version > FORMAT_VERSION:
        _refuse(
            path,
            f"has format version {version} (written by dgmm {header.get('library')}); "
            f"dgmm {__version__} reads up to version {FORMAT_VERSION}",
            "install a newer dgmm",
        )
    if type(version) is not int or version < 1:
        _refuse_altered(path, f"its format version is {version!r}")
    if len(metadata) != 1 or header.keys() != _HEADER_KEYS or not _is_canonical(header, text):
        _refuse_altered(path, "its header is not as dgmm writes it")
    if not isinstance(header["facts"], dict):
        _refuse_altered(path, "its facts are not a JSON object")
    return header


def _is_canonical(header: dict[str, Any], text: str) -> bool:
    # Floats out of range come back as infinity, which has no spelling.
    try:
        return _canonical(header) == text
    except ValueError:
        return False


# ---------------------------------------------------------------------------------------- arrays


def _read_arrays(path: Path, layout: Mapping[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    for name in layout.keys() - {"__metadata__"}:
        dtype = layout[name].get("dtype")
        if not isinstance(dtype, str) or dtype not in _DTYPES:
            _refuse_altered(path, f"array {name!r} has dtype {dtype!r}")
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in sorted(file.keys())}
    except SafetensorError as error:
        _refuse_altered(path, str(error))
    except OSError as error:
        raise _failure("read", path, error) from error


def _replace(path: Path, content: bytes) -> None:
    """Put the content under the path, in one step that survives a crash."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        try:
            _write_synced(temporary, content)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_directory(path.parent)
    except OSError as error:
        raise _failure("write", path, error) from error


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    """Make the rename itself durable, where the system can."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# -------------------------------------------------------------------------------------- refusals


def _failure(verb: str, path: Path, error: OSError) -> SourceError:
    """A path that is wrong, or a disk that failed."""
    wrong = isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError)
    kind = SourceError if wrong else StoreUnavailableError
    return kind(f"cannot {verb} the model {path}: {error.strerror or error}")


def _refuse(path: Path, what: str, remedy: str) -> NoReturn:
    raise ModelFileError(f"the model {path} {what}; {remedy}")


def _refuse_truncated(path: Path, size: int, expected: int) -> NoReturn:
    _refuse(
        path,
        f"is truncated: it has {size} bytes and needs at least {expected}",
        "copy it again or fit the model again",
    )


def _refuse_altered(path: Path, what: str) -> NoReturn:
    _refuse(path, f"is damaged: {what}", "take it from a backup or fit the model again")


def _refuse_foreign(path: Path, what: str) -> NoReturn:
    _refuse(
        path,
        f"is not a dgmm model: {what}",
        "give a file that dgmm fit or GaussianMixture.save wrote",
    )
