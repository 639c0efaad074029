"""``dgmm predict`` and ``dgmm score``: a model file on rows."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from dgmm.cli.opening import open_model, open_rows
from dgmm.cli.options import (
    check_parent,
    data_options,
    engine_options,
    talk_options,
    weight_option,
)
from dgmm.cli.output import print_json, skipped
from dgmm.cli.places import check_spared, place

__all__ = ["predict", "score"]


# Options of predict, and the estimator's methods that they ask.
_METHODS = {
    "labels": "predict",
    "proba": "predict_proba",
    "scores": "score_samples",
    "distances": "mahalanobis",
    "outlier_scores": "outlier_score",
    "tail_probability": "tail_probability",
}


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("data")
@click.option("--out", required=True, help="The Zarr array to write (path or URL).")
@click.option("--overwrite", is_flag=True, help="Replace the Zarr array that is at --out already.")
@click.option("--proba", is_flag=True, help="Responsibilities, of shape (rows, components).")
@click.option("--scores", is_flag=True, help="Log-densities, of shape (rows,).")
@click.option("--distances", is_flag=True, help="Mahalanobis distances: (rows, components).")
@click.option("--outlier-scores", is_flag=True, help="Minus the log-densities: (rows,).")
@click.option(
    "--tail-probability",
    is_flag=True,
    help="Probabilities of rows at least as far out, of shape (rows,).",
)
@data_options
@engine_options
@talk_options
def predict(model: Path, overwrite: bool, **options: Any) -> None:
    """Write the component of each row of DATA to a Zarr array, or what an option asks for.

    Rows are streamed: neither DATA nor the result has to fit in memory. A result that could not be
    finished is deleted. An array that is at --out already is replaced with --overwrite only.
    """
    asked = [name for name in _METHODS if options.get(name)]
    if len(asked) > 1:
        first, second = (f"--{name.replace('_', '-')}" for name in asked[:2])
        raise click.UsageError(f"{first} and {second} exclude each other")
    kind = asked[0] if asked else "labels"
    check_parent(options["out"])
    if overwrite:
        check_spared(options["out"], options["data"], model)
    started = time.perf_counter()
    with open_model(model, options) as estimator:
        dataset = open_rows(options)
        method = getattr(estimator, _METHODS[kind])
        method(dataset, out=place(options["out"], overwrite))
    print_json(
        {
            "model": str(model),
            "out": options["out"],
            "kind": kind,
            "rows": dataset.n_rows,
            "seconds": round(time.perf_counter() - started, 3),
        }
    )


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("data")
@weight_option
@data_options
@engine_options
@talk_options
def score(model: Path, **options: Any) -> None:
    """Print the log-likelihood per row, the BIC and the AIC of a model on DATA.

    With --sample-weight rows count by their weights, and the n of the BIC is the sum of them.
    """
    started = time.perf_counter()
    with open_model(model, options) as estimator:
        evaluation = estimator.evaluate(open_rows(options))
    print_json(
        {
            "model": str(model),
            "rows": evaluation.rows,
            **skipped(evaluation.skipped_rows),
            "log_likelihood": evaluation.log_likelihood,
            "bic": evaluation.bic,
            "aic": evaluation.aic,
            "seconds": round(time.perf_counter() - started, 3),
        }
    )
