"""The long run: ``python -m tests.chaos [OUT.json]`` prints a table, and writes the figures."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

from tests.chaos import blocks, scenarios


def run(folder: Path, seed: int, *, brief: bool = False) -> dict[str, dict[str, Any]]:
    """The figures of each scenario, by its name. An assertion fails where a promise is broken."""
    small, large = 4000, 200_000
    long: dict[str, Callable[[], dict[str, Any]]] = {
        "sigkill": lambda: scenarios.signals(
            folder,
            iterations=20 if brief else 200,
            n_rows=large if brief else 1_600_000,
            mean=2.0,
            seed=seed,
        ),
        "workers die as they start": lambda: scenarios.all_workers_die_as_they_start(
            folder, n_rows=small, rounds=3
        ),
        "stopped worker": lambda: scenarios.stopped_worker(folder, n_rows=large, worker_timeout=10),
        "no workers": lambda: scenarios.no_workers(
            folder, n_rows=small, no_workers_timeout=5 if brief else 45
        ),
        "scheduler killed": lambda: scenarios.scheduler_killed(folder, n_rows=small),
        "scheduler stopped": lambda: scenarios.scheduler_stopped(
            folder, n_rows=small, scheduler_timeout=5 if brief else 30
        ),
        "client restarted": lambda: scenarios.client_restarted(folder, n_rows=small),
        "out of memory": lambda: blocks.out_of_memory(folder),
        "deadly block": blocks.deadly_block,
        "disk fills up": lambda: scenarios.disk_fills_up(folder, n_rows=small),
        "network cut": lambda: scenarios.network_cut(folder, n_rows=large, worker_timeout=10),
        "soak": lambda: scenarios.soak(folder, iterations=100 if brief else 1000),
        "flips found of 60": lambda: blocks.damage(folder, seed=seed),
    }
    figures = {}
    for name, scenario in long.items():
        begin = monotonic()
        try:
            figures[name] = scenario()
        except RuntimeError as error:
            # No right to mount, or to make a namespace.
            if type(error) is not RuntimeError:
                raise
            figures[name] = {"not_run": str(error)}
        figures[name]["took_s"] = round(monotonic() - begin, 1)
        print(f"{name:26} {_row(figures[name])}", flush=True)  # noqa: T201 (the table)
    return figures


def _row(figures: dict[str, Any]) -> str:
    return "  ".join(f"{key}={value}" for key, value in figures.items())


def main() -> None:
    seed = int(os.environ.get("CHAOS_SEED", "7"))
    print(f"CHAOS_SEED={seed}")  # noqa: T201 (what repeats it)
    with tempfile.TemporaryDirectory() as folder:
        figures = run(Path(folder), seed, brief="--brief" in sys.argv)
    for out in sys.argv[1:]:
        if not out.startswith("-"):
            Path(out).write_text(json.dumps({"seed": seed, **figures}, indent=2), "utf-8")


# Workers are processes that import this module.
if __name__ == "__main__":
    main()
