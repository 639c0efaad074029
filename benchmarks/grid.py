"""Which problems are measured, and with how many rows."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from benchmarks.problems import FAMILIES
from benchmarks.settings import Settings
from benchmarks.timing import Budget

FEATURES = (2, 8, 16, 32, 64, 128)
COMPONENTS = (2, 8, 16, 64, 256)
DTYPES = ("float64", "float32")


@dataclass(frozen=True)
class Point:
    """A problem of the grid."""

    family: str
    dtype: str
    d: int
    k: int

    @property
    def n_products(self) -> float:
        """Features of a row in the products of the full family: 1, x_i and x_i x_j."""
        return self.d * (self.d + 1) / 2 + self.d + 1

    def operations(self, n_rows: int) -> float | None:
        """Of the two products of an iteration, 4 F K a row; None where others dominate."""
        return 4.0 * self.n_products * self.k * n_rows if self.family == "full" else None

    def sklearn_seconds(self) -> float:
        """About what an iteration of scikit-learn takes for one row.

        Fitted to measurements on two cores; it only decides on rows, and on what to leave out.
        """
        full = 0.1 + 0.01 * self.d + self.d**2 / 8e3
        tied = 0.06 + 0.008 * self.d + self.d**2 / 2e4
        diagonal = 0.035 + 0.0006 * self.d
        each = {"full": full, "tied": tied}.get(self.family, diagonal)
        return self.k * each * 1e-6

    def rows(self, seconds: float, least: int) -> int:
        """So many that an iteration of scikit-learn takes about ``seconds``.

        The full family has at least 2 D for each component, so that the covariances have rank.
        """
        rank = 2 * self.d * self.k if self.family == "full" else 0
        wanted = min(int(seconds / self.sklearn_seconds()), 2**19)
        return max(wanted, least, rank)


@dataclass(frozen=True)
class Plan:
    """How thoroughly some points are measured.

    Parameters
    ----------
    sklearn_seconds : float
        About what an iteration of scikit-learn should take.
    least_rows : int
    budget : Budget
    most_seconds : float
        If an iteration of scikit-learn would take longer, it is left out.
    product_size : int
        Of the square matrices whose product is timed beside the systems.
    """

    sklearn_seconds: float
    least_rows: int
    budget: Budget
    most_seconds: float
    product_size: int = 1536


CAREFUL = Plan(0.2, 32_768, Budget(0.2, rounds=3), 4.0)
BRIEF = Plan(0.04, 16_384, Budget(0.05, rounds=2), 1.0)
WARM = Plan(0.0, 0, Budget(0.5, rounds=4), 60.0)
QUICK = Plan(0.0, 600, Budget(0.004, rounds=1, most=2), 4.0, 256)

# What the page lists; the complete grid is shown condensed.
LISTED = [
    *(Point("full", "float64", d, 16) for d in FEATURES),
    *(Point("full", "float64", 16, k) for k in (2, 64)),
    *(Point("full", dtype, d, 64) for dtype in DTYPES for d in (32, 64)),
    *(Point("full", "float32", d, 16) for d in (8, 16)),
    *(Point(family, dtype, 16, 16) for family in FAMILIES[1:] for dtype in DTYPES),
]
_QUICK = [Point(family, "float64", 2, 2) for family in FAMILIES] + [Point("full", "float32", 3, 2)]

# Where all peers are measured.
WITH_PEERS = [
    Point("full", "float64", 16, 16),
    Point("full", "float64", 8, 16),
    Point("full", "float64", 32, 64),
    Point("full", "float32", 16, 16),
    Point("diag", "float64", 16, 16),
    Point("spherical", "float64", 16, 16),
    Point("tied", "float64", 16, 16),
]


def points(settings: Settings) -> list[tuple[Point, Plan]]:
    """Of the suite ``speed``, with the thoroughness of each."""
    if settings.size == "quick":
        return [(point, QUICK) for point in _QUICK]
    listed = [(point, CAREFUL) for point in LISTED]
    if settings.size == "default":
        return listed
    everything = product(FAMILIES, DTYPES, FEATURES, COMPONENTS)
    rest = [point for parts in everything if (point := Point(*parts)) not in set(LISTED)]
    return listed + [(point, BRIEF) for point in rest]


def points_with_peers(settings: Settings) -> list[tuple[Point, int]]:
    """The same of the suite ``peers``, with the rows."""
    if settings.size == "quick":
        return [(Point("full", "float64", 3, 2), 400), (Point("diag", "float64", 3, 2), 400)]
    return [(point, 50_000 if point.k == 16 else 20_000) for point in WITH_PEERS]
