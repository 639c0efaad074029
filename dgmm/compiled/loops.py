"""Loops that numba compiles: one walk over a tile where array calls take one for each operation.

NumPy has no vectorised float64 exponential for processors without AVX-512 (5 ns each where 1.2 ns
is possible) and sends every intermediate result through the cache. The loops here do the same
arithmetic on runs of rows that stay in the first cache. Products of matrices stay with BLAS. Used
where numba is installed and there are rows enough to repay compiling.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import threading
from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import numpy as np

from dgmm.errors import MissingDependencyError

__all__ = [
    "LIBRARY_BYTES",
    "array_types",
    "centre_loop",
    "compiled_once",
    "jit",
    "products_loop",
    "require",
    "signature",
    "softmax_loop",
]

Loop = Callable[..., None]

# Resident memory of numba, LLVM and the loops: 190 to 205 MiB measured with both dtypes in use.
LIBRARY_BYTES = 208 * 2**20

# Rows that are taken through all steps together. Shorter runs lose to what a slice costs, longer
# ones to the first cache (measured from 64 to 1024, for 16 components).
_RUN = 128

# Of exp(x) = 2^k exp(r), |r| <= ln(2)/2: the magic number that rounds x/ln 2 to k in the low bits
# of a sum, ln 2 in two parts (Cody and Waite 1980, chapter 6) and the least argument with a normal
# result. Taylor's series goes to the degree after which the rest is below a unit in the last place.
_EXP: dict[str, tuple[float, float, float, float]] = {
    "float64": (1.5 * 2.0**52, 6.93147180369123816490e-01, 1.90821492927058770002e-10, -708.0),
    "float32": (1.5 * 2.0**23, 0.693359375, -2.12194440e-4, -87.0),
}
_DEGREE = {"float64": 13, "float32": 7}


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
def _exp(dtype: str) -> Any:
    """exp(x) for x <= 0: 0 where the result would be subnormal, NaN for NaN."""
    numba = importlib.import_module("numba")
    real = np.dtype(dtype).type
    magic, high, low, least = (real(one) for one in _EXP[dtype])
    degree = _DEGREE[dtype]
    mantissa = 52 if dtype == "float64" else 23
    per_octave, zero = real(1 / math.log(2)), real(0)

    @numba.extending.intrinsic
    def times_power(_context: Any, value: Any, shifted: Any) -> Any:
        """``value · 2^k``, where k stands in the low bits of ``shifted``."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            bits = numba.types.int64 if mantissa == 52 else numba.types.int32
            kind = context.get_value_type(bits)
            number, power = (builder.bitcast(argument, kind) for argument in arguments)
            raised = builder.add(number, builder.shl(power, kind(mantissa)))
            return builder.bitcast(raised, context.get_value_type(signature.return_type))

        return value(value, shifted), generate

    factors = tuple(real(1 / math.factorial(n)) for n in range(degree - 1, -1, -1))
    first = real(1 / math.factorial(degree))

    @numba.njit(inline="always", fastmath={"contract"})
    def exp(x: Any) -> Any:
        bounded = least if x < least else x
        shifted = bounded * per_octave + magic
        power = shifted - magic
        rest = (bounded - power * high) - power * low
        value = first
        for factor in numba.literal_unroll(factors):
            value = value * rest + factor
        value = times_power(value, shifted)
        value = zero if x < least else value
        return value if x == x else x  # noqa: PLR0124

    return exp


@compiled_once
def _steps(dtype: str) -> tuple[Any, Any, Any]:
    """Of a softmax, for one component: the maximum so far, the exponential, the normalisation."""
    exp = _exp(dtype)

    @jit()
    def take_largest(values: Any, tops: Any) -> None:
        for j in range(tops.size):
            tops[j] = values[j] if values[j] > tops[j] else tops[j]

    @jit()
    def exponentiate(values: Any, tops: Any, totals: Any) -> None:
        for j in range(tops.size):
            value = exp(values[j] - tops[j])
            values[j] = value
            totals[j] += value

    @jit()
    def scale(values: Any, factors: Any) -> None:
        for j in range(values.size):
            values[j] *= factors[j]

    return take_largest, exponentiate, scale


@compiled_once
def softmax_loop(dtype: str) -> Loop:
    """``(log_joint (K, n), top (n,), total (n,))``: responsibilities in place of log_joint.

    ``top`` becomes the maximum of a row and ``total`` the sum of its exponentials below it.
    """
    take_largest, exponentiate, scale = _steps(dtype)
    zero, one = np.dtype(dtype).type(0), np.dtype(dtype).type(1)
    _, vector, matrix = array_types(dtype)

    def softmax(log_joint: Any, top: Any, total: Any) -> None:
        n_components, n_rows = log_joint.shape
        inverses = np.empty(_RUN, top.dtype)
        for start in range(0, n_rows, _RUN):
            stop = min(start + _RUN, n_rows)
            tops, totals = top[start:stop], total[start:stop]
            tops[:] = log_joint[0, start:stop]
            totals[:] = zero
            for k in range(1, n_components):
                take_largest(log_joint[k, start:stop], tops)
            for k in range(n_components):
                exponentiate(log_joint[k, start:stop], tops, totals)
            for j in range(tops.size):
                inverses[j] = one / totals[j]
            for k in range(n_components):
                scale(log_joint[k, start:stop], inverses)

    compiled: Loop = jit(signature(matrix, vector, vector))(softmax)
    return compiled


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
