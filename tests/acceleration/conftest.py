"""Products of one thread, as in every fit: on small matrices others only wait for each other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dgmm.engine.blas import single_threaded_blas


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with single_threaded_blas():
        yield
