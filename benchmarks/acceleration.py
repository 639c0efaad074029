"""Passes and evaluations to an optimum, accelerated and by plain EM: counts, not seconds.

``python -m benchmarks.acceleration [--quick] [--out FOLDER]``

Every problem is fitted from the same k-means starts by plain EM and accelerated: one point a pass
(``computing``), several points of one start (``reading``), and eight starts in one batch. An
iteration of EM counts as having reached what the next one shows; an accelerated pass as having
reached its certified bound. "× EM" is how many times fewer evaluations or passes are needed to come
within δ nats a row of the method's own optimum (of EM's, for eight starts). The constants of the
accelerator were chosen on other seeds than these.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks import machine
from benchmarks.tables import markdown

TITLE = "Evaluations and passes to an optimum: how many times fewer than plain EM"
DELTAS = (1e-3, 1e-4, 1e-6)
SAME = 1e-4
FAMILIES = ("full", "diag", "spherical", "tied_full", "tied_diag", "tied_spherical")
METHODS = ("computing", "reading", "eight")


@dataclass(frozen=True)
class Problem:
    """Rows, and what is fitted to them.

    Parameters
    ----------
    data : str
        "synthetic", "digits" or "patches".
    family : str
    n_features, n_components : int
    n_rows : int
    separation : float
        Of synthetic clusters, in standard deviations.
    seed : int
    """

    data: str
    family: str
    n_features: int
    n_components: int
    n_rows: int = 4000
    separation: float = 0.0
    seed: int = 0

    @property
    def name(self) -> str:
        """What a table calls it."""
        apart = f" separation {self.separation:g}" if self.separation else ""
        size = f"D={self.n_features} K={self.n_components}"
        return f"{self.data} {self.family} {size}{apart} seed {self.seed}"

    def rows(self) -> np.ndarray[Any, Any]:
        """The rows, float64."""
        return _SOURCES[self.data](self)


def problems(*, quick: bool = False) -> list[Problem]:
    """Synthetic problems of the six families, digits and patches of photographs."""
    found = [
        Problem("synthetic", "full", d, k, separation=apart, seed=seed)
        for d, k in ((2, 4), (4, 8), (8, 8), (8, 16))
        for apart in (0.5, 1.0, 2.0)
        for seed in (20, 21)
    ]
    found += [
        Problem("synthetic", family, d, k, separation=apart, seed=22)
        for family in FAMILIES[1:]
        for d, k, apart in ((4, 8, 1.0), (8, 16, 2.0), (16, 16, 1.0))
    ]
    found += [
        Problem("synthetic", family, 64, 64, separation=1.0, seed=23, n_rows=3000)
        for family in ("diag", "spherical", "tied_diag", "tied_spherical")
    ]
    found += [
        Problem("digits", family, d, k, n_rows=1797, seed=24)
        for family in FAMILIES
        for d, k in (((8, 10), (64, 10)) if family != "full" else ((8, 10), (16, 4)))
    ]
    found += [
        Problem("patches", family, d, k, n_rows=6000, seed=25)
        for family in FAMILIES
        for d, k in ((16, 8), (16, 16) if family != "full" else (9, 8))
    ]
    return found[::12] if quick else found


# ---------------------------------------------------------------------------------------- the rows


def _synthetic(one: Problem) -> np.ndarray[Any, Any]:
    """Clusters with random covariances whose eigenvalues span a factor of ten."""
    rng = np.random.default_rng([one.seed, one.n_features, one.n_components])
    d, k = one.n_features, one.n_components
    means = one.separation * rng.standard_normal((k, d))
    labels = rng.choice(k, size=one.n_rows, p=rng.dirichlet(np.full(k, 5.0)))
    x = np.empty((one.n_rows, d))
    for component in range(k):
        axes, _ = np.linalg.qr(rng.standard_normal((d, d)))
        scales = 10.0 ** rng.uniform(-0.25, 0.25, d)
        members = np.flatnonzero(labels == component)
        noise = rng.standard_normal((len(members), d)) * scales
        x[members] = means[component] + noise @ axes.T
    return x


def _digits(one: Problem) -> np.ndarray[Any, Any]:
    """Handwritten digits (scikit-learn's), in their leading principal coordinates."""
    from sklearn.datasets import load_digits

    x = load_digits().data / 16.0
    return x if one.n_features == x.shape[1] else _leading(x, one.n_features)


def _patches(one: Problem) -> np.ndarray[Any, Any]:
    """Square patches of scikit-learn's two photographs, less their local mean."""
    from dgmm.demo.patches import local_contrast, sample_photographs

    side = round(one.n_features**0.5)
    rng = np.random.default_rng(one.seed)
    photographs = [local_contrast(grey) for grey in sample_photographs()]
    found = []
    for grey in photographs:
        windows = np.lib.stride_tricks.sliding_window_view(grey, (side, side))
        rows = rng.integers(windows.shape[0], size=one.n_rows // len(photographs))
        columns = rng.integers(windows.shape[1], size=rows.size)
        found.append(windows[rows, columns].reshape(rows.size, -1))
    x = np.concatenate(found).astype(np.float64)
    return x / x.std()


def _leading(x: np.ndarray[Any, Any], n_features: int) -> np.ndarray[Any, Any]:
    centred = x - x.mean(axis=0)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    return centred @ vectors[:, ::-1][:, :n_features]


_SOURCES = {"synthetic": _synthetic, "digits": _digits, "patches": _patches}


# ---------------------------------------------------------------------------------------- the fits


def _fit(x: np.ndarray[Any, Any], one: Problem, **options: Any) -> Any:
    import dgmm

    # Without one the likelihood has no maximum; a floor is an exact constraint for all methods.
    floor = 1e-2 * float(x.var(axis=0).mean())
    model = dgmm.GaussianMixture(
        one.n_components,
        covariance_type=one.family,
        reg_covar=0.0,
        covariance_floor=floor,
        random_state=one.seed,
        engine=dgmm.LocalEngine(n_threads=1),
        **options,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit(x)


def solve(one: Problem) -> dict[str, Any]:
    """All methods on one problem: how long each took to each δ, and how high it ended."""
    started = time.perf_counter()
    x = one.rows()
    em = _fit(x, one, tol=1e-10, max_iter=2000)
    # An iteration shows in the next one's bound.
    climb = np.array(em.lower_bounds_[1:])
    top = _polished(x, one, em, float(climb.max()))
    found: dict[str, Any] = {"problem": one.name, **asdict(one), "em": top}
    found["em_counts"] = [_count(climb, top - delta) for delta in DELTAS]
    found["em_ended"] = bool(em.converged_)
    for method in METHODS:
        regime = "computing" if method == "computing" else "reading"
        options = {"acceleration": regime, "tol": 1e-9, "max_iter": 500}
        ours = _fit(x, one, n_init=8 if method == "eight" else 1, **options)
        # The best of all restarts at each pass: one that stopped stays where it is.
        runs = [np.array(run.lower_bounds) for run in ours.record_.restarts if run.lower_bounds]
        length = max(map(len, runs))
        bounds = np.max([np.r_[run, np.full(length - len(run), run[-1])] for run in runs], axis=0)
        own = float(ours.lower_bound_)
        goal = top if method == "eight" else own
        found[method] = own
        found[f"{method}_counts"] = [_count(bounds, goal - delta) for delta in DELTAS]
        found[f"{method}_gap"] = max(run.gap for run in ours.record_.restarts if run.gap)
        found[f"{method}_passes"] = length
    found["seconds"] = time.perf_counter() - started
    return found


def _polished(x: np.ndarray[Any, Any], one: Problem, em: Any, height: float) -> float:
    """EM's own optimum, where it has not come within 1e-6 of it: Newton-like steps from there."""
    import dgmm

    start = em.mixture_
    model = dgmm.GaussianMixture(
        one.n_components,
        covariance_type=one.family,
        weights_init=start.weights,
        means_init=start.means,
        covariances_init=start.covariances,
        reg_covar=0.0,
        covariance_floor=em.covariance_floor,
        acceleration="computing",
        tol=1e-9,
        max_iter=100,
        engine=dgmm.LocalEngine(n_threads=1),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(x)
    further = float(model.lower_bound_)
    # Far up is another optimum, which EM was not on its way to.
    return further if height <= further < height + 10 * SAME else height


def _count(bounds: np.ndarray[Any, Any], goal: float) -> int | None:
    """Passes until a bound is as high; None if none is."""
    reached = np.flatnonzero(bounds >= goal - 1e-12)
    return int(reached[0]) + 1 if len(reached) else None


# --------------------------------------------------------------------------------------- the table


def summary(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Ratios of each method, over all problems and by kind of data."""
    groups = {"all": list(results)}
    for data in ("synthetic", "digits", "patches"):
        groups[data] = [one for one in results if one["data"] == data]
    return [
        _line(method, name, group) for method in METHODS for name, group in groups.items() if group
    ]


def _line(method: str, name: str, group: list[dict[str, Any]]) -> dict[str, Any]:
    better = [one[method] > one["em"] + SAME for one in group]
    worse = [one[method] < one["em"] - SAME for one in group]
    same = [one for one, b, w in zip(group, better, worse, strict=True) if not (b or w)]
    ratios = [_ratios(method, group, i) for i in range(len(DELTAS))]
    low, high = np.percentile(ratios[-1], [10, 90]) if ratios[-1] else (np.nan, np.nan)
    return {
        "method": method,
        "problems": name,
        "n": len(group),
        **{f"× EM to {delta:g}": _mean(one) for delta, one in zip(DELTAS, ratios, strict=True)},
        "10th to 90th percentile": f"{low:.1f} to {high:.1f}",
        "same optimum, × EM to 1e-06": _mean(_ratios(method, same, -1)),
        "worse / same / better": f"{sum(worse)} / {len(same)} / {sum(better)}",
    }


def _ratios(method: str, group: Sequence[dict[str, Any]], i: int) -> list[float]:
    """EM's count over the method's. One that never got there is not in it, but under "worse"."""
    longest = 2000
    return [
        (one["em_counts"][i] or longest) / one[f"{method}_counts"][i]
        for one in group
        if one[f"{method}_counts"][i]
    ]


def _mean(ratios: Sequence[float]) -> float | None:
    return float(np.exp(np.mean(np.log(ratios)))) if ratios else None


def run(*, quick: bool = False) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The summary, and the results of every problem."""
    wanted = problems(quick=quick)
    # The longest first, so that no process waits at the end.
    order = sorted(wanted, key=lambda one: -one.n_components * one.n_features * one.n_rows)
    with ProcessPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        results = list(pool.map(solve, order))
    results.sort(key=lambda one: [p.name for p in wanted].index(one["problem"]))
    return summary(results), results


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results"))
@click.option("--quick", is_flag=True, help="A few small problems: whether it works.")
def main(out: Path, quick: bool) -> None:
    """Count passes and evaluations on all problems, print the table, write JSON and Markdown."""
    started = time.perf_counter()
    table, results = run(quick=quick)
    out.mkdir(parents=True, exist_ok=True)
    text = markdown(table)
    (out / "acceleration.md").write_text(f"{TITLE}\n\n{text}\n", encoding="utf-8")
    written = {"machine": machine.describe(), "summary": table, "problems": results}
    (out / "acceleration.json").write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
    print(f"{TITLE}\n\n{text}\n\n{len(results)} problems, {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
