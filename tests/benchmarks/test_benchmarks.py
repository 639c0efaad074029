"""The benchmarks run; what they measure is for people to read."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import acceleration, guard, memory, sharing, speed, targets
from benchmarks.__main__ import main
from benchmarks.grid import QUICK
from benchmarks.problems import FAMILIES, problem
from benchmarks.speed import difference
from benchmarks.stores import Count, read_all, write_store
from benchmarks.systems import REGISTRY
from benchmarks.systems.remote import MissingSystemError, Remote, SystemFailedError
from benchmarks.tables import Table, insert, markdown
from benchmarks.timing import Budget, interleaved

MIB = 2**20
PAGE = Path(__file__).parents[2] / "docs" / "performance.md"
PLACES = [
    "machine", "targets", "speed", "speed.ratio", "speed.cost", "peers", "scaling", "io", "dask",
    "dask.rows", "sharing", "memory", "bits",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", "dask"])
def test_a_fit_stays_under_its_limit(engine: str, tmp_path: Path) -> None:
    limit = 112 * MIB
    size = write_store(tmp_path / "x.zarr", 4 * limit)
    assert size >= 4 * limit
    measured = memory.fit_in_subprocess(tmp_path / "x.zarr", engine, limit)
    assert 0 < measured["driver"] * MIB <= limit
    if engine == "dask":
        assert 0 < measured["worker"] * MIB <= limit


class Scripted:
    """Takes ``start`` seconds and ``each`` for every iteration, and remembers its fits."""

    def __init__(self, start: float, each: float) -> None:
        self.start, self.each = start, each
        self.fits: list[int] = []

    def fit(self, iterations: int) -> float:
        self.fits.append(iterations)
        return self.start + self.each * iterations


def test_a_difference_of_fits_is_that_of_their_iterations() -> None:
    quick, slow = Scripted(0.5, 0.01), Scripted(0.1, 3.0)
    found = interleaved({"quick": quick, "slow": slow}, Budget(0.2, rounds=3))
    assert found == {"quick": pytest.approx(0.01), "slow": pytest.approx(3.0)}
    assert quick.fits == [1, 2, *3 * [1, 21]]
    assert slow.fits == [1, *2 * [1, 2]]


def test_what_is_too_quick_to_tell_has_no_seconds() -> None:
    assert interleaved({"idle": Scripted(0.1, 0.0)}, Budget()) == {"idle": None}


@pytest.fixture(scope="module")
def own_systems() -> Iterator[dict[str, Remote]]:
    with Remote("dgmm") as ours, Remote("scikit-learn") as peer:
        yield {"dgmm": ours, "scikit-learn": peer}


@pytest.mark.parametrize("family", FAMILIES)
def test_systems_begin_at_the_same_start(family: str, own_systems: dict[str, Remote]) -> None:
    # As many components as features: a matrix is not to be taken for a row of variances.
    data = problem(300, 3, 3, family, "float64")
    found = []
    for system in own_systems.values():
        if (reason := system.load(data)) is not None:
            assert reason == f"has no family {family}"
            continue
        assert system.fit(1) > 0.0
        found.append(system.fitted())
    assert len(found) == (1 if family.startswith("tied_") else 2)
    for other in found[1:]:
        assert difference(other.means, found[0].means) < 1e-12
        assert difference(other.covariances, found[0].covariances) < 1e-9


def test_a_failing_system_tells_why(own_systems: dict[str, Remote]) -> None:
    data = problem(50, 2, 2, "full", "float64")
    data.x[7, 1] = np.nan
    own_systems["scikit-learn"].load(data)
    with pytest.raises(SystemFailedError, match="NaN"):
        own_systems["scikit-learn"].fit(1)


def test_a_system_without_its_interpreter_is_missing() -> None:
    with pytest.raises(MissingSystemError, match="does not start"):
        Remote("tgmm", "/no/such/python")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_command_fills_its_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Compiling takes longer than all the rest.
    monkeypatch.setattr(speed, "OWN", ("dgmm", "scikit-learn"))
    page = tmp_path / "page.md"
    marks = [f"<!-- benchmark: {name} -->\nold\n<!-- end of benchmark -->" for name in PLACES]
    page.write_text("\n\n".join(["before", *marks, "after"]), encoding="utf-8")
    suites = "machine,speed,peers,io"
    arguments = ["--quick", "--suites", suites, "--out", str(tmp_path), "--docs", str(page)]
    result = CliRunner().invoke(main, [*arguments, "--peers-python", "/no/such/python"])
    assert result.exit_code == 0, result.output
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("\nafter")
    assert text.count("old") == len({"scaling", "dask", "dask.rows", "sharing", "memory", "bits"})
    assert "Not measured: tgmm (/no/such/python does not start" in text
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert list(results["seconds"]) == suites.split(",")
    assert {row["family"] for row in results["tables"]["speed.all"]["rows"]} == set(FAMILIES)
    assert results["machine"]["packages"]["numpy"] == np.__version__


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("suite", ["scaling", "dask"])
def test_what_grows_is_measured(suite: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--quick", "--suites", suite, "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    rows = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["tables"][suite]
    assert all(row.get("s", row.get("iteration ms")) > 0.0 for row in rows["rows"])


def test_the_page_has_a_place_for_every_table() -> None:
    tables = [Table(name, "", [{"found": name}]) for name in PLACES]
    text, homeless = insert(PAGE.read_text(encoding="utf-8"), tables)
    assert not homeless
    assert text.count("<!-- benchmark: ") == text.count("<!-- end of benchmark -->") == len(PLACES)


def test_a_table_takes_its_place_and_no_other() -> None:
    page = "<!-- benchmark: a -->\n<!-- end of benchmark -->\nkept\n<!-- benchmark: b -->\nkept"
    filled, homeless = insert(page, [Table("a", "", [{"x": r"\1"}]), Table("c", "", [])])
    assert filled.count("kept") == 2
    assert r"| \1 |" in filled
    assert homeless == ["c"]


def test_a_target_looks_at_the_worst_point_and_the_best_column() -> None:
    rows = [
        {"family": "diag", "dtype": "float64", "D": 16, "K": 16, "NumPy ratio": 12.0,
         "compiled ratio": 30.0},
        {"family": "spherical", "dtype": "float64", "D": 16, "K": 16, "NumPy ratio": 11.0,
         "compiled ratio": None},
        {"family": "full", "dtype": "float64", "D": 16, "K": 16, "NumPy ratio": 19.0,
         "compiled ratio": 12.0},
    ]  # fmt: skip
    cases: list[dict[str, Any]] = [{"of the bound": 1.1}, {"of the bound": 1.2}]
    found = targets.check({"speed": Table("speed", "", rows), "io": Table("io", "", cases)}).rows
    assert [(row["found"], row["reached"]) for row in found] == [
        (19.0, False),
        (11.0, True),
        (1.2, False),
    ]


@pytest.mark.slow
def test_the_guard_reports_a_ratio_for_every_point() -> None:
    rows = list(guard.report(QUICK, ("dgmm", "scikit-learn")))
    assert len(rows) == len(guard.POINTS)
    assert all(row["rows"] > 0 for row in rows)


def test_reading_reads_every_row(tmp_path: Path) -> None:
    size = write_store(tmp_path / "x.zarr", 32 * MIB, dtype="float64")
    assert size == 32 * MIB
    seconds, _ = read_all(tmp_path / "x.zarr", repeats=1)
    assert seconds > 0.0
    assert Count(2).merge(Count(3)) == Count(5)


def test_every_system_has_a_module() -> None:
    for module, kind in REGISTRY.values():
        namespace = __import__(module, fromlist=[kind])
        assert isinstance(getattr(namespace, kind), type)


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
