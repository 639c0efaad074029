"""Messages of the library in the words of the command line."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click

__all__ = ["in_options"]

# Arguments that an option of another name stands for.
_OTHER_NAMES = {"--seed": "random_state"}


def in_options(text: str, command: click.Command | None) -> str:
    """The text with a command's options in place of the arguments that they become.

    A name of one word is an option only before an equals sign: "labels" are many things.
    """
    for name, option in _options(command):
        place = r"(?![\w/])" if "_" in name else r"(?==)"
        text = re.sub(rf"(?<![\w./-]){name}{place}", option, text)
    return text


def _options(command: click.Command | None) -> Iterator[tuple[str, str]]:
    for param in () if command is None else command.params:
        if isinstance(param, click.Option):
            option = max(param.opts, key=len)
            yield option.removeprefix("--").replace("-", "_"), option
            if option in _OTHER_NAMES:
                yield _OTHER_NAMES[option], option
