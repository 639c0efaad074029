"""The long run: ``python -m tests.chaos [OUT.json]`` prints a table, and writes the figures."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

from tests.chaos import blocks, commands, disks, scenarios

# The most that a figure may be; scenarios assert errors, and most of them bits, themselves.
LIMITS = (
    ("sigkill", "slowest_iteration_s", 30.0),
    ("sigterm to workers", "slowest_iteration_s", 30.0),
    ("workers die as they start", "healed_after_s", 60.0),
    ("no workers", "error_after_s", 60.0),
    ("scheduler killed", "error_after_s", 60.0),
    ("scheduler stopped", "error_after_s", 60.0),
    ("soak", "tasks_left", 0),
)


def run(folder: Path, seed: int, *, brief: bool = False) -> dict[str, dict[str, Any]]:
    """The figures of each scenario, by its name. An assertion fails where a promise is broken."""
    small, large = 4000, 200_000
    n_rows = large if brief else 1_600_000

    def signals(iterations: int, **options: Any) -> dict[str, Any]:
        return scenarios.signals(
            folder,
            iterations=20 if brief else iterations,
            n_rows=n_rows,
            mean=2.0,
            seed=seed,
            **options,
        )

    long: dict[str, Callable[[], dict[str, Any]]] = {
        "sigkill": lambda: signals(200),
        "sigterm to workers": lambda: signals(100, numbers=(signal.SIGTERM,)),
        "sigterm to the command": lambda: commands.told_to_stop(
            folder,
            iterations=60,
            n_rows=n_rows,
            times=2 if brief else 6,
            seed=seed,
            n_workers=2,
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
        "disk fills up": lambda: disks.fills_up(folder, n_rows=small),
        "read-only directory": lambda: disks.becomes_read_only(folder, n_rows=small),
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


def broken(figures: dict[str, dict[str, Any]]) -> list[str]:
    """What is beyond its limit, or was not measured although its scenario ran."""
    found = []
    for scenario, name, most in LIMITS:
        value = figures[scenario].get(name)
        if value is None or value > most:
            found.append(f"{scenario}: {name} is {value}, at most {most} was promised")
    found += [
        f"{name}: other bits" for name, one in figures.items() if not one.get("bits_equal", True)
    ]
    if not figures["deadly block"].get("named"):
        found.append("deadly block: it was not named")
    flips = {name: n for name, n in figures["flips found of 60"].items() if name != "took_s"}
    return found + [f"{name}: {n} of 60 flips" for name, n in flips.items() if n != 60]


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
    if found := broken(figures):
        sys.exit("\n".join(found))


# Workers are processes that import this module.
if __name__ == "__main__":
    main()
