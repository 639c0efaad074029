"""A stand-in for the estimator, so that the command line is tested apart from the numerics."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dgmm.cli import main
from dgmm.record import FitEvent, FitRecord
from dgmm.storage import read_model, write_model


@dataclass
class Run:
    """What a command did: its exit code and what it printed."""

    code: int
    out: str
    err: str

    @property
    def record(self) -> dict[str, Any]:
        def refuse(name: str) -> None:
            raise ValueError(name)

        return json.loads(self.out.splitlines()[-1], parse_constant=refuse)


@pytest.fixture
def dgmm(capsys: pytest.CaptureFixture[str]):
    """Runs the command line in this process."""

    def run(*args: object) -> Run:
        capsys.readouterr()
        code = main([str(arg) for arg in args])
        out, err = capsys.readouterr()
        return Run(code, out, err)

    return run


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Two clusters, 300 rows of 2 numbers, as a .npy file."""
    path = tmp_path / "rows.npy"
    x = np.random.default_rng(0).normal(size=(300, 2))
    x[:100] += 8
    np.save(path, x)
    return path


@dataclass
class Calls:
    """What the stand-in was asked, and what it shall do."""

    parameters: list[dict[str, Any]] = field(default_factory=list)
    applied: list[tuple[str, str]] = field(default_factory=list)
    fail: BaseException | None = None
    log_likelihood: float = -3.5


class StandIn:
    """Has the face of an estimator; subclasses bring ``calls``."""

    calls: Calls
    _on_event: Any = None

    def __init__(self, **parameters: Any) -> None:
        self.calls.parameters.append(parameters)
        self.covariance_type = parameters.get("covariance_type", "full")

    def set_params(self, **parameters: Any) -> None:
        self.calls.parameters.append(parameters)

    def fit(self, X: Any) -> None:
        self._on_event(FitEvent("profile", message=f"{X.n_rows} rows"))
        self._on_event(FitEvent("iteration", 1, -4.0, float("inf"), 2))
        if self.calls.fail is not None:
            raise self.calls.fail
        self._on_event(FitEvent("iteration", 2, -3.5, 0.5, 2))
        self._on_event(FitEvent("retired", 2, message="restart 1: [singular]"))
        self._on_event(FitEvent("done", 2, -3.5))
        self.weights_ = np.array([0.25, 0.75])
        self.n_iter_, self.converged_ = np.int64(2), np.True_
        self.record_ = FitRecord(
            X.n_rows, 4, 4, 4800, 1, 0.1, 12345, "local", "cpu", (), ("column 1 is constant",)
        )

    def evaluate(self, X: Any) -> SimpleNamespace:
        if self.calls.fail is not None:
            raise self.calls.fail
        return SimpleNamespace(
            rows=X.n_rows,
            log_likelihood=np.float64(self.calls.log_likelihood),
            bic=10.0,
            aic=9.0,
            skipped_rows=0,
        )

    def save(self, path: Path) -> None:
        write_model(path, {"weights": self.weights_}, {"covariance_type": "full", "n_init": 2})

    @classmethod
    def load(cls, path: Path, device: str | None = None) -> StandIn:
        del device
        model = cls()
        model.weights_ = read_model(path)[0]["weights"]
        model.n_features_in_ = 2
        return model

    def predict(self, X: Any, out: str) -> None:
        self.calls.applied.append(("labels", out))

    def predict_proba(self, X: Any, out: str) -> None:
        self.calls.applied.append(("proba", out))

    def score_samples(self, X: Any, out: str) -> None:
        self.calls.applied.append(("scores", out))

    def mahalanobis(self, X: Any, out: str) -> None:
        self.calls.applied.append(("distances", out))

    def outlier_score(self, X: Any, out: str) -> None:
        self.calls.applied.append(("outlier_scores", out))

    def tail_probability(self, X: Any, out: str) -> None:
        self.calls.applied.append(("tail_probability", out))


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Puts a stand-in in the place of ``dgmm.estimator``."""
    calls = Calls()
    module = ModuleType("dgmm.estimator")
    module.GaussianMixture = type("GaussianMixture", (StandIn,), {"calls": calls})
    monkeypatch.setitem(sys.modules, "dgmm.estimator", module)
    return calls


@pytest.fixture
def model(dgmm: Any, rows: Path, stub: Calls, tmp_path: Path) -> Path:
    """A model file that the stand-in wrote."""
    path = tmp_path / "model.safetensors"
    assert dgmm("fit", rows, "-k", 2, "--out", path, "-q").code == 0
    return path
