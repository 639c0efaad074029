"""The public names: exactly these, and nothing heavy behind ``import dgmm``."""

from __future__ import annotations

import subprocess
import sys

import pytest

import dgmm
from dgmm import errors

HEAVY = ["cupy", "dask", "distributed", "matplotlib", "numpy", "rich", "scipy", "sklearn", "zarr"]


def test_the_public_names_are_these() -> None:
    objects = {"DaskEngine", "GaussianMixture", "LocalEngine", "Mixture", "Selection"}
    objects |= {"NotFittedError", "open_dataset", "select_model", "suggest_priors", "gpu_cluster"}
    assert set(dgmm.__all__) == objects | set(errors.__all__) | {"__version__"}
    assert dir(dgmm) == sorted(dgmm.__all__)


@pytest.mark.parametrize("name", dgmm.__all__)
def test_every_public_name_is_there(name: str) -> None:
    value = getattr(dgmm, name)
    assert name in {"__version__", getattr(value, "__name__", None)}


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        getattr(dgmm, "nonsense")  # noqa: B009 (the expression alone would look useless)


@pytest.mark.parametrize("module", ["dgmm", "dgmm.errors", "dgmm.cli"])
def test_imports_are_light(module: str) -> None:
    program = f"import sys, {module}; print(*(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


def test_module_runs_as_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dgmm", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"dgmm {dgmm.__version__}\n"
