"""Arrays of Python objects: taken as the real numbers they are, exactly, or refused."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np

from dgmm.errors import ComplexDataError, InvalidDtypeError

__all__ = ["real_numbers"]

Array = np.ndarray[Any, Any]


def real_numbers(array: Array) -> Array:
    """The float64 values of an array of objects.

    Parameters
    ----------
    array : array of object, of any shape

    Returns
    -------
    array of the same shape, float64

    Raises
    ------
    InvalidDtypeError
        If an object is not a real number (a string of digits is not one either), or is one that
        float64 cannot hold exactly. Names the first.
    ComplexDataError
        If it is a complex number.
    """
    kinds = {kind for kind in set(map(type, array.flat)) if not _is_real(kind)}
    if kinds:
        raise _not_real(array, kinds)
    try:
        values = array.astype(np.float64)
    except (OverflowError, ValueError, TypeError) as error:
        raise InvalidDtypeError(
            f"the data has dtype object and does not fit float64: {error}"
        ) from error
    # Python compares an integer with a float exactly; a NaN, which equals nothing, is looked for
    # where rows are read.
    inexact = np.argwhere((values != array) & ~np.isnan(values))
    if len(inexact):
        where = tuple(inexact[0])
        raise InvalidDtypeError(
            f"the data has dtype object and holds {array[where]!r} {_place(where)}, which float64 "
            "cannot represent exactly; round it, or convert the data to a floating dtype"
        )
    return values


def _is_real(kind: type) -> bool:
    return issubclass(kind, Real | np.bool_)


def _not_real(array: Array, kinds: set[type]) -> InvalidDtypeError:
    place = next(where for where in np.ndindex(array.shape) if type(array[where]) in kinds)
    kind: type = type(array[place])
    if issubclass(kind, complex | np.complexfloating):
        return ComplexDataError(
            f"Complex data not supported: the data has dtype object and holds {array[place]!r} "
            f"{_place(place)}"
        )
    return InvalidDtypeError(
        f"the data has dtype object and holds a {kind.__name__} {_place(place)}, which is not a "
        "real number; each value of this argument must be neither a string nor any other object, "
        "but a number"
    )


def _place(where: tuple[Any, ...]) -> str:
    names = ("row", "feature", "index")
    return "at " + ", ".join(f"{names[min(axis, 2)]} {index}" for axis, index in enumerate(where))
