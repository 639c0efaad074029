"""From what a caller passes to the dataset of a fit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from dgmm.arrays import resolve_device
from dgmm.data.dataset import Dataset
from dgmm.data.opening import open_dataset
from dgmm.dispatch import is_foreign, on_host

__all__ = ["open_rows"]

# Of rows in memory for a GPU: a copy of them takes half a millisecond, a launch some hundredths.
_COPIED_BYTES = 32 * 2**20


def open_rows(
    X: Any, sample_weight: Any = None, labels: Any = None, device: str = "cpu"
) -> Dataset:
    """The dataset of anything that estimators accept, with weights and labels where given.

    Rows in memory that go to a GPU are cut into larger blocks: each costs a copy and a launch.
    """
    in_memory = isinstance(X, np.ndarray) and not isinstance(X, np.memmap)
    large = in_memory and resolve_device(device).startswith("cuda")
    if isinstance(X, Dataset):
        dataset = X
    else:
        dataset = open_dataset(X, block_bytes=_COPIED_BYTES if large else None)
    if sample_weight is not None:
        dataset = dataset.with_weights(on_host(sample_weight))
    if labels is not None:
        dataset = dataset.with_labels(on_host(labels))
    # What is returned goes back to the library of the rows, weighted or not.
    return replace(dataset, origin=X) if is_foreign(X) else dataset
