"""The exponential and the logarithm of a softmax, as loops that numba compiles into vectors.

Both are of arguments in a range that is known, with as few operations as the last digit allows:
where components and features are few, they are a fifth of an E-step.
"""

from __future__ import annotations

import importlib
import math
from functools import cache
from typing import Any

import numpy as np
from numpy.polynomial import Chebyshev, Polynomial

from dgmm.compiled.loops import compiled_once

__all__ = ["exp_loop", "log_loop"]

# Of a dtype: bits of the mantissa, the bias of the exponent, ln 2 in two parts of which the first
# is exact in products with small integers (Cody and Waite 1980, chapter 6), and the degrees of the
# polynomials after which the rest is below a tenth of a unit in the last place.
_FORMATS: dict[str, tuple[int, int, float, float, int, int]] = {
    "float64": (52, 1023, 6.93147180369123816490e-01, 1.90821492927058770002e-10, 9, 8),
    "float32": (23, 127, 0.693359375, -2.12194440e-4, 4, 3),
}


@cache
def _economised(coefficients: tuple[float, ...], half_width: float, degree: int) -> Any:
    """A power series cut to a degree by way of Chebyshev's (Lanczos 1938), lowest power first.

    Parameters
    ----------
    coefficients : tuple of float
        Of the series, lowest power first, as many as there is something left of.
    half_width : float
        The arguments lie between ± this.
    degree : int
    """
    domain = [-half_width, half_width]
    series = Polynomial(coefficients, domain=domain, window=domain)
    short = series.convert(kind=Chebyshev, domain=domain, window=[-1, 1]).truncate(degree + 1)
    return short.convert(kind=Polynomial, domain=domain, window=domain).coef


@compiled_once
def exp_loop(dtype: str) -> Any:
    """exp(x) for x <= 0: 0 below the range of normal numbers, NaN for NaN, 1 for 0."""
    numba = importlib.import_module("numba")
    real = np.dtype(dtype).type
    mantissa, bias, high, low, degree, _ = _FORMATS[dtype]
    # exp(x) = 2^k (1 + r + r² p(r)), |r| <= ln(2)/2. Adding the magic number rounds x / ln 2 to k,
    # and leaves k + bias in the low bits: shifted up, they are 2^k, and 0 for the least argument.
    series = tuple(1 / math.factorial(n + 2) for n in range(18))
    factors = tuple(real(one) for one in _economised(series, math.log(2) / 2, degree)[::-1])
    magic, least = real(1.5 * 2.0**mantissa + bias), real(-bias * math.log(2))
    high, low, per_octave = real(high), real(low), real(1 / math.log(2))
    first, others, one = factors[0], factors[1:], real(1)
    power_of_two = _power_of_two(dtype)

    @numba.njit(inline="always", fastmath={"contract"})
    def exp(x: Any) -> Any:
        bounded = least if least > x else x
        shifted = bounded * per_octave + magic
        power = shifted - magic
        rest = (bounded - power * high) - power * low
        value = first
        for factor in numba.literal_unroll(others):
            value = value * rest + factor
        value = (value * rest + one) * rest + one
        return value * power_of_two(shifted)

    return exp


@compiled_once
def _power_of_two(dtype: str) -> Any:
    """The number whose exponent, with the bias, stands in the low bits of another."""
    numba = importlib.import_module("numba")
    mantissa = _FORMATS[dtype][0]

    @numba.extending.intrinsic
    def power_of_two(_context: Any, shifted: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            bits = numba.types.int64 if mantissa == 52 else numba.types.int32
            kind = context.get_value_type(bits)
            low = builder.shl(builder.bitcast(arguments[0], kind), kind(mantissa))
            return builder.bitcast(low, context.get_value_type(signature.return_type))

        return shifted(shifted), generate

    return power_of_two


@compiled_once
def log_loop(dtype: str) -> Any:
    """log(x) for x >= 1: NaN for NaN, 0 for 1."""
    numba = importlib.import_module("numba")
    real = np.dtype(dtype).type
    _, _, high, low, _, degree = _FORMATS[dtype]
    # log(x) = e ln 2 + log(m) with m in [1/√2, √2), and log(m) = 2 artanh(s), s = (m − 1)/(m + 1).
    widest = (math.sqrt(2.0) - 1.0) ** 2 / (math.sqrt(2.0) + 1.0) ** 2
    series = tuple(2 / (2 * n + 3) for n in range(18))
    factors = tuple(real(one) for one in _economised(series, widest, degree)[::-1])
    high, low, one, two = real(high), real(low), real(1), real(2)
    first, others = factors[0], factors[1:]
    parts = _parts(dtype)

    @numba.njit(inline="always", fastmath={"contract"})
    def log(x: Any) -> Any:
        exponent, fraction = parts(x)
        s = (fraction - one) / (fraction + one)
        square = s * s
        value = first
        for factor in numba.literal_unroll(others):
            value = value * square + factor
        value = (value * square + two) * s
        value = exponent * high + (value + exponent * low)
        return value if x >= one else x

    return log


@compiled_once
def _parts(dtype: str) -> Any:
    """The exponent e and the fraction m in [1/√2, √2) of a normal number 2^e m, both as reals."""
    numba = importlib.import_module("numba")
    mantissa = _FORMATS[dtype][0]
    half = int(np.array(math.sqrt(0.5), dtype).view(f"i{np.dtype(dtype).itemsize}"))

    @numba.extending.intrinsic
    def parts(_context: Any, x: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            kind = context.get_value_type(
                numba.types.int64 if mantissa == 52 else numba.types.int32
            )
            number = context.get_value_type(signature.args[0])
            whole = builder.bitcast(arguments[0], kind)
            exponent = builder.ashr(builder.sub(whole, kind(half)), kind(mantissa))
            fraction = builder.sub(whole, builder.shl(exponent, kind(mantissa)))
            found = builder.sitofp(exponent, number), builder.bitcast(fraction, number)
            return context.make_tuple(builder, signature.return_type, found)

        return numba.types.UniTuple(x, 2)(x), generate

    return parts
