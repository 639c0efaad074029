"""The fixtures that scikit-learn's own tests ask for."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def global_dtype(request: pytest.FixtureRequest) -> type:
    # scikit-learn itself runs them in float64 unless an environment variable asks for more.
    reason = request.module.FLOAT64_ALONE.get(request.node.originalname)
    if request.param is np.float32 and reason is not None:
        pytest.skip(reason)
    return request.param


@pytest.fixture(autouse=True)
def _array_api(monkeypatch: pytest.MonkeyPatch) -> None:
    # scikit-learn dispatches only where SciPy says that it does too.
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")


@pytest.fixture
def global_random_seed() -> int:
    return 42
