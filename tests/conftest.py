"""What all tests share: repeatable property tests, and GPU tests skipped where there is none."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest
from hypothesis import HealthCheck, settings

# A failure prints the line that repeats it (@reproduce_failure), and examples come from a fixed
# seed, so that a build is red for what changed and not for luck. HYPOTHESIS_PROFILE=explore draws
# fresh ones.
settings.register_profile(
    "build",
    derandomize=True,
    print_blob=True,
    # A busy machine is not a failure, and fixtures of ours hold nothing that examples change.
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.register_profile("explore", settings.get_profile("build"), derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "build"))


def _has_gpu() -> bool:
    if find_spec("cupy") is None:
        return False
    import cupy

    try:
        return bool(cupy.cuda.runtime.getDeviceCount())
    except cupy.cuda.runtime.CUDARuntimeError:
        return False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests marked ``gpu`` where there is no device."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and not _has_gpu():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA device, or cupy is not installed"))
