"""A digest of rows: one number into which every value, weight and label enters with its position.

The digests of parts add up, in any order, so it costs no pass of its own and no memory. It finds
what was changed or exchanged; it is no defence against who makes rows to fit it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dgmm.row_sample import hash_rows

__all__ = ["digest_rows"]

# Odd constants of 64 bits, of no other meaning (the fractional part of the golden ratio and
# SplitMix64's, Steele, Lea and Flood 2014).
_VALUES, _ROWS = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)
_OF_COLUMNS, _OF_POSITIONS, _MASK = 1, 2, 2**64 - 1


def digest_rows(
    x: Any, positions: Any, weight: Any = None, labels: Any = None, xp: Any = np
) -> int:
    """The digest of some rows, modulo 2**64.

    Parameters
    ----------
    x : array of shape (n_rows, n_features), float64
    positions : array of shape (n_rows,), integer
        Of the rows in the dataset.
    weight : array of shape (n_rows,), float64, optional
    labels : array of shape (n_rows,), int64, optional
    xp : module, default=numpy
        Of the arrays.
    """
    n_features = x.shape[1]
    columns = hash_rows(_OF_COLUMNS, 0, n_features + 2, xp) | np.uint64(1)
    rows = (_mixed(x.view(np.uint64), _VALUES) * columns[:n_features]).sum(axis=1, dtype=np.uint64)
    rows += xp.asarray(positions).astype(np.uint64) * _VALUES
    if weight is not None:
        rows += _mixed(xp.asarray(weight, dtype=np.float64).view(np.uint64), _VALUES) * columns[-2]
    if labels is not None:
        rows += _mixed(xp.asarray(labels).astype(np.uint64), _VALUES) * columns[-1]
    return int(_mixed(_mixed(rows, _ROWS), _VALUES).sum(dtype=np.uint64)) & _MASK


def _mixed(bits: Any, factor: Any) -> Any:
    """Bits of which each depends on all: the top ones alone tell small integers apart as floats."""
    mixed = bits >> np.uint64(32)
    mixed ^= bits
    mixed *= factor
    mixed ^= mixed >> np.uint64(29)
    return mixed
