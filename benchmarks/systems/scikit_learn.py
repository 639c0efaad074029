"""scikit-learn's ``GaussianMixture``."""

from __future__ import annotations

import importlib
from typing import Any

from benchmarks.problems import Problem, Start
from benchmarks.systems.base import versions_of

FAMILIES = ("full", "tied", "diag", "spherical")


class ScikitLearn:
    """On arrays, with as many BLAS threads as there are cores."""

    def __init__(self) -> None:
        self._make = importlib.import_module("sklearn.mixture").GaussianMixture
        self._problem: Any = None
        self._model: Any = None

    def versions(self) -> dict[str, str]:
        return versions_of("scikit-learn", "numpy", "scipy")

    def refusal(self, problem: Problem) -> str | None:
        if problem.covariance_type in FAMILIES:
            return None
        return f"has no family {problem.covariance_type}"

    def load(self, problem: Problem) -> None:
        self._problem = problem

    def own_start(self, n_components: int) -> Start | None:
        return None

    def fit(self, iterations: int) -> None:
        problem = self._problem
        dtype = problem.x.dtype
        self._model = self._make(
            problem.n_components,
            covariance_type=problem.covariance_type,
            tol=0.0,
            max_iter=iterations,
            init_params="random_from_data",
            random_state=0,
            weights_init=problem.start.weights.astype(dtype),
            means_init=problem.start.means.astype(dtype),
            precisions_init=problem.precisions.astype(dtype),
        ).fit(problem.x)

    def fitted(self) -> Start:
        model = self._model
        return Start(model.weights_, model.means_, model.covariances_)
