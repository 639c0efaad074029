"""Blocks of stores that fail for a moment, or for good."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from dgmm.data.dataset import Rows
from dgmm.engine.work import load
from dgmm.errors import DamagedBlockError, StoreUnavailableError
from dgmm.testing.toys import toy


@dataclass
class Flaky:
    """A block that raises the errors it was given before it gives its rows."""

    errors: list[Exception]
    block: Any = field(default_factory=lambda: toy().blocks[0])

    def read(self) -> Rows:
        if self.errors:
            raise self.errors.pop()
        rows: Rows = self.block.read()
        return rows

    def __getattr__(self, name: str) -> Any:
        return getattr(self.block, name)


def _load(errors: list[Exception]) -> list[float]:
    waited: list[float] = []
    flaky: Any = Flaky(errors)
    assert load(flaky, waited.append).n_rows == flaky.n_rows
    return waited


def test_a_store_that_comes_back_is_read() -> None:
    assert _load([]) == []
    assert _load([StoreUnavailableError("away")] * 2) == [0.1, 0.4]
    assert _load([StoreUnavailableError("away")] * 3) == [0.1, 0.4, 2.0]


def test_a_store_that_stays_away_is_an_error_after_a_while() -> None:
    waited: list[float] = []
    with pytest.raises(StoreUnavailableError, match="away"):
        load(Flaky([StoreUnavailableError("away")] * 4), waited.append)  # type: ignore[arg-type]
    assert waited == [0.1, 0.4, 2.0]


def test_damage_is_not_read_again() -> None:
    flaky: Any = Flaky([DamagedBlockError("bad bytes")])
    with pytest.raises(DamagedBlockError):
        load(flaky, lambda _: pytest.fail("waited"))
