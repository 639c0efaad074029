"""Seconds of an EM iteration by dgmm and by others, full covariances, from the same start.

What an iteration costs is the difference between a fit of many and one of few, over the number of
iterations between. Programs of processors have fewer rows, so rates are what to compare.
"""

from __future__ import annotations

import importlib
import time
import warnings
from collections.abc import Callable
from typing import Any

import click
import numpy as np

import dgmm
from benchmarks.gpu import measuring
from dgmm.sampling import draw

__all__ = ["run"]

Fit = Callable[[int], Any]

FEW = 2
# Iterations more: of programs that take less than a second for few, and of others.
QUICK, SLOW = 20, 2

# D, K, rows of programs on a GPU, rows of those on processors.
PROBLEMS = ((16, 16, 4_000_000, 500_000), (64, 64, 1_000_000, 50_000))


def run(scale: float) -> list[dict[str, Any]]:
    """A row for each program; one that is missing or fails says why."""
    rows = []
    for d, k, *sizes in PROBLEMS:
        n_most, n_least = (max(100, int(n * scale)) for n in sizes)
        mixture = measuring.mixture_of("full", k, d)
        x = draw(mixture, n_most, np.random.SeedSequence(0))[0].astype("float32")
        for name, make in PROGRAMS.items():
            n_rows = n_least if name.endswith("cpu") else n_most
            row: dict[str, Any] = {"program": name, "D": d, "K": k, "rows": n_rows}
            try:
                seconds = _seconds(make(x[:n_rows], mixture))
                row |= {"ms": 1e3 * seconds, "million rows/s": n_rows / seconds / 1e6}
            except Exception as error:  # noqa: BLE001  what one cannot do stops no other
                row["error"] = f"{type(error).__name__}: {error}"[:200]
            # As they come: the slow ones may be cut short.
            click.echo(row, err=True)
            rows.append(row)
    return rows


def _seconds(fit: Fit) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(FEW)
        few = _timed(fit, FEW)
        more, repeats = (QUICK, 2) if few < 1.0 else (SLOW, 1)
        found = {n: [_timed(fit, n) for _ in range(repeats)] for n in (FEW, FEW + more)}
    return max(1e-9, min(found[FEW + more]) - min(few, *found[FEW])) / more


def _timed(fit: Fit, iterations: int) -> float:
    started = time.perf_counter()
    fit(iterations)
    return time.perf_counter() - started


def _start(mixture: Any) -> dict[str, Any]:
    return {
        "weights_init": mixture.weights,
        "means_init": mixture.means,
        "precisions_init": np.linalg.inv(mixture.covariances),
    }


def _ours(device: str) -> Callable[[Any, Any], Fit]:
    def make(x: Any, mixture: Any) -> Fit:
        if device == "cuda":
            x = importlib.import_module("cupy").asarray(x)
        dataset = dgmm.open_dataset(x)

        def fit(iterations: int) -> Any:
            model = dgmm.GaussianMixture(
                mixture.n_components,
                max_iter=iterations,
                tol=0.0,
                device=device,
                **_start(mixture),
            )
            return model.fit(dataset)

        return fit

    return make


def _scikit_learn(library: str) -> Callable[[Any, Any], Fit]:
    def make(x: Any, mixture: Any) -> Fit:
        sklearn = importlib.import_module("sklearn")
        model_of = importlib.import_module("sklearn.mixture").GaussianMixture
        place: Any = np.asarray
        if library == "cupy":
            place = importlib.import_module("cupy").asarray
        if library == "torch":
            torch = importlib.import_module("torch")
            place = lambda values: torch.asarray(values, device="cuda")  # noqa: E731
        start = {name: place(one.astype(x.dtype)) for name, one in _start(mixture).items()}
        rows = place(x)

        def fit(iterations: int) -> Any:
            with sklearn.config_context(array_api_dispatch=library != "numpy"):
                model = model_of(
                    mixture.n_components,
                    max_iter=iterations,
                    tol=0.0,
                    init_params="random_from_data",
                    **start,
                )
                return model.fit(rows)

        return fit

    return make


def _tgmm(x: Any, mixture: Any) -> Fit:
    torch, tgmm = importlib.import_module("torch"), importlib.import_module("tgmm")

    def tensor(values: Any) -> Any:
        return torch.tensor(values, dtype=torch.float32, device="cuda")

    rows = tensor(x)

    def fit(iterations: int) -> None:
        model = tgmm.GaussianMixture(
            n_components=mixture.n_components,
            n_features=mixture.n_features,
            covariance_type="full",
            max_iter=iterations,
            tol=1e-300,
            device="cuda",
            init_weights=tensor(mixture.weights),
            init_means=tensor(mixture.means),
            init_covariances=tensor(mixture.covariances),
        )
        model.fit(rows)
        torch.cuda.synchronize()

    return fit


def _plain_torch(x: Any, mixture: Any) -> Fit:
    """EM as one writes it down: whitened differences for each component, batched."""
    torch = importlib.import_module("torch")

    def tensor(values: Any) -> Any:
        return torch.tensor(np.asarray(values), dtype=torch.float64, device="cuda")

    rows = tensor(x)
    chunk = max(1, 2**27 // (mixture.n_components * mixture.n_features))

    def fit(iterations: int) -> Any:
        weights, means = tensor(mixture.weights), tensor(mixture.means)
        covariances = tensor(mixture.covariances)
        for _ in range(iterations):
            factors = torch.linalg.cholesky(covariances)
            constants = weights.log() - factors.diagonal(dim1=1, dim2=2).log().sum(1)
            n, s, t = torch.zeros_like(weights), torch.zeros_like(means), 0.0
            for part in rows.split(chunk):
                centred = (part[None] - means[:, None]).transpose(1, 2)
                white = torch.linalg.solve_triangular(factors, centred, upper=False)
                a = torch.softmax(constants[:, None] - 0.5 * white.square().sum(1), 0)
                n, s = n + a.sum(1), s + a @ part
                t = t + torch.einsum("kn,ni,nj->kij", a, part, part)
            weights, means = n / n.sum(), s / n[:, None]
            covariances = t / n[:, None, None] - means[:, :, None] * means[:, None, :]
            covariances = covariances + 1e-6 * torch.eye(rows.shape[1]).to(rows)
        torch.cuda.synchronize()
        return means

    return fit


PROGRAMS: dict[str, Callable[[Any, Any], Fit]] = {
    "dgmm, cuda": _ours("cuda"),
    "tgmm, cuda": _tgmm,
    "plain torch, cuda": _plain_torch,
    "scikit-learn, torch on cuda": _scikit_learn("torch"),
    "scikit-learn, cupy": _scikit_learn("cupy"),
    "dgmm, cpu": _ours("cpu"),
    "scikit-learn, cpu": _scikit_learn("numpy"),
}
