"""What a command writes must not be what it reads."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from dgmm.cli.output import redact
from dgmm.data.location import Location

__all__ = ["check_outputs", "check_spared", "covers", "place"]

_INPUTS = ("data", "sample_weight", "labels", "start")


def check_outputs(options: Mapping[str, Any]) -> None:
    """Refuse a model file or a report in the place of something that is read, or of each other.

    Raises
    ------
    click.UsageError
    """
    outputs = {f"--{name}": options[name] for name in ("out", "report") if options.get(name)}
    for flag, place in outputs.items():
        for name in _INPUTS:
            given = options.get(name)
            # The number of a column is no place.
            if isinstance(given, str | Path) and covers(place, given):
                shown = redact(str(given))
                raise click.UsageError(
                    f"{flag} would overwrite {shown}, which is read; name another file"
                )
    if len({_real(place) for place in outputs.values()}) < len(outputs):
        raise click.UsageError(
            f"--out and --report are the same file, {options['out']}; name another for one of them"
        )


def check_spared(out: str, *inputs: str | Path) -> None:
    """Refuse to replace what is read: the array itself, or one that something read lies in.

    Raises
    ------
    click.UsageError
    """
    for name in inputs:
        if covers(out, name):
            raise click.UsageError(f"--overwrite would delete {redact(str(name))}, which is read")


def place(out: str, overwrite: bool) -> Any:
    """Where a Zarr array goes, as the library takes it."""
    from dgmm.data.sink import Replacing

    return Replacing(out) if overwrite else out


def covers(out: str | Path, name: str | Path) -> bool:
    """True if ``name`` is ``out``, by whatever name, or lies in it."""
    return os.path.join(_real(name), "").startswith(os.path.join(_real(out), ""))


def _real(place: str | Path) -> str:
    location = Location.of(place)
    return location.name if location.path is None else os.path.realpath(location.path)
