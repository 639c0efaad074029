"""pomegranate's ``GeneralMixtureModel`` of ``Normal`` distributions, on PyTorch."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from benchmarks.problems import Problem, Start
from benchmarks.systems.base import versions_of

# It has spherical normals too, which cannot be given a start: their variance is refused for its
# number of dimensions.
_FAMILIES = ("full", "diag")


class Pomegranate:
    """Tensors are made when the rows are loaded. It adds nothing to covariances."""

    def __init__(self) -> None:
        self._torch = importlib.import_module("torch")
        self._normal = importlib.import_module("pomegranate.distributions").Normal
        self._make = importlib.import_module("pomegranate.gmm").GeneralMixtureModel
        self._family = ""
        self._x: Any = None
        self._start: Any = None
        self._model: Any = None

    def versions(self) -> dict[str, str]:
        return versions_of("pomegranate", "torch")

    def refusal(self, problem: Problem) -> str | None:
        if problem.covariance_type in _FAMILIES:
            return None
        return f"takes no start of family {problem.covariance_type}"

    def load(self, problem: Problem) -> None:
        self._family, self._start = problem.covariance_type, problem.start
        self._x = self._torch.tensor(problem.x)

    def own_start(self, n_components: int) -> Start | None:
        return None

    def fit(self, iterations: int) -> None:
        tensor, start, dtype = self._torch.tensor, self._start, self._x.dtype
        normals = [
            self._normal(
                tensor(mean, dtype=dtype),
                tensor(covariance, dtype=dtype),
                covariance_type=self._family,
            )
            for mean, covariance in zip(start.means, start.covariances, strict=True)
        ]
        priors = tensor(start.weights, dtype=dtype)
        self._model = self._make(normals, priors=priors, max_iter=iterations, tol=-np.inf)
        self._model.fit(self._x)

    def fitted(self) -> Start:
        parts = self._model.distributions
        return Start(
            self._model.priors.detach().numpy(),
            np.stack([one.means.detach().numpy() for one in parts]),
            np.stack([one.covs.detach().numpy() for one in parts]),
        )
