"""Softmax over the components of a run of rows, and what a pass sums of it.

Four components are taken at a time, so that what a row carries from one to the next (its largest
value, its sum) is loaded and stored a quarter as often.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dgmm.compiled.elementary import exp_loop, log_loop
from dgmm.compiled.loops import Loop, array_types, compiled_once, jit, signature

__all__ = ["N_TALLIED", "softmax_loop", "tally_loop"]

# Rows that are taken through all steps together. Shorter runs lose to what a slice costs, longer
# ones to the first cache (measured from 64 to 1024, for 16 components).
_RUN = 128

# Of a mixture: Σ w log p(x), Σ w log max_k r_k, Σ w, max log p(x).
N_TALLIED = 4


@compiled_once
def _take_largest() -> Any:
    """``(values (K, n), start, stop, tops)``: ``tops`` becomes the largest of each column."""

    @jit()
    def of_four(a: Any, b: Any, c: Any, d: Any, tops: Any) -> None:
        for j in range(tops.size):
            first = a[j] if a[j] > b[j] else b[j]
            second = c[j] if c[j] > d[j] else d[j]
            larger = first if first > second else second
            tops[j] = larger if larger > tops[j] else tops[j]

    @jit()
    def of_one(a: Any, tops: Any) -> None:
        for j in range(tops.size):
            tops[j] = a[j] if a[j] > tops[j] else tops[j]

    @jit()
    def take_largest(values: Any, start: int, stop: int, tops: Any) -> None:
        fours = values.shape[0] - values.shape[0] % 4
        tops[:] = values[0, start:stop]
        for k in range(0, fours, 4):
            of_four(
                values[k, start:stop], values[k + 1, start:stop],
                values[k + 2, start:stop], values[k + 3, start:stop], tops,
            )  # fmt: skip
        for k in range(fours, values.shape[0]):
            of_one(values[k, start:stop], tops)

    return take_largest


@compiled_once
def _exponentiate(dtype: str) -> Any:
    """``(values (K, n), start, stop, tops, totals)``: exponentials below ``tops``, and their sums.

    They are written in place, of two components at a time: of more, LLVM would have to check too
    many arrays for overlap to make vectors of them.
    """
    exp, zero = exp_loop(dtype), np.dtype(dtype).type(0)

    @jit()
    def of_two(a: Any, b: Any, tops: Any, totals: Any) -> None:
        for j in range(tops.size):
            top = tops[j]
            first, second = exp(a[j] - top), exp(b[j] - top)
            a[j], b[j] = first, second
            totals[j] += first + second

    @jit()
    def of_one(a: Any, tops: Any, totals: Any) -> None:
        for j in range(tops.size):
            value = exp(a[j] - tops[j])
            a[j] = value
            totals[j] += value

    @jit()
    def exponentiate(values: Any, start: int, stop: int, tops: Any, totals: Any) -> None:
        twos = values.shape[0] - values.shape[0] % 2
        totals[:] = zero
        for k in range(0, twos, 2):
            of_two(values[k, start:stop], values[k + 1, start:stop], tops, totals)
        for k in range(twos, values.shape[0]):
            of_one(values[k, start:stop], tops, totals)

    return exponentiate


@compiled_once
def softmax_loop(dtype: str) -> Loop:
    """``(log_joint (K, n), top (n,), total (n,))``: responsibilities in place of log_joint.

    ``top`` becomes the maximum of a row and ``total`` the sum of its exponentials below it.
    """
    take_largest, exponentiate = _take_largest(), _exponentiate(dtype)
    one = np.dtype(dtype).type(1)
    _, vector, matrix = array_types(dtype)

    @jit()
    def scale(values: Any, factors: Any) -> None:
        for j in range(values.size):
            values[j] *= factors[j]

    def softmax(log_joint: Any, top: Any, total: Any) -> None:
        n_components, n_rows = log_joint.shape
        inverses = np.empty(_RUN, top.dtype)
        for start in range(0, n_rows, _RUN):
            stop = min(start + _RUN, n_rows)
            tops, totals = top[start:stop], total[start:stop]
            take_largest(log_joint, start, stop, tops)
            exponentiate(log_joint, start, stop, tops, totals)
            for j in range(tops.size):
                inverses[j] = one / totals[j]
            for k in range(n_components):
                scale(log_joint[k, start:stop], inverses)

    compiled: Loop = jit(signature(matrix, vector, vector))(softmax)
    return compiled


@compiled_once
def tally_loop(dtype: str) -> Any:
    """``(top (n,), total (n,), weights (n,) or (0,), density (n,), sums (4,))``.

    ``density`` becomes log p(x), and the sums are those of :data:`N_TALLIED`.
    """
    log, add, largest = log_loop(dtype), _add_sums(), _largest()

    @jit()
    def densities(top: Any, total: Any, density: Any) -> None:
        for j in range(top.size):
            logarithm = log(total[j])
            total[j] = logarithm
            density[j] = top[j] + logarithm

    @jit()
    def tally(top: Any, total: Any, weights: Any, density: Any, sums: Any) -> None:
        densities(top, total, density)
        add(density, total, weights, sums)
        sums[3] = max(sums[3], np.float64(largest(density)))

    return tally


@compiled_once
def _add_sums() -> Any:
    """``(density (n,), logarithm (n,), weights (n,) or (0,), sums)``: the first three sums."""

    @jit(regroup=True)
    def plain(density: Any, logarithm: Any, sums: Any) -> None:
        likelihood = assignment = 0.0
        for j in range(density.size):
            likelihood += np.float64(density[j])
            assignment -= np.float64(logarithm[j])
        sums[0] += likelihood
        sums[1] += assignment
        sums[2] += density.size

    @jit(regroup=True)
    def weighted(density: Any, logarithm: Any, weights: Any, sums: Any) -> None:
        likelihood = assignment = weight = 0.0
        for j in range(density.size):
            likelihood += np.float64(density[j]) * weights[j]
            assignment -= np.float64(logarithm[j]) * weights[j]
            weight += weights[j]
        sums[0] += likelihood
        sums[1] += assignment
        sums[2] += weight

    @jit()
    def add(density: Any, logarithm: Any, weights: Any, sums: Any) -> None:
        if weights.size:
            weighted(density, logarithm, weights, sums)
        else:
            plain(density, logarithm, sums)

    return add


@compiled_once
def _largest() -> Any:
    @jit(regroup=True)
    def largest(values: Any) -> Any:
        most = values[0]
        for j in range(values.size):
            most = values[j] if values[j] > most else most
        return most

    return largest
