"""Kernels ask their array namespace for nothing that CuPy lacks, as far as a CPU can tell."""

from __future__ import annotations

import numpy as np
import pytest

from dgmm import expectation
from dgmm.backend import Backend
from dgmm.covariance import family_names
from dgmm.data.dataset import Rows
from dgmm.expectation import BatchPass, RowPass, plan_batch
from dgmm.guard import Level
from dgmm.testing.families import frames_around
from tests.numerics.problems import random_mixture, rows_of

# What the kernels may use of a namespace. Whoever adds a name looks it up in CuPy's reference first
# (docs.cupy.dev, "Comparison Table").
SHARED = {
    "__name__",
    "asarray",
    "diagonal",
    "einsum",
    "empty",
    "exp",
    "log",
    "matmul",
    "multiply",
    "subtract",
    "sum",
    "trace",
    "zeros",
}


class CupyLike:
    """NumPy behind the names above; einsum without ``out``, which CuPy does not have."""

    def __init__(self):
        self.used = set()

    def __getattr__(self, name):
        if name not in SHARED:
            raise AttributeError(f"xp.{name} is not known to be in CuPy")
        self.used.add(name)
        return "numpy" if name == "__name__" else getattr(np, name)

    def einsum(self, subscripts, *operands, dtype=None):
        self.used.add("einsum")
        return np.einsum(subscripts, *operands, dtype=dtype)


@pytest.fixture
def cupy_like(monkeypatch):
    xp = CupyLike()
    monkeypatch.setattr(expectation, "backend_of", lambda _device: Backend(xp))
    return xp


@pytest.mark.parametrize("level", list(Level))
@pytest.mark.parametrize("name", family_names())
def test_kernels_use_what_both_have(name, level, cupy_like):
    mixture = random_mixture(np.random.default_rng(1), name, 3, 4)
    x = rows_of(mixture, 300, 1, level.dtype)
    frames = frames_around(mixture)
    kernels = plan_batch([mixture], [level], frames)
    for rows in (Rows(x), Rows(x, weight=np.ones(300)), Rows(x.astype("int32"))):
        task = BatchPass(kernels)
        (found,) = task.evaluate(rows, task.workspace()).members
        assert np.isfinite(found.log_likelihood)
    for output in ("log_density", "responsibilities", "labels"):
        task = RowPass(kernels[0], output, "float64")
        assert np.all(np.isfinite(task.evaluate(Rows(x), task.workspace())))
    assert cupy_like.used <= SHARED


@pytest.mark.gpu
@pytest.mark.parametrize("level", list(Level))
@pytest.mark.parametrize("name", family_names())
def test_a_gpu_gives_the_cpus_statistics(name, level):
    mixture = random_mixture(np.random.default_rng(2), name, 3, 4)
    x = rows_of(mixture, 5000, 2, level.dtype)
    kernels = plan_batch([mixture], [level], frames_around(mixture))
    found = []
    for device in ("cpu", "cuda"):
        task = BatchPass(kernels, device=device)
        found.append(task.evaluate(Rows(x), task.workspace()).members[0])
    limit = 1e-4 if level is Level.FLOAT32 else 1e-10
    np.testing.assert_allclose(found[1].moments, found[0].moments, rtol=limit, atol=limit * 5000)
    assert found[1].log_likelihood == pytest.approx(found[0].log_likelihood, rel=limit)
