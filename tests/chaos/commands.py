"""The command line, told to stop again and again."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import Any

from tests.chaos.clusters import WAIT_SECONDS, eventually
from tests.chaos.scenarios import Figures, rows


def told_to_stop(
    folder: Path, *, iterations: int, n_rows: int, times: int, seed: int, n_workers: int = 0
) -> Figures:
    """A fit gets SIGTERM after some checkpoint, and is run again, time after time."""
    place, calm, out = (folder / f"told-to-stop-{end}" for end in ("kept", "calm", "out"))
    chosen, seconds = random.Random(seed), []  # noqa: S311
    fit: list[Any] = ["fit", rows(folder, n_rows), "-k", 8, "--init-params", "random"]
    fit += ["--tol", 0, "--max-iter", iterations, "--seed", 0]
    _ended(0, *fit, "--out", calm)
    kept = [*fit, "--checkpoint", place, "--checkpoint-every", 1, "--out", out]
    kept += ["--n-workers", n_workers] if n_workers else []
    for _ in range(times):
        seconds.append(_stopped(kept, place, _newest(place) + chosen.randint(2, 5)))
    _ended(0, *kept, "--resume", "must")
    return {
        "stops": times,
        "slowest_stop_s": max(seconds),
        "bits_equal": out.read_bytes() == calm.read_bytes(),
    }


def _stopped(arguments: list[Any], place: Path, number: int) -> float:
    """Seconds that the command takes to end once it is told to, after a checkpoint."""
    with _started(*arguments) as process:
        eventually(lambda: _newest(place) >= number or process.poll() is not None, "a checkpoint")
        began = monotonic()
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=WAIT_SECONDS)[0]
        seconds = round(monotonic() - began, 2)
    assert process.returncode == 75, said
    assert "stopped by SIGTERM after iteration" in said, said
    return seconds


def _newest(place: Path) -> int:
    names = [path.name for path in place.glob("checkpoint-*.safetensors")]
    return max((int(re.sub(r"\D", "", name)) for name in names), default=0)


def _ended(code: int, *arguments: Any) -> None:
    with _started(*arguments) as process:
        said = process.communicate(timeout=WAIT_SECONDS)[0]
    assert process.returncode == code, said


@contextmanager
def _started(*arguments: Any) -> Iterator[subprocess.Popen[str]]:
    """The command in a group of its own, with what it says on either stream."""
    process = subprocess.Popen(
        [sys.executable, "-m", "dgmm", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(WAIT_SECONDS)
