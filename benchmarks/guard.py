"""``python -m benchmarks.guard``: ratios to scikit-learn at a few points, as a report.

Continuous integration prints it and never fails for it: its machines are shared, and a ratio that
falls is for somebody to look at.
"""

from __future__ import annotations

from collections.abc import Iterator

import click

from benchmarks.grid import Plan, Point
from benchmarks.machine import describe_line
from benchmarks.problems import problem
from benchmarks.speed import OURS, measure
from benchmarks.systems import OWN
from benchmarks.systems.remote import SystemFailedError, started
from benchmarks.tables import Row, markdown
from benchmarks.timing import Budget

# The ratio below which a quiet machine would be suspicious: about half of what was measured.
POINTS = [
    (Point("full", "float64", 16, 16), 10.0),
    (Point("full", "float32", 16, 16), 10.0),
    (Point("tied", "float64", 16, 16), 12.0),
    (Point("diag", "float64", 16, 16), 3.0),
]
PLAN = Plan(0.1, 16_384, Budget(0.06, rounds=3), 4.0, 1024)


def report(plan: Plan = PLAN, systems: tuple[str, ...] = OWN) -> Iterator[Row]:
    """A row for each point."""
    with started(None, systems) as (running, _):
        for point, expected in POINTS:
            n_rows = point.rows(plan.sklearn_seconds, plan.least_rows)
            data = problem(n_rows, point.d, point.k, point.family, point.dtype)
            found = measure(running, data, plan)
            ratios = [found.ratio("scikit-learn", name) for name in OURS]
            best = max((ratio for ratio in ratios if ratio), default=None)
            yield {
                "family": point.family, "dtype": point.dtype, "D": point.d, "K": point.k,
                "rows": n_rows, "NumPy": ratios[0], "compiled": ratios[1], "expected": expected,
                "remark": "" if best is None or best >= expected else "low",
            }  # fmt: skip


@click.command()
def main() -> None:
    """Print the ratios; whatever goes wrong is printed too, and the exit status is 0."""
    click.echo(f"Times as fast as scikit-learn. {describe_line()}\n")
    try:
        # As they come: whoever stops it after a minute has those that were ready.
        for number, row in enumerate(report()):
            lines = markdown([row]).splitlines()
            click.echo("\n".join(lines[2:] if number else lines))
    except (SystemFailedError, OSError) as error:
        click.echo(f"no more ratios: {error}")


if __name__ == "__main__":
    main()
