"""What was aimed at, and whether this run reached it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks.tables import Row, Table

PASS_TARGET = 1.15
OVERHEAD_TARGET_MS = 30.0


@dataclass(frozen=True)
class Target:
    """A number to reach at a point of a table.

    Parameters
    ----------
    what : str
    aim : float
    table, where : str and dict
        The table, and what picks its rows; the worst of them counts.
    columns : tuple of str
        The best of these counts.
    at_most : bool
        Whether less is better.
    """

    what: str
    aim: float
    table: str
    where: Mapping[str, object]
    columns: tuple[str, ...]
    at_most: bool = False

    def row(self, tables: Mapping[str, Table]) -> Row | None:
        """Of the table of targets; None if its suite was not run."""
        if self.table not in tables:
            return None
        better, worse = (min, max) if self.at_most else (max, min)
        found = worse((self._value(row, better) for row in self._rows(tables)), default=None)
        if found is None:
            return None
        met = found <= self.aim if self.at_most else found >= self.aim
        sign = "≤" if self.at_most else "≥"
        return {"what": self.what, "aim": f"{sign} {self.aim:g}", "found": found, "reached": met}

    def _rows(self, tables: Mapping[str, Table]) -> list[Row]:
        return [
            row
            for row in tables[self.table].rows
            if all(_matches(row.get(key), wanted) for key, wanted in self.where.items())
            and any(row.get(column) is not None for column in self.columns)
        ]

    def _value(self, row: Row, better: Callable[..., float]) -> float:
        values = [row[column] for column in self.columns if row.get(column) is not None]
        return better(values)


def _matches(found: object, wanted: object) -> bool:
    return found in wanted if isinstance(wanted, tuple) else found == wanted


_RATIO = ("NumPy ratio", "compiled ratio")
_PEAK = ("NumPy of peak", "compiled of peak")


def _full(dtype: str, d: int, k: int, aim: float) -> Target:
    where = {"family": "full", "dtype": dtype, "D": d, "K": k}
    return Target(f"× scikit-learn, full, {dtype}, D={d}, K={k}", aim, "speed", where, _RATIO)


def _family(families: tuple[str, ...], dtype: str, aim: float) -> Target:
    where = {"family": families, "dtype": dtype, "D": 16, "K": 16}
    name = " and ".join(families)
    return Target(f"× scikit-learn, {name}, {dtype}, D=16, K=16", aim, "speed", where, _RATIO)


def _peer(name: str, aim: float) -> Target:
    where = {"system": name, "family": "full", "dtype": "float64", "D": 16, "K": 16}
    return Target(f"× {name}, full, float64, D=16, K=16", aim, "peers", where, ("of dgmm's best",))


def _peak(dtype: str) -> Target:
    where = {"family": "full", "dtype": dtype, "D": (32, 64, 128), "K": (64, 256)}
    what = f"of the product peak, full, {dtype}, D ≥ 32, K ≥ 64"
    return Target(what, 0.6, "speed.all", where, _PEAK)


TARGETS = [
    *(
        _full(dtype, d, k, aim)
        for dtype in ("float64", "float32")
        for d, k, aim in ((8, 16, 20.0), (16, 16, 20.0), (32, 64, 7.0), (64, 64, 4.5))
    ),
    *(_family(("tied",), dtype, 30.0) for dtype in ("float64", "float32")),
    *(_family(("diag", "spherical"), dtype, 10.0) for dtype in ("float64", "float32")),
    _peer("tgmm", 30.0),
    _peer("Spark", 15.0),
    *(_peak(dtype) for dtype in ("float64", "float32")),
    Target(
        "seconds of a pass over a store, of the least possible",
        PASS_TARGET, "io", {}, ("of the bound",), at_most=True,
    ),
    Target(
        "ms of overhead in an iteration on 2 Dask workers",
        OVERHEAD_TARGET_MS, "dask", {"blocks": 2}, ("overhead ms",), at_most=True,
    ),
]  # fmt: skip


def check(tables: Mapping[str, Table]) -> Table:
    """The targets that this run has something to say about."""
    rows = [row for target in TARGETS if (row := target.row(tables)) is not None]
    return Table("targets", "What was aimed at", rows)
