"""Small arrays as PNG pictures in data URIs, with nothing but the standard library.

A pixel of the array is a pixel of the file; the page enlarges it without smoothing.
"""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any

import numpy as np

__all__ = ["diverging", "grey", "png_uri"]

Array = np.ndarray[Any, Any]

# Lightness falls alike on both sides of zero, and the hues stay apart for colour-blind readers.
_NEGATIVE = np.array([[246, 246, 244], [146, 190, 222], [58, 118, 178], [14, 50, 100]], float)
_POSITIVE = np.array([[246, 246, 244], [240, 178, 128], [206, 96, 52], [110, 30, 20]], float)


def grey(values: Array, low: float, high: float) -> str:
    """A grey picture of ``values`` (height, width): ``low`` is black and ``high`` white."""
    span = (high - low) or 1.0
    level = np.clip((np.asarray(values, float) - low) / span, 0.0, 1.0)
    return png_uri(np.rint(255 * level).astype(np.uint8))


def diverging(values: Array, limit: float | None = None) -> str:
    """A picture of signed ``values`` (height, width): blue below zero, near white at it, red above.

    ``limit`` is the magnitude of the darkest colours, by default the greatest that occurs.
    """
    values = np.asarray(values, float)
    scale = (np.abs(values).max() if limit is None else limit) or 1.0
    size = np.clip(np.abs(values) / scale, 0.0, 1.0)
    stops = np.linspace(0.0, 1.0, len(_NEGATIVE))
    pixels = np.empty((*values.shape, 3), np.uint8)
    for channel in range(3):
        below = np.interp(size, stops, _NEGATIVE[:, channel])
        above = np.interp(size, stops, _POSITIVE[:, channel])
        pixels[..., channel] = np.rint(np.where(values < 0, below, above))
    return png_uri(pixels)


def png_uri(pixels: Array) -> str:
    """A PNG of 8-bit ``pixels``, grey (height, width) or colour (height, width, 3), as a URI."""
    height, width = pixels.shape[:2]
    colour_type = 2 if pixels.ndim == 3 else 0
    # Each line begins with the number of its filter; 0 is none.
    lines = np.zeros((height, 1 + pixels[0].size), np.uint8)
    lines[:, 1:] = pixels.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 9)), (b"IEND", b""))
    png = b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
