"""One door to every source: :func:`open_dataset`."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np

from dgmm.data.arrays import is_npy, open_array, open_npy, open_table
from dgmm.data.dataset import DEFAULT_BLOCK_BYTES, PERSISTED_BLOCK_BYTES, Dataset
from dgmm.data.location import Location
from dgmm.data.parquet_files import holds_parquet, is_parquet_name
from dgmm.data.skipping import check_choice, policy_of, skipping, unskipped
from dgmm.data.stamps import mark_of_path
from dgmm.devices import is_device_array
from dgmm.dispatch import is_foreign, on_host
from dgmm.errors import InvalidDataError, InvalidDtypeError, InvalidParameterError, SourceError
from dgmm.sizes import parse_bytes

__all__ = ["open_dataset"]

_ACCEPTED = (
    "a two-dimensional NumPy array or memory map, an array on a GPU, a .npy file, a Zarr array "
    "(path, URL or zarr.Array), Parquet files (path, folder, pattern or URL), a Dask array, a data "
    "frame with numeric columns, or a dgmm Dataset"
)


@dataclass(frozen=True)
class _Options:
    asked_bytes: int | None
    on_missing_chunk: str
    columns: Sequence[str] | None = None

    @property
    def block_bytes(self) -> int:
        """Of a block that has to be read."""
        return self.asked_bytes or DEFAULT_BLOCK_BYTES

    @property
    def persisted_bytes(self) -> int:
        """Of a block that workers hold."""
        return self.asked_bytes or PERSISTED_BLOCK_BYTES


# What Zarr reads of a folder before anything else.
_METADATA = ("zarr.json", ".zarray", ".zgroup", ".zattrs")


def open_dataset(
    source: Any,
    *,
    columns: Sequence[str] | None = None,
    block_bytes: SupportsIndex | str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    on_missing_chunk: str = "raise",
    on_bad_block: str = "raise",
    on_bad_rows: str = "raise",
    max_skipped: float = 0.01,
) -> Dataset:
    """Open anything that holds rows, without reading them.

    Parameters
    ----------
    source : object
        One of:

        - a NumPy array, nested lists, a ``numpy.memmap``, a CuPy array or another array on a GPU
          that shares its memory (``__cuda_array_interface__``: a CUDA tensor of PyTorch, say), an
          array of the host that speaks DLPack;
        - the path of a ``.npy`` file or of a Zarr array (v2 or v3), or the URL of a Zarr array
          (``s3://bucket/name``, ``memory://name``, ``file:///path``) that fsspec understands;
        - the path or URL of a Parquet file, of a folder of them (hive partitions or not), or a
          pattern (``rows/2024-*.parquet``);
        - a ``zarr.Array``;
        - a ``dask.array.Array``, persisted or not;
        - a data frame: anything with ``columns`` and ``to_numpy()``;
        - a :class:`~dgmm.data.dataset.Dataset`, returned as it is.
    columns : sequence of str, optional
        The columns of Parquet files to read, in this order. By default all, which have to be
        numeric, but those that pandas takes for an index and those that folders name.
    block_bytes : int or str, optional
        About how much to read at a time, as a number or as in ``"16MiB"``. Stored chunks are
        joined up to it; a larger chunk is read whole. By default 16 MiB, and 0.5 to 4 MiB for rows
        in memory, the more the more rows there are: they cost nothing to read and are better shared
        among threads in small parts. For a Dask array that is persisted on a cluster 1 MiB: larger
        chunks stay where they are.
    storage_options : dict, optional
        Options for fsspec, for a URL. Never shown.
    on_missing_chunk : {'raise', 'fill'}, default='raise'
        What to do about a chunk of a Zarr array that was never written: refuse it, or take its
        fill value. Chunks are looked at as they are read.
    on_bad_block : {'raise', 'skip'}, default='raise'
        What to do about a block that is damaged, or of which a chunk was never written: refuse it,
        or leave out its rows. A store that does not answer, or data that changed, is never skipped.
    on_bad_rows : {'raise', 'skip'}, default='raise'
        What to do about a row with a value that is NaN, infinite or (in Parquet) null: refuse it,
        or leave it out. A row that is left out has weight zero in a fit or a score; its label is
        -1, and its density and responsibilities are NaN.
    max_skipped : float, default=0.01
        The largest share of the rows that a fit or a score may leave out.

    Returns
    -------
    Dataset

    Raises
    ------
    SourceError
        If there is nothing to open, or it is not an array.
    InvalidDataError
        If it is not two-dimensional, or of unknown length.
    InvalidDtypeError
        If it does not hold real numbers.
    InvalidParameterError
        If an argument is out of range, or the kind of source is not known.
    MissingDependencyError
        If a URL needs a package that is not installed.
    """
    check_choice("on_missing_chunk", on_missing_chunk, ("raise", "fill"))
    policy = policy_of(on_bad_block, on_bad_rows, max_skipped)
    options = _Options(
        None if block_bytes is None else parse_bytes(block_bytes, "block_bytes"),
        on_missing_chunk,
        _names(columns),
    )
    if columns is not None and not isinstance(source, str | os.PathLike):
        raise InvalidParameterError(
            "columns chooses among those of Parquet files; select those of a frame or an array "
            "before it is opened"
        )
    if isinstance(source, Dataset) and policy is None:
        return source
    return skipping(_open(source, storage_options, options), policy)


def _names(columns: Any) -> Any:
    """The columns that were asked for, as they can be kept."""
    # A string is a sequence of strings, and left to be refused by name.
    if columns is None or isinstance(columns, str):
        return columns
    # What has no length may have no end.
    names = tuple(columns) if isinstance(columns, Collection) else (columns,)
    wrong = [name for name in names if not isinstance(name, str)]
    if wrong:
        raise InvalidParameterError(
            f"columns must be a list of names, such as ['x', 'y'], and there is a "
            f"{type(wrong[0]).__name__}"
        )
    return names


def _open(source: Any, storage_options: Mapping[str, Any] | None, options: _Options) -> Dataset:
    if isinstance(source, Dataset):
        return unskipped(source)
    if isinstance(source, str | os.PathLike):
        location = Location.of(source, storage_options)
        try:
            return _open_location(location, options)
        except (InvalidDataError, InvalidDtypeError) as error:
            raise type(error)(f"{location.name}: {error}") from error
    given: Any = storage_options
    if given is not None and not (isinstance(given, Mapping) and not given):
        raise InvalidParameterError("storage_options are for URLs; the source is an object")
    for is_kind, opener in _KINDS:
        if is_kind(source):
            return opener(source, options)
    raise InvalidParameterError(
        f"cannot read rows from a {type(source).__module__}.{type(source).__name__}; "
        f"pass {_ACCEPTED}"
    )


def _open_location(location: Location, options: _Options) -> Dataset:
    path = location.path
    _refuse_special(path)
    if options.columns is not None or is_parquet_name(location):
        return _parquet(location, options)
    if path is not None and path.is_file():
        if is_npy(path):
            return open_npy(path, options.block_bytes)
        if holds_parquet(location):
            return _parquet(location, options)
        if path.suffix != ".zip":
            raise SourceError(
                f"{path} is neither a .npy file, a Zarr array nor a Parquet file; pass {_ACCEPTED}"
            )
    if path is None and location.name.endswith(".npy"):
        raise SourceError(
            f"{location.name}: .npy files are read from local paths; copy it, or store it as Zarr"
        )
    try:
        return _zarr(location, options)
    except SourceError as error:
        # Only a folder that is no Zarr array is looked through for Parquet files.
        if type(error) is SourceError and holds_parquet(location):
            return _parquet(location, options)
        raise


def _refuse_special(path: Path | None) -> None:
    """Look before anything is opened: a pipe is waited for without end."""
    if path is not None:
        for one in (path, *(path / name for name in _METADATA)):
            mark_of_path(one)


def _parquet(location: Location, options: _Options) -> Dataset:
    from dgmm.data.parquet import open_parquet

    return open_parquet(location, options.block_bytes, options.columns)


def _zarr(source: Any, options: _Options) -> Dataset:
    from dgmm.data.zarr import open_zarr

    return open_zarr(source, options.block_bytes, options.on_missing_chunk)


def _dask(source: Any, options: _Options) -> Dataset:
    from dask.array import Array

    from dgmm.data.dask import is_persisted, open_dask

    if not isinstance(source, Array):
        raise InvalidParameterError(
            f"cannot read rows from a Dask {type(source).__name__}; pass a Dask array "
            "(of a data frame: df.to_dask_array(lengths=True))"
        )
    # Chunks that are joined would move between workers in every pass.
    held = is_persisted(source)
    return open_dask(source, options.persisted_bytes if held else options.block_bytes)


def _sparse(_source: Any, _options: _Options) -> Dataset:
    raise InvalidDataError(
        "Sparse data was passed, but dense data is required. Use x.toarray() to convert it."
    )


def _lazy_frame(source: Any, _options: _Options) -> Dataset:
    raise InvalidParameterError(
        f"cannot read rows from a {type(source).__module__.split('.')[0]} {type(source).__name__}, "
        "which is a query and no rows yet: pass frame.collect(), or write its rows to a Zarr array"
    )


def _table(source: Any, options: _Options) -> Dataset:
    return open_table(source, options.asked_bytes)


def _array(source: Any, options: _Options) -> Dataset:
    # A memory map is rows in a file, which have to be read.
    is_map = isinstance(source, np.memmap)
    return open_array(source, options.block_bytes if is_map else options.asked_bytes)


def _on_device(source: Any, options: _Options) -> Dataset:
    from dgmm.data.device import open_device_array

    return open_device_array(source, options.asked_bytes)


def _shared(source: Any, options: _Options) -> Dataset:
    return replace(_array(on_host(source), options), origin=source)


def _exported(source: Any, options: _Options) -> Dataset:
    return _array(np.from_dlpack(source), options)


def _from_zarr(source: Any) -> bool:
    # By name: an object of Zarr's exists only where Zarr has been imported already.
    return type(source).__module__.split(".")[0] == "zarr" and hasattr(source, "store")


_Opener = Callable[[Any, _Options], Dataset]

# Kinds of objects, the first that fits; a new kind is a line here.
_KINDS: tuple[tuple[Callable[[Any], bool], _Opener], ...] = (
    (is_device_array, _on_device),
    (lambda source: isinstance(source, np.ndarray | list | tuple), _array),
    (_from_zarr, _zarr),
    (lambda source: hasattr(source, "__dask_graph__"), _dask),
    (lambda source: hasattr(source, "collect_schema") and hasattr(source, "sink_csv"), _lazy_frame),
    (lambda source: hasattr(source, "to_numpy") and hasattr(source, "columns"), _table),
    (lambda source: hasattr(source, "toarray") and hasattr(source, "nnz"), _sparse),
    (is_foreign, _shared),
    (lambda source: hasattr(source, "__array__"), _array),
    (lambda source: hasattr(source, "__dlpack__"), _exported),
)
