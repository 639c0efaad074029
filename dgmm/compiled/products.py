"""Products of matrices with few rows on one side, in runs of columns that stay in the cache.

OpenBLAS packs both sides before it multiplies, which it cannot repay where one of them has as
few rows as a mixture has components: with 16 it reaches half of the rate of large products. These
loops take four rows of either side at a time. Sixteen coefficients, or sixteen sums, are as many
registers as processors have to spare, and each value that is loaded serves four times.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dgmm.compiled.loops import compiled_once, jit

__all__ = ["GROUP", "add_outer", "add_product", "padded"]

# Rows of either side that are taken together; the loops below are written out for it.
GROUP = 4


def padded(size: int) -> int:
    """The multiple of :data:`GROUP` to which a side is filled up with zeros."""
    return -(-size // GROUP) * GROUP


@compiled_once
def add_product() -> Any:
    """``(theta (K, F), features (F, R), out (K, R))``: ``out += theta @ features``.

    K and F are multiples of four.
    """

    @jit(regroup=True, inline=True)
    def add_rows(
        t: Any, p0: Any, p1: Any, p2: Any, p3: Any, out0: Any, out1: Any, out2: Any, out3: Any
    ) -> None:
        t00, t01, t02, t03 = t[0, 0], t[0, 1], t[0, 2], t[0, 3]
        t10, t11, t12, t13 = t[1, 0], t[1, 1], t[1, 2], t[1, 3]
        t20, t21, t22, t23 = t[2, 0], t[2, 1], t[2, 2], t[2, 3]
        t30, t31, t32, t33 = t[3, 0], t[3, 1], t[3, 2], t[3, 3]
        for j in range(out0.size):
            a, b, c, d = p0[j], p1[j], p2[j], p3[j]
            out0[j] += t00 * a + t01 * b + t02 * c + t03 * d
            out1[j] += t10 * a + t11 * b + t12 * c + t13 * d
            out2[j] += t20 * a + t21 * b + t22 * c + t23 * d
            out3[j] += t30 * a + t31 * b + t32 * c + t33 * d

    @jit(regroup=True)
    def product(theta: Any, features: Any, out: Any) -> None:
        n_rows, n_features = theta.shape
        for f in range(0, n_features, 4):
            p0, p1, p2, p3 = features[f], features[f + 1], features[f + 2], features[f + 3]
            for k in range(0, n_rows, 4):
                add_rows(
                    theta[k : k + 4, f : f + 4],
                    p0, p1, p2, p3,
                    out[k], out[k + 1], out[k + 2], out[k + 3],
                )  # fmt: skip

    return product


@compiled_once
def add_outer(dtype: str) -> Any:
    """``(weights (K, R), features (F, R), sums (K, F))``: ``sums += weights @ features.T``.

    K and F are multiples of four. The columns are added up in ``dtype``, and their sum to ``sums``
    in the dtype of that.
    """
    zero = np.dtype(dtype).type(0)

    @jit(regroup=True, inline=True)
    def add_sums(
        a0: Any, a1: Any, a2: Any, a3: Any, p0: Any, p1: Any, p2: Any, p3: Any, s: Any
    ) -> None:
        s00 = s01 = s02 = s03 = s10 = s11 = s12 = s13 = zero
        s20 = s21 = s22 = s23 = s30 = s31 = s32 = s33 = zero
        for j in range(a0.size):
            a, b, c, d = p0[j], p1[j], p2[j], p3[j]
            w = a0[j]
            s00, s01, s02, s03 = s00 + w * a, s01 + w * b, s02 + w * c, s03 + w * d
            w = a1[j]
            s10, s11, s12, s13 = s10 + w * a, s11 + w * b, s12 + w * c, s13 + w * d
            w = a2[j]
            s20, s21, s22, s23 = s20 + w * a, s21 + w * b, s22 + w * c, s23 + w * d
            w = a3[j]
            s30, s31, s32, s33 = s30 + w * a, s31 + w * b, s32 + w * c, s33 + w * d
        _add4(s, 0, s00, s01, s02, s03)
        _add4(s, 1, s10, s11, s12, s13)
        _add4(s, 2, s20, s21, s22, s23)
        _add4(s, 3, s30, s31, s32, s33)

    @jit(regroup=True, inline=True)
    def _add4(s: Any, k: int, a: Any, b: Any, c: Any, d: Any) -> None:
        s[k, 0] += a
        s[k, 1] += b
        s[k, 2] += c
        s[k, 3] += d

    @jit(regroup=True)
    def outer(weights: Any, features: Any, sums: Any) -> None:
        n_rows, n_features = sums.shape
        for f in range(0, n_features, 4):
            p0, p1, p2, p3 = features[f], features[f + 1], features[f + 2], features[f + 3]
            for k in range(0, n_rows, 4):
                add_sums(
                    weights[k], weights[k + 1], weights[k + 2], weights[k + 3],
                    p0, p1, p2, p3,
                    sums[k : k + 4, f : f + 4],
                )  # fmt: skip

    return outer
