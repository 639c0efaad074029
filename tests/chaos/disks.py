"""Disks of checkpoints that turn against a fit on a cluster."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import dgmm
from dgmm.checkpoint import Checkpoints
from tests.chaos.clusters import local, lockable, small_disk
from tests.chaos.scenarios import Figures, Watched, fit, rows, same_bits


def fills_up(folder: Path, *, n_rows: int, iterations: int = 8) -> Figures:
    """The disk is filled by somebody else in the course of the fit.

    Raises RuntimeError where a tmpfs cannot be mounted.
    """
    data = rows(folder, n_rows)
    with small_disk(folder / "small", "size=256k") as place:
        filler = place / "filler"

        def fill() -> None:
            filler.write_bytes(bytes(os.statvfs(place).f_bavail * 4096))

        return _spoiled(data, iterations, place / "kept", fill, filler.unlink, "No space left")


def becomes_read_only(folder: Path, *, n_rows: int, iterations: int = 8) -> Figures:
    """The directory can no longer be written from some iteration on.

    Raises RuntimeError where root, whom modes do not stop, cannot mount a tmpfs.
    """
    data = rows(folder, n_rows)
    with lockable(folder / "lockable") as (place, lock):
        model = place / "model"
        model.write_bytes(b"an old one")

        def begin() -> None:
            """What cannot be kept is said before the first iteration, and nothing is harmed."""
            for keep in ({"checkpoint": place / "new"}, {"checkpoint": kept, "resume": "never"}):
                with pytest.raises(dgmm.StoreUnavailableError):
                    fit(data, 2, **keep)
            with pytest.raises(dgmm.StoreUnavailableError):
                fit(data, 2).save(model)
            assert model.read_bytes() == b"an old one"

        kept, said = place / "kept", "Read-only|Permission denied"
        return _spoiled(
            data, iterations, kept, lambda: lock(True), lambda: lock(False), said, begin
        )


def _spoiled(
    data: Path,
    iterations: int,
    place: Path,
    spoil: Callable[[], Any],
    mend: Callable[[], Any],
    said: str,
    meanwhile: Callable[[], Any] = lambda: None,
) -> Figures:
    """A fit whose checkpoints fail from half-way on, and two that go on from those before."""
    calm = fit(data, iterations)
    keep = {"checkpoint": Checkpoints(place), "checkpoint_every": 1}
    with local(1) as client:
        engine = dgmm.DaskEngine(client)
        found = fit(data, iterations, engine, Watched(iterations // 2, spoil), **keep)
        try:
            again = fit(data, iterations, engine, **keep, resume="must")
            meanwhile()
        finally:
            mend()
        mended = fit(data, iterations, engine, **keep, resume="must")
    for gm, sought in (
        (found, said),
        (again, said),
        (again, "resumed from"),
        (mended, "resumed from"),
    ):
        assert any(re.search(sought, note) for note in gm.record_.notes), gm.record_.notes
    return {"bits_equal": all(same_bits(gm, calm) for gm in (found, again, mended))}
