"""Arrays in the memory of a GPU as datasets: CuPy's, and what shares its memory with CuPy."""

from __future__ import annotations

import hashlib
import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from dgmm.arrays import namespace, to_host
from dgmm.data.arrays import ArrayBlock
from dgmm.data.dataset import Dataset, check_dtype, fingerprint_of, part_rows
from dgmm.data.planning import check_two_dimensional, equal_ranges
from dgmm.devices import is_device_array
from dgmm.dispatch import prototype_of, returned
from dgmm.errors import InvalidDataError

__all__ = ["DEVICE_BLOCK_BYTES", "DeviceBlock", "like", "open_device_array"]

# Rows on a device cost nothing to read, and every part costs a launch and a copy of its sums.
DEVICE_BLOCK_BYTES = 512 * 2**20

_FINGERPRINT_ROWS = 256


@dataclass(frozen=True)
class DeviceBlock(ArrayBlock):
    """Rows on a device, as a view.

    Parameters
    ----------
    values : cupy.ndarray of shape (n_rows, n_features)
    """

    @property
    def on_device(self) -> bool:
        return True


def open_device_array(source: Any, block_bytes: int | None = None) -> Dataset:
    """An array on a GPU: CuPy's, or another library's that shares its memory.

    Parameters
    ----------
    source : object of shape (n_rows, n_features)
        With ``__cuda_array_interface__``. Nothing is copied. The fingerprint covers shape, dtype
        and 256 rows spread over the array.
    block_bytes : int, optional
        Bytes of rows in a block, by default 512 MiB.

    Raises
    ------
    InvalidDataError, InvalidDtypeError
        If it is not a two-dimensional array of real numbers.
    MissingDependencyError
        If CuPy is not installed.
    """
    block_bytes = block_bytes or DEVICE_BLOCK_BYTES
    array = namespace("cuda").asarray(source)
    dtype = np.dtype(array.dtype)
    check_dtype(dtype)
    n_rows, n_features = check_two_dimensional(tuple(array.shape))
    if not n_features:
        raise InvalidDataError("the data has 0 features (columns); at least 1 is needed")
    ranges = equal_ranges(0, n_rows, 1, n_features * dtype.itemsize, block_bytes)
    return Dataset(
        blocks=tuple(
            DeviceBlock(start, stop - start, n_features, dtype, array[start:stop])
            for start, stop in ranges
        ),
        n_features=n_features,
        dtype=dtype,
        part_rows=part_rows(n_features, dtype, block_bytes),
        fingerprint=fingerprint_of([(n_rows, n_features), dtype.str, "device", _digest(array)]),
        origin=source,
    )


def like(origin: Any, values: np.ndarray[Any, Any]) -> Any:
    """The values on the device and in the kind of array of ``origin``; as they are if it has none.

    Arrays in the memory of the host are NumPy's, unless scikit-learn is told to dispatch.

    A tensor of PyTorch gives one, anything else on a device CuPy's array.
    """
    if not is_device_array(origin):
        return returned(prototype_of(origin), values)
    moved = namespace("cuda").asarray(values)
    if type(origin).__module__.split(".")[0] == "torch":
        return importlib.import_module("torch").from_dlpack(moved)
    return moved


def _digest(array: Any) -> str:
    count = min(int(array.shape[0]), _FINGERPRINT_ROWS)
    sample = np.linspace(0, max(int(array.shape[0]) - 1, 0), count).astype(np.int64)
    # The copy waits for what made the rows on the caller's stream; passes have other streams.
    with namespace("cuda").cuda.Device(array.device.id):
        found = np.ascontiguousarray(to_host(array[sample]))
    return hashlib.sha256(found.tobytes()).hexdigest()
