"""The benchmarks run; what they measure is for people to read."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from benchmarks import acceleration, memory, sharing, speed
from benchmarks.problems import problem
from benchmarks.tables import markdown

MIB = 2**20


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", "dask"])
def test_a_fit_stays_under_its_limit(engine: str, tmp_path: Path) -> None:
    limit = 112 * MIB
    size = memory.write_store(tmp_path / "x.zarr", 4 * limit)
    assert size >= 4 * limit
    measured = memory.fit_in_subprocess(tmp_path / "x.zarr", engine, limit)
    assert 0 < measured["driver"] * MIB <= limit
    if engine == "dask":
        assert 0 < measured["worker"] * MIB <= limit


def test_the_difference_of_two_fits_is_that_of_their_iterations() -> None:
    calls: list[int] = []
    speed.seconds_per_iteration(calls.append, extra=4, repeats=2)
    assert calls == [1, 1, 5, 1, 5]


@pytest.mark.filterwarnings("ignore:Best performing")
@pytest.mark.parametrize("family", ["full", "tied", "diag", "spherical"])
def test_both_systems_take_the_same_start(family: str) -> None:
    data = problem(300, 3, 2, family, "float64")
    assert speed._dgmm(data, 3) == pytest.approx(speed._sklearn(data, 3), rel=1e-9)


def test_shared_passes_read_as_often_as_they_should(tmp_path: Path) -> None:
    store = sharing.write_store(tmp_path / "x.zarr", 2000, 4)
    with sharing.uncached(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one, ten = sharing.restarts(store, 2)
        (several,) = sharing.selection(store, 2)
    for row in (one, ten, several):
        assert list(row) == ["what", "reads", "seconds", "bound on reads", "bound on seconds"]
        assert 1.0 <= row["reads"] <= row["bound on reads"]
        assert row["bound on seconds"] > 0.0
    assert "10 restarts" in ten["what"]


def test_tables_have_a_row_for_each_result() -> None:
    table = markdown([{"a": 1, "b": 0.12345}, {"a": 2, "b": None}])
    assert table.splitlines() == ["| a | b |", "| --- | --- |", "| 1 | 0.123 |", "| 2 |  |"]


def test_counts_are_of_passes_until_a_height() -> None:
    bounds = np.array([-3.0, -2.0, -1.5, -1.0])
    assert acceleration._count(bounds, -1.5) == 3
    assert acceleration._count(bounds, 0.0) is None
    result = {"em": -1.0, "em_counts": [4, 8, 16], "data": "synthetic"}
    ours = {"computing": -1.0, "computing_counts": [2, 2, 2]}
    row = acceleration._line("computing", "all", [result | ours] * 2)
    assert [row[f"× EM to {delta:g}"] for delta in acceleration.DELTAS] == pytest.approx([2, 4, 8])
    assert row["worse / same / better"] == "0 / 2 / 0"


def test_all_methods_solve_a_problem() -> None:
    small = acceleration.Problem("synthetic", "diag", 2, 3, n_rows=300, separation=2.0)
    found = acceleration.solve(small)
    for method in acceleration.METHODS:
        assert found[method] > found["em"] - 0.05
        assert found["em_counts"][0] >= 1
    assert len(acceleration.problems()) >= 60
    assert {one.family for one in acceleration.problems()} == set(acceleration.FAMILIES)
