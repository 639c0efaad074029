"""The demo: a gigabyte of image patches, fitted in a quarter of that, and a page about it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dgmm.demo.patches import Patches, local_contrast, sample_photographs, write_patches
from dgmm.record import FitEvent
from dgmm.sizes import format_bytes

__all__ = ["run_demo"]

_SIZE = 8
_COMPONENTS = 16
# Of the estimated gap to the optimum, in nats per row: 13 iterations, three to four minutes on
# two cores, by when the components have their shapes.
_TOL = 1.5
_MAX_ITER = 15
_SHOWN = 60


def run_demo(
    directory: Path,
    report: Path,
    *,
    memory_limit: int | str = "256MiB",
    seed: int = 0,
    on_event: Callable[[FitEvent], None] | None = None,
) -> dict[str, Any]:
    """Write the patches of two photographs, fit a mixture to them and report on it.

    Parameters
    ----------
    directory : Path
        Where the patches are written, about 1.1 GB; patches of an earlier run are used again.
    report : Path
        The page to write. The model is saved beside it, under the same name with the ending
        ``.safetensors``.
    memory_limit : int or str
        Of the fit, above what dgmm takes once imported.
    seed : int
    on_event : callable, optional
        Called with a :class:`~dgmm.record.FitEvent` for each step.

    Returns
    -------
    dict
        The facts of the run, as the command line prints them.

    Raises
    ------
    MissingDependencyError
        If pillow, which decodes the photographs, is not installed.
    """
    patches = Patches(tuple(local_contrast(one) for one in sample_photographs()), _SIZE)
    return fit_patches(
        patches, directory, report, memory_limit=memory_limit, seed=seed, on_event=on_event
    )


def fit_patches(
    patches: Patches,
    directory: Path,
    report: Path,
    *,
    memory_limit: int | str,
    seed: int,
    on_event: Callable[[FitEvent], None] | None,
) -> dict[str, Any]:
    """:func:`run_demo` on any patches."""
    from dgmm.estimator import GaussianMixture

    started = time.perf_counter()
    store = directory / f"patches-{patches.size}x{patches.size}.zarr"
    _write(store, patches, on_event)
    model = GaussianMixture(
        n_components=_COMPONENTS,
        covariance_type="full",
        tol=_TOL,
        max_iter=_MAX_ITER,
        acceleration="auto",
        random_state=seed,
        memory_limit=memory_limit,
    )
    model._on_event = on_event
    model.fit(store)
    evaluation = model.evaluate(store)
    model_path = report.with_suffix(".safetensors")
    model.save(model_path)
    _report(report, model, evaluation, patches, seed)
    seconds = round(time.perf_counter() - started, 3)
    return {"model": str(model_path), **_facts(model, evaluation), "seconds": seconds}


def _facts(model: Any, evaluation: Any) -> dict[str, Any]:
    return {
        "rows": evaluation.rows,
        "iterations": model.n_iter_,
        # The pass that evaluates the final parameters is one too.
        "passes": model.record_.passes + 1,
        "converged": model.converged_,
        "log_likelihood": evaluation.log_likelihood,
        "bic": evaluation.bic,
        "peak_memory": model.record_.peak_memory,
    }


def _write(store: Path, patches: Patches, on_event: Callable[[FitEvent], None] | None) -> None:
    def emit(message: str) -> None:
        if on_event is not None:
            on_event(FitEvent("write", message=message))

    size = f"{patches.n_rows:,} patches, {format_bytes(4 * patches.n_rows * patches.n_features)}"
    emit(f"{size}, to {store}")
    if not write_patches(store, patches):
        emit("they were there already")


def _report(report: Path, model: Any, evaluation: Any, patches: Patches, seed: int) -> None:
    from dgmm.report import Gallery, write_report

    rows = np.random.default_rng(seed).integers(0, patches.n_rows, _SHOWN)
    real = Gallery("From the photographs", "Rows of the data, at random.", patches.take(rows))
    write_report(
        report,
        model,
        title="What photographs are made of",
        evaluation=evaluation,
        image_shape=(patches.size, patches.size),
        extra=(real,),
    )
