"""Loops that numba compiles: one walk over a tile where array calls take one for each operation.

NumPy has no vectorised float64 exponential for processors without AVX-512 (5 ns each where 1.2 ns
is possible) and sends every intermediate result through the cache. The loops here do the same
arithmetic on runs of rows that stay in the first cache. Products of matrices stay with BLAS. Used
where numba is installed and there are rows enough to repay compiling.
"""

from __future__ import annotations

import importlib
import importlib.util
import threading
from collections.abc import Callable
from functools import cache, wraps
from typing import Any

from dgmm.errors import MissingDependencyError

__all__ = [
    "LIBRARY_BYTES",
    "array_types",
    "centre_loop",
    "compiled_once",
    "jit",
    "prefetch_loop",
    "products_loop",
    "require",
    "signature",
]

Loop = Callable[..., None]

# Resident memory of numba, LLVM and the loops: 232 or 233 MiB measured with both dtypes in use.
LIBRARY_BYTES = 240 * 2**20

# Rows that are taken through all steps together. Shorter runs lose to what a slice costs, longer
# ones to the first cache (measured from 64 to 1024, for 16 components).
_RUN = 128

_COMPILING = threading.RLock()


def compiled_once(make: Callable[..., Any]) -> Callable[..., Any]:
    """Remember what a function made for its arguments, and let no two threads make it at once.

    All threads of a pass ask for their loops at the same moment. Numba compiles for one of them at
    a time, so that each would wait for the others and then compile the same again.
    """
    remembered = cache(make)

    @wraps(make)
    def found(*arguments: Any) -> Any:
        with _COMPILING:
            return remembered(*arguments)

    return found


def require() -> None:
    """Complain where numba is missing.

    Raises
    ------
    MissingDependencyError
    """
    if importlib.util.find_spec("numba") is None:
        raise MissingDependencyError(
            "device='cpu-compiled' needs numba, which is not installed here: "
            'pip install "dgmm[compiled]", or pass device="cpu"'
        )


def jit(*signatures: Any, regroup: bool = False, inline: bool = False) -> Any:
    """Numba's decorator for a loop that lets other threads run.

    Parameters
    ----------
    *signatures : numba signature
        What to compile for at once; none: for what it is called with.
    regroup : bool, default=False
        Whether sums may be regrouped. Without it a product and a sum may become one operation and
        nothing else may be rearranged, so that the bits of a row do not depend on its place in a
        tile.
    inline : bool, default=False
        Whether to compile it into its callers.
    """
    numba = importlib.import_module("numba")
    flags = {"contract", "nsz", "reassoc"} if regroup else {"contract"}
    options = {"forceinline": True} if inline else {}
    return numba.njit(
        list(signatures) or None, nogil=True, fastmath=flags, error_model="numpy", **options
    )


@cache
def array_types(dtype: str) -> tuple[Any, Any, Any]:
    """The scalar, a contiguous vector and a contiguous matrix of a dtype."""
    numba = importlib.import_module("numba")
    scalar = getattr(numba.types, dtype)
    return scalar, scalar[::1], scalar[:, ::1]


@compiled_once
def prefetch_loop() -> Any:
    """``(rows (n, D))``: asks for rows, of at least a run, that will be read before long.

    The loops read a run column by column, which the processor does not foresee from one run to the
    next. Worth 3 percent of a step of diagonal covariances in float64, 8 in float32.
    """
    prefetch, line = _prefetch(), 64

    @jit()
    def prefetch_rows(x: Any) -> None:
        first = x.ctypes.data
        for offset in range(0, x.size * x.itemsize, line):
            prefetch(first + offset)

    return prefetch_rows


@compiled_once
def _prefetch() -> Any:
    """``(address)``: ask for a line of the second cache."""
    numba = importlib.import_module("numba")
    ir = importlib.import_module("llvmlite.ir")

    @numba.extending.intrinsic
    def prefetch(_context: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
            kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
            function = builder.module.declare_intrinsic("llvm.prefetch", [pointer], kind)
            place = builder.inttoptr(arguments[0], pointer)
            # To be read, into the second cache and those behind it, data.
            builder.call(function, [place, number(0), number(2), number(1)])
            return context.get_dummy_value()

        return numba.types.void(address), generate

    return prefetch


@compiled_once
def centre_loop(stored: str, dtype: str) -> Loop:
    """``(x (n, D), origin (D,), out (D, n))``: x − origin, transposed.

    The difference is taken in the dtype of ``origin``, float64 unless both others are float32.
    """
    _, _, rows = array_types(stored)
    _, origins, _ = array_types("float32" if stored == dtype == "float32" else "float64")
    _, _, matrix = array_types(dtype)

    def centre(x: Any, origin: Any, out: Any) -> None:
        n_rows, n_features = x.shape
        for start in range(0, n_rows, _RUN):
            stop = min(start + _RUN, n_rows)
            for i in range(n_features):
                subtracted, column, values = origin[i], x[start:stop, i], out[i, start:stop]
                for j in range(values.size):
                    values[j] = column[j] - subtracted

    # Of arrays that may not be written to as well, without compiling anew.
    compiled: Loop = jit(signature(rows.copy(readonly=True), origins, matrix))(centre)
    return compiled


@compiled_once
def products_loop(dtype: str) -> Loop:
    """``(z (D, n), rows (P,), columns (P,), norm (n,), products (P, n))``: ‖z‖² and z_i z_j."""
    _, vector, matrix = array_types(dtype)
    index = array_types("intp")[1].copy(readonly=True)

    def fill(z: Any, rows: Any, columns: Any, norm: Any, products: Any) -> None:
        n_features, n_rows = z.shape
        for start in range(0, n_rows, _RUN):
            stop = min(start + _RUN, n_rows)
            norms = norm[start:stop]
            norms[:] = 0
            for i in range(n_features):
                values = z[i, start:stop]
                for j in range(norms.size):
                    norms[j] += values[j] * values[j]
            for p in range(rows.size):
                left, right = z[rows[p], start:stop], z[columns[p], start:stop]
                out = products[p, start:stop]
                for j in range(out.size):
                    out[j] = left[j] * right[j]

    compiled: Loop = jit(signature(matrix, index, index, vector, matrix))(fill)
    return compiled


def signature(*arguments: Any) -> Any:
    """Of a loop that returns nothing."""
    numba = importlib.import_module("numba")
    return numba.types.void(*arguments)
