"""Prints, for each dataset named on the command line, the most memory that reading a block took.

Run as a program: the peak of a process that did other things before would hide what is measured.
Lines are ``measured projected``, in bytes.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import zarr

from dgmm.data.opening import open_dataset


def status(field: str) -> int:
    text = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in text.splitlines() if field in line)


def warm_up() -> None:
    """Import and start what the first read of a process does."""
    small = zarr.create_array({}, shape=(10, 2), chunks=(1, 2), dtype="f4")
    small[:] = 1
    open_dataset(small).blocks[0].read()


def measure(path: str, block_bytes: str) -> tuple[int, int]:
    dataset = open_dataset(path, block_bytes=block_bytes)
    warm_up()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    rows = dataset.blocks[0].read()
    assert rows.n_rows == dataset.blocks[0].n_rows
    return status("VmHWM") - before, dataset.blocks[0].peak_read_bytes


if __name__ == "__main__":
    for name in sys.argv[2:]:
        sys.stdout.write("{} {}\n".format(*measure(name, sys.argv[1])))
