"""A fitted model for the report's tests, made up rather than fitted."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from dgmm.covariance import family_of
from dgmm.record import FitRecord, RestartRecord

N_COMPONENTS, N_FEATURES = 5, 12


def model(family: str = "full", *, n_features: int = N_FEATURES, **changes: Any) -> SimpleNamespace:
    """Parameters, attributes and a record as the estimator has them."""
    rng = np.random.default_rng(0)
    weights = np.array([0.1, 0.4, 0.2, 0.25, 0.05])
    bounds = (-9.0, -4.0, -2.5, -2.0)
    facts: dict[str, Any] = {
        "covariance_type": family,
        "weights_": weights,
        "means_": rng.normal(size=(N_COMPONENTS, n_features)),
        "covariances_": _covariances(family, n_features, rng),
        "n_parameters_": 104,
        "converged_": True,
        "n_iter_": len(bounds),
        "lower_bound_": bounds[-1],
        "lower_bounds_": list(bounds),
        "tol": 1e-3,
        "reg_covar": 1e-6,
        "max_iter": 100,
        "n_init": 3,
        "init_params": "kmeans",
        "random_state": 0,
        "dtype": None,
        "memory_limit": "256MiB",
        "record_": record(bounds),
    }
    return SimpleNamespace(**(facts | changes))


def record(bounds: tuple[float, ...], notes: tuple[str, ...] = ("a note",)) -> FitRecord:
    """Three restarts: one kept, one worse, one retired."""
    worse = tuple(value - 1 for value in bounds)
    restarts = (
        RestartRecord("max_iter", 4, worse[-1], worse, "float32"),
        RestartRecord("converged", 4, bounds[-1], bounds, "float64"),
        RestartRecord("retired", 2, -4.5, (-9.5, -4.5), "centred", "component 3 <collapsed>"),
    )
    return FitRecord(
        rows=1_234_567,
        passes=7,
        block_reads=70,
        bytes_read=5 * 2**30,
        nodes_received=4,
        seconds=125.4,
        peak_memory=128 * 2**20,
        engine="local",
        device="cpu",
        restarts=restarts,
        notes=notes,
    )


def evaluation() -> SimpleNamespace:
    """What ``evaluate`` gives."""
    return SimpleNamespace(rows=1_234_567, log_likelihood=-1.98765432, bic=4.9e6, aic=4.8e6)


def _covariances(family: str, n_features: int, rng: np.random.Generator) -> np.ndarray:
    roots = rng.normal(size=(N_COMPONENTS, n_features, n_features))
    dense = roots @ np.swapaxes(roots, 1, 2) + np.eye(n_features)
    one = family_of(family)
    projected = one.shape.project(dense)
    return projected[0] if one.is_tied else projected
