"""``dgmm fit``: rows in, a model file out, and the JSON line."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from dgmm.cli.engines import engine_of
from dgmm.cli.fitting import conclude, followed, out_option
from dgmm.cli.opening import open_rows
from dgmm.cli.options import (
    Talk,
    checkpoint_options,
    data_options,
    engine_options,
    estimator_options,
    label_option,
    out_path,
    talk_options,
    variant_options,
    weight_option,
)
from dgmm.cli.output import skipped
from dgmm.cli.places import check_outputs

__all__ = ["fit"]


@click.command()
@click.argument("data")
@click.option("-k", "--n-components", type=click.IntRange(min=1), required=True)
@click.option(
    "--covariance-type",
    default="full",
    show_default=True,
    help="full, diag, spherical, tied (tied_full), tied_diag or tied_spherical.",
)
@weight_option
@label_option
@estimator_options
@variant_options
@out_option("The model file to write.")
@click.option(
    "--report",
    type=click.Path(path_type=Path),
    callback=out_path,
    help='An HTML page about the fit to write; needs pip install "dgmm[report]".',
)
@data_options
@engine_options
@checkpoint_options
@talk_options
@click.pass_obj
def fit(talk: Talk, /, **options: Any) -> None:
    """Fit a mixture of Gaussians to DATA and write it to a model file.

    DATA is a .npy file, or the path or URL of a Zarr array, of shape (rows, features), or of
    Parquet files: one, a folder of them, or a pattern. The last
    line on standard output is one JSON object; its passes count the one that measures the
    log-likelihood (per row) and the BIC of the final model. Its peak_memory is that of this
    process: on a Dask cluster, what workers take is not in it. A model file that is there already
    is replaced.
    """
    started = time.perf_counter()
    check_outputs(options)
    if options["report"] is not None:
        # Now, and not after hours: this is where a missing jinja2 shows.
        import dgmm.report  # noqa: F401
    model, evaluation = _fit(talk, options)
    model.save(options["out"])
    if options["report"] is not None:
        from dgmm.report import write_report

        write_report(options["report"], model, evaluation=evaluation)
    facts = {
        "rows": evaluation.rows,
        **skipped(evaluation.skipped_rows, model.record_.skipped_blocks),
        "iterations": model.n_iter_,
        "passes": model.record_.passes + 1,
        "converged": model.converged_,
        "log_likelihood": evaluation.log_likelihood,
        "bic": evaluation.bic,
    }
    conclude(talk, options["out"], model, facts, started)


def _fit(talk: Talk, options: dict[str, Any]) -> tuple[Any, Any]:
    """The fitted estimator, and the evaluation of its final parameters on the same rows."""
    dataset = open_rows(options)
    given = {name: options[name] for name in ("n_components", "covariance_type")}
    with engine_of(options) as engine:
        with followed(talk, options, engine, **given) as model:
            model.fit(dataset)
        return model, model.evaluate(dataset)
