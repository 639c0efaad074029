"""Bad rows and damaged blocks left out on request, counted, and refused past a stated share.

A row that is skipped has weight zero, which leaves it out of everything, whatever it holds: a fit
that skips is, to the bit, the fit with those weights. What is bad is told by the bytes alone, so
that it is the same on every engine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from dgmm.arrays import to_host
from dgmm.data.dataset import Block, Dataset, Rows, fingerprint_of
from dgmm.data.stamps import Stamp
from dgmm.errors import (
    DamagedBlockError,
    InvalidDataError,
    InvalidParameterError,
    MissingChunkError,
)

__all__ = [
    "Skipped",
    "Skipping",
    "SkippingBlock",
    "check_choice",
    "check_skipped",
    "policy_of",
    "skipping",
]

# Blocks that are named; the others are counted.
_MOST_NAMED = 20


@dataclass(frozen=True)
class Skipping:
    """What is skipped.

    Parameters
    ----------
    blocks : bool
        Blocks that are damaged, or of which a chunk was never written.
    rows : bool
        Rows with a value that is NaN, infinite or null.
    most : float
        The largest share of all rows that may be skipped.
    """

    blocks: bool
    rows: bool
    most: float


@dataclass(frozen=True)
class Skipped:
    """What was skipped among some rows (a monoid).

    Parameters
    ----------
    rows : int
        Those in blocks that could not be read included.
    blocks : int
        Blocks that could not be read.
    names : tuple of (int, str)
        First row and reason of the first 20 of them.
    """

    rows: int = 0
    blocks: int = 0
    names: tuple[tuple[int, str], ...] = ()

    @classmethod
    def of(cls, rows: Rows) -> Skipped:
        """What was skipped of the rows of a part."""
        if rows.bad is None:
            return cls()
        names = ((rows.first_row, rows.lost),) if rows.lost else ()
        return cls(int(np.count_nonzero(rows.bad)), len(names), names)

    def merge(self, other: Skipped) -> Skipped:
        """What was skipped among both sets of rows."""
        names = tuple(sorted(self.names + other.names)[:_MOST_NAMED])
        return Skipped(self.rows + other.rows, self.blocks + other.blocks, names)

    def __str__(self) -> str:
        if not self.blocks:
            return f"{self.rows} bad rows"
        reasons = "; ".join(reason for _, reason in self.names)
        more = (
            f"; and {self.blocks - len(self.names)} more" if self.blocks > len(self.names) else ""
        )
        return f"{self.rows} bad rows, among them those of {self.blocks} blocks ({reasons}{more})"


@dataclass(frozen=True)
class SkippingBlock(Block):
    """A block whose bad rows, or all of whose rows if it is damaged, have weight zero.

    Parameters
    ----------
    rows : Block
    policy : Skipping
    """

    rows: Block = field(compare=False)
    policy: Skipping

    def read(self) -> Rows:
        try:
            rows = self.rows.read()
        except (DamagedBlockError, MissingChunkError) as error:
            if not self.policy.blocks:
                raise
            return self._nothing(str(error))
        bad = np.zeros(self.n_rows, bool) if rows.bad is None else np.array(rows.bad)
        if self.policy.rows and self.dtype.kind == "f":
            bad |= ~np.isfinite(to_host(rows.x)).all(axis=1)
        weight = np.ones(self.n_rows) if rows.weight is None else np.array(rows.weight)
        # A row that counts for nothing is not looked at.
        bad &= weight > 0.0
        weight[bad] = 0.0
        return replace(rows, weight=weight, bad=bad)

    def _nothing(self, reason: str) -> Rows:
        labels = np.full(self.n_rows, -1, np.int64) if self.rows.has_labels else None
        values = np.zeros((self.n_rows, self.n_features), self.dtype)
        every = np.ones(self.n_rows, bool)
        return Rows(values, self.first_row, np.zeros(self.n_rows), labels, bad=every, lost=reason)

    @property
    def nbytes(self) -> int:
        return self.rows.nbytes + self.n_rows * (1 if self.rows.has_weight else 9)

    @property
    def peak_read_bytes(self) -> int:
        """The rows, which of their values are finite, and two copies of weights and marks."""
        return self.rows.peak_read_bytes + self.n_rows * (self.n_features + 18)

    @property
    def stamp(self) -> Stamp | None:
        return self.rows.stamp

    @property
    def is_resident(self) -> bool:
        return self.rows.is_resident

    @property
    def holds_rows(self) -> bool:
        return self.rows.holds_rows

    @property
    def on_device(self) -> bool:
        return self.rows.on_device

    @property
    def has_weight(self) -> bool:
        return True

    @property
    def has_labels(self) -> bool:
        return self.rows.has_labels

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


def check_choice(name: str, value: object, choices: tuple[str, str]) -> None:
    """Refuse an argument that is none of two words."""
    # An array would not say whether it is one of them.
    if not isinstance(value, str) or value not in choices:
        first, second = choices
        raise InvalidParameterError(f"{name} must be {first!r} or {second!r}, got {value!r}")


def policy_of(on_bad_block: str, on_bad_rows: str, max_skipped: float) -> Skipping | None:
    """What the arguments of :func:`dgmm.open_dataset` ask for; None if nothing is skipped.

    Raises
    ------
    InvalidParameterError
        If one is out of range.
    """
    for name, value in (("on_bad_block", on_bad_block), ("on_bad_rows", on_bad_rows)):
        check_choice(name, value, ("raise", "skip"))
    given: Any = max_skipped
    is_number = isinstance(given, float | int) and not isinstance(given, bool)
    if not is_number or not 0.0 <= given <= 1.0:
        raise InvalidParameterError(
            f"max_skipped={max_skipped!r}; it must be a share of the rows, from 0 to 1"
        )
    if "skip" not in (on_bad_block, on_bad_rows):
        return None
    return Skipping(on_bad_block == "skip", on_bad_rows == "skip", float(max_skipped))


def skipping(dataset: Dataset, policy: Skipping | None) -> Dataset:
    """The dataset with what is bad left out."""
    if policy is None:
        return dataset
    blocks = tuple(_skipping_block(block, policy) for block in dataset.blocks)
    # The caller's object would be read without looking for what is bad.
    return replace(
        dataset,
        blocks=blocks,
        fingerprint=fingerprint_of(["skipping", dataset.fingerprint, policy]),
        skipping=policy,
        origin=None,
    )


def unskipped(dataset: Dataset) -> Dataset:
    """The dataset that :func:`skipping` was given, but for its fingerprint."""
    blocks = tuple(
        block.rows if isinstance(block, SkippingBlock) else block for block in dataset.blocks
    )
    return replace(dataset, blocks=blocks, skipping=None)


def check_skipped(dataset: Dataset, skipped: Skipped) -> None:
    """Refuse to go on with too little of the data.

    Raises
    ------
    InvalidDataError
        If more than the stated share of the rows was skipped, or all of them.
    """
    policy = dataset.skipping
    if policy is not None and skipped.rows >= dataset.n_rows:
        raise InvalidDataError(
            f"all {dataset.n_rows} rows would be skipped, and nothing is left: {skipped}; repair "
            "the data, or see whether these are the columns that were meant"
        )
    if policy is not None and skipped.rows > policy.most * dataset.n_rows:
        raise InvalidDataError(
            f"{skipped.rows} of {dataset.n_rows} rows ({skipped.rows / dataset.n_rows:.3%}) would "
            f"be skipped, more than max_skipped={policy.most:g}: {skipped}; repair the data, or "
            "raise max_skipped"
        )


def _skipping_block(block: Block, policy: Skipping) -> SkippingBlock:
    block = block.over(partial(_marking_nulls, marking=policy.rows))
    return SkippingBlock(
        block.first_row, block.n_rows, block.n_features, block.dtype, block, policy
    )


def _marking_nulls(block: Block, marking: bool) -> Block:
    mark = getattr(block, "marking_nulls", None)
    found: Block = block if mark is None else mark(marking)
    return found
