"""Where a Zarr array is, and what is found there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import zarr
from zarr.storage import FsspecStore, LocalStore

from dgmm.data.location import Location
from dgmm.data.zarr_store import StoreFailureError, leaves, open_store, open_watched
from dgmm.errors import InvalidDtypeError, SourceError

__all__ = ["group_message", "open_node", "place_of"]

_NAMES_IN_MESSAGE = 10


def open_node(location: Location) -> Any:
    """The ``zarr.Array`` or ``zarr.Group`` at a location, to read.

    Raises
    ------
    SourceError
        If there is none, or its metadata make no sense.
    StoreUnavailableError
        If the store could not be reached, or refused.
    """
    store = open_store(location)
    try:
        return open_watched(store)
    except StoreFailureError as error:
        failure = error.__cause__ or error
        raise location.failure("cannot open", failure) from location.cause(failure)
    except FileNotFoundError as error:
        path = location.path
        what = (
            "no such file or directory"
            if path is not None and not path.exists()
            else "not a Zarr array (it has no zarr.json or .zarray there)"
        )
        raise SourceError(f"cannot open {location.name}: {what}") from location.cause(error)
    except OSError as error:
        raise location.failure("cannot open", error) from location.cause(error)
    except Exception as error:  # noqa: BLE001 (broken metadata fail in any way)
        kind = InvalidDtypeError if "data type" in str(error).lower() else SourceError
        raise kind(
            f"cannot open {location.name} as a Zarr array: {location.scrub(error)}"
        ) from location.cause(error)


def place_of(node: Any) -> tuple[Location, Any]:
    """Where a caller's array is, and the array itself if only its own store can read it.

    A local array is opened again by its path, here as by the workers: its description can change
    on the way (Zarr v3 keeps the byte order with the codecs, not with the dtype).
    """
    store = node.store
    if isinstance(store, LocalStore):
        return Location.of(store.root / node.path), None
    if isinstance(store, FsspecStore):
        path = f"{store.path.rstrip('/')}/{node.path}".rstrip("/")
        options = getattr(store.fs, "storage_options", None) or {}
        return Location(str(store.fs.unstrip_protocol(path)), dict(options)), node
    # Not str(store), which holds the address of one in memory.
    return Location(f"{type(store).__name__}://{node.path}"), node


def group_message(group: Any, location: Location) -> str:
    """Why a group is no data, and which arrays are in it."""
    try:
        names = list(_array_names(group))
    except Exception as error:  # noqa: BLE001 (each file system has errors of its own)
        first = next(iter(leaves(error)))
        failure = first.__cause__ if isinstance(first, StoreFailureError) else first
        raise location.failure("cannot list", failure or first) from location.cause(error)
    listed = ", ".join(names[:_NAMES_IN_MESSAGE]) or "none"
    more = "" if len(names) <= _NAMES_IN_MESSAGE else ", …"
    advice = f"; pass {location.name}/{names[0]}, say" if names else ""
    return f"{location.name} is a Zarr group, not an array; arrays in it: {listed}{more}{advice}"


def _array_names(group: Any) -> Iterator[str]:
    for name, member in group.members(max_depth=4):
        if isinstance(member, zarr.Array):
            yield str(name)
