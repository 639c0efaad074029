"""How rows are stored, as far as it matters to who reads them: chunks, codecs, checksums.

Nothing is read but what a dataset knows when it is opened.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dgmm.data.arrays import FileBlock
from dgmm.data.dataset import Dataset

__all__ = ["stored_facts"]

# Codecs that notice damage by themselves; of zstd it depends on how it was set.
_CHECKS = {"adler32", "crc32", "crc32c", "fletcher32", "jenkins_lookup3"}


def stored_facts(dataset: Dataset) -> dict[str, Any]:
    """Format, chunks, codecs and checksum of a dataset that is one file or Zarr array.

    Returns
    -------
    dict
        ``format``; ``checksum``: the codec by which a damaged chunk would be noticed, None if it
        would be read as it is; for Zarr also ``chunks``, ``shards`` (None without) and ``codecs``.
        Empty for anything else.
    """
    block = dataset.blocks[0] if dataset.blocks else None
    if isinstance(block, FileBlock):
        return {"format": "npy", "checksum": None}
    handle = getattr(block, "handle", None)
    return {} if handle is None else _of_zarr(handle)


def _of_zarr(handle: Any) -> dict[str, Any]:
    document = handle.array.metadata.to_dict()
    steps = list(_codecs(document))
    names = [name for name, _ in steps]
    checks = [name for name, options in steps if name in _CHECKS or options.get("checksum")]
    layout = handle.layout
    return {
        "format": f"zarr {document['zarr_format']}",
        "checksum": checks[0] if checks else None,
        "chunks": list(layout.chunk),
        "shards": None if layout.shard is None else list(layout.shard),
        "codecs": names,
    }


def _codecs(document: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Codecs and their settings, those inside of shards included."""
    for codec in document.get("codecs") or ():
        options = codec.get("configuration") or {}
        yield codec["name"], options
        # The index of a shard has a checksum as a rule; that is none of its chunks.
        yield from _codecs({"codecs": options.get("codecs")})
    for codec in (*(document.get("filters") or ()), document.get("compressor")):
        if isinstance(codec, Mapping) and "id" in codec:
            yield codec["id"], codec
