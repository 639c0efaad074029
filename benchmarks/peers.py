"""Seconds per iteration of every system that is installed, on problems that most can solve.

Rows are scaled down, so that densities are large: Spark adds 2.2e-16 to each, in the linear domain,
and only there is what it does EM. Where it takes part, all begin where it does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from benchmarks.grid import QUICK, WARM, Point, points_with_peers
from benchmarks.problems import Problem, problem
from benchmarks.settings import Settings
from benchmarks.speed import OURS, Measured, measure
from benchmarks.systems import OWN, PEERS
from benchmarks.systems.remote import Remote, SystemFailedError, started
from benchmarks.tables import Row, Table

SCALE = 0.1


def run(settings: Settings) -> list[Table]:
    """One row of the table for each system at each point."""
    rows: list[Row] = []
    versions: list[str] = []
    own = settings.pick(("dgmm", "scikit-learn"), OWN)
    with started(settings.peers_python, own + PEERS) as (systems, missing):
        for system in systems.values():
            versions += [f"{name} {number}" for name, number in system.versions.items()]
        plan = QUICK if settings.size == "quick" else WARM
        for point, n_rows in points_with_peers(settings):
            data = common_start(systems, scaled(point, n_rows))
            found = measure(systems, data, plan)
            rows += [_row(point, n_rows, name, found, one) for name, one in systems.items()]
    note = ", ".join(dict.fromkeys(versions)) + "."
    note += "".join(f" Not measured: {name} ({why})." for name, why in missing.items())
    return [Table("peers", "Seconds per EM iteration of every system", rows, note)]


def scaled(point: Point, n_rows: int) -> Problem:
    """A problem with standard deviations of about 0.1."""
    data = problem(n_rows, point.d, point.k, point.family, point.dtype)
    start = replace(
        data.start,
        means=data.start.means * SCALE,
        covariances=data.start.covariances * SCALE**2,
    )
    return replace(data, x=(data.x * SCALE).astype(point.dtype), start=start)


def common_start(systems: Mapping[str, Remote], data: Problem) -> Problem:
    """The problem from the start that one of the systems insists on, if one does."""
    for system in systems.values():
        try:
            if system.load(data) is None:
                start = system.own_start(data.n_components)
                if start is not None:
                    return data.from_start(start)
        except SystemFailedError:
            continue  # measure() finds out, and says so
    return data


def _row(point: Point, n_rows: int, name: str, found: Measured, system: Remote) -> Row:
    seconds = found.seconds.get(name)
    best = min((t for ours in OURS if (t := found.seconds.get(ours))), default=None)
    return {
        "family": point.family, "dtype": point.dtype, "D": point.d, "K": point.k, "rows": n_rows,
        "system": name,
        "s": seconds,
        "n K D²/s": n_rows * point.k * point.d**2 / seconds if seconds else None,
        "of dgmm's best": seconds / best if seconds and best else None,
        "difference": found.differences.get(name),
        "peak MiB": _peak(system, name) if seconds else None,
        "remark": found.reasons.get(name, ""),
    }  # fmt: skip


def _peak(system: Remote, name: str) -> int | None:
    # The memory of Spark is that of another process.
    return None if name == "Spark" else system.peak_of_fit(2) // 2**20
