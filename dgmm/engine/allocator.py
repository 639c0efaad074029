"""Give freed blocks back to the system at once, where the C library would keep them.

glibc raises the size from which it maps memory each time such a piece is freed, up to 32 MiB; from
then on blocks of rows come from heaps, one for each thread, that shrink only from their ends. A fit
whose arrays never exceed 72 MiB was seen to hold 139. A fixed size keeps every block on a mapping
of its own, at the price of fresh pages for each block (about 2 ms for 16 MiB). The sums of a part
are smaller, and would pay that price without being held for long.
"""

from __future__ import annotations

import ctypes
import functools
import sys

__all__ = ["return_freed_blocks"]

_M_MMAP_THRESHOLD = -3
_MAPPED_FROM_BYTES = 4 * 2**20


@functools.cache
def return_freed_blocks() -> bool:
    """Fix the size from which memory is mapped, for this process; True if that was possible."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        # musl and others have no such setting, and no such growth.
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _MAPPED_FROM_BYTES))
