"""Names of columns: which a table has, and whether those of two tables agree."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dgmm.errors import InvalidDataError, InvalidDtypeError

__all__ = ["check_unique", "column_names", "disagreement"]

_MOST_LISTED = 5


def column_names(columns: Iterable[object]) -> tuple[str, ...] | None:
    """Names of a table's columns; None where they are no strings, numbers for instance.

    Raises
    ------
    InvalidDtypeError
        If only some are strings, as scikit-learn has it.
    InvalidDataError
        If two are the same.
    """
    names = list(columns)
    strings = tuple(name for name in names if isinstance(name, str))
    if names and len(strings) == len(names):
        check_unique(strings)
        return strings
    if strings:
        kinds = sorted({type(name).__name__ for name in names})
        raise InvalidDtypeError(
            "Feature names are only supported if all input features have string names, but your "
            f"input has {kinds} as feature name / column name types. If you want feature names to "
            "be stored and validated, you must convert them all to strings, by using X.columns = "
            "X.columns.astype(str) for example. Otherwise you can remove feature / column names "
            "from your input data, or convert them all to a non-string data type."
        )
    return None


def check_unique(names: Sequence[str]) -> None:
    """Refuse names of which one stands for several columns.

    Raises
    ------
    InvalidDataError
    """
    for name in names:
        if (times := list(names).count(name)) > 1:
            raise InvalidDataError(
                f"Expected unique column names, got: {name!r} {times} times; rename the columns"
            )


def disagreement(found: Sequence[str], expected: Sequence[str]) -> str | None:
    """scikit-learn's message about names that are not those of the fit; None if they are."""
    if list(found) == list(expected):
        return None
    unseen = sorted(set(found) - set(expected))
    missing = sorted(set(expected) - set(found))
    message = "The feature names should match those that were passed during fit.\n"
    if unseen:
        message += "Feature names unseen at fit time:\n" + _listed(unseen)
    if missing:
        message += "Feature names seen at fit time, yet now missing:\n" + _listed(missing)
    if not unseen and not missing:
        message += "Feature names must be in the same order as they were in fit.\n"
    return message


def _listed(names: Sequence[str]) -> str:
    lines = [f"- {name}\n" for name in names[:_MOST_LISTED]]
    return "".join(lines) + ("- ...\n" if len(names) > _MOST_LISTED else "")
