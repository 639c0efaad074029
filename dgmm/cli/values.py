"""Types of values on the command line, for click."""

from __future__ import annotations

import re
from typing import Any

import click

from dgmm.errors import InvalidParameterError
from dgmm.sizes import parse_bytes

__all__ = [
    "column_or_place",
    "component_counts",
    "distances",
    "held",
    "interval",
    "memory_size",
    "numbers",
    "size",
    "temperatures",
]

# No limit that small leaves room for anything, so its unit has been forgotten.
_LEAST_BARE = 2**20


def size(value: str) -> int:
    """Bytes, as ``16777216`` or ``512MiB``."""
    try:
        return parse_bytes(value)
    except InvalidParameterError as error:
        raise click.BadParameter(str(error)) from error


def memory_size(value: str) -> int:
    """The same for a limit, where a small number without a unit is a slip."""
    found, bare = size(value), value.strip()
    if found < _LEAST_BARE and not re.search("[a-zA-Z]", bare):
        raise click.BadParameter(
            f"{bare} without a unit is {found} bytes, which nothing fits in; {bare}MiB?"
        )
    return found


def column_or_place(value: str) -> str | int:
    """The number of a column, or its name, or a path or URL."""
    return int(value) if re.fullmatch(r"-?\d+", value) else value


def component_counts(text: str) -> list[int]:
    """Numbers of components, as ``1:10`` (both ends included), ``2,4,8`` or ``3``."""
    counts: list[int] = []
    try:
        for part in text.split(","):
            first, _, last = part.partition(":")
            counts.extend(range(int(first), int(last or first) + 1))
    except ValueError:
        counts = []
    if not counts or min(counts) < 1:
        raise click.BadParameter(f"{text!r} is not like 1:10, 2,4,8 or 3, of positive integers")
    return counts


def numbers(text: str) -> float | list[float]:
    """A number, or several as ``0,0.5,-2``."""
    try:
        found = [float(one) for one in text.split(",")]
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a number, nor several like 0,0.5,-2") from None
    return found[0] if len(found) == 1 else found


def distances(text: str) -> tuple[float, float]:
    """Two Mahalanobis distances, as ``3:4`` or ``3:inf``."""
    try:
        least, most = map(float, text.split(":"))
    except ValueError:
        raise click.BadParameter(f"{text!r} is not like 3:4 or 3:inf") from None
    return least, most


_HELD = ("weights", "means", "covariances")


def held(
    ctx: click.Context, param: click.Parameter, parts: tuple[str, ...]
) -> dict[str, bool | list[int]] | None:
    """A callback of click: parameters to hold, each as ``means`` or ``means:0,3``."""
    del ctx, param
    found: dict[str, bool | list[int]] = {}
    for part in parts:
        name, _, components = part.partition(":")
        if name not in _HELD:
            raise click.BadParameter(f"{name!r} is none of {', '.join(_HELD)}")
        if name in found:
            raise click.BadParameter(f"{name} is named twice")
        try:
            found[name] = [int(k) for k in components.split(",")] if components else True
        except ValueError:
            raise click.BadParameter(f"{part!r} is not like means or means:0,3") from None
    return found or None


def temperatures(text: str) -> list[float]:
    """Temperatures, as ``4,2,1`` or, so many in equal ratios, ``8:1:20``."""
    try:
        if ":" not in text:
            return [float(one) for one in text.split(",")]
        first, last, count = (kind(one) for kind, one in zip(_RANGE, text.split(":"), strict=True))
        ratio = last / first
        return [first * ratio ** (i / (count - 1)) for i in range(count - 1)] + [last]
    except (ValueError, ZeroDivisionError):
        raise click.BadParameter(
            f"{text!r} is not like 4,2,1 (one for each iteration) or 8:1:20 (from 8 to 1 in 20)"
        ) from None


_RANGE: tuple[Any, ...] = (float, float, int)


def interval(value: str) -> int | str:
    """Iterations, or a time, between two checkpoints."""
    from dgmm.checkpoint import Interval

    given = int(value) if value.strip().isdecimal() else value
    try:
        Interval.of(given, "it")
    except InvalidParameterError as error:
        raise click.BadParameter(str(error)) from error
    return given
