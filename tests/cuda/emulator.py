"""CUDA kernels run on the host: their sources compiled by g++ against :file:`emulation.h`."""

from __future__ import annotations

import ctypes
import hashlib
import shutil
import subprocess
import tempfile
import threading
import weakref
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from dgmm.cuda import modules

HEADER = Path(__file__).with_name("emulation.h")

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")


# The emulation keeps its machine in static memory.
_ONE_MACHINE = threading.Lock()
_COMPILING = threading.Lock()


@cache
def _folder():
    return tempfile.TemporaryDirectory(prefix="dgmm-emulation-")


def emulated_module(source, definitions, flags=()):
    # Two threads may ask for the same one.
    with _COMPILING:
        return _compiled(source, definitions, flags)


@cache
def _compiled(source, definitions, flags):
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
        with _ONE_MACHINE:
            problem = self._run(packed, grid, threads, shared_mem, len(values))
        assert problem is None, problem.decode()

    def _run(self, packed, grid, threads, shared_mem, n):
        return self._library.emulate(
            self._kernel,
            *(ctypes.c_int64(one) for one in (grid[0], grid[1], threads[0], shared_mem)),
            packed,
            ctypes.c_int64(n),
        )


class DeviceArray(np.ndarray):
    """An array that says it lies on a device and, like CuPy's, is not mixed with NumPy's."""

    number = 0

    def __array_finalize__(self, other):
        self.number = getattr(other, "number", 0)

    @property
    def __cuda_array_interface__(self):
        return self.__array_interface__

    @property
    def device(self):
        return SimpleNamespace(id=self.number)

    def get(self):
        return np.array(self.view(np.ndarray))

    def copy(self, order="C"):
        # To the current device, wherever it lies, as CuPy's is.
        return _placed(np.array(self.view(np.ndarray)), Device().id)

    def set(self, source, stream=None):
        assert type(source) is np.ndarray
        assert source.flags.c_contiguous
        stream.events.append(("copy", source.nbytes))
        self.view(np.ndarray)[...] = source

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **options):
        outputs = {} if out is None else {"out": tuple(_bare(one) for one in out)}
        found = getattr(ufunc, method)(*map(_bare, inputs), **outputs, **options)
        return (
            found
            if out is None and not isinstance(found, np.ndarray | np.generic)
            else (out[0] if out is not None else _placed(found, self.number))
        )

    def __array_function__(self, function, types, arguments, options):
        return _call(function, arguments, options, self.number)


class Tensor:
    """An array on a device of another library: CuPy can take it, and NumPy cannot."""

    def __init__(self, values):
        self._values = np.array(values)

    @property
    def __cuda_array_interface__(self):
        return self._values.__array_interface__

    def __array__(self, *_, **__):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")


def _bare(one):
    if isinstance(one, DeviceArray):
        return one.view(np.ndarray)
    if isinstance(one, np.ndarray) and one.ndim:
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    return one


def _placed(found, number):
    found = np.asarray(found).view(DeviceArray)
    found.number = number
    return found


def _call(function, arguments, options, number):
    def bare(one):
        return [_bare(item) for item in one] if isinstance(one, list | tuple) else _bare(one)

    out = options.get("out")
    found = function(*map(bare, arguments), **{key: bare(one) for key, one in options.items()})
    if out is not None:
        return out
    return _placed(found, number) if isinstance(found, np.ndarray | np.generic) else found


class CUDARuntimeError(RuntimeError):
    def __init__(self, status=0):
        super().__init__(f"status {status}")
        self.status = status


class OutOfMemoryError(MemoryError):
    pass


class Device:
    """A device of the emulation. ``n`` multiprocessors; ``current`` of each thread."""

    n = 3
    most_shared = 99 * 1024
    current = threading.local()

    def __init__(self, number=None):
        self.id = getattr(self.current, "id", 0) if number is None else int(number)

    def use(self):
        self.current.id = self.id

    def __enter__(self):
        self._before = getattr(self.current, "id", 0)
        self.use()
        return self

    def __exit__(self, *_):
        self.current.id = self._before


class Stream:
    def __init__(self, non_blocking=False):
        self.events = []

    def synchronize(self):
        self.events.append(("synchronize", 0))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


class Memory:
    """Counts what is alive, as a pool and a driver would."""

    def __init__(self):
        self.limit = 2**40
        self._alive = {}
        self._lock = threading.RLock()

    def used_bytes(self):
        with self._lock:
            return sum(
                one.nbytes for ref in list(self._alive.values()) if (one := ref()) is not None
            )

    def take(self, array):
        with self._lock:
            if self.used_bytes() + array.nbytes > self.limit:
                raise OutOfMemoryError(f"out of memory allocating {array.nbytes} bytes")
            key = id(array)
            self._alive[key] = weakref.ref(array)
        return array

    def free_bytes(self):
        return 0

    def get_limit(self):
        return 0

    def free_all_blocks(self):
        return None


class EmulatedCupy(ModuleType):
    """NumPy with what our code asks of CuPy, and kernels that run on this host."""

    def __init__(self, n_devices=1, ratio=2):
        super().__init__("cupy")
        self.__spec__ = ModuleSpec("cupy", None)
        self.memory, self.streams, self.ratio = Memory(), [], ratio

        def new_stream(**options):
            self.streams.append(Stream(**options))
            return self.streams[-1]

        runtime = SimpleNamespace(
            CUDARuntimeError=CUDARuntimeError,
            deviceSynchronize=lambda: None,
            getDeviceCount=lambda: n_devices,
            getDeviceProperties=lambda _number: {"name": b"Emulation", "multiProcessorCount": 3},
            deviceGetAttribute=lambda attribute, _number: {
                16: Device.n,
                87: self.ratio,
                97: Device.most_shared,
            }[attribute],
            memGetInfo=lambda: (self.memory.limit - self.memory.used_bytes(), self.memory.limit),
            pointerGetAttributes=lambda _pointer: SimpleNamespace(type=0),
        )
        self.cuda = SimpleNamespace(
            Device=Device, Stream=new_stream, runtime=runtime, alloc_pinned_memory=bytearray
        )
        self.ndarray = DeviceArray

    def get_default_memory_pool(self):
        return self.memory

    def asarray(self, values, dtype=None):
        if isinstance(values, DeviceArray) and dtype is None:
            return values
        if not isinstance(values, np.ndarray) and hasattr(values, "__cuda_array_interface__"):
            shown = SimpleNamespace(__array_interface__=values.__cuda_array_interface__)
            values = np.asarray(shown)
        return _placed(np.array(values, dtype), Device().id)

    array = asarray

    def empty(self, shape, dtype=np.float64):
        root = self.memory.take(np.empty(shape, dtype))
        return _placed(root, Device().id)

    def __getattr__(self, name):
        found = getattr(np, name)
        if not callable(found) or isinstance(found, type):
            return found
        return lambda *arguments, **options: _call(found, arguments, options, Device().id)
