"""Seconds per iteration of dgmm and scikit-learn, from the same start on the same rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.grid import COMPONENTS, FEATURES, LISTED, Plan, Point, points
from benchmarks.machine import product_rate
from benchmarks.problems import FAMILIES, Problem, Start, problem
from benchmarks.settings import Settings
from benchmarks.systems import OWN
from benchmarks.systems.remote import Remote, SystemFailedError, started
from benchmarks.tables import Row, Table
from benchmarks.timing import interleaved

OURS = ("dgmm", "dgmm compiled")


@dataclass(frozen=True)
class Measured:
    """What was found at one point.

    Parameters
    ----------
    seconds : mapping of str to float
        Per iteration, of each system that was measured.
    reasons : mapping of str to str
        Why others were not.
    differences : mapping of str to float
        Largest difference between the means after one iteration and dgmm's, over the largest mean.
    product_rate : float
        Of a large matrix product, in turn with the systems.
    """

    seconds: Mapping[str, float | None]
    reasons: Mapping[str, str]
    differences: Mapping[str, float]
    product_rate: float

    def ratio(self, peer: str, name: str) -> float | None:
        """By how much ``name`` is faster than ``peer``."""
        theirs, ours = self.seconds.get(peer), self.seconds.get(name)
        return theirs / ours if theirs and ours else None


def run(settings: Settings) -> list[Table]:
    """The listed points, and the whole grid condensed."""
    rows, skipped = [], []
    with started(None, OWN) as (systems, missing):
        for point, plan in points(settings):
            row, why = _row(point, plan, systems, settings)
            rows.append(row)
            skipped += [f"{_name(point)}: {reason}" for reason in why]
    listed = [row for row in rows if _point(row) in LISTED or settings.size == "quick"]
    note = _note(missing, skipped)
    tables = [Table("speed", "Seconds per EM iteration beside scikit-learn", listed, note)]
    if settings.size != "default":
        tables += [
            Table("speed.ratio", "Ratio to scikit-learn, the better of the two", _pivot(rows)),
            Table("speed.cost", "ns per row and component, the better of the two", _costs(rows)),
        ]
    return [*tables, Table("speed.all", "All points", rows, is_shown=False)]


def measure(systems: Mapping[str, Remote], data: Problem, plan: Plan) -> Measured:
    """Hand a problem to the systems, compare their first iterations, and time the others."""
    reasons: dict[str, str] = {}
    firsts: dict[str, Start] = {}
    for name, system in systems.items():
        try:
            refusal = system.load(data)
            if refusal is None:
                system.fit(1)
                firsts[name] = system.fitted()
            else:
                reasons[name] = refusal
        except SystemFailedError as error:
            reasons[name] = str(error)
    seconds, rate = _timed({name: systems[name] for name in firsts}, data, plan, reasons)
    reference = next(iter(firsts.values())).means
    differences = {name: difference(first.means, reference) for name, first in firsts.items()}
    return Measured(seconds, reasons, differences, rate)


def _timed(
    able: dict[str, Remote], data: Problem, plan: Plan, reasons: dict[str, str]
) -> tuple[dict[str, float | None], float]:
    """Seconds of each system, and the rate of products; a system that fails is left out."""
    rates: list[float] = []
    dtype = data.x.dtype.name
    while True:
        try:
            seconds = interleaved(
                able, plan.budget, lambda: rates.append(product_rate(dtype, plan.product_size, 1))
            )
        except SystemFailedError as error:
            reasons[error.name] = str(error)
            del able[error.name]
        else:
            break
    reasons |= {name: "too quick to tell" for name, found in seconds.items() if found is None}
    return seconds, max(rates)


def difference(found: Any, reference: Any) -> float:
    """The largest difference, relative to the largest reference."""
    return float(np.abs(found - reference).max() / np.abs(reference).max())


def _row(
    point: Point, plan: Plan, systems: Mapping[str, Remote], settings: Settings
) -> tuple[Row, list[str]]:
    n_rows = point.rows(plan.sklearn_seconds, plan.least_rows)
    wanted, skipped = dict(systems), []
    if settings.size != "quick" and n_rows * point.sklearn_seconds() > plan.most_seconds:
        wanted.pop("scikit-learn", None)
        skipped.append("scikit-learn would take too long")
    data = problem(n_rows, point.d, point.k, point.family, point.dtype)
    found = measure(wanted, data, plan)
    operations = point.operations(n_rows)
    row: Row = {
        "family": point.family, "dtype": point.dtype, "D": point.d, "K": point.k, "rows": n_rows,
        "NumPy s": found.seconds.get("dgmm"),
        "compiled s": found.seconds.get("dgmm compiled"),
        "scikit-learn s": found.seconds.get("scikit-learn"),
        "NumPy ratio": found.ratio("scikit-learn", "dgmm"),
        "compiled ratio": found.ratio("scikit-learn", "dgmm compiled"),
    }  # fmt: skip
    for name, label in zip(OURS, ("NumPy of peak", "compiled of peak"), strict=True):
        ours = found.seconds.get(name)
        row[label] = operations / ours / found.product_rate if operations and ours else None
    row["product GFLOP/s"] = found.product_rate / 1e9
    row["difference"] = found.differences.get("scikit-learn")
    lacking = {"scikit-learn": point.family} if point.family.startswith("tied_") else {}
    skipped += [f"{name}: {why}" for name, why in found.reasons.items() if name not in lacking]
    return row, skipped


def _note(missing: Mapping[str, str], skipped: list[str]) -> str:
    lines = [f"Not measured: {name} ({why})." for name, why in missing.items()]
    if skipped:
        lines.append("Left blank: " + "; ".join(skipped) + ".")
    return " ".join(lines)


def _name(point: Point) -> str:
    return f"{point.family} {point.dtype} D={point.d} K={point.k}"


def _point(row: Row) -> Point:
    return Point(row["family"], row["dtype"], row["D"], row["K"])


def _best(row: Row, kind: str) -> float | None:
    found = [row[f"{which} {kind}"] for which in ("NumPy", "compiled")]
    present = [value for value in found if value is not None]
    if not present:
        return None
    return float(min(present) if kind == "s" else max(present))


def _condensed(rows: list[Row], value: Any) -> list[Row]:
    """A row for each family, dtype and D, with a column for each K."""
    by_point = {_point(row): row for row in rows}
    table = []
    for family, dtype, d in dict.fromkeys((r["family"], r["dtype"], r["D"]) for r in rows):
        line: Row = {"family": family, "dtype": dtype, "D": d}
        for k in COMPONENTS:
            row = by_point.get(Point(family, dtype, d, k))
            line[f"K = {k}"] = None if row is None else value(row)
        table.append(line)
    order = {name: place for place, name in enumerate(FAMILIES)}
    sizes = {d: place for place, d in enumerate(FEATURES)}
    table.sort(key=lambda line: (order[line["family"]], line["dtype"], sizes.get(line["D"], 0)))
    return table


def _pivot(rows: list[Row]) -> list[Row]:
    with_peer = [row for row in rows if not row["family"].startswith("tied_")]
    return _condensed(with_peer, lambda row: _best(row, "ratio"))


def _costs(rows: list[Row]) -> list[Row]:
    def cost(row: Row) -> float | None:
        seconds = _best(row, "s")
        return None if seconds is None else seconds / row["rows"] / row["K"] * 1e9

    return _condensed(rows, cost)
