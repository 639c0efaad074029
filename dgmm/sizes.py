"""Sizes in bytes as people write them: ``16777216``, ``"16MiB"``, ``"1.5 GB"``."""

from __future__ import annotations

import math
import operator
import re
from typing import SupportsIndex

from dgmm.errors import InvalidParameterError

__all__ = ["format_bytes", "parse_bytes"]

_UNITS = {"": 1, "b": 1} | {
    f"{prefix}{suffix}": base**power
    for power, prefix in enumerate("kmgtp", start=1)
    for suffix, base in (("", 1000), ("b", 1000), ("i", 1024), ("ib", 1024))
}
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([a-zA-Z]*)\s*")


def parse_bytes(value: SupportsIndex | str, name: str = "the size") -> int:
    """Bytes in a size.

    Parameters
    ----------
    value : int or str
        A number of bytes, or a number with a unit: B, kB, MB, GB, TB, PB (powers of 1000) or
        KiB, MiB, GiB, TiB, PiB (powers of 1024), in any case.
    name : str
        What the size is of, for the message.

    Returns
    -------
    int
        At least 1.

    Raises
    ------
    InvalidParameterError
        If it is not a size, or less than a byte.
    """
    size = _from_text(value) if isinstance(value, str) else _from_number(value)
    if size is None:
        raise InvalidParameterError(
            f"{name} must be a number of bytes or a string such as '256MiB', got {value!r}"
        )
    if size < 1:
        raise InvalidParameterError(f"{name} must be at least 1 byte, got {value!r}")
    return size


def format_bytes(size: int) -> str:
    """A size in the largest binary unit that it fills: ``format_bytes(16777216) == '16 MiB'``."""
    amount, units = float(size), ["B", "KiB", "MiB", "GiB", "TiB"]
    while amount >= 1024 and len(units) > 1:
        amount /= 1024
        units.pop(0)
    return f"{amount:.4g} {units[0]}"


def _from_text(value: str) -> int | None:
    match = _SIZE.fullmatch(value)
    unit = None if match is None else _UNITS.get(match[2].lower())
    if match is None or unit is None:
        return None
    size = float(match[1]) * unit
    return int(size) if math.isfinite(size) else None


def _from_number(value: object) -> int | None:
    # bool is an int, and block_bytes=True is surely a slip.
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        return None
    try:
        return operator.index(value)
    except TypeError:
        # A class has the methods of its instances, an array those of its elements.
        return None
