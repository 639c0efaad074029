"""From what a caller passes to the dataset of a fit."""

from __future__ import annotations

from typing import Any

import numpy as np

from dgmm.arrays import resolve_device
from dgmm.data.dataset import Dataset
from dgmm.data.opening import open_dataset

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
        dataset = dataset.with_weights(sample_weight)
    return dataset if labels is None else dataset.with_labels(labels)
