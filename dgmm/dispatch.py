"""Arrays of other libraries by the array API standard, where scikit-learn is told to dispatch.

Rows come in by DLPack whatever scikit-learn's configuration says. What goes out are NumPy arrays,
unless ``sklearn.config_context(array_api_dispatch=True)`` asks for arrays of the caller's library.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from dgmm.devices import is_device_array

__all__ = ["host_float64", "is_foreign", "on_host", "prototype_of", "returned"]


def is_foreign(array: Any) -> bool:
    """True for an array in the memory of this host that is another library's than NumPy."""
    if isinstance(array, np.ndarray | np.generic) or is_device_array(array):
        return False
    known = hasattr(array, "__array_namespace__") or _is_torch(array)
    return known and hasattr(array, "__dlpack__")


def on_host(values: Any) -> Any:
    """The same numbers as NumPy's array, where they are an array of another library."""
    return np.from_dlpack(values) if is_foreign(values) else values


def host_float64(values: Any) -> np.ndarray[Any, Any]:
    """Real numbers in float64.

    Raises
    ------
    TypeError, ValueError
        For anything else: what is masked, complex, dates, text, lists of unequal lengths.
    """
    found = np.asanyarray(on_host(values))
    if np.ma.is_masked(found):
        raise TypeError("some values are masked")
    text = found.dtype.kind == "O" and any(isinstance(one, str | bytes) for one in found.flat)
    if found.dtype.kind not in "biufO" or text:
        raise TypeError(f"{found.dtype} holds no real numbers")
    return np.asarray(found, dtype=np.float64)


def prototype_of(origin: Any) -> Any:
    """An empty array of the library and on the device of ``origin``, where results go back to it.

    None where they are NumPy's: dispatching is off, or ``origin`` is no array of the standard.
    """
    if not is_foreign(origin) or not _dispatching():
        return None
    return _namespace(origin).empty(0, device=origin.device)


def returned(prototype: Any, values: Any) -> Any:
    """Values in the library and on the device of a prototype; as they are without one."""
    if prototype is None:
        return values
    values = np.ascontiguousarray(values) if np.ndim(values) else values
    return _namespace(prototype).asarray(values, device=prototype.device)


def _dispatching() -> bool:
    from sklearn import get_config

    return bool(get_config()["array_api_dispatch"])


def _is_torch(array: Any) -> bool:
    return type(array).__module__.split(".")[0] == "torch" and hasattr(array, "__dlpack__")


def _namespace(array: Any) -> Any:
    # A tensor of PyTorch does not say: its namespace is the library.
    if _is_torch(array):
        return importlib.import_module("torch")
    return array.__array_namespace__()
