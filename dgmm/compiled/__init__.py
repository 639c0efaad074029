"""Loops that numba compiles, where array calls leave much of a processor unused.

:mod:`~dgmm.compiled.loops` walks over a tile once where array calls take one walk for each
operation, :mod:`~dgmm.compiled.softmax` does so with the exponentials of
:mod:`~dgmm.compiled.elementary`; :mod:`~dgmm.compiled.products` multiplies matrices of few rows,
for which BLAS is not made; :mod:`~dgmm.compiled.fused` does a whole E-step with all of them.
"""

from dgmm.compiled.fused import FusedStep
from dgmm.compiled.loops import (
    LIBRARY_BYTES,
    centre_loop,
    products_loop,
    require,
)
from dgmm.compiled.softmax import softmax_loop

__all__ = [
    "LIBRARY_BYTES",
    "FusedStep",
    "centre_loop",
    "products_loop",
    "require",
    "softmax_loop",
]
