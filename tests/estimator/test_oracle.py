"""Weights, labels, priors and held parameters together, against EM written out for all rows."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

import dgmm
from dgmm.covariance import family_names, family_of

K, D, N = 3, 2, 500
RNG = np.random.default_rng(3)
CENTRES = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])
TRUE = RNG.integers(K, size=N)
X = RNG.normal(size=(N, D)) @ np.array([[1.0, 0.3], [0.0, 0.6]]) + CENTRES[TRUE]
WEIGHT = RNG.exponential(size=N)
LABELS = np.where(RNG.random(N) < 0.1, RNG.integers(K, size=N), -1)

ALPHA, MU0, KAPPA = np.array([2.0, 5.0, 1.0]), RNG.normal(size=(K, D)), np.array([0.0, 4.0, 20.0])
PSI, NU = 2.0, 5.0
PRIORS = {
    "w": {"weight_concentration_prior": ALPHA},
    "m": {"mean_prior": MU0, "mean_precision_prior": KAPPA},
    "c": {"covariance_prior": PSI, "degrees_of_freedom_prior": NU},
}
HELD: tuple[dict[str, list[int]], ...] = (
    {},
    {"means": [1]},
    {"weights": [0]},
    {"means": [0, 1, 2], "weights": [2]},
)


@dataclass(frozen=True)
class Dense:
    """A mixture whose steps are those of the formulas of docs/priors.md, over all rows at once."""

    family: str
    algorithm: str
    priors: str
    held: dict[str, list[int]]
    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray
    objective: float = field(default=-np.inf)

    @property
    def is_tied(self) -> bool:
        return self.family.startswith("tied_")

    @property
    def kind(self) -> str:
        return self.family.removeprefix("tied_")

    def responsibilities(self) -> tuple[np.ndarray, float]:
        """Of shape (K, N), by weight, and the objective per unit of weight without priors."""
        to_matrix = {"full": np.asarray, "diag": np.diag, "spherical": lambda v: v * np.eye(D)}
        each = [self.covariances] * K if self.is_tied else self.covariances
        joint = np.array(
            [
                np.log(self.weights[k])
                + multivariate_normal(self.means[k], to_matrix[self.kind](each[k])).logpdf(X)
                for k in range(K)
            ]
        )
        total = logsumexp(joint, axis=0)
        found, components = np.exp(joint - total), np.arange(K)[:, None]
        if self.algorithm == "cem":
            total, found = joint.max(axis=0), (components == joint.argmax(axis=0)).astype(float)
        known = LABELS >= 0
        found[:, known] = components == LABELS[known]
        total = np.where(known, joint[np.maximum(LABELS, 0), np.arange(N)], total)
        return found * WEIGHT, float(total @ WEIGHT / WEIGHT.sum())

    def step(self) -> Dense:
        found, objective = self.responsibilities()
        n = found.sum(axis=1)
        kappa = KAPPA if "m" in self.priors else np.zeros(K)
        means = (kappa[:, None] * MU0 + found @ X) / (kappa + n)[:, None]
        means[self.held.get("means", [])] = self.means[self.held.get("means", [])]
        scatters = np.array(
            [
                (found[k, :, None] * (X - means[k])).T @ (X - means[k])
                + kappa[k] * np.outer(means[k] - MU0[k], means[k] - MU0[k])
                for k in range(K)
            ]
        )
        return replace(
            self,
            weights=self._weights(n),
            means=means,
            covariances=self._covariances(scatters, n, kappa > 0),
            objective=objective,
        )

    def _weights(self, n: np.ndarray) -> np.ndarray:
        counts, held = (
            n + (ALPHA - 1.0 if "w" in self.priors else 0.0),
            self.held.get("weights", []),
        )
        free = np.setdiff1d(np.arange(K), held)
        weights = self.weights.copy()
        weights[free] = (1.0 - weights[held].sum()) * counts[free] / counts[free].sum()
        return weights

    def _covariances(self, scatters: np.ndarray, n: np.ndarray, has_mean: np.ndarray) -> np.ndarray:
        reduced = {"full": np.asarray, "diag": np.diag, "spherical": np.trace}[self.kind]
        unit = {"full": np.eye(D), "diag": np.ones(D), "spherical": 1.0}[self.kind]
        p = D if self.kind == "spherical" else 1
        psi, q = 0.0, np.zeros(K)
        if "c" in self.priors:
            base = D + 1 if self.kind == "full" else 2
            psi, q = PSI, NU + base + p * (has_mean.sum() if self.is_tied else has_mean) + q
        if self.is_tied:
            return np.asarray((psi * unit + reduced(scatters.sum(axis=0))) / (p * n.sum() + q[0]))
        return np.array([(psi * unit + reduced(scatters[k])) / (p * n[k] + q[k]) for k in range(K)])


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Best performing")
        yield


@pytest.mark.parametrize("algorithm", ["em", "cem"])
@pytest.mark.parametrize("priors", ["", "w", "m", "c", "mc", "wmc"])
@pytest.mark.parametrize("family", family_names())
def test_five_iterations_are_those_of_the_formulas(
    family: str, priors: str, algorithm: str
) -> None:
    one = family_of(family)
    unit = one.shape.project(np.eye(D)) / one.shape.divisor(D)
    start: dict[str, Any] = {
        "weights_init": np.array([0.2, 0.3, 0.5]),
        "means_init": CENTRES + 0.3,
        "covariances_init": np.broadcast_to(unit, one.covariances_shape(K, D)).copy(),
    }
    hyperparameters = {name: value for one in priors for name, value in PRIORS[one].items()}
    for held in HELD:
        model = dgmm.GaussianMixture(
            K, covariance_type=family, algorithm=algorithm, fixed=held, max_iter=5, tol=0.0,
            reg_covar=0.0, engine=dgmm.LocalEngine(1), **start, **hyperparameters,
        ).fit(X, sample_weight=WEIGHT, labels=LABELS)  # fmt: skip
        dense = Dense(family, algorithm, priors, held, *start.values())
        for _ in range(5):
            dense = dense.step()
        assert_allclose(model.weights_, dense.weights, rtol=0, atol=1e-8)
        assert_allclose(model.means_, dense.means, rtol=0, atol=1e-8)
        assert_allclose(model.covariances_, dense.covariances, rtol=0, atol=1e-8)
        if algorithm == "em":
            assert model.record_.log_likelihood == pytest.approx(dense.objective, abs=1e-10)
        elif not priors:
            assert model.lower_bound_ == pytest.approx(dense.objective, abs=1e-10)
