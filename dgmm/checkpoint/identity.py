"""What fit a checkpoint is of: the rows, the arguments, the machine; and how two of them differ.

The rows are identified by their profile, which every fit takes anyway and which every row enters:
moments, extremes, the sample and a digest of all rows, to the bit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from dgmm.data.dataset import Dataset, fingerprint_of
from dgmm.profile import Profile
from dgmm.row_sample import Sample

__all__ = ["data_identity", "differences", "digest", "moments_of", "same_moments"]

Array = np.ndarray[Any, Any]

# Moments of the same rows on two kinds of processor; a row that changed moves them by more.
_ROUNDING = 1e-9


def digest(value: Any) -> str:
    """Shape and content of an array of numbers, in a few letters."""
    array = np.ascontiguousarray(value)
    content = hashlib.sha256(array.astype(array.dtype.newbyteorder("<")).tobytes()).hexdigest()
    return f"{array.dtype.name} {array.shape} {content[:24]}"


def data_identity(dataset: Dataset, profile: Profile) -> dict[str, Any]:
    """What does not depend on the processor: shapes, blocks, extremes, sample and digest.

    Parameters
    ----------
    dataset : Dataset
    profile : Profile
    """
    known = profile.known
    return {
        "number of rows": dataset.n_rows,
        "number of features": dataset.n_features,
        "dtype": dataset.dtype.name,
        "blocks": fingerprint_of([dataset.part_rows, [one.n_rows for one in dataset.blocks]])[:24],
        "weighted": dataset.has_weights,
        "labelled": dataset.has_labels,
        "rows of positive weight": profile.n_rows,
        "skipped rows": profile.skipped.rows,
        "least values": digest(profile.least),
        "greatest values": digest(profile.most),
        "sampled rows": _digest_of(profile.sample),
        "labelled sample": None if known is None else _digest_of(known),
        "all rows": f"{profile.digest:016x}",
    }


def _digest_of(sample: Sample) -> str:
    parts = (sample.rows, sample.x, sample.weight, sample.labels)
    return fingerprint_of([None if one is None else digest(one) for one in parts])[:24]


def moments_of(profile: Profile) -> dict[str, Any]:
    """Weight, mean and scatter."""
    return {"weight": profile.weight, "mean": profile.mean, "scatter": profile.scatter}


def same_moments(stored: Mapping[str, Any], found: Mapping[str, Any], *, exact: bool) -> list[str]:
    """The names of the moments that differ.

    Parameters
    ----------
    stored, found : mapping
    exact : bool
        False allows for what rounding on another kind of processor makes of the same rows.
    """
    differing = []
    spread = np.sqrt(np.abs(_diagonal(found["scatter"])) / found["weight"])
    scale = {
        "weight": found["weight"],
        "mean": np.abs(found["mean"]) + spread,
        "scatter": _outer(spread, np.ndim(found["scatter"])) * found["weight"],
    }
    for name in ("weight", "mean", "scatter"):
        one, other = np.asarray(stored[name]), np.asarray(found[name])
        same = one.shape == other.shape and np.array_equal(one, other)
        if not same and not exact and one.shape == other.shape:
            same = bool(np.all(np.abs(one - other) <= _ROUNDING * scale[name]))
        if not same:
            differing.append(name)
    return differing


def _diagonal(scatter: Array) -> Array:
    return np.diagonal(scatter) if np.ndim(scatter) == 2 else np.asarray(scatter)


def _outer(spread: Array, n_axes: int) -> Array:
    return np.outer(spread, spread) if n_axes == 2 else spread**2


def differences(stored: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs, each as ``name: then, and now``."""
    names = [*now, *(name for name in stored if name not in now)]
    return [
        f"{name} was {stored.get(name)!r} and is {now.get(name)!r}"
        for name in names
        if stored.get(name) != now.get(name)
    ]
