"""CUDA kernels run on the host: their sources compiled by g++ against :file:`emulation.h`."""

from __future__ import annotations

import ctypes
import hashlib
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from dgmm.cuda import modules

HEADER = Path(__file__).with_name("emulation.h")

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")


@cache
def _folder():
    return tempfile.TemporaryDirectory(prefix="dgmm-emulation-")


@cache
def emulated_module(source, definitions, flags=()):
    text = modules.source_of(source)
    name = hashlib.sha256(repr((text, definitions, flags)).encode()).hexdigest()[:16]
    stem = Path(_folder().name) / name
    stem.with_suffix(".cc").write_text(text)
    options = [f"-D{key}={value}" for key, value in definitions] + [f"-D{one}" for one in flags]
    command = [
        "g++", "-O1", "-std=c++17", "-fPIC", "-shared", "-Wall", "-Werror", "-Wno-unknown-pragmas",
        "-include", HEADER, *options, stem.with_suffix(".cc"), "-o", stem.with_suffix(".so"),
    ]  # fmt: skip
    subprocess.run([str(one) for one in command], check=True)
    return EmulatedModule(ctypes.CDLL(str(stem.with_suffix(".so"))))


class EmulatedModule:
    """What CuPy's RawModule is to its callers."""

    def __init__(self, library):
        self._library = library
        library.emulate.restype = ctypes.c_char_p

    def get_function(self, name):
        return EmulatedKernel(self._library, name)


class EmulatedKernel:
    def __init__(self, library, name):
        self._library, self._kernel = library, getattr(library, name)
        self.max_dynamic_shared_size_bytes = 48 * 1024

    def __call__(self, grid, threads, arguments, *, shared_mem=0):
        assert shared_mem <= self.max_dynamic_shared_size_bytes
        values = [one.ctypes.data if isinstance(one, np.ndarray) else int(one) for one in arguments]
        for one in arguments:
            if isinstance(one, np.ndarray):
                assert one.flags.c_contiguous
            else:
                assert one.itemsize == 8
        packed = (ctypes.c_int64 * len(values))(*values)
        problem = self._library.emulate(
            self._kernel,
            *(ctypes.c_int64(one) for one in (grid[0], grid[1], threads[0], shared_mem)),
            packed,
            ctypes.c_int64(len(values)),
        )
        assert problem is None, problem.decode()


class Device:
    """The device of the emulation; ``n`` multiprocessors."""

    n = 3
    id = 0

    def __init__(self, number=0):
        self.id = int(number)
        self.attributes = {"MultiProcessorCount": self.n}

    def use(self):
        return None


class Cuda:
    Device = Device


class EmulatedCupy:
    """NumPy with the part of ``cupy.cuda`` that launches ask for."""

    __name__ = "cupy"
    cuda = Cuda

    def __getattr__(self, name):
        return getattr(np, name)
