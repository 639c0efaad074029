"""The columns of Parquet files: which are read, as what, and whether all files agree on them."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dgmm.data.parquet_files import ParquetPath, StoreReadError, open_parquet_file
from dgmm.errors import (
    DamagedBlockError,
    DgmmError,
    InvalidDataError,
    InvalidDtypeError,
    InvalidParameterError,
)

__all__ = ["Column", "Footer", "check_agreement", "choose_columns", "failure_of", "read_footer"]

_MOST_LISTED = 20


@dataclass(frozen=True)
class Column:
    """A column that is read.

    Parameters
    ----------
    name : str
    dtype : numpy.dtype
    is_partition : bool
        True if the names of folders hold it, not the files.
    """

    name: str
    dtype: np.dtype[Any]
    is_partition: bool = False


@dataclass(frozen=True)
class Footer:
    """What the footer of a file says.

    Parameters
    ----------
    file : ParquetPath
    types : dict of str to pyarrow.DataType
        Of the columns, in their order.
    index : tuple of str
        Columns that pandas takes for an index, which are no features unless asked for.
    groups : tuple of int
        Rows of each row group.
    """

    file: ParquetPath
    types: dict[str, Any]
    index: tuple[str, ...]
    groups: tuple[int, ...]


def read_footer(file: ParquetPath) -> Footer:
    """The footer of a file, checked as far as it can be checked against itself.

    Raises
    ------
    DamagedBlockError
        If it is not a Parquet file, is truncated, or contradicts itself.
    SourceError
        If it cannot be reached.
    """
    try:
        with open_parquet_file(file) as opened:
            schema, metadata = opened.schema_arrow, opened.metadata
            _check_names(file, schema, metadata)
            footer = Footer(
                file=file,
                types=dict(zip(schema.names, schema.types, strict=True)),
                index=_pandas_index(schema),
                # Not what it says of column chunks: where that is damaged, pyarrow does not raise
                # but ends the process (RowGroupMetaData.column lets a C++ exception through).
                groups=tuple(
                    metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)
                ),
            )
            _check_counts(file, footer, metadata)
            return footer
    except (DgmmError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 (a decoder raises what it likes)
        raise failure_of(file, error, f"{file.name} is truncated or not a Parquet file") from (
            file.location.cause(error)
        )


def failure_of(file: ParquetPath, error: BaseException, damaged: str) -> DgmmError:
    """The exception for what pyarrow, or the storage under it, raised."""
    import pyarrow as pa

    if isinstance(error, StoreReadError) and error.__cause__ is not None:
        return file.location.failure(f"cannot read {file.name} of", error.__cause__)
    # The errors that pyarrow makes itself of bad bytes have no number of the system's.
    own = type(error) in (OSError, ValueError) and getattr(error, "errno", None) is None
    if own or isinstance(error, pa.ArrowException | UnicodeDecodeError):
        return DamagedBlockError(
            f"{damaged} ({file.location.scrub(error)}); restore it from a copy or write it again"
        )
    return file.location.failure(f"cannot read {file.name} of", error)


def choose_columns(
    footer: Footer, columns: Sequence[str] | None, partitions: tuple[tuple[str, str], ...]
) -> tuple[Column, ...]:
    """The columns to read: those that were asked for, or all.

    Raises
    ------
    InvalidParameterError
        If a column is asked for twice or is not there.
    InvalidDtypeError
        If one is not of real numbers.
    """
    folders = [key for key, _ in partitions if key not in footer.types]
    if columns is None:
        names = [name for name in footer.types if name not in footer.index]
        wanted = [name for name in names if name not in folders]
    else:
        wanted = _checked(columns, [*footer.types, *folders])
    if not wanted:
        raise InvalidDataError(f"{footer.file.name} has no column that could be a feature")
    return tuple(
        Column(name, np.dtype(np.float64), is_partition=True)
        if name in folders
        else Column(name, _numeric(footer, name))
        for name in wanted
    )


def check_agreement(footer: Footer, first: Footer, columns: Sequence[Column], every: bool) -> None:
    """Refuse a file whose columns are not those of the first.

    Parameters
    ----------
    footer, first : Footer
    columns : sequence of Column
        Those that are read.
    every : bool
        True if no columns were chosen, so that those beyond them count as well.

    Raises
    ------
    InvalidDataError
        Naming the file and the difference.
    """
    where = f"{footer.file.name} differs from {first.file.name}: "
    keys = {key for key, _ in footer.file.partitions}
    for column in columns:
        name = column.name
        if column.is_partition:
            if name not in keys:
                raise InvalidDataError(f"{where}no folder on its path says {name}=…")
        elif name not in footer.types:
            raise InvalidDataError(f"{where}it has no column {name!r}")
        elif footer.types[name] != first.types[name]:
            raise InvalidDataError(
                f"{where}its column {name!r} has type {footer.types[name]}, not "
                f"{first.types[name]}; write them alike"
            )
    more = [name for name in footer.types if name not in first.types]
    if every and more:
        raise InvalidDataError(
            f"{where}it has a column {more[0]!r} more; choose those that all of them have: columns="
            f"{_listed([column.name for column in columns])}"
        )


def _check_counts(file: ParquetPath, footer: Footer, metadata: Any) -> None:
    """A footer has no checksum: what it says twice must agree."""
    counts = footer.groups
    if min(counts, default=0) < 0 or sum(counts) != metadata.num_rows:
        raise DamagedBlockError(
            f"{file.name} is damaged: its footer counts {metadata.num_rows} rows, and "
            f"{sum(counts)} in its row groups; restore it from a copy or write it again"
        )


def _check_names(file: ParquetPath, schema: Any, metadata: Any) -> None:
    """Arrow's writers note the schema once more: its names must be those of the columns."""
    names = list(schema.names)
    repeated = [name for name, count in Counter(names).items() if count > 1]
    written = (metadata.metadata or {}).get(b"ARROW:schema")
    if written is not None:
        import pyarrow as pa

        stored = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(written)))
        if list(stored.names) != names:
            raise DamagedBlockError(
                f"{file.name} is damaged: its footer names its columns in two ways "
                f"({_listed(sorted(set(names) ^ set(stored.names)))}); restore it from a copy or "
                "write it again"
            )
    if repeated:
        raise InvalidDataError(
            f"{file.name} has several columns of one name ({_listed(repeated)}); rename them"
        )


def _pandas_index(schema: Any) -> tuple[str, ...]:
    text = (schema.metadata or {}).get(b"pandas")
    try:
        found = json.loads(text)["index_columns"] if text else []
    except (ValueError, KeyError, TypeError):
        return ()
    return tuple(name for name in found if isinstance(name, str)) if isinstance(found, list) else ()


def _checked(columns: Sequence[str], present: list[str]) -> list[str]:
    if isinstance(columns, str) or not all(isinstance(name, str) for name in columns):
        raise InvalidParameterError(f"columns must be a list of names, got {columns!r}")
    wanted = list(columns)
    if not wanted:
        raise InvalidParameterError("columns=[] chooses no column; name one, or leave it out")
    for place, name in enumerate(wanted):
        if name in wanted[:place]:
            raise InvalidParameterError(f"columns names {name!r} twice")
        if name not in present:
            raise InvalidParameterError(
                f"columns names {name!r}, which is no column of the files; there are: "
                f"{_listed(present)}"
            )
    return wanted


def _numeric(footer: Footer, name: str) -> np.dtype[Any]:
    dtype = _dtype(footer.types[name])
    if dtype is None:
        kind = footer.types[name]
        numeric = [one for one, its in footer.types.items() if _dtype(its) is not None]
        raise InvalidDtypeError(
            f"column {name!r} has type {kind}, which is not a real number that NumPy holds; "
            f"{_remedy(kind)}, or choose among the numeric ones: columns={_listed(numeric)}"
        )
    return dtype


def _dtype(kind: Any) -> np.dtype[Any] | None:
    from pyarrow import types

    if types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind):
        return np.dtype(kind.to_pandas_dtype())
    return None


def _remedy(kind: Any) -> str:
    from pyarrow import types

    if types.is_decimal(kind):
        return "write it as float64 (column.cast('float64')), which rounds to 16 digits"
    if types.is_nested(kind):
        return "write each of its values as a column"
    if types.is_dictionary(kind):
        return "write its values instead of their dictionary"
    if types.is_temporal(kind):
        return "write it as a number, of seconds for instance"
    return "encode it as numbers"


def _listed(names: Sequence[str]) -> str:
    more = ", …" if len(names) > _MOST_LISTED else ""
    return "[" + ", ".join(map(repr, names[:_MOST_LISTED])) + more + "]"
