"""What a mixture answers for every row by its own methods, as a task of a stream.

Densities, responsibilities and labels of many rows come from the kernels of
:mod:`dgmm.expectation`. Distances and regressions come from here: in float64, on the host, by the
functions that :class:`dgmm.Mixture` uses for rows in memory, so that the two give the same values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from dgmm.arrays import to_host
from dgmm.conditional import Regression
from dgmm.data.dataset import Rows
from dgmm.density import mahalanobis, tail_probability
from dgmm.errors import InvalidDataError
from dgmm.mixture import Mixture

__all__ = ["AnswerPass", "Distances", "Question", "Regressed", "TailProbability"]

Array = np.ndarray[Any, Any]

# Of the largest array of a slice of rows, of which there are a few at once.
_SLICE_BYTES = 2**20
_ARRAYS = 10


class Question(Protocol):
    """What is asked of rows. Picklable."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one row's answer."""
        ...

    @property
    def widest(self) -> int:
        """Most numbers for a row that an array holds on the way."""
        ...

    def answer(self, x: Array) -> Array:
        """Answers for rows (n, n_columns): float64 of shape (n, *shape)."""
        ...


@dataclass(frozen=True)
class Distances:
    """Mahalanobis distances to all components; see :meth:`dgmm.Mixture.mahalanobis`."""

    mixture: Mixture

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.mixture.n_components,)

    @property
    def widest(self) -> int:
        return max(self.mixture.n_components, self.mixture.n_features)

    def answer(self, x: Array) -> Array:
        return mahalanobis(self.mixture, x)


@dataclass(frozen=True)
class TailProbability:
    """χ² probabilities of larger distances; see :meth:`dgmm.Mixture.tail_probability`."""

    mixture: Mixture

    @property
    def shape(self) -> tuple[int, ...]:
        return ()

    @property
    def widest(self) -> int:
        return max(self.mixture.n_components, self.mixture.n_features)

    def answer(self, x: Array) -> Array:
        return tail_probability(self.mixture, x)


@dataclass(frozen=True)
class Regressed:
    """Expected values of some features; see :meth:`dgmm.Mixture.regress`.

    Parameters
    ----------
    regression : Regression
    with_covariance : bool
        Answers are of shape (n_targets, 1 + n_targets): the expected values, then their
        covariance, side by side.
    """

    regression: Regression
    with_covariance: bool

    @property
    def shape(self) -> tuple[int, ...]:
        a = self.regression.n_targets
        return (a, 1 + a) if self.with_covariance else (a,)

    @property
    def widest(self) -> int:
        return self.regression.widest(with_covariance=self.with_covariance)

    def answer(self, x: Array) -> Array:
        means, covariances = self.regression.of(x, with_covariance=self.with_covariance)
        if covariances is None:
            return means
        return np.concatenate([means[:, :, None], covariances], axis=2)


@dataclass(frozen=True)
class AnswerPass:
    """Answers for every row (a task for :meth:`dgmm.engine.base.Session.stream`).

    Parameters
    ----------
    question : Question
    dtype : str
        Of the values.
    """

    question: Question
    dtype: str

    @property
    def workspace_bytes(self) -> int:
        # A row alone may be more than a slice.
        return _ARRAYS * max(_SLICE_BYTES, 8 * self.question.widest)

    @property
    def result_bytes(self) -> int:
        return 0

    @property
    def value_shape(self) -> tuple[int, ...]:
        """Shape of one row's value."""
        return self.question.shape

    @property
    def value_dtype(self) -> np.dtype[Any]:
        return np.dtype(self.dtype)

    @property
    def value_bytes_per_row(self) -> int:
        """Bytes of one row's value: what a stream cuts its pieces by."""
        return int(np.prod(self.value_shape, dtype=np.int64)) * self.value_dtype.itemsize

    def workspace(self) -> None:
        return None

    def evaluate(self, rows: Rows, workspace: None) -> Array:
        """Answers for the rows, in their order: NaN for those that are skipped."""
        values = np.full((rows.n_rows, *self.value_shape), np.nan, self.value_dtype)
        bad = np.zeros(rows.n_rows, bool) if rows.bad is None else np.asarray(rows.bad)
        size = max(1, _SLICE_BYTES // (8 * self.question.widest))
        for start in range(0, rows.n_rows, size):
            good = start + np.flatnonzero(~bad[start : start + size])
            if good.size:
                x = np.asarray(to_host(rows.x[start : start + size]), dtype=np.float64)
                x = x[good - start]
                with np.errstate(over="ignore", invalid="ignore"):
                    found = self.question.answer(_finite(rows, good, x))
                    values[good] = _bounded(rows, good, x, found)
        return values


def _finite(rows: Rows, index: Array, x: Array) -> Array:
    bad = np.argwhere(~np.isfinite(x))
    if len(bad):
        row, column = (int(one) for one in bad[0])
        raise InvalidDataError(
            f"Input contains NaN or infinity: row {rows.position(int(index[row]))}, feature "
            f"{column} is {x[row, column]}; remove or impute such rows"
        )
    return x


def _bounded(rows: Rows, index: Array, x: Array, found: Array) -> Array:
    bad = np.flatnonzero(~np.isfinite(found.reshape(len(found), -1)).all(axis=1))
    if bad.size:
        row = int(bad[0])
        raise InvalidDataError(
            f"row {rows.position(int(index[row]))} lies too far from every component, its largest "
            f"value is {x[row, np.argmax(np.abs(x[row]))]:g}: rescale the data"
        )
    return found
