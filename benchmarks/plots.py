"""Curves of the sweeps; nothing where matplotlib is not installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from benchmarks.tables import Row

# The power of an ideal cost, drawn through the last point.
_IDEAL = {"rows": 1, "D": 2, "K": 1, "restarts": 1, "threads": -1, "workers": -1}


def draw(rows: Sequence[Row], sweeps: Sequence[str], folder: Path) -> tuple[Path, ...]:
    """A panel for each sweep; the file, if it could be drawn."""
    if importlib.util.find_spec("matplotlib") is None:
        return ()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 6.5), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, sweep in zip(figure.subplots(2, 3).flat, sweeps, strict=False):
        points = [(row["value"], row["s"]) for row in rows if row["sweep"] == sweep]
        values, seconds = zip(*points, strict=True)
        axes.loglog(values, seconds, "o-", base=2, label="measured")
        ideal = [seconds[-1] * (value / values[-1]) ** _IDEAL[sweep] for value in values]
        axes.loglog(values, ideal, "--", color="gray", base=2, label=f"power {_IDEAL[sweep]}")
        axes.set(xlabel=sweep, ylabel="seconds per iteration")
        axes.set_xticks(values, [str(value) for value in values])
        axes.legend()
    path = folder / "scaling.svg"
    figure.savefig(path, metadata={"Date": None})
    return (path,)
