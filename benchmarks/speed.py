"""Seconds per iteration of dgmm and scikit-learn, from the same start on the same rows."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

from benchmarks.machine import product_peak
from benchmarks.problems import Problem, problem

TITLE = "Seconds per EM iteration, from the same start on the same rows, in one run"

# Family, dtype, features, components, rows.
GRID = [
    ("full", "float64", 8, 16, 200_000),
    ("full", "float64", 16, 16, 100_000),
    ("full", "float64", 32, 64, 50_000),
    ("full", "float64", 64, 64, 30_000),
    ("full", "float32", 16, 16, 100_000),
    ("full", "float32", 32, 64, 50_000),
    ("tied", "float64", 16, 16, 100_000),
    ("diag", "float64", 16, 16, 200_000),
    ("spherical", "float64", 16, 16, 200_000),
]
# What scikit-learn calls the families that it has.
SKLEARN_NAMES = {"full": "full", "tied": "tied", "diag": "diag", "spherical": "spherical"}


def run(*, quick: bool = False) -> list[dict[str, Any]]:
    """One row of the table for each entry of the grid."""
    rows = []
    for family, dtype, d, k, n in GRID:
        n_rows = n // 20 if quick else n
        data = problem(n_rows, d, k, family, dtype)
        ours = seconds_per_iteration(lambda m, data=data: _dgmm(data, m), 10)
        theirs = seconds_per_iteration(lambda m, data=data: _sklearn(data, m), 3)
        # Two products with F features each: 4 F K operations a row.
        work = 4.0 * (d * (d + 1) / 2 + d + 1) * k * n_rows
        rows.append({
            "family": family, "dtype": dtype, "D": d, "K": k, "rows": n_rows,
            "dgmm s": ours, "scikit-learn s": theirs, "ratio": theirs / ours,
            "of peak": work / ours / product_peak(dtype) if family == "full" else None,
        })  # fmt: skip
    return rows


def seconds_per_iteration(fit: Callable[[int], object], extra: int, repeats: int = 3) -> float:
    """The difference of fits with 1 and 1 + ``extra`` iterations, the best of a few of each."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(1)
        times = [(_seconds(fit, 1), _seconds(fit, 1 + extra)) for _ in range(repeats)]
    short, long = (min(column) for column in zip(*times, strict=True))
    return (long - short) / extra


def _seconds(fit: Callable[[int], object], iterations: int) -> float:
    started = time.perf_counter()
    fit(iterations)
    return time.perf_counter() - started


def _dgmm(data: Problem, iterations: int) -> float:
    import dgmm

    model = dgmm.GaussianMixture(
        len(data.weights), covariance_type=data.covariance_type, tol=0.0, max_iter=iterations,
        weights_init=data.weights, means_init=data.means, precisions_init=data.precisions,
    ).fit(data.x)  # fmt: skip
    return float(model.lower_bound_)


def _sklearn(data: Problem, iterations: int) -> float:
    from sklearn.mixture import GaussianMixture

    model = GaussianMixture(
        len(data.weights), covariance_type=SKLEARN_NAMES[data.covariance_type], tol=0.0,
        max_iter=iterations, init_params="random_from_data", random_state=0,
        weights_init=data.weights, means_init=data.means.astype(data.x.dtype),
        precisions_init=data.precisions.astype(data.x.dtype),
    ).fit(data.x)  # fmt: skip
    return float(model.lower_bound_)
