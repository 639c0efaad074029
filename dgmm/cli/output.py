"""What commands print: one JSON line on standard output, everything else on standard error.

No credential is ever shown: all text passes :func:`redact`.
"""

from __future__ import annotations

import json
import math
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

import click

from dgmm.errors import ConstantFeatureWarning, EmptyComponentWarning

__all__ = ["print_json", "print_line", "redact", "skipped", "strict", "warnings_as_lines"]

# s3://key:secret@bucket/rows.zarr?token=... A secret pasted as it is may itself hold "/", "@" or
# "?", so after a colon everything up to the last "@" goes.
# A URL in the place of a path comes with one slash alone.
_SCHEME = r"(://|[A-Za-z][A-Za-z0-9+.-]+:/)"
_USER = re.compile(_SCHEME + r"(?:[^\s/:@]*:[^\s'\"]*@|[^\s/@]*@)")
_QUERY = re.compile(_SCHEME + r"([^\s'\"?#]*)[?#][^\s'\"]*")


def redact(text: str) -> str:
    """A text without the users, passwords, queries and fragments of the URLs in it."""
    return _QUERY.sub(r"\1\2", _USER.sub(r"\1", text))


def skipped(rows: int, blocks: Sequence[str] = ()) -> dict[str, Any]:
    """What the JSON line says of rows that were left out; nothing where none was."""
    if not rows:
        return {}
    return {"skipped_rows": rows, **({"skipped_blocks": [*map(redact, blocks)]} if blocks else {})}


def strict(value: Any) -> Any:
    """A value as strict JSON has it: no NaN, no infinity (null instead), no NumPy scalars."""
    if isinstance(value, Mapping):
        return {str(key): strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict(item) for item in value]
    if hasattr(value, "tolist"):
        return strict(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return redact(value) if isinstance(value, str) else value


def print_json(record: Mapping[str, Any]) -> None:
    """The last line on standard output."""
    click.echo(json.dumps(strict(record), allow_nan=False))


def print_line(text: str) -> None:
    """A line on standard error."""
    click.echo(redact(text), err=True)


@contextmanager
def warnings_as_lines(reworded: Callable[[str], str] = str) -> Iterator[None]:
    """Show Python warnings as a line each, without the source line that gave them.

    ``reworded`` is applied to each. Constant columns and empty components are among the notes on a
    fit already.
    """

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        del category, filename, lineno, line
        print(redact(f"dgmm: warning: {reworded(str(message))}"), file=file or sys.stderr)

    with warnings.catch_warnings():
        for category in (ConstantFeatureWarning, EmptyComponentWarning):
            warnings.simplefilter("ignore", category)
        warnings.showwarning = show
        yield
