"""Dask arrays as datasets, and datasets as lazy Dask arrays."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import dask.array as da
import numpy as np
from dask.base import optimize
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph
from dask.optimization import cull

from dgmm.data.dataset import Block, Dataset, Rows, check_dtype, fingerprint_of, part_rows
from dgmm.data.planning import check_two_dimensional, joined_ranges
from dgmm.errors import DgmmError, InvalidDataError, SourceError
from dgmm.portable import portable_errors

__all__ = ["DaskBlock", "is_persisted", "open_dask", "to_dask"]

# Blocks whose graphs overlap so much are better computed together.
_RECOMPUTED = 4


@dataclass(frozen=True)
class DaskBlock(Block):
    """A chunk of a Dask array, as a handle on the part of the graph that makes it.

    An engine that runs on the cluster where the array is persisted passes :attr:`future` (or
    :attr:`delayed`) to its tasks as an argument, so that the rows stay where they are;
    :meth:`read` brings them to the caller. All three give an array of shape
    (n_rows, n_features).

    Parameters
    ----------
    delayed : dask.delayed.Delayed
        Gives the rows. Its graph holds what this block needs and no more.
    key : tuple
        Its key, which stands for the block in comparisons.
    """

    delayed: Delayed = field(compare=False, repr=False)
    key: tuple[Any, ...]

    @property
    def futures(self) -> tuple[Any, ...]:
        """The futures (``distributed.Future``) in the graph; none unless it was persisted."""
        return tuple(_futures(self.delayed))

    @property
    def future(self) -> Any:
        """The future of exactly these rows; None if there is none, or the rows had to be joined."""
        found = [one for one in self.futures if one.key == self.key]
        return found[0] if found else None

    @property
    def peak_read_bytes(self) -> int:
        """The rows twice, for chunks that are joined. What the graph needs within is not known."""
        return 2 * self.nbytes

    def read(self) -> Rows:
        """Compute the rows in this thread, or fetch them if they are persisted on a cluster."""
        try:
            values = self._compute()
        except (DgmmError, MemoryError):
            raise
        except Exception as error:
            raise SourceError(
                f"the Dask array failed at block {self.name}: {type(error).__name__}: {error}"
            ) from error
        return Rows(self.checked(values), self.first_row)

    def checked(self, values: Any) -> Any:
        """The values, if they have the shape and dtype that the array declares.

        Raises
        ------
        SourceError
            If they do not.
        """
        shape = self.n_rows, self.n_features
        if values.shape != shape or values.dtype != self.dtype:
            raise SourceError(
                f"the Dask array declares shape {shape} and dtype {self.dtype} for block "
                f"{self.name} and gave {values.shape} and {values.dtype}; correct its meta or its "
                "chunks (x.compute_chunk_sizes())"
            )
        return values

    def _compute(self) -> Any:
        futures = self.futures
        if not futures:
            return self.delayed.compute(scheduler="synchronous")
        future = self.future
        return (
            futures[0].client.compute(self.delayed).result()
            if future is None
            else (future.result())
        )


def open_dask(array: da.Array, block_bytes: int) -> Dataset:
    """A Dask array of any graph, in memory of a cluster or not.

    Small chunks are joined along the rows until a block holds ``block_bytes``; columns in several
    chunks are joined. The fingerprint covers the array's name, shape, dtype and chunks: Dask's
    names are made from the calls that built the array, so they do not change when the files that
    those calls read do.

    Raises
    ------
    InvalidDataError
        If the array is not two-dimensional, or its number of rows is not known.
    InvalidDtypeError
        If it does not hold real numbers.
    """
    check_dtype(array.dtype)
    if any(np.isnan(size) for size in array.shape):
        raise InvalidDataError(
            f"the Dask array does not know its number of rows (shape={array.shape}); call "
            "x.compute_chunk_sizes() first, which computes it once"
        )
    n_rows, n_features = check_two_dimensional(tuple(array.shape))
    row_bytes = n_features * array.dtype.itemsize
    ranges = list(joined_ranges(array.chunks[0], row_bytes, block_bytes))
    return Dataset(
        blocks=_blocks(array, ranges) if n_rows else (),
        n_features=n_features,
        dtype=array.dtype,
        part_rows=part_rows(n_features, array.dtype, block_bytes),
        fingerprint=fingerprint_of(["dask", array.name, array.shape, array.dtype, array.chunks]),
        origin=array,
    )


def to_dask(
    dataset: Dataset,
    read: Callable[[Block], Any] | None = None,
    shape: tuple[int, ...] | None = None,
    dtype: Any = None,
) -> da.Array:
    """A lazy array of a dataset's rows, or of a value for each, one chunk for each block.

    Parameters
    ----------
    dataset : Dataset
        What to read. If it was opened from a Dask array, that array is returned.
    read : callable, optional
        Gives the values of a block's rows, of ``shape`` each and of ``dtype``; by default the rows.

    Returns
    -------
    dask.array.Array of shape (n_rows, n_features) or (n_rows, *shape)
    """
    shape = (dataset.n_features,) if shape is None else shape
    dtype = dataset.dtype if dtype is None else dtype
    if read is None and isinstance(dataset.origin, da.Array):
        return dataset.origin
    # A name of its own: with one made from the fingerprint, a cluster could serve rows that it
    # holds from before the data changed in a way that the fingerprint does not see.
    name = f"dgmm-rows-{uuid4().hex}"
    graph: dict[Any, Any] = {
        (name, index, *(0 for _ in shape)): (read or _rows, block)
        for index, block in enumerate(dataset.blocks)
    }
    sizes = tuple(block.n_rows for block in dataset.blocks)
    meta = np.empty((0, *shape), dtype)
    if not dataset.blocks:
        return da.from_array(meta)
    layers = HighLevelGraph.from_collections(name, graph)
    return da.Array(layers, name, (sizes, *((n,) for n in shape)), meta=meta)


@portable_errors()
def _rows(block: Block) -> Any:
    return block.read().x


def _blocks(array: da.Array, ranges: list[tuple[int, int]]) -> tuple[DaskBlock, ...]:
    sizes = tuple(stop - start for start, stop in ranges)
    if array.chunks != (sizes, (array.shape[1],)):
        # "tasks": the other method needs a cluster, and moves all of the rows at once.
        array = array.rechunk((sizes, (array.shape[1],)), method="tasks")
    if not _futures(array):
        # Dask's optimization drops a key whose value is its own future.
        (array,) = optimize(array)
    graph = dict(array.__dask_graph__())
    blocks = tuple(
        DaskBlock(start, stop - start, array.shape[1], array.dtype, *_piece(array, graph, index))
        for index, (start, stop) in enumerate(ranges)
    )
    _warn_of_recomputation(blocks, len(graph))
    return blocks


def _piece(array: da.Array, graph: dict[Any, Any], index: int) -> tuple[Delayed, tuple[Any, ...]]:
    key = (array.name, index, 0)
    return Delayed(key, cull(graph, [key])[0]), key


def is_persisted(array: da.Array) -> bool:
    """True if a cluster holds chunks of the array."""
    return bool(_futures(array))


def _futures(collection: Any) -> list[Any]:
    # Where distributed was not imported there are no futures, and no reason to import it.
    if "distributed" not in sys.modules:
        return []
    import distributed

    return list(distributed.futures_of(collection))


def _warn_of_recomputation(blocks: tuple[DaskBlock, ...], n_tasks: int) -> None:
    largest = max(len(block.delayed.__dask_graph__()) for block in blocks)
    if len(blocks) * largest > _RECOMPUTED * max(n_tasks, len(blocks) * 4):
        warnings.warn(
            f"every block of this Dask array needs up to {largest} of its {n_tasks} tasks, which "
            "are computed again for each block and pass; persist it (x.persist()) or store it "
            "(x.to_zarr(path)) first",
            UserWarning,
            stacklevel=5,
        )
