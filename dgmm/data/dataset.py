"""What a fit reads: rows, the blocks that hold them, and the dataset that lists the blocks.

A :class:`Dataset` is a manifest. Its blocks are small picklable handles that say what to read and
which rows it gives; they travel to threads and workers, the rows never do. Nothing here knows what
the rows are for.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dgmm.data.stamps import Stamp
from dgmm.errors import ComplexDataError, InvalidDataError, InvalidDtypeError

if TYPE_CHECKING:
    from dgmm.data.skipping import Skipping

__all__ = [
    "DEFAULT_BLOCK_BYTES",
    "PERSISTED_BLOCK_BYTES",
    "Block",
    "Dataset",
    "Part",
    "Rows",
    "check_dtype",
]

# 16 MiB keeps a thread busy for many tiles and lets a 256 MiB limit hold several blocks.
DEFAULT_BLOCK_BYTES = 16 * 2**20

# Chunks that workers hold cost nothing to read, and would move if they were joined.
PERSISTED_BLOCK_BYTES = 2**20

# In parts of 16 MiB, 128 TiB.
_MOST_PARTS = 2**23
# A row of them is 8 GiB of float64; a larger count would overflow what is projected from it.
_MOST_FEATURES = 2**30


@dataclass(frozen=True)
class Rows:
    """Some consecutive rows of a dataset, as read.

    Parameters
    ----------
    x : array of shape (n_rows, n_features)
        The values, in the dtype they are stored in.
    first_row : int
        Global index of the first of them.
    weight : array of shape (n_rows,), optional
        Sample weights; None counts every row once.
    labels : array of shape (n_rows,), optional
        Known components, -1 where unknown; None if there are none.
    offsets : array of shape (n_rows,), int64, optional
        Each row's distance from ``first_row`` where rows were left out; None: 0, 1, 2, …
    bad : array of shape (n_rows,), bool, optional
        True for rows that hold no usable values: they have to be skipped, or refused.
    lost : str, default=""
        Why the block of these rows could not be read at all, if it is skipped. Its first rows
        alone say so, so that it is counted once.
    """

    x: Any
    first_row: int = 0
    weight: Any = None
    labels: Any = None
    offsets: Any = None
    bad: Any = None
    lost: str = ""

    @property
    def n_rows(self) -> int:
        return int(self.x.shape[0])

    def part(self, start: int, stop: int) -> Rows:
        """Rows ``start`` to ``stop``, counted within these rows, as views."""

        def cut(values: Any) -> Any:
            return None if values is None else values[start:stop]

        if self.offsets is not None:
            raise ValueError("rows of which some were left out cannot be cut again")
        return Rows(
            self.x[start:stop],
            self.first_row + start,
            cut(self.weight),
            cut(self.labels),
            bad=cut(self.bad),
            lost="" if start else self.lost,
        )

    def tiles(self, size: int) -> Iterator[Rows]:
        """These rows in order, ``size`` at a time."""
        for start in range(0, self.n_rows, size):
            yield self.part(start, min(start + size, self.n_rows))

    def counted_tiles(self, size: int) -> Iterator[Rows]:
        """The tiles, each without what does not count."""
        for tile in self.tiles(size):
            counted = tile.counted()
            if counted.n_rows:
                yield counted

    def counted(self) -> Rows:
        """The rows that count: without those of weight zero, which may hold anything at all."""
        if self.weight is None or np.all(self.weight):
            return self
        kept = np.flatnonzero(self.weight)
        labels = None if self.labels is None else self.labels[kept]
        return Rows(self.x[kept], self.first_row, self.weight[kept], labels, kept)

    def position(self, index: int) -> int:
        """Global index of row ``index`` of these."""
        return self.first_row + (index if self.offsets is None else int(self.offsets[index]))


@dataclass(frozen=True)
class Block(ABC):
    """A unit of reading: what to read, and which rows of the dataset it gives.

    Parameters
    ----------
    first_row, n_rows : int
        The rows of the dataset that the block holds.
    n_features : int
        The width of a row.
    dtype : numpy.dtype
        The stored dtype.
    """

    first_row: int
    n_rows: int
    n_features: int
    dtype: np.dtype[Any]

    @abstractmethod
    def read(self) -> Rows:
        """Read the rows. Raises a :class:`~dgmm.errors.SourceError` that names the block."""

    @property
    def nbytes(self) -> int:
        """Bytes of the rows once read."""
        return self.n_rows * self.n_features * self.dtype.itemsize

    @property
    def peak_read_bytes(self) -> int:
        """Most bytes held at once while reading, the rows included."""
        return self.nbytes

    @property
    def is_resident(self) -> bool:
        """True if the rows are in memory already, so that reading them costs and copies nothing."""
        return False

    @property
    def holds_rows(self) -> bool:
        """True if the values are in memory, even where weights or labels have to be read."""
        return self.is_resident

    @property
    def on_device(self) -> bool:
        """True if the values are in the memory of a GPU, so that none of the host's is needed."""
        return False

    @property
    def stamp(self) -> Stamp | None:
        """What the storage said of the files behind the rows; None if there are none to ask of."""
        return None

    @property
    def has_weight(self) -> bool:
        """True if its rows carry weights."""
        return False

    @property
    def has_labels(self) -> bool:
        """True if its rows carry labels."""
        return False

    def over(self, change: Callable[[Block], Block]) -> Block:
        """The same block with the source of its values changed, whatever is wrapped around it."""
        return change(self)

    @property
    def name(self) -> str:
        """How messages call the block."""
        return f"rows {self.first_row} to {self.first_row + self.n_rows - 1}"


class Part(NamedTuple):
    """A leaf of the reduction tree: rows ``start`` to ``stop`` of block number ``block``."""

    block: int
    start: int
    stop: int


@dataclass(frozen=True)
class Dataset:
    """An ordered manifest of blocks, and what is known of them without reading.

    Parameters
    ----------
    blocks : tuple of Block
        In the order of their rows, without gaps.
    n_features : int
        The width of a row.
    dtype : numpy.dtype
        The stored dtype, of any byte order: bool, integer or floating.
    part_rows : int
        Most rows in a leaf of the reduction tree. A function of the storage, the dtype and
        ``block_bytes`` alone, so that the tree, and with it every bit of a result, is the same on
        any number of threads or workers and under any memory limit.
    fingerprint : str
        Identifies the content as far as the storage can tell (path, sizes, times, etags, …).
    feature_names : tuple of str, optional
        Names of the columns.
    skipping : Skipping, optional
        What is left out if it is bad; see :func:`dgmm.open_dataset`.
    origin : object, optional
        The object that the caller gave, where results have to come back in its kind
        (a Dask array, say). Not part of the dataset's identity, and left behind by pickling.
    """

    blocks: tuple[Block, ...]
    n_features: int
    dtype: np.dtype[Any]
    part_rows: int
    fingerprint: str
    feature_names: tuple[str, ...] | None = None
    skipping: Skipping | None = None
    origin: Any = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        check_dtype(self.dtype)
        if self.n_features < 1:
            raise InvalidDataError("the data has 0 features (columns); at least 1 is needed")
        if self.n_features > _MOST_FEATURES:
            raise InvalidDataError(
                f"the data declares {self.n_features} features (columns), more than "
                f"{_MOST_FEATURES}; write it anew, with observations as rows"
            )
        expected = 0
        for block in self.blocks:
            if block.first_row != expected:
                raise InvalidDataError(f"block {block.name} should start at row {expected}")
            expected += block.n_rows
        # What a file declares costs nothing to write; the list of its parts would.
        if sum(-(-block.n_rows // self.part_rows) for block in self.blocks) > _MOST_PARTS:
            raise InvalidDataError(
                f"the data declares {expected} rows, more than {_MOST_PARTS} parts of "
                f"{self.part_rows}; open it with a larger block_bytes if that is right"
            )

    def __getstate__(self) -> dict[str, Any]:
        # What travels is the manifest: the caller's object may be all of the data.
        return {**{f.name: getattr(self, f.name) for f in fields(self)}, "origin": None}

    @cached_property
    def n_rows(self) -> int:
        return sum(block.n_rows for block in self.blocks)

    @property
    def has_weights(self) -> bool:
        """True if the rows carry weights."""
        return any(block.has_weight for block in self.blocks)

    @property
    def has_labels(self) -> bool:
        """True if the rows carry labels."""
        return any(block.has_labels for block in self.blocks)

    def with_weights(self, weights: Any) -> Dataset:
        """The dataset with a weight for each row.

        Parameters
        ----------
        weights : array_like, Dask array, zarr.Array, path, URL, Dataset, str or int
            Finite numbers of at least 0, shape (n_rows,); or the name or number of a column, which
            is then no longer a feature. A weight of 0 leaves a row out, whatever it holds. Values
            are checked as they are read.

        Raises
        ------
        InvalidDataError
            If there is not one weight for each row.
        InvalidParameterError
            If a column is named that is not there, or the rows carry weights already.
        """
        from dgmm.data.pairing import with_weights

        return with_weights(self, weights)

    def with_labels(self, labels: Any) -> Dataset:
        """The dataset with a known component for some rows.

        Parameters
        ----------
        labels : array_like, Dask array, zarr.Array, path, URL, Dataset or str
            Shape (n_rows,): the number of a component, -1 where it is unknown; or the name of a
            column, which is then no longer a feature.

        Raises
        ------
        InvalidDataError
            If there is not one label for each row.
        InvalidParameterError
            If the rows carry labels already.
        """
        from dgmm.data.pairing import with_labels

        return with_labels(self, labels)

    @property
    def manifest(self) -> dict[str, Any]:
        """What is known of the data without reading it, for JSON: a new dictionary each time.

        ``fingerprint``, ``shape``, ``dtype``, ``feature_names``, and ``blocks``: for each its
        ``first_row`` and ``n_rows``, and what the storage said of its files when the dataset was
        opened (``n_files``, ``n_bytes``, ``version``: an etag or the time of the last change,
        ``digest`` over all of it), or None for rows in memory. The same data gives the same
        manifest; nothing in it is secret. :func:`dgmm.data.manifest.difference` compares two.
        """
        from dgmm.data.manifest import manifest_of

        return manifest_of(self)

    @property
    def shape(self) -> tuple[int, int]:
        return self.n_rows, self.n_features

    @property
    def nbytes(self) -> int:
        return sum(block.nbytes for block in self.blocks)

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """The leaves of the reduction tree, in the order of their rows."""
        return tuple(
            Part(index, start, min(start + self.part_rows, block.n_rows))
            for index, block in enumerate(self.blocks)
            for start in range(0, block.n_rows, self.part_rows)
        )


def check_dtype(dtype: np.dtype[Any]) -> None:
    """Refuse what is not a real number.

    Raises
    ------
    InvalidDtypeError
        For strings, objects, complex numbers, dates, records.
    """
    if dtype.kind == "c":
        raise ComplexDataError(
            f"Complex data not supported: the data has dtype {dtype}, which is not a real number; "
            "pass the real and imaginary parts as columns of their own"
        )
    if dtype.kind not in "biuf":
        raise InvalidDtypeError(
            f"the data has dtype {dtype}, which is not a real number; "
            "convert it to a floating or integer dtype"
        )


def part_rows(n_features: int, dtype: np.dtype[Any], block_bytes: int) -> int:
    """Rows in a leaf: as many as ``block_bytes`` hold, at least one."""
    return max(1, block_bytes // (n_features * dtype.itemsize))


def fingerprint_of(items: Sequence[object]) -> str:
    """SHA-256 of the items' representations, for fingerprints."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(repr(item).encode())
        digest.update(b"\0")
    return digest.hexdigest()
