"""Rows paired with a weight and a label each, which may come from another source.

A :class:`PairedBlock` reads the rows of a block and the values that belong to them; it is as small
when pickled as what it pairs. Weights and labels are checked as they are read, every time, because
a source may change between passes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dgmm.arrays import to_host
from dgmm.data.dataset import Block, Dataset, Rows, fingerprint_of
from dgmm.data.row_values import Piece, open_column, pieces_of, read_pieces
from dgmm.data.skipping import skipping, unskipped
from dgmm.data.stamps import Stamp, joint_stamp
from dgmm.errors import InvalidDataError, InvalidParameterError

__all__ = ["PairedBlock", "with_labels", "with_weights"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class PairedBlock(Block):
    """Rows of a block with what belongs to them.

    Parameters
    ----------
    rows : Block
        Where the values come from; its own weights and labels are kept.
    weights, labels : tuple of Piece, optional
        Together as long as the block.
    column : int, optional
        The column of ``rows`` that holds the weights or labels; it is left out of the values.
    column_holds : {'weights', 'labels'}
    """

    rows: Block = field(compare=False)
    weights: tuple[Piece, ...] | None = field(default=None, compare=False, repr=False)
    labels: tuple[Piece, ...] | None = field(default=None, compare=False, repr=False)
    column: int | None = field(default=None, compare=False)
    column_holds: str = field(default="weights", compare=False)

    def read(self) -> Rows:
        rows = self.rows.read()
        # What may be cached holds its own rows alone; what is in memory anyway is not cached.
        copy = not self.is_resident
        if self.column is not None:
            taken = np.array(to_host(rows.x[:, self.column]), dtype=np.float64)
            rows = replace(rows, x=np.delete(rows.x, self.column, axis=1))
            if self.column_holds == "weights":
                rows = replace(rows, weight=taken)
            else:
                rows = replace(rows, labels=self._checked_labels(taken))
        if self.weights is not None:
            rows = replace(rows, weight=read_pieces(self.weights, "float64", copy=copy))
        if self.labels is not None:
            rows = replace(rows, labels=self._read_labels(self.labels))
        if self._gives_weights:
            _check_weights(rows.weight, self)
        return rows

    @property
    def _gives_weights(self) -> bool:
        from_column = self.column is not None and self.column_holds == "weights"
        return from_column or self.weights is not None

    def _read_labels(self, pieces: tuple[Piece, ...]) -> Array:
        return self._checked_labels(read_pieces(pieces, "float64", copy=False))

    def _checked_labels(self, values: Array) -> Array:
        wrong = np.flatnonzero(~((values >= -1) & (values == np.floor(values))))
        if wrong.size:
            raise InvalidDataError(
                f"labels: row {self.first_row + wrong[0]} (block {self.name}) has "
                f"{values[wrong[0]]:g}; a label is the number of a component, or -1 where it is "
                "unknown"
            )
        return values.astype(np.int64)

    @property
    def nbytes(self) -> int:
        columns = (self.column is not None or self.weights is not None) + (self.labels is not None)
        inner = self.rows.nbytes if self.column is None else super().nbytes
        return inner + 8 * self.n_rows * columns

    @property
    def peak_read_bytes(self) -> int:
        """The rows, once more if a column is taken out, the values and the pieces they are in."""
        pieces = (*(self.weights or ()), *(self.labels or ()))
        # One piece is read after the other; each column is held as read and as joined.
        largest = max((piece.block.peak_read_bytes for piece in pieces), default=0)
        again = 0 if self.column is None else self.nbytes
        return self.rows.peak_read_bytes + again + largest + 32 * self.n_rows

    @property
    def stamp(self) -> Stamp | None:
        pieces = (*(self.weights or ()), *(self.labels or ()))
        return joint_stamp([self.rows.stamp, *(piece.block.stamp for piece in pieces)])

    @property
    def is_resident(self) -> bool:
        pieces = (*(self.weights or ()), *(self.labels or ()))
        resident = self.rows.is_resident and all(piece.block.is_resident for piece in pieces)
        return resident and self.column is None

    @property
    def holds_rows(self) -> bool:
        return self.rows.holds_rows

    @property
    def on_device(self) -> bool:
        return self.rows.on_device

    @property
    def has_weight(self) -> bool:
        return self._gives_weights or self.rows.has_weight

    @property
    def has_labels(self) -> bool:
        from_column = self.column is not None and self.column_holds == "labels"
        return from_column or self.labels is not None or self.rows.has_labels

    def over(self, change: Callable[[Block], Block]) -> Block:
        return replace(self, rows=self.rows.over(change))

    # What an engine asks of rows that a cluster holds: they stay where they are.

    @property
    def futures(self) -> tuple[Any, ...]:
        return getattr(self.rows, "futures", ())

    @property
    def future(self) -> Any:
        return getattr(self.rows, "future", None)

    @property
    def delayed(self) -> Any:
        return getattr(self.rows, "delayed", None)


def with_weights(dataset: Dataset, weights: Any) -> Dataset:
    """A dataset whose rows carry weights; see :meth:`Dataset.with_weights`."""
    if dataset.skipping is not None:
        return skipping(with_weights(unskipped(dataset), weights), dataset.skipping)
    if any(block.has_weight for block in dataset.blocks):
        raise InvalidParameterError(
            "sample_weight was given for a dataset that carries weights already; pass one of them"
        )
    column = _column_of(dataset, weights, "sample_weight")
    if column is not None:
        if any(block.has_labels for block in dataset.blocks):
            raise InvalidParameterError(
                "sample_weight names a column of a dataset that carries labels; add the weights "
                "first"
            )
        return _split(dataset, column, "weights")
    values = open_column(weights, "sample_weight", dataset.n_rows)
    blocks = tuple(
        PairedBlock(*_place(block), block, weights=pieces_of(values, block.first_row, block.n_rows))
        for block in dataset.blocks
    )
    identity = fingerprint_of(["weights", dataset.fingerprint, values.fingerprint])
    return replace(dataset, blocks=blocks, fingerprint=identity)


def with_labels(dataset: Dataset, labels: Any) -> Dataset:
    """A dataset whose rows carry labels; see :meth:`Dataset.with_labels`."""
    if dataset.skipping is not None:
        return skipping(with_labels(unskipped(dataset), labels), dataset.skipping)
    if any(block.has_labels for block in dataset.blocks):
        raise InvalidParameterError(
            "labels were given for a dataset that carries labels already; pass one of them"
        )
    # A number is a label, not a column's.
    column = _column_of(dataset, labels, "labels") if isinstance(labels, str) else None
    if column is not None:
        return _split(dataset, column, "labels")
    values = open_column(labels, "labels", dataset.n_rows)
    blocks = tuple(
        PairedBlock(*_place(block), block, labels=pieces_of(values, block.first_row, block.n_rows))
        for block in dataset.blocks
    )
    identity = fingerprint_of(["labels", dataset.fingerprint, values.fingerprint])
    return replace(dataset, blocks=blocks, fingerprint=identity)


def _place(block: Block) -> tuple[int, int, int, np.dtype[Any]]:
    return block.first_row, block.n_rows, block.n_features, block.dtype


def _column_of(dataset: Dataset, weights: Any, argument: str) -> int | None:
    """The number of the column that the argument names; None if it is values of its own."""
    if isinstance(weights, str) and weights in (dataset.feature_names or ()):
        assert dataset.feature_names is not None
        return dataset.feature_names.index(weights)
    if isinstance(weights, int | np.integer) and not isinstance(weights, bool):
        if not -dataset.n_features <= weights < dataset.n_features:
            raise InvalidParameterError(
                f"{argument}={weights} is no column of X, which has {dataset.n_features}; pass "
                "a column's number or name, or one value for each row"
            )
        return int(weights) % dataset.n_features
    if isinstance(weights, str) and dataset.feature_names and not _may_be_stored(weights):
        raise InvalidParameterError(
            f"{argument}={weights!r} is neither a column of X "
            f"({', '.join(dataset.feature_names[:20])}) nor a path that exists"
        )
    return None


def _may_be_stored(name: str) -> bool:
    return "://" in name or os.path.exists(name)


def _split(dataset: Dataset, column: int, holds: str) -> Dataset:
    """The dataset without one of its columns, which becomes the weights or the labels."""
    if dataset.n_features < 2:
        argument = "sample_weight" if holds == "weights" else holds
        raise InvalidParameterError(
            f"{argument}={column} takes the only column of X; no feature is left to fit"
        )
    blocks = tuple(_without_column(block, column, holds) for block in dataset.blocks)
    names = dataset.feature_names
    return replace(
        dataset,
        blocks=blocks,
        n_features=dataset.n_features - 1,
        dtype=blocks[0].dtype if blocks else dataset.dtype,
        fingerprint=fingerprint_of(["column", dataset.fingerprint, column, holds]),
        feature_names=None if names is None else (*names[:column], *names[column + 1 :]),
        # The caller's object has a column more than these rows.
        origin=None,
    )


def _without_column(block: Block, column: int, holds: str) -> PairedBlock:
    if hasattr(block, "select"):
        # Read apart, so that an integer label does not widen the features beside it.
        others = [index for index in range(block.n_features) if index != column]
        rest, alone = block.select(others), block.select([column])
        piece = (Piece(alone, 0, block.n_rows),)
        paired = PairedBlock(*_place(rest), rest)
        if holds == "weights":
            return replace(paired, weights=piece)
        return replace(paired, labels=piece)
    if isinstance(block, PairedBlock) and block.column is None and hasattr(block.rows, "select"):
        inner = _without_column(block.rows, column, holds)
        return replace(inner, weights=block.weights or inner.weights)
    return PairedBlock(
        block.first_row,
        block.n_rows,
        block.n_features - 1,
        block.dtype,
        block,
        column=column,
        column_holds=holds,
    )


def _check_weights(weight: Array, block: Block) -> None:
    wrong = np.flatnonzero(~((weight >= 0.0) & (weight < np.inf)))
    if wrong.size:
        row = int(wrong[0])
        kind = "negative" if weight[row] < 0.0 else "not finite"
        raise InvalidDataError(
            f"sample_weight is {kind}: row {block.first_row + row} (block {block.name}) has "
            f"{weight[row]:g}; weights must be finite and at least 0 (0 leaves a row out)"
        )
