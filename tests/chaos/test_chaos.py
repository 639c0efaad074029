"""The scenarios, short: each has to end in the bits of the calm run or in its typed error.

``python -m tests.chaos`` runs them long. ``CHAOS_SEED`` sets the seed of what is random.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos import blocks, commands, disks, scenarios

SEED = int(os.environ.get("CHAOS_SEED", "7"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    print(f"CHAOS_SEED={SEED}")  # noqa: T201 (shown where a test fails)
    return tmp_path


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_are_killed_and_terminated(folder: Path, number: signal.Signals) -> None:
    # By iterations, not by the clock: a busy machine must not decide how many there are.
    found = scenarios.signals_at_iterations(
        folder, iterations=8, n_rows=60_000, every=3, seed=SEED, numbers=(number,)
    )
    assert found["signals"] == 2


def test_a_command_is_told_to_stop(folder: Path) -> None:
    found = commands.told_to_stop(folder, iterations=60, n_rows=200_000, times=1, seed=SEED)
    assert found["bits_equal"]


def test_all_workers_die_as_they_start(folder: Path) -> None:
    found = scenarios.all_workers_die_as_they_start(folder, n_rows=4000, rounds=2)
    assert found["killed"] >= 4


def test_a_worker_that_is_stopped(folder: Path) -> None:
    scenarios.stopped_worker(folder, n_rows=200_000, worker_timeout=3)


def test_nobody_left(folder: Path) -> None:
    found = scenarios.no_workers(folder, n_rows=4000, no_workers_timeout=2)
    assert found["error_after_s"] >= 2


def test_the_scheduler_is_killed(folder: Path) -> None:
    scenarios.scheduler_killed(folder, n_rows=4000)


def test_the_scheduler_is_stopped(folder: Path) -> None:
    found = scenarios.scheduler_stopped(folder, n_rows=4000, scheduler_timeout=3)
    assert found["error_after_s"] >= 3


def test_the_client_is_restarted(folder: Path) -> None:
    scenarios.client_restarted(folder, n_rows=4000)


def test_a_worker_runs_out_of_memory(folder: Path) -> None:
    assert blocks.out_of_memory(folder)["bits_equal"]


def test_a_block_that_kills_workers(folder: Path) -> None:
    found = blocks.deadly_block(calm_seconds=1)
    assert found["named"] == "block 2"


@pytest.mark.parametrize(
    "scenario",
    [
        lambda folder: disks.fills_up(folder, n_rows=4000),
        lambda folder: disks.becomes_read_only(folder, n_rows=4000),
        lambda folder: scenarios.network_cut(folder, n_rows=200_000, worker_timeout=3),
    ],
    ids=["a disk fills up", "a directory becomes read-only", "the network is cut"],
)
def test_what_takes_rights(folder: Path, scenario: Callable[[Path], object]) -> None:
    try:
        scenario(folder)
    except RuntimeError as error:
        if type(error) is not RuntimeError:
            raise
        pytest.skip(f"not allowed here: {error}")


def test_nothing_is_left_and_nothing_grows(folder: Path) -> None:
    assert scenarios.soak(folder, iterations=40)["tasks_left"] == 0


def test_60_of_60_flips_are_found(folder: Path) -> None:
    found = blocks.damage(folder, seed=SEED)
    assert set(found.values()) == {60}


@pytest.mark.slow
@pytest.mark.timeout(3600)  # six minutes on two quiet cores
def test_the_long_run(folder: Path) -> None:
    from tests.chaos.__main__ import broken, run

    figures = run(folder, SEED)
    assert figures["sigkill"]["iterations"] == 200
    assert not broken(figures)


def test_what_is_beyond_its_limit_is_said() -> None:
    from tests.chaos.__main__ import LIMITS, broken

    figures: dict[str, dict[str, float]] = {name: {} for name, _, _ in LIMITS}
    for name, figure, most in LIMITS:
        figures[name][figure] = most
    figures["flips found of 60"] = {"zarr": 60, "took_s": 3.0}
    figures["deadly block"], figures["out of memory"] = {"named": 2}, {"bits_equal": True}
    assert not broken(figures)
    figures["out of memory"]["bits_equal"] = False
    figures["sigkill"]["slowest_iteration_s"] = 31.0
    del figures["no workers"]["error_after_s"]
    figures["flips found of 60"]["zarr"] = 59
    assert [line.partition(":")[0] for line in broken(figures)] == [
        "sigkill", "no workers", "out of memory", "zarr",
    ]  # fmt: skip
