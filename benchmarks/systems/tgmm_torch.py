"""tgmm, on PyTorch and the processor."""

from __future__ import annotations

import importlib
from typing import Any

from benchmarks.problems import Problem, Start
from benchmarks.systems.base import versions_of

_NAMES = {
    "full": "full",
    "tied": "tied_full",
    "diag": "diag",
    "tied_diag": "tied_diag",
    "spherical": "spherical",
    "tied_spherical": "tied_spherical",
}


class Tgmm:
    """Tensors are made when the rows are loaded."""

    def __init__(self) -> None:
        self._torch = importlib.import_module("torch")
        self._make = importlib.import_module("tgmm").GaussianMixture
        self._family = ""
        self._x: Any = None
        self._start: Any = None
        self._model: Any = None

    def versions(self) -> dict[str, str]:
        return versions_of("tgmm", "torch")

    def refusal(self, problem: Problem) -> str | None:
        return None

    def load(self, problem: Problem) -> None:
        tensor, start = self._torch.tensor, problem.start
        self._family = problem.covariance_type
        self._x = tensor(problem.x)
        dtype = self._x.dtype
        self._start = {
            "init_weights": tensor(start.weights, dtype=dtype),
            "init_means": tensor(start.means, dtype=dtype),
            "init_covariances": tensor(start.covariances, dtype=dtype),
        }

    def own_start(self, n_components: int) -> Start | None:
        return None

    def fit(self, iterations: int) -> None:
        n_components, n_features = self._start["init_means"].shape
        self._model = self._make(
            n_components=n_components,
            n_features=n_features,
            covariance_type=_NAMES[self._family],
            max_iter=iterations,
            tol=1e-300,  # it has to be positive
            device="cpu",
            **self._start,
        )
        self._model.fit(self._x)

    def fitted(self) -> Start:
        model = self._model
        weights, means = model.weights_.numpy(), model.means_.numpy()
        return Start(weights, means, model.covariances_.numpy())
