"""A sample of rows for a picture, from one pass over data of any size.

The sample is that of a fit's profile: rows with the smallest hashes of (seed, row), so the same
seed and data show the same rows whatever the storage, the engine and the number of threads are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dgmm.columns import check_columns
from dgmm.data.columns import disagreement
from dgmm.data.dataset import Dataset
from dgmm.engine.blas import single_threaded_blas
from dgmm.engine.choice import engine_for
from dgmm.errors import InvalidDataError
from dgmm.mixture import Mixture
from dgmm.parameters import seed_entropy
from dgmm.plotting.figure import check_count
from dgmm.profile import Profile, ProfilePass, SomeColumns
from dgmm.sizes import parse_bytes
from dgmm.sources import open_rows

__all__ = ["Drawn", "sampled_rows"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Drawn:
    """Rows to be shown.

    Parameters
    ----------
    x : array of shape (n_drawn, n_columns), float64
    shares : array of shape (n_drawn,), optional
        What each stands for, relative to the mean of all; None for equal parts.
    """

    x: Array
    shares: Array | None


def sampled_rows(
    model: Any,
    X: Any,
    *,
    sample_weight: Any,
    subsample: Any,
    random_state: Any,
    columns: tuple[int, ...] | None = None,
) -> Drawn:
    """A sample of the rows, of some columns or of all, in the order of their positions.

    Columns that are not asked for are not looked at. To be called by the function that users call,
    whose line warnings about names of columns then point at.

    Raises
    ------
    InvalidParameterError, InvalidDataError, InvalidDtypeError, SourceError
        As in a fit: of bad rows, the first is named.
    """
    size = check_count(subsample, "subsample", 1)
    entropy = seed_entropy(random_state)
    dataset = _rows_for(model, X, sample_weight)
    width = dataset.n_features if columns is None else len(columns)
    seed = np.random.SeedSequence(entropy, spawn_key=(0,))
    task = ProfilePass(
        n_rows=dataset.n_rows,
        n_features=width,
        sample_size=min(dataset.n_rows, size),
        seed=int(seed.generate_state(1, np.uint64)[0]),
        itemsize=dataset.dtype.itemsize,
        dense=False,
        weighted=dataset.has_weights,
    )
    profile = _run(model, dataset, task, columns)
    if not profile.n_rows:
        raise InvalidDataError("sample_weight is zero for every row; nothing is left to show")
    return Drawn(np.asarray(profile.sample.x, dtype=np.float64), profile.sample.shares)


def _rows_for(model: Any, X: Any, sample_weight: Any) -> Dataset:
    """The rows, if they are of the model's width and its names."""
    dataset = open_rows(X, sample_weight)
    if dataset.n_rows < 1:
        raise InvalidDataError(f"X has no rows (shape {dataset.shape}); nothing is left to show")
    if not isinstance(model, Mixture):
        check_columns(model, dataset)
        return dataset
    if dataset.n_features != model.n_features:
        raise InvalidDataError(
            f"X has {dataset.n_features} features, and the mixture has {model.n_features}"
        )
    if dataset.feature_names is not None and model.feature_names is not None:
        message = disagreement(dataset.feature_names, model.feature_names)
        if message is not None:
            raise InvalidDataError(message)
    return dataset


def _run(
    model: Any, dataset: Dataset, task: ProfilePass, columns: tuple[int, ...] | None
) -> Profile:
    is_whole = columns is None or columns == tuple(range(dataset.n_features))
    # A mixture has no engine of its own.
    engine = engine_for(getattr(model, "engine", None), dataset)
    given = getattr(model, "memory_limit", None)
    session = engine.session(
        dataset,
        memory_limit=None if given is None else parse_bytes(given, "memory_limit"),
        reserved_bytes=task.sample_bytes,
    )
    with single_threaded_blas(), session:
        if is_whole:
            return session.run(task).total
        assert columns is not None
        copy_bytes = dataset.part_rows * len(columns) * dataset.dtype.itemsize
        return session.run(SomeColumns(task, columns, copy_bytes)).total
