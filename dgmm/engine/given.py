"""Blocks whose rows are there: given to a task by the cluster, or sent along by the driver."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dgmm.data.dataset import Block, Rows
from dgmm.devices import is_device_array
from dgmm.errors import SourceError

__all__ = ["GivenBlock", "HeldBlock"]


@dataclass(frozen=True)
class GivenBlock(Block):
    """A block whose rows reach the task as an argument: those of a Dask array in memory.

    Parameters
    ----------
    values : array of shape (n_rows, n_features), optional
        The rows, once they are there.
    """

    values: Any = field(default=None, compare=False, repr=False)

    def read(self) -> Rows:
        if self.values.dtype != self.dtype:
            raise SourceError(
                f"block {self.name} was declared as {self.dtype} and holds {self.values.dtype}"
            )
        values = self.values if is_device_array(self.values) else np.asarray(self.values)
        return Rows(values, self.first_row)

    @property
    def is_resident(self) -> bool:
        return True


@dataclass(frozen=True)
class HeldBlock(Block):
    """Some rows of a block that is in the driver's memory.

    Parameters
    ----------
    rows : Rows
    """

    rows: Rows = field(compare=False, repr=False)

    def read(self) -> Rows:
        return self.rows

    @property
    def is_resident(self) -> bool:
        return True
