"""Fitting on some rows and scoring on the others, within the same passes.

A row's side follows from a hash of (seed, row), so that it is the same in every pass, on every
engine and for every layout of the storage, and nothing has to be stored or shuffled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

import numpy as np

from dgmm.arrays import to_host
from dgmm.data.dataset import Dataset, Rows
from dgmm.data.skipping import Skipped
from dgmm.engine.base import CONSUMER_BYTES, BlockTask, Counters, Reduced, Session
from dgmm.expectation import BatchPass
from dgmm.posterior import draws_by_row
from dgmm.profile import Profile, ProfilePass, refuse_non_finite
from dgmm.row_sample import Sample, hash_rows
from dgmm.statistics import BatchStatistics, SufficientStatistics

__all__ = ["BothSides", "FittedSide", "Split", "on_fitted"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Split:
    """Which rows are held out.

    Parameters
    ----------
    seed : int
    share : float
        Expected share of the rows that are held out, in (0, 1).
    copy_bytes : int, default=0
        Of the rows in a part, which are copied to choose among them.
    """

    seed: int
    share: float
    copy_bytes: int = 0

    def held(self, rows: Rows) -> Array:
        """True for the rows that are held out: shape (n_rows,)."""
        bound = np.uint64(min(int(self.share * 2.0**64), 2**64 - 1))
        return np.asarray(hash_rows(self.seed, rows.first_row, rows.n_rows) < bound)


def _chosen(rows: Rows, mask: Array) -> Rows:
    """Some rows. They are not consecutive: their positions are those of the first alone."""

    def cut(values: Any) -> Any:
        return None if values is None else values[mask]

    return Rows(rows.x[mask], rows.first_row, cut(rows.weight), cut(rows.labels))


@dataclass(frozen=True)
class _OnFitted:
    """A task on the rows that are not held out."""

    task: BlockTask[Any]
    split: Split

    @property
    def workspace_bytes(self) -> int:
        return self.task.workspace_bytes + self.split.copy_bytes

    @property
    def result_bytes(self) -> int:
        return self.task.result_bytes

    @property
    def library_bytes(self) -> int:
        return int(getattr(self.task, "library_bytes", 0))

    @property
    def device(self) -> str:
        return str(getattr(self.task, "device", "cpu"))

    @property
    def device_bytes(self) -> int:
        return int(getattr(self.task, "device_bytes", 0))

    def on(self, device: str) -> Any:
        """The same on a device."""
        return replace(self, task=self.task.on(device))  # type: ignore[attr-defined]

    @property
    def n_slices(self) -> int:
        return int(getattr(self.task, "n_slices", 1))

    def slices(self, n: int) -> tuple[Any, ...]:
        """The same of each slice of the task."""
        return tuple(replace(self, task=one) for one in self.task.slices(n))  # type: ignore[attr-defined]

    def join(self, slices: Sequence[Any], values: Sequence[Any]) -> Any:
        """As the task does."""
        return self.task.join([one.task for one in slices], values)  # type: ignore[attr-defined]

    def workspace(self) -> Any:
        return self.task.workspace()

    def evaluate(self, rows: Rows, workspace: Any) -> Any:
        return self.task.evaluate(_chosen(rows, ~self.split.held(rows)), workspace)


@dataclass(frozen=True)
class _WithoutHeld(_OnFitted):
    """A task on all rows, those held out with weight zero: it works with their positions."""

    def evaluate(self, rows: Rows, workspace: Any) -> Any:
        weight = (~self.split.held(rows)).astype(np.float64)
        if rows.weight is not None:
            weight *= np.asarray(rows.weight)
        return self.task.evaluate(replace(rows, weight=weight), workspace)


@dataclass(frozen=True)
class _ProfileOfFitted(_OnFitted):
    """The profile of the rows that are not held out; bad rows of either side are refused."""

    task: ProfilePass

    def evaluate(self, rows: Rows, workspace: Any) -> Profile:
        held = self.split.held(rows)
        counted = rows.counted()
        x = to_host(counted.x)
        if x.dtype.kind == "f" and not np.all(np.isfinite(x)):
            refuse_non_finite(replace(counted, x=x))
        kept = _chosen(rows, ~held)
        # The threshold of the sample follows from the number of rows that it is drawn from.
        n_fitted = int(self.task.n_rows * (1.0 - self.split.share))
        sample = replace(self.task, n_rows=n_fitted).sample_of(rows, ~held)
        self.task.check_labels(rows)
        known = self.task.known_of(rows, ~held)
        if kept.n_rows == 0:
            profile = _empty_profile(self.task, sample)
        else:
            profile = replace(self.task, digested=False).evaluate(kept, workspace)
        return replace(
            profile,
            sample=sample,
            known=known,
            skipped=Skipped.of(rows),
            digest=self.task.digest(rows),
        )


def _empty_profile(task: ProfilePass, sample: Sample) -> Profile:
    d = task.n_features
    scatter = np.zeros((d, d) if task.dense else d)
    return Profile(0, 0.0, np.zeros(d), scatter, np.full(d, np.inf), np.full(d, -np.inf), sample)


@dataclass(frozen=True)
class Sided:
    """Statistics of one mixture on either side (a monoid)."""

    fitted: SufficientStatistics
    held: SufficientStatistics

    @property
    def n_rows(self) -> int:
        """Rows that were fitted to: those that a profile counts."""
        return self.fitted.n_rows

    def merge(self, other: Sided) -> Sided:
        """Statistics of both sets of rows, side by side."""
        return Sided(self.fitted.merge(other.fitted), self.held.merge(other.held))


@dataclass(frozen=True)
class SidedBatch:
    """One :class:`Sided` for each mixture of a batch (a monoid)."""

    members: tuple[Sided, ...]

    def merge(self, other: SidedBatch) -> SidedBatch:
        """Statistics of both sets of rows, mixture by mixture."""
        pairs = zip(self.members, other.members, strict=True)
        return SidedBatch(tuple(mine.merge(theirs) for mine, theirs in pairs))


@dataclass(frozen=True)
class _OnBoth(_OnFitted):
    """Statistics of a batch of mixtures on either side."""

    @property
    def result_bytes(self) -> int:
        return 2 * self.task.result_bytes

    def evaluate(self, rows: Rows, workspace: Any) -> SidedBatch:
        held = self.split.held(rows)
        fitted: BatchStatistics = self.task.evaluate(_chosen(rows, ~held), workspace)
        others: BatchStatistics = self.task.evaluate(_chosen(rows, held), workspace)
        pairs = zip(fitted.members, others.members, strict=True)
        return SidedBatch(tuple(Sided(mine, theirs) for mine, theirs in pairs))


class _Sides:
    """A session whose tasks see the rows by sides; see :class:`dgmm.engine.base.Session`."""

    def __init__(self, session: Session, split: Split) -> None:
        self._session, self._split = session, split

    @property
    def dataset(self) -> Dataset:
        return self._session.dataset

    @dataset.setter
    def dataset(self, value: Dataset) -> None:
        self._session.dataset = value

    @property
    def counters(self) -> Counters:
        return self._session.counters

    @counters.setter
    def counters(self, value: Counters) -> None:
        self._session.counters = value

    def _wrapped(self, task: Any) -> Any:
        raise NotImplementedError

    def run(
        self,
        task: BlockTask[Any],
        *,
        blocks: Sequence[int] | None = None,
        keep: str | None = None,
        again: bool = False,
    ) -> Reduced[Any]:
        """Evaluate a task on the rows of the side."""
        return self._session.run(self._wrapped(task), blocks=blocks, keep=keep, again=again)

    def stream(
        self, task: BlockTask[Any], *, consumer_bytes: int = CONSUMER_BYTES
    ) -> Iterator[tuple[int, Any]]:
        """Values of the rows of the side."""
        return self._session.stream(self._wrapped(task), consumer_bytes=consumer_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # The session belongs to whoever opened it.
        return None


def on_fitted(task: Any, split: Split) -> Any:
    """A task on the rows that are not held out."""
    if isinstance(task, ProfilePass):
        return _ProfileOfFitted(task, split)
    if isinstance(task, BatchPass) and not any(map(draws_by_row, task.policies)):
        return _OnFitted(task, split)
    return _WithoutHeld(task, split)


class FittedSide(_Sides):
    """A session that shows the rows which are not held out, and no others."""

    def _wrapped(self, task: Any) -> Any:
        return on_fitted(task, self._split)


class BothSides(_Sides):
    """A session whose batches of mixtures give statistics of either side, in one pass."""

    def _wrapped(self, task: Any) -> Any:
        return _OnBoth(task, self._split)
