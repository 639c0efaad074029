"""Sealed files: named arrays and a few facts about them, and a proof that nothing has changed.

A sealed file is a `safetensors <https://github.com/huggingface/safetensors>`_ file, which many
tools read and which cannot run code. Its metadata holds one JSON object, the header::

    {"facts": {...}, "format": "dgmm-model", "library": "0.1.0", "sha256": "...", "version": 1}

safetensors itself notices a file that was cut short, not one in which a bit has flipped. The digest
covers the arrays (names, dtypes, shapes, bytes) and the rest of the header, and the header is held
to its canonical spelling, so a change anywhere in the file is found. The same arrays and facts
give the same bytes. Nothing here knows what the arrays mean, nor where the bytes are kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, NoReturn

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from dgmm import __version__
from dgmm.errors import DgmmError, InvalidParameterError

__all__ = ["Seal", "canonical"]

# A header is names, shapes and facts. Past this size it is damage or an attack.
MAX_HEADER_BYTES = 16 * 2**20

# The key of safetensors' metadata. One only: safetensors promises no order among several.
_KEY = "dgmm"
_HEADER_KEYS = frozenset({"facts", "format", "library", "sha256", "version"})
_DTYPES = {"F32": np.dtype("<f4"), "F64": np.dtype("<f8")}
PREFIX_BYTES = 8

Tensors = Mapping[str, np.ndarray[Any, Any]]


def canonical(value: Any) -> str:
    """The one spelling of a JSON value that is written and accepted."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


@dataclass(frozen=True)
class Seal:
    """A kind of sealed file.

    Parameters
    ----------
    format : str
        Its name in the header.
    version : int
        The newest version of the format that is read, and the one that is written.
    noun : str
        What messages call such a file.
    error : type of DgmmError
        Raised for a file that is not one, was cut short or altered, or is of a newer version.
    damaged, truncated, foreign : str
        What to do about such files.
    """

    format: str
    version: int
    noun: str
    error: type[DgmmError]
    damaged: str
    truncated: str
    foreign: str

    # ---------------------------------------------------------------------------------- writing

    def close(self, tensors: Tensors, facts: dict[str, Any]) -> bytes:
        """The file that holds arrays and facts.

        Parameters
        ----------
        tensors : mapping of str to array
            float64 or float32 arrays of any shape.
        facts : dict
            Whatever JSON can hold, without NaN and infinities.

        Raises
        ------
        InvalidParameterError
            If an array or a fact cannot be stored.
        """
        arrays = {name: self._storable(name, tensors[name]) for name in sorted(tensors)}
        header = {
            "facts": facts,
            "format": self.format,
            "library": __version__,
            "version": self.version,
        }
        try:
            header["sha256"] = _digest(arrays, header)
            text = canonical(header)
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidParameterError(
                f"the facts of a {self.noun} have to be plain JSON (no NaN, no infinity): {error}"
            ) from error
        content: bytes = save(arrays, metadata={_KEY: text})
        length = int.from_bytes(content[:PREFIX_BYTES], "little")
        if length > MAX_HEADER_BYTES:
            raise InvalidParameterError(
                f"the header of the {self.noun} takes {length} bytes and may take "
                f"{MAX_HEADER_BYTES}; store long lists as arrays, not as facts"
            )
        return content

    def _storable(self, name: str, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """The array as it lies in the file: little-endian, in C order."""
        dtype = np.asarray(array).dtype.newbyteorder("<")
        if dtype not in _DTYPES.values():
            raise InvalidParameterError(
                f"array {name!r} of a {self.noun} has dtype {dtype}; convert it to float64 or "
                "float32"
            )
        if name == "__metadata__":
            raise InvalidParameterError(
                f"an array of a {self.noun} cannot be called '__metadata__'"
            )
        return np.asarray(array, dtype=dtype, order="C")

    # ---------------------------------------------------------------------------------- reading

    def open(
        self, name: str, file: BinaryIO, size: int
    ) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, Any]]:
        """Arrays and facts out of a file, after a check of every byte.

        Nothing is allocated by what the header claims, only by what the file has.

        Parameters
        ----------
        name : str
            How messages call this one.
        file : binary file
            At its beginning.
        size : int
            Its bytes.

        Raises
        ------
        DgmmError
            Of the seal's kind, if the file is not what :meth:`close` gives.
        """
        raw = self._raw_header(name, file, size)
        layout = self._layout(name, raw, size)
        header = self._header(name, layout)
        arrays = self._arrays(name, layout, raw, file, size)
        stored = header.pop("sha256")
        actual = _digest(arrays, header)
        if stored != actual:
            self._refuse(
                name,
                f"was altered after it was written: its SHA-256 is {actual} and should be {stored}",
                self.damaged,
            )
        facts: dict[str, Any] = header["facts"]
        return arrays, facts

    def _raw_header(self, name: str, file: BinaryIO, size: int) -> bytes:
        prefix = file.read(PREFIX_BYTES)
        if len(prefix) < PREFIX_BYTES:
            self._refuse_truncated(name, size, PREFIX_BYTES)
        length = int.from_bytes(prefix, "little")
        if not 2 <= length <= MAX_HEADER_BYTES:
            self._refuse_foreign(name, f"its header claims {length} bytes")
        if size < PREFIX_BYTES + length:
            self._refuse_truncated(name, size, PREFIX_BYTES + length)
        return file.read(length)

    def _layout(self, name: str, raw: bytes, size: int) -> dict[str, Any]:
        """The safetensors header: bounded, strict, and in agreement with the size of the file."""
        layout = self._strict_json(name, raw.rstrip(b" "), "header")
        # safetensors pads with spaces alone; any other white space is a change nobody would notice.
        if not raw.rstrip(b" ").endswith(b"}"):
            self._refuse_altered(name, "its header does not end where it should")
        expected = PREFIX_BYTES + len(raw) + self._data_bytes(name, layout)
        if size < expected:
            self._refuse_truncated(name, size, expected)
        if size > expected:
            self._refuse_altered(name, f"it has {size} bytes and should have {expected}")
        return layout

    def _strict_json(self, name: str, raw: bytes | str, what: str) -> dict[str, Any]:
        try:
            value = json.loads(raw, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            self._refuse_foreign(name, f"its {what} is not JSON ({error})")
        if not isinstance(value, dict):
            self._refuse_foreign(name, f"its {what} is not a JSON object")
        return value

    def _data_bytes(self, name: str, layout: Mapping[str, Any]) -> int:
        """Where the last array ends, as the header has it."""
        end = 0
        for array, entry in layout.items():
            if array == "__metadata__":
                continue
            offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
            if not isinstance(offsets, list) or not all(type(offset) is int for offset in offsets):
                self._refuse_altered(name, f"array {array!r} has no place in the file")
            end = max([end, *offsets])
        return end

    def _header(self, name: str, layout: Mapping[str, Any]) -> dict[str, Any]:
        """Our own header, out of safetensors' metadata."""
        metadata = layout.get("__metadata__")
        metadata = metadata if isinstance(metadata, dict) else {}
        text = metadata.get(_KEY)
        if not isinstance(text, str):
            self._refuse_foreign(name, f"its metadata has no {_KEY!r} header")
        header = self._strict_json(name, text, "dgmm header")
        if header.get("format") != self.format:
            self._refuse_foreign(
                name, f"its format is {header.get('format')!r}, not {self.format!r}"
            )
        version = header.get("version")
        if type(version) is int and version > self.version:
            self._refuse(
                name,
                f"has format version {version} (written by dgmm {header.get('library')}); "
                f"dgmm {__version__} reads up to version {self.version}",
                "install a newer dgmm",
            )
        if type(version) is not int or version < 1:
            self._refuse_altered(name, f"its format version is {version!r}")
        if len(metadata) != 1 or header.keys() != _HEADER_KEYS or not _is_canonical(header, text):
            self._refuse_altered(name, "its header is not as dgmm writes it")
        if not isinstance(header["facts"], dict):
            self._refuse_altered(name, "its facts are not a JSON object")
        return header

    def _arrays(
        self, name: str, layout: Mapping[str, Any], raw: bytes, file: BinaryIO, size: int
    ) -> dict[str, np.ndarray[Any, Any]]:
        for array in layout.keys() - {"__metadata__"}:
            dtype = layout[array].get("dtype")
            if not isinstance(dtype, str) or dtype not in _DTYPES:
                self._refuse_altered(name, f"array {array!r} has dtype {dtype!r}")
        data = file.read()
        content = b"".join([len(raw).to_bytes(PREFIX_BYTES, "little"), raw, data])
        if len(content) != size:
            self._refuse_truncated(name, len(content), size)
        try:
            arrays = load(content)
        except SafetensorError as error:
            self._refuse_altered(name, str(error))
        # safetensors hands out views of the bytes, which cannot be written to.
        return {array: np.array(arrays[array]) for array in sorted(arrays)}

    # --------------------------------------------------------------------------------- refusals

    def _refuse(self, name: str, what: str, remedy: str) -> NoReturn:
        raise self.error(f"the {self.noun} {name} {what}; {remedy}")

    def _refuse_truncated(self, name: str, size: int, expected: int) -> NoReturn:
        what = f"is truncated: it has {size} bytes and needs at least {expected}"
        self._refuse(name, what, self.truncated)

    def _refuse_altered(self, name: str, what: str) -> NoReturn:
        self._refuse(name, f"is damaged: {what}", self.damaged)

    def _refuse_foreign(self, name: str, what: str) -> NoReturn:
        self._refuse(name, f"is not a dgmm {self.noun}: {what}", self.foreign)


def _digest(arrays: Tensors, header: Mapping[str, Any]) -> str:
    """SHA-256 over the arrays and over the header but for the digest itself."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        # The lengths are implied by dtype and shape, so no two sets of arrays collide.
        digest.update(canonical([name, array.dtype.str, list(array.shape)]).encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    digest.update(canonical(header).encode())
    return digest.hexdigest()


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _is_canonical(header: dict[str, Any], text: str) -> bool:
    # Floats out of range come back as infinity, which has no spelling.
    try:
        return canonical(header) == text
    except (ValueError, RecursionError):
        return False
