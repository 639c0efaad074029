"""What identifies the data of a fit, as a value for JSON, and how two of them differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dgmm.data.dataset import Dataset

__all__ = ["difference", "manifest_of"]

_FACTS = ("shape", "dtype", "feature_names")


def manifest_of(dataset: Dataset) -> dict[str, Any]:
    """The manifest of a dataset; see :attr:`dgmm.data.dataset.Dataset.manifest`."""
    names = dataset.feature_names
    return {
        "fingerprint": dataset.fingerprint,
        "shape": list(dataset.shape),
        "dtype": dataset.dtype.str,
        "feature_names": None if names is None else list(names),
        "blocks": [
            {
                "first_row": block.first_row,
                "n_rows": block.n_rows,
                "files": None if block.stamp is None else block.stamp.to_dict(),
            }
            for block in dataset.blocks
        ],
    }


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> str | None:
    """Where two manifests differ, in words; None if they describe the same data.

    Parameters
    ----------
    before, after : dict
        From :attr:`~dgmm.data.dataset.Dataset.manifest`, perhaps by way of JSON.
    """
    if before["fingerprint"] == after["fingerprint"] and before["blocks"] == after["blocks"]:
        return None
    for fact in _FACTS:
        if before[fact] != after[fact]:
            return f"{fact} was {before[fact]} and is {after[fact]}"
    if len(before["blocks"]) != len(after["blocks"]):
        return f"there were {len(before['blocks'])} blocks and are {len(after['blocks'])}"
    for was, now in zip(before["blocks"], after["blocks"], strict=True):
        if was != now:
            return (
                f"block {_name(was)} was in {_files(was)}, and block {_name(now)} in {_files(now)}"
            )
    return f"the fingerprint was {before['fingerprint'][:16]} and is {after['fingerprint'][:16]}"


def _name(block: Mapping[str, Any]) -> str:
    return f"rows {block['first_row']} to {block['first_row'] + block['n_rows'] - 1}"


def _files(block: Mapping[str, Any]) -> str:
    from dgmm.data.stamps import Stamp

    return "memory" if block["files"] is None else str(Stamp(**block["files"]))
