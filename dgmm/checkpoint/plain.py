"""Between nested plain values and what a sealed file holds: named arrays, and JSON.

The JSON is the same nesting with a mark where an array or a number without a spelling in JSON was:
``{"$array": "chains/0/means"}``, ``{"$float": "-inf"}``. Masks are held as zeros and ones, and
marked ``$mask``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["pack", "unpack"]

Array = np.ndarray[Any, Any]
_ARRAY, _MASK, _FLOAT = "$array", "$mask", "$float"


def pack(value: Any) -> tuple[dict[str, Array], Any]:
    """Arrays by name, and the rest as JSON has it.

    Parameters
    ----------
    value : dict, list, tuple, array of float64 or bool, str, int, float, bool or None
        Nested at will. Tuples come back as lists.
    """
    arrays: dict[str, Array] = {}
    return arrays, _packed(value, "", arrays)


def unpack(arrays: Mapping[str, Array], plain: Any) -> Any:
    """The inverse of :func:`pack`.

    Raises
    ------
    ValueError
        If an array is missing, or named twice or never.
    """
    left = dict(arrays)
    value = _unpacked(plain, left)
    if left:
        raise ValueError(f"nothing refers to the arrays {sorted(left)[:3]}")
    return value


def _packed(value: Any, place: str, arrays: dict[str, Array]) -> Any:
    if isinstance(value, np.ndarray):
        is_mask = value.dtype == np.bool_
        arrays[place] = value.astype(np.float32) if is_mask else value
        return {_MASK if is_mask else _ARRAY: place}
    if isinstance(value, Mapping):
        return {str(key): _packed(one, f"{place}/{key}", arrays) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_packed(one, f"{place}/{i}", arrays) for i, one in enumerate(value)]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return {_FLOAT: repr(value)}
    return value


def _unpacked(plain: Any, arrays: dict[str, Array]) -> Any:
    if isinstance(plain, list):
        return [_unpacked(one, arrays) for one in plain]
    if not isinstance(plain, dict):
        return plain
    if plain.keys() == {_ARRAY}:
        return _taken(plain[_ARRAY], arrays)
    if plain.keys() == {_MASK}:
        return _taken(plain[_MASK], arrays) != 0.0
    if plain.keys() == {_FLOAT}:
        if plain[_FLOAT] not in ("inf", "-inf", "nan"):
            raise ValueError(f"{plain[_FLOAT]!r} is not a number")
        return float(plain[_FLOAT])
    return {key: _unpacked(one, arrays) for key, one in plain.items()}


def _taken(name: Any, arrays: dict[str, Array]) -> Array:
    if not isinstance(name, str) or name not in arrays:
        raise ValueError(f"there is no array {name!r}, or something else refers to it")
    return arrays.pop(name)
