"""Which of a block's chunks is the damaged one: what there is to restore."""

from __future__ import annotations

from typing import Any

from dgmm.data.zarr_layout import ZarrLayout

__all__ = ["damaged_chunk"]


def damaged_chunk(array: Any, layout: ZarrLayout, start: int, stop: int) -> str:
    """Where the first chunk lies, of those with some rows, that cannot be read by itself.

    Parameters
    ----------
    array : zarr.Array
    layout : ZarrLayout
    start, stop : int
        Rows that could not be read, of whole chunks.

    Returns
    -------
    str
        Such as ``" in c/3/0 (rows 300 to 399)"``; empty if all can be read, one at a time.
    """
    if layout.sizes is not None:
        return ""
    (n_rows, n_columns), stored = layout.chunk, layout.shard or layout.chunk
    for row in range(start, stop, n_rows):
        last = min(row + n_rows, stop)
        for column in range(0, layout.shape[1], n_columns):
            try:
                array.get_basic_selection(
                    layout.selection(row, last, slice(column, column + n_columns))
                )
            except Exception:  # noqa: BLE001 (a codec raises what it likes)
                place = layout.place(row // stored[0], column // stored[1])
                key = array.metadata.encode_chunk_key(place)
                return f" in {key} (rows {row} to {last - 1})"
    return ""
