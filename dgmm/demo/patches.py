"""Rows for the demo: every overlapping patch of photographs and of their mirror images.

Brightness would drown everything else in raw grey values: it takes 99 % of their variance. The
literature on mixtures of patches (Zoran and Weiss, 2011) subtracts each patch's own mean, which
leaves every covariance singular along the constant vector, in need of noise or of another basis.
We subtract the local mean of the photograph instead, in a Gaussian window wider than a patch, as
the literature on natural image statistics does (Ruderman, 1994). Nothing is singular then, and
the components show edges and textures.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dgmm.errors import InvalidParameterError, MissingDependencyError

if TYPE_CHECKING:
    import zarr

__all__ = [
    "CHUNK_BYTES",
    "Patches",
    "is_written",
    "local_contrast",
    "sample_photographs",
    "write_patches",
]

Array = np.ndarray[Any, Any]

CHUNK_BYTES = 16 * 2**20
_ATTRIBUTE = "dgmm_demo"
_LAYOUT_VERSION = 1
# ITU-R BT.601, as most programs turn colour to grey.
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Patches:
    """The overlapping square patches of photographs and of their symmetries, as rows.

    Rows are ordered by photograph, symmetry, row and column of the patch's corner. They are cut out
    when asked for: only the photographs are held in memory.

    Parameters
    ----------
    photographs : tuple of array of shape (height, width), float32
        Of any values.
    size : int, default=8
        Side of a patch in pixels; a row has ``size ** 2`` values.
    n_symmetries : int, default=8
        How many of the eight symmetries of the square are used: the first four are the quarter
        turns, the others their transposes.

    Raises
    ------
    InvalidParameterError
        If a photograph is smaller than a patch, or there are more than eight symmetries.
    """

    photographs: tuple[Array, ...]
    size: int = 8
    n_symmetries: int = 8

    def __post_init__(self) -> None:
        if not 1 <= self.n_symmetries <= 8:
            raise InvalidParameterError(
                f"n_symmetries={self.n_symmetries} is not between 1 and 8, "
                "the number of symmetries of a square"
            )
        for photograph in self.photographs:
            if self.size < 1 or min(photograph.shape) < self.size:
                raise InvalidParameterError(
                    f"a photograph of {photograph.shape} pixels has no patch of size {self.size}"
                )

    @property
    def n_features(self) -> int:
        return self.size**2

    @property
    def n_rows(self) -> int:
        return self.n_symmetries * sum(self._patches_of(one) for one in self.photographs)

    def rows(self, start: int, stop: int) -> Array:
        """Rows ``start`` to ``stop``: an array of shape (stop − start, size²), float32."""
        return self.take(np.arange(start, stop))

    def take(self, indices: Array) -> Array:
        """The rows of these indices: an array of shape (len(indices), size²), float32."""
        out = np.empty((len(indices), self.size, self.size), dtype=np.float32)
        first = 0
        for photograph in self.photographs:
            for symmetry in range(self.n_symmetries):
                stop = first + self._patches_of(photograph)
                wanted = np.flatnonzero((indices >= first) & (indices < stop))
                if wanted.size:
                    out[wanted] = self._cut(photograph, symmetry, indices[wanted] - first)
                first = stop
        return out.reshape(len(indices), self.n_features)

    def identity(self) -> dict[str, Any]:
        """What determines every value, in terms that JSON can hold."""
        return {
            "layout": _LAYOUT_VERSION,
            "size": self.size,
            "symmetries": self.n_symmetries,
            "photographs": [
                {"shape": list(one.shape), "crc32": zlib.crc32(one.tobytes())}
                for one in self.photographs
            ],
        }

    def _patches_of(self, photograph: Array) -> int:
        height, width = photograph.shape
        return (height - self.size + 1) * (width - self.size + 1)

    def _cut(self, photograph: Array, symmetry: int, indices: Array) -> Array:
        turned = np.rot90(photograph, symmetry % 4)
        picture = turned.T if symmetry >= 4 else turned
        windows = np.lib.stride_tricks.sliding_window_view(picture, (self.size, self.size))
        return windows[np.divmod(indices, windows.shape[1])]


def sample_photographs() -> tuple[Array, ...]:
    """The two photographs that come with scikit-learn, grey on [0, 1] as float32.

    Raises
    ------
    MissingDependencyError
        If pillow, which decodes them, is not installed.
    """
    from sklearn.datasets import load_sample_images

    try:
        images = load_sample_images().images
    except ImportError as error:
        raise MissingDependencyError(
            'pillow is needed to decode the photographs; pip install "dgmm[demo]"'
        ) from error
    return tuple(image.astype(np.float32) @ _LUMA / np.float32(255) for image in images)


def local_contrast(photograph: Array, width: float = 8.0) -> Array:
    """A photograph without its local mean.

    Parameters
    ----------
    photograph : array of shape (height, width)
    width : float, default=8.0
        Standard deviation in pixels of the Gaussian window of the mean.

    Returns
    -------
    array of shape (height, width), float32
    """
    from scipy.ndimage import gaussian_filter

    grey = np.asarray(photograph, dtype=np.float32)
    return grey - gaussian_filter(grey, width, mode="mirror")


def is_written(store: Path, patches: Patches) -> bool:
    """True if the store holds exactly these rows, all of them."""
    import zarr

    try:
        array = zarr.open_array(store, mode="r")
    # Anything else than a readable array, of any kind, is something to write anew.
    except (OSError, ValueError, KeyError):
        return False
    # The attribute is written last: a store that was interrupted has none.
    complete: bool = array.attrs.get(_ATTRIBUTE) == patches.identity()
    return complete and array.nchunks_initialized == array.nchunks


def write_patches(
    store: Path,
    patches: Patches,
    *,
    chunk_bytes: int = CHUNK_BYTES,
    on_chunk: Callable[[int, int], None] | None = None,
) -> bool:
    """Write the rows as a Zarr v3 array, uncompressed and checksummed, chunk by chunk.

    About four chunks are in memory at a time. A store that holds these rows already is left alone.

    Parameters
    ----------
    store : Path
        The directory of the array; replaced if it holds anything else.
    patches : Patches
    chunk_bytes : int
        Most bytes in a chunk, which holds a power of two of rows.
    on_chunk : callable, optional
        Called with the number of chunks written and their total.

    Returns
    -------
    bool
        False if there was nothing to write.
    """
    if is_written(store, patches):
        return False
    array = _create(store, patches, chunk_bytes)
    step = array.chunks[0]
    for index, start in enumerate(range(0, patches.n_rows, step)):
        stop = min(start + step, patches.n_rows)
        array[start:stop] = patches.rows(start, stop)
        if on_chunk is not None:
            on_chunk(index + 1, array.nchunks)
    array.update_attributes({_ATTRIBUTE: patches.identity()})
    return True


def _create(store: Path, patches: Patches, chunk_bytes: int) -> zarr.Array[Any]:
    import zarr
    from zarr.codecs import Crc32cCodec

    rows = max(1, chunk_bytes // (patches.n_features * 4))
    chunk_rows = min(2 ** (rows.bit_length() - 1), patches.n_rows)
    return zarr.create_array(
        store,
        shape=(patches.n_rows, patches.n_features),
        chunks=(chunk_rows, patches.n_features),
        dtype="float32",
        # Floating-point values hardly compress; the checksum is what makes damage visible.
        compressors=[Crc32cCodec()],
        # A chunk of zeros that is not written could not be told from one that was lost.
        config={"write_empty_chunks": True},
        overwrite=True,
        zarr_format=3,
    )
