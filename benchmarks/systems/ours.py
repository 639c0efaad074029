"""dgmm, with NumPy alone and with compiled loops."""

from __future__ import annotations

import importlib
from typing import Any

from benchmarks.problems import Problem, Start
from benchmarks.systems.base import versions_of


class Plain:
    """``device="cpu"``."""

    device = "cpu"

    def __init__(self) -> None:
        self._dgmm = importlib.import_module("dgmm")
        self._problem: Any = None
        self._model: Any = None

    def versions(self) -> dict[str, str]:
        return {"dgmm": self._dgmm.__version__, **versions_of("numpy")}

    def refusal(self, problem: Problem) -> str | None:
        return None

    def load(self, problem: Problem) -> None:
        self._problem = problem

    def own_start(self, n_components: int) -> Start | None:
        return None

    def fit(self, iterations: int) -> None:
        problem = self._problem
        self._model = self._dgmm.GaussianMixture(
            problem.n_components,
            covariance_type=problem.covariance_type,
            tol=0.0,
            max_iter=iterations,
            weights_init=problem.start.weights,
            means_init=problem.start.means,
            precisions_init=problem.precisions,
            device=self.device,
        ).fit(problem.x)

    def fitted(self) -> Start:
        model = self._model
        return Start(model.weights_, model.means_, model.covariances_)


class Compiled(Plain):
    """``device="cpu-compiled"``."""

    device = "cpu-compiled"

    def __init__(self) -> None:
        importlib.import_module("numba")
        super().__init__()

    def versions(self) -> dict[str, str]:
        return {**super().versions(), **versions_of("numba")}
