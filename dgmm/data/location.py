"""Where a source is: a path or a URL with its options, and how to name it without its secrets."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from dgmm.errors import InvalidParameterError, SourceError, StoreUnavailableError

__all__ = ["Discreet", "Location"]

_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+(://|::)")
# "user:password@" up to the last "@" before a query or fragment: passwords hold slashes, and "@"
# too. (A port and an "@" in a path look the same, which costs a name and shows no secret.)
_USER_INFO = re.compile(r"//([^/?#]*:[^?#]*|[^/?#]*)@")
_QUERY = re.compile(r"[?#](.*)", re.DOTALL)
# Shorter values ("true", "1") would blank out innocent words of a message.
_SHORTEST_SECRET = 5
# What the user has to change: a place that is not there, options that make no sense. Every file
# system has errors of its own for the rest (network, credentials, permission, space).
_NOT_THE_STORE = (
    FileNotFoundError,
    NotADirectoryError,
    IsADirectoryError,
    BadZipFile,
    TypeError,
    ValueError,
)


@dataclass(frozen=True)
class Location:
    """A local path or a URL.

    Nothing that a message, a repr or a fingerprint shows comes from ``url`` or
    ``storage_options`` directly: they may hold credentials. :attr:`name` and :meth:`scrub` are
    safe to show.

    Parameters
    ----------
    url : str
        An absolute local path, or a URL that fsspec understands.
    storage_options : dict
        Options for fsspec.
    """

    url: str = field(repr=False)
    storage_options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls, source: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None
    ) -> Location:
        """The location of a path or URL as a user writes it.

        Raises
        ------
        InvalidParameterError
            If options for a URL come with a local path, or the path is not text.
        """
        text = os.fspath(source)
        if not isinstance(text, str):
            raise InvalidParameterError(f"a path must be text, got {text!r}")
        text = re.sub(r"^(file|local)://", "", text)
        if not text.strip():
            # The folder that a program happens to run in is nobody's data.
            raise InvalidParameterError("the path is empty; name a file, a folder or a URL")
        if storage_options is not None and not isinstance(storage_options, Mapping):
            raise InvalidParameterError(
                f"storage_options is a {type(storage_options).__name__}; it must be a dict of "
                "options for fsspec"
            )
        if _SCHEME.match(text):
            return cls(text.rstrip("/"), dict(storage_options or {}))
        if storage_options:
            raise InvalidParameterError(
                f"storage_options are for URLs such as 's3://bucket/name'; {text!r} is a local path"
            )
        return cls(os.path.abspath(os.path.expanduser(text)))

    def __repr__(self) -> str:
        return f"Location({self.name!r})"

    @property
    def path(self) -> Path | None:
        """The local path, None for a URL."""
        return None if _SCHEME.match(self.url) else Path(self.url)

    @cached_property
    def name(self) -> str:
        """The path, or the URL without user, password, query and fragment."""
        if self.path is not None:
            return self.url
        return _QUERY.sub("", _USER_INFO.sub("//", self.url))

    @cached_property
    def secrets(self) -> tuple[str, ...]:
        """Texts that must not be shown, the longest first."""
        if self.path is not None:
            return ()
        found = {*_leaves(self.storage_options), *_USER_INFO.findall(self.url)}
        found.update(_QUERY.findall(self.url))
        for text in tuple(found):
            found.update(re.split(r"[:&=@/]", text))
        hidden = (text for text in found if len(text) >= _SHORTEST_SECRET)
        return tuple(sorted((text for text in hidden if text not in self.name), key=len))[::-1]

    def scrub(self, error: BaseException | str) -> str:
        """The text of an error without secrets, on one line."""
        text = " ".join(str(error).split()) or type(error).__name__
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text

    def failure(self, what: str, error: BaseException) -> SourceError:
        """The exception for an operation of the store that failed.

        Parameters
        ----------
        what : str
            What could not be done, as in ``"cannot write to"``; the name follows.
        error : BaseException
            What the store raised.

        Returns
        -------
        SourceError
            A StoreUnavailableError, unless the error says that the place or the options are wrong.
            To be raised from :meth:`cause`.
        """
        kind = SourceError if isinstance(error, _NOT_THE_STORE) else StoreUnavailableError
        return kind(f"{what} {self.name}: {self.scrub(error)}")

    def cause(self, error: BaseException) -> BaseException | None:
        """What to chain an exception to: nothing where a traceback could show a secret."""
        return None if self.secrets else error


def _leaves(options: object) -> Iterator[str]:
    if isinstance(options, str):
        yield options
    elif isinstance(options, Mapping):
        for value in options.values():
            yield from _leaves(value)
    elif isinstance(options, list | tuple):
        for value in options:
            yield from _leaves(value)


class Discreet(str):
    """A URL as it was given, whose representation lacks user, password and query."""

    __slots__ = ()

    @classmethod
    def of(cls, value: Any) -> Any:
        """A URL like this, and anything else as it is."""
        is_url = isinstance(value, str) and _SCHEME.match(value) is not None
        return cls(value) if is_url and not isinstance(value, cls) else value

    def __repr__(self) -> str:
        return repr(Location(str(self)).name)
