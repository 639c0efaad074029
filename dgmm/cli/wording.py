"""Messages of the library in the words of the command line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial

import click

__all__ = ["in_options"]

# Arguments that an option of another name stands for.
_OTHER_NAMES = {"--seed": "random_state"}

# Names of one word that are no words of English.
_UNMISTAKABLE = {"tol"}

# name='value', perhaps with others to choose from; name=[1, 2]; name=value; name = value.
_CHOICES = r"='(?P<first>[^']*)'(?P<rest>(?:(?:,? or |, )'[^']*')*)"
_LIST = r"=\[(?P<list>[^\]']*)\]"
_VALUE = r"(?:=| = )(?P<value>[^\s,;:)']+)"


def in_options(text: str, command: click.Command | None) -> str:
    """The text with a command's options in place of the arguments that they become.

    A value is written as on the command line, and None is the option left out. A name of one word
    is an option only before a value: "labels" are many things. Signatures of functions, and what
    is compared with, keep the library's names.
    """
    for name, option in _options(command):
        start = rf"(?<![\w./-])(?<!>= ){name}"
        text = re.sub(start + _CHOICES, partial(_chosen, option), text)
        text = re.sub(start + _LIST, partial(_listed, option), text)
        text = re.sub(start + _VALUE, partial(_given, option), text)
        if "_" in name or name in _UNMISTAKABLE:
            text = re.sub(rf"{start}(?![\w/])(?!, \w+\) ->)", option, text)
    return text


def _chosen(option: str, match: re.Match[str]) -> str:
    rest = match["rest"].replace("'", "")
    return f"{option} {match['first'] or repr('')}{rest}"


def _listed(option: str, match: re.Match[str]) -> str:
    return f"{option} {match['list'].replace(' ', '')}"


def _given(option: str, match: re.Match[str]) -> str:
    value = match["value"]
    return f"no {option}" if value == "None" else f"{option} {value}"


def _options(command: click.Command | None) -> Iterator[tuple[str, str]]:
    for param in () if command is None else command.params:
        if isinstance(param, click.Option):
            option = max(param.opts, key=len)
            yield option.removeprefix("--").replace("-", "_"), option
            if option in _OTHER_NAMES:
                yield _OTHER_NAMES[option], option
