"""The profile of rows on a GPU: the moments and the sample of :class:`~dgmm.profile.ProfilePass`.

Rows stay where they are; what crosses is the moments of each tile and the sampled rows. The sample
is the same as on processors; moments differ by roundings.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from dgmm.arrays import make_current, namespace, to_host
from dgmm.data.dataset import Rows
from dgmm.devices import is_device_array
from dgmm.placement import Placed
from dgmm.profile import Profile, ProfilePass
from dgmm.row_sample import Sample, hash_rows, smallest

__all__ = ["DeviceProfilePass", "profile_on"]

Array = np.ndarray[Any, Any]

# Of a tile in float64: some launches and four small copies to the host for each.
_TILE_BYTES = 32 * 2**20

# Rows that are hashed together, in less memory than a tile takes.
_HASHED_ROWS = 2**20


@dataclass(frozen=True)
class DeviceProfilePass(Placed, ProfilePass):
    """The profile of a dataset, on a device.

    Parameters
    ----------
    device : str
        ``"cuda"`` or ``"cuda:N"``.
    """

    device: str = "cuda"

    @property
    def buffer_bytes(self) -> int:
        # Rows as stored and in float64, centred, centred again, weighted, and their products.
        return 6 * _TILE_BYTES + (16 * self.n_features**2 if self.dense else 0)

    def evaluate(self, rows: Rows, workspace: None) -> Profile:
        make_current(self.device)
        return super().evaluate(rows, workspace)

    def tiles(self, rows: Rows) -> Iterator[Rows]:
        if not is_device_array(rows.x):
            yield from super().tiles(rows)
            return
        size = max(1, _TILE_BYTES // (8 * self.n_features))
        for start in range(0, rows.n_rows, size):
            tile = rows.part(start, min(start + size, rows.n_rows)).counted()
            if tile.n_rows:
                yield replace(tile, x=tile.x.astype(np.float64))

    def moments(self, rows: Rows, sample: Sample) -> Profile:
        if not is_device_array(rows.x):
            return super().moments(rows, sample)
        x, xp = rows.x, namespace(self.device)
        weight = None if rows.weight is None else xp.asarray(rows.weight)
        total = float(len(x)) if rows.weight is None else float(rows.weight.sum())

        def average(values: Any) -> Any:
            return values.mean(axis=0) if weight is None else xp.matmul(weight, values) / total

        mean = average(x)
        centred = x - mean
        # As on processors: a sum of far values is short of digits that what is left over has.
        correction = average(centred)
        mean, centred = mean + correction, centred - correction
        weighted = centred if weight is None else centred * weight[:, None]
        scatter = xp.matmul(weighted.T, centred) if self.dense else (weighted * centred).sum(axis=0)
        mean, scatter = to_host(mean), to_host(scatter)
        if not (np.all(np.isfinite(mean)) and np.all(np.isfinite(scatter))):
            # Refused in the words that say where.
            return super().moments(replace(rows, x=to_host(x)), sample)
        least, most = to_host(x.min(axis=0)), to_host(x.max(axis=0))
        return Profile(len(x), total, mean, scatter, least, most, sample)

    def digest_of(self, tile: Rows, xp: Any = None) -> int:
        on_device = is_device_array(tile.x)
        return super().digest_of(tile, namespace(self.device) if on_device else np)

    @property
    def piece_rows(self) -> int:
        return _HASHED_ROWS

    def draw(self, rows: Rows, eligible: Array | None) -> Sample:
        if eligible is not None or rows.weight is not None or not is_device_array(rows.x):
            return super().draw(rows, eligible)
        xp = namespace(self.device)
        keys = hash_rows(self.seed, rows.first_row, rows.n_rows, xp)
        chosen = to_host(xp.flatnonzero(keys <= self.threshold))
        found = Sample(
            chosen + rows.first_row,
            to_host(keys[chosen]),
            np.empty(0),
            self.sample_size,
            labels=None if rows.labels is None else rows.labels[chosen],
        )
        keep = smallest(found.keys, self.sample_size)
        return replace(found.only(keep), x=to_host(rows.x[chosen[keep]]))


def profile_on(task: ProfilePass, device: str) -> ProfilePass:
    """The same profile, on the device of the passes that follow."""
    if not device.startswith("cuda"):
        return task
    given = {one.name: getattr(task, one.name) for one in fields(task)}
    return DeviceProfilePass(**given, device=device)
